"""``consilium-coordinator``, the command line of a study's coordinator."""
