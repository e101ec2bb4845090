"""Reading and writing: FITS exposures and products, Zarr stores."""

from nsxr.io.exposure import open_exposure

__all__ = ["open_exposure"]
