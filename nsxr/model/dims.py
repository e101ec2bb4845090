"""Names of dims in their order, and the two dims of the image of a slit.

Ramps, count rates and slits that were cut out of count rates have ``row`` and ``column``, labelled with zero-based
detector rows and columns. References and masks match them by label. Resampled slits (s2d) are on a grid of their own,
``cross_dispersion`` and ``dispersion``, labelled from 0. Spectra have ``dispersion``, labelled like the columns of the
slit that they are from.
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
        Count rates, or one slit with ``sci``; or an array of pixels. ``integration`` may be in front.

    Raises
    ------
    ModelError
        If there are no such dims, or other dims than ``integration`` in front of them.
    """
    array = data["sci"] if isinstance(data, xr.Dataset) else data
    dims = tuple(map(str, array.dims))
    if dims[-2:] not in (IMAGE, RESAMPLED) or dims[:-2] not in ((), ("integration",)):
        several = "; these are many slits, go through them with nsxr.map_slits" if "slit" in dims else ""
        raise ModelError(f"sci has dims {dims}, expected {IMAGE} or {RESAMPLED} of one image{several}")
    return dims[-2], dims[-1]


def on_pixels(spectrum: xr.DataArray, slit: xr.Dataset) -> xr.DataArray:
    """Return values along ``dispersion`` along the columns of a slit, without labels."""
    along = image_dims(slit)[1]
    return spectrum.reset_coords(drop=True).drop_vars("dispersion", errors="ignore").rename(dispersion=along)
