"""Whole studies in this process or over loopback, and what they are compared with."""
