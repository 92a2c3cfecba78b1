"""What a site takes part in: its policy, its staff's decisions, and what was refused."""
