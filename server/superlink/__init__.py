"""Flower's SuperLink, on loopback, behind a secret, in a process of its own."""
