"""Ways to divide patients among a simulation's hospitals, one a file."""
