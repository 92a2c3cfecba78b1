"""The models that a study can train, none of which lets patients touch each other."""
