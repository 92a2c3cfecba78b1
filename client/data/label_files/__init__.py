"""Label files as hospitals write them: their bytes, their spelling, and rows that just miss."""
