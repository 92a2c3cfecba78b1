"""What a study may learn: a task each, which may be wrong about utility and never about privacy."""
