"""The path of a request: received, held against the gates, computed, and let out."""
