"""``consilium-sim``, the command line of a researcher."""
