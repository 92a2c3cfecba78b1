"""What a model is computed on."""
