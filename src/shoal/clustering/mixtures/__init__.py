"""Mixtures of Gaussians and of beta distributions."""
