"""What hospitals of a size can train privately, before anybody is asked."""
