"""The coordinator's public door: what a request must pass before Flower sees it."""
