"""The study file, and what each of its numbers may be."""
