"""What a run found: its schema, its pictures, its page."""
