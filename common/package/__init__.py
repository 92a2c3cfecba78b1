"""The model package: what a study ends with, in one file that nobody has to trust to open."""
