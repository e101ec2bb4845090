"""Kernels for extraction and combination of spectra, on NumPy arrays."""
