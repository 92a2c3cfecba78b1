"""Masks of images: found in a folder, read, and brought to the classes of a study."""
