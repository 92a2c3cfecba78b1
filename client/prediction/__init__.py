"""A model package at work: on new images, and on a hospital's own patients."""
