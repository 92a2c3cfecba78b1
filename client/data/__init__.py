"""A site's images, labels and patients: read from its files, without a network or a study key."""
