"""The coordinator's store: the truth about sites, studies and what became of them."""
