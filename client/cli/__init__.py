"""``consilium-site``, the command line of a hospital."""
