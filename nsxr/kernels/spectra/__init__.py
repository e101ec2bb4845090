"""Loops over slits and spectra."""
