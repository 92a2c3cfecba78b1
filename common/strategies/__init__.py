"""How a round's replies become the next weights, and what a site adds to its steps for it."""
