"""The signal of dark and faint pixels, for their photon noise."""

import numpy as np
import xarray as xr
from scipy import ndimage

from nsxr.compute.blocks import map_blocks
from nsxr.model.dims import IMAGE

__all__ = ["expected_signal", "without_chance"]

_FAINT = 3.0  # standard deviations of the noise
_COLUMNS = 9
_CHANCE = 2.0  # levels below this many standard deviations of their noise are no light


def without_chance(level: xr.DataArray, variance: xr.DataArray) -> xr.DataArray:
    """Return as much of a level as exceeds its noise: nothing of a level within twice its noise, almost all of others.

    The level of one amplifier without reference pixels differs from exposure to exposure. It is no light then, and has
    no photon noise. The estimate is that of James & Stein (1961) with twice the noise, because this noise is measured
    in few frames.

    Parameters
    ----------
    level, variance : DataArray
        (row, column) float32, and () float64.
    """
    share = (1 - _CHANCE**2 * variance / (level.astype(np.float64) ** 2).where(level != 0)).clip(0.0, None)
    return (level * share.fillna(0.0)).astype(np.float32)


def expected_signal(
    mean: xr.DataArray, is_dark: xr.DataArray, level: xr.DataArray, density: xr.DataArray, shared: xr.DataArray
) -> xr.DataArray:
    """Return the signal that dark and faint pixels are expected to have, NaN in others, (row, column) float32.

    A pixel whose signal is mostly noise does not tell its photon noise: half of such pixels would claim too much, and
    none too little. Dark pixels have the level of the dark. Faint pixels have the mean over 9 columns, along the
    dispersion, of such pixels.

    Parameters
    ----------
    mean, is_dark, level : DataArray
        (row, column), mean of all frames without correlated noise, pixels without light, and their level.
    density : DataArray
        (component, frequency) spectral densities of a frame.
    shared : DataArray
        () float64, variance of the noise of ``mean``, over that of a frame.
    """
    core = (*IMAGE, *map(str, density.dims))
    outputs = {"expected": (IMAGE, np.float32)}
    return map_blocks(_expected, mean, is_dark, level, density, shared, core=core, outputs=outputs)["expected"]


def _expected(
    mean: np.ndarray, is_dark: np.ndarray, level: np.ndarray, density: np.ndarray, shared: np.ndarray
) -> np.ndarray:
    most = _FAINT * np.sqrt(density[2, 0] * shared)
    above = np.where(np.isfinite(mean), mean - level, np.inf)
    is_faint = ~is_dark & (np.abs(above) < most)
    share = ndimage.uniform_filter1d(is_faint.astype(np.float32), _COLUMNS, axis=1, mode="constant")
    total = ndimage.uniform_filter1d(np.where(is_faint, mean, np.float32(0)), _COLUMNS, axis=1, mode="constant")
    smooth = total / np.maximum(share, np.float32(1 / _COLUMNS))
    expected = np.where(is_dark, level, np.where(is_faint, smooth, np.nan))
    return np.maximum(expected, 0.0).astype(np.float32)
