"""Measurements of the detectors in exposures."""
