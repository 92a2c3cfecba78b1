"""Flower's SuperLink as the coordinator uses it: on loopback, guarded, in a process of its own."""
