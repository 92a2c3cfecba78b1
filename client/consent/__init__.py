"""What a site takes part in: its policy, its people's decisions, and what was refused."""
