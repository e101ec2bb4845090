"""Register the engine for NIRSpec files and ``dataset.nsxr``. xarray loads this module when it opens its first file."""

from nsxr import accessor  # noqa: F401  (registers Dataset.nsxr and DataTree.nsxr)
from nsxr.products.fits_read import NirspecBackend

__all__ = ["NirspecBackend"]
