"""Kernels for the flux of slits and slices, on NumPy arrays."""
