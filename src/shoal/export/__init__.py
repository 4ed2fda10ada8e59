"""Network and clusters for other programs."""
