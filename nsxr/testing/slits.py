"""Build small slits and spectra in memory, for tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from nsxr.model.dims import IMAGE
from nsxr.model.variables import VARIANCES

__all__ = ["make_slit", "make_spectrum"]


def make_slit(
    sci: ArrayLike,
    variances: Sequence[ArrayLike] = (1.0, 1.0, 1.0),
    dq: ArrayLike | None = None,
    *,
    wavelength: ArrayLike | None = None,
    units: str = "DN/s",
    dims: tuple[str, str] = IMAGE,
    row_start: int = 1200,
    column_start: int = 300,
    **attrs: object,
) -> xr.Dataset:
    """Make a calibrated slit, as it is cut out of the detector.

    Parameters
    ----------
    sci : array of (row, column) or (integration, row, column)
        Calibrated pixels.
    variances : three numbers or arrays
        ``var_poisson``, ``var_rnoise`` and ``var_flat``, of the shape of ``sci`` or one number for all pixels.
    dq : array, optional
        Flags, of the shape of ``sci``. By default all pixels are good.
    wavelength : array of (row, column), optional
        Wavelengths [um], NaN outside of the slit. By default 1 to 2 um along columns.
    units : str
        Units of ``sci``.
    dims : pair of str
        Names of the last two dims. A resampled slit has ``("cross_dispersion", "dispersion")``.
    row_start, column_start : int
        Row and column of the detector where the slit starts.
    **attrs
        Keywords of the slit to add, or to use in place of those of a point source in a shutter.

    Returns
    -------
    Dataset
        ``sci`` and its variances float32, ``dq`` uint32, ``wavelength`` float32. A time series has numbers of
        integrations from 1 and ``mid_time`` [d].

    Examples
    --------
    >>> make_slit(np.ones((2, 5, 40)))["var_rnoise"].dims
    ('integration', 'row', 'column')
    """
    pixels = np.array(sci, np.float32)
    all_dims = dims if pixels.ndim == 2 else ("integration", *dims)
    if wavelength is None:
        wavelength = np.broadcast_to(np.linspace(1, 2, pixels.shape[-1]), pixels.shape[-2:])
    contents: dict[str, Any] = {
        "sci": (all_dims, pixels, {"units": units}),
        "dq": (all_dims, np.zeros(pixels.shape, np.uint32) if dq is None else np.array(dq, np.uint32)),
        "wavelength": (dims, np.array(wavelength, np.float32), {"units": "um"}),
    }
    for part, variance in zip(VARIANCES, variances, strict=True):
        values = np.array(np.broadcast_to(np.asarray(variance, np.float32), pixels.shape))
        contents[f"var_{part}"] = (all_dims, values, {"units": f"({units})2"})
    rows, columns = pixels.shape[-2:]
    labels: dict[str, Any] = {dims[0]: row_start + np.arange(rows), dims[1]: column_start + np.arange(columns)}
    if pixels.ndim == 3:
        labels["integration"] = np.arange(1, len(pixels) + 1)
        labels["mid_time"] = ("integration", np.arange(len(pixels)) / 24)
    return xr.Dataset(contents, labels, {"SRCTYPE": "POINT", "EXP_TYPE": "NRS_MSASPEC", **attrs})


def make_spectrum(
    flux: ArrayLike,
    variance: ArrayLike,
    wavelength: ArrayLike | None = None,
    *,
    dq: ArrayLike | None = None,
    column_start: int = 100,
    **attrs: object,
) -> xr.Dataset:
    """Make an extracted spectrum. Half of its variance is photon noise.

    Parameters
    ----------
    flux : array of (dispersion)
        Flux densities [Jy]. The surface brightness [MJy/sr] is three times as large.
    variance : float or array of (dispersion)
        Variance of the flux [Jy2].
    wavelength : array of (dispersion), optional
        Wavelengths [um]. By default they start at 1 um and increase by 0.01 um.
    dq : array of (dispersion), optional
        Flags. By default all values are good.
    column_start : int
        First column of the spectrum on the detector.
    **attrs
        Keywords to add or to replace.

    Returns
    -------
    Dataset
        ``flux`` and ``surf_bright`` with their variances float64, ``dq`` uint32, and the coordinate ``wavelength``.
    """
    values = np.array(flux, np.float64)
    variances = np.broadcast_to(np.asarray(variance, np.float64), values.shape)
    if wavelength is None:
        wavelength = 1 + 0.01 * np.arange(values.size)
    contents: dict[str, Any] = {}
    for name, prefix, units, scale in (("flux", "flux", "Jy", 1), ("surf_bright", "sb", "MJy/sr", 3)):
        contents[name] = ("dispersion", scale * values, {"units": units})
        for part in VARIANCES[:2]:
            contents[f"{prefix}_var_{part}"] = ("dispersion", scale**2 * variances / 2, {"units": f"({units})2"})
    contents["dq"] = ("dispersion", np.zeros(values.size, np.uint32) if dq is None else np.array(dq, np.uint32))
    labels = {"dispersion": column_start + np.arange(values.size), "wavelength": ("dispersion", np.array(wavelength))}
    keywords = {"SLTNAME": "S200A1", "EFFEXPTM": 10.0, "filename": "jw1_1_nrs1_cal.fits", **attrs}
    return xr.Dataset(contents, labels, keywords)
