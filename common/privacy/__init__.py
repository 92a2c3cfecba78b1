"""The mechanism, what it costs, and the random streams that it draws from."""
