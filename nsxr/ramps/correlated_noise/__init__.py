"""Correlated (1/f) noise between the pixels of a frame."""
