"""TEMI: clustering heads on frozen features."""
