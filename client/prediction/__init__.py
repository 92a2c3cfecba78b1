"""A model package at work: what it says of new images, and how it does on a hospital's own patients."""
