"""What a run reads of its hospitals: their manifest, their images as files or as arrays."""
