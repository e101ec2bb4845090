"""Kernels of the optics: coordinates of pixels, on NumPy arrays."""
