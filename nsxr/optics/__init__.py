"""Trace light between the detector, the slits and the sky. Functions take and return NumPy arrays."""
