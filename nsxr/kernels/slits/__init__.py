"""Loops over slits that are corrected."""
