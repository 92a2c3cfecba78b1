"""``make cuda``: tests, probe and benchmark on this machine's graphics card, and their page."""
