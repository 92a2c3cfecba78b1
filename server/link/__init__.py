"""How the coordinator uses Flower: its SuperLink, its grid, and the gateway's rules."""
