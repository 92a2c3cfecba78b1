"""How stored values become a picture: what a header says about it, tables, windows."""
