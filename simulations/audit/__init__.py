"""Attempts to break a study's privacy claim: canaries, lower bounds, planted faults."""
