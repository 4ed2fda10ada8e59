"""Encoders and their features on the disk."""
