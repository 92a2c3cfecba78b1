"""Figures of a model: from noisy histograms, with intervals."""
