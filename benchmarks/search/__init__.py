"""Searches for settings: run by hand, since each takes hours; what they found is in docs."""
