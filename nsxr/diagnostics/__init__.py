"""Measurements of detector effects in exposures."""
