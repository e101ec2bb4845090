"""Kernels for corrections of slits, on NumPy arrays."""
