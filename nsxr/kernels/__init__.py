"""Loops on NumPy arrays; no xarray, no dask."""
