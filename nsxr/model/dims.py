"""Name the dims of Datasets in their order, and find the two dims of the image of a slit.

Ramps, count rates and slits that were cut out of count rates have dims ``row`` and ``column``. Their labels are
zero-based detector rows and columns, and references and masks are matched to them by label. Resampled slits (s2d) have
a grid of their own, ``cross_dispersion`` and ``dispersion``, with labels from 0. Spectra have ``dispersion``, with the
labels of the columns of their slit.
"""

import xarray as xr

from nsxr.errors import ModelError

__all__ = ["IMAGE", "RAMP", "RATES", "RESAMPLED", "SPECTRUM", "image_dims", "on_pixels"]

RAMP = ("integration", "group", "row", "column")
RATES = ("integration", "row", "column")
IMAGE = ("row", "column")
RESAMPLED = ("cross_dispersion", "dispersion")
SPECTRUM = ("dispersion",)


def image_dims(data: xr.Dataset | xr.DataArray) -> tuple[str, str]:
    """Return the two dims of an image: across the dispersion first, along it second.

    Parameters
    ----------
    data : Dataset or DataArray
        Count rates or one slit, with ``sci``; or an array of pixels. Dim ``integration`` may come first.

    Raises
    ------
    ModelError
        If the two dims are missing, or if a dim other than ``integration`` precedes them.
    """
    dims = tuple(map(str, data.variables["sci"].dims if isinstance(data, xr.Dataset) else data.dims))
    if dims[-2:] not in (IMAGE, RESAMPLED) or dims[:-2] not in ((), ("integration",)):
        several = "; these are many slits, go through them with nsxr.map_slits" if "slit" in dims else ""
        raise ModelError(f"sci has dims {dims}, expected {IMAGE} or {RESAMPLED} of one image{several}")
    return dims[-2], dims[-1]


def on_pixels(spectrum: xr.DataArray, slit: xr.Dataset) -> xr.DataArray:
    """Return a spectrum's values along the dispersion dim of a slit's image, without labels."""
    along = image_dims(slit)[1]
    return spectrum.reset_coords(drop=True).drop_vars("dispersion", errors="ignore").rename(dispersion=along)
