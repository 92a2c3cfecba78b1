"""Flower grids that need no network."""
