"""What :mod:`benchmarks.dp_step` sets side by side."""
