"""What pixels share of the noise that is left after correlated noise was removed.

Arrays are lazy; the functions at the end work on NumPy blocks.
"""

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import one_chunk
from nsxr.kernels.ramps.flicker import series_length, to_series
from nsxr.kernels.ramps.lag_covariance import LAGS, add_lags, correlations
from nsxr.model.dims import IMAGE
from nsxr.model.time_order import TimeOrder
from nsxr.model.variables import CORRELATION_COLUMNS
from nsxr.ramps.correlated_noise.frames import Frames

__all__ = ["LAG_SIZES", "correlation_of", "kinds_of", "products_of_kinds"]

_USED, _UNUSED = 1, 2
"""Pixels that were used for the estimate of the noise, and pixels that were not. Others, as at the border, are 0."""

LAG_SIZES = {"kind": 3, "lag": len(LAGS)}


def kinds_of(weight: xr.DataArray, frames: Frames) -> xr.DataArray:
    """Return whether each pixel was used (1), was not used (2) or cannot be used (0), (row, column) uint8."""
    used = weight > 0
    return (used + 2 * (~used & frames.mean.notnull())).astype(np.uint8)


def correlation_of(
    products: xr.DataArray, level: xr.DataArray, kinds: xr.DataArray, density: xr.DataArray, order: TimeOrder
) -> xr.DataArray:
    """Return the table ``noise_correlation`` (lag, kind) float32 from errors of the estimate in simulated frames.

    ``products`` (draw, kind, lag) float64 are from :func:`products_of_kinds`, and ``density`` (component, frequency) is
    the spectrum with which frames were simulated. ``level`` () float64 is the variance of the level that all pixels
    of an amplifier share, and that the products do not have. The level of the whole frame is not part of the table.
    """
    table = map_blocks(
        _correlation,
        one_chunk(products, "draw", "kind", "lag"),
        level,
        kinds,
        density,
        core=("draw", "kind", "lag", *IMAGE, *map(str, density.dims)),
        outputs={"table": (("lag", "column"), np.float32)},
        sizes={"column": len(CORRELATION_COLUMNS)},
        order=order,
    )["table"]
    return table.rename(column="kind")


def products_of_kinds(error: np.ndarray, white: np.ndarray, kinds: np.ndarray, order: TimeOrder) -> np.ndarray:
    """Return the sums of the products of the noise of pairs of pixels at each lag, (kind, lag) float64.

    Both pixels were used for the estimate, neither was, one was. The noise of a pixel that was not used is the error of
    the estimate; its own white noise is independent. In a pixel that was used, the error follows the white noise, so
    its noise is the sum of both. The products of white noise alone are subtracted, because they scatter.

    Parameters
    ----------
    error, white : ndarray
        (row, column) float32, noise less its estimate, and white noise of the pixels.
    kinds : ndarray
        (row, column) uint8, from :func:`kinds_of`.
    order : TimeOrder
        The order in which pixels are read.
    """

    def add(noise: np.ndarray, inside: np.ndarray) -> np.ndarray:
        image = np.where(inside, noise, np.float32(0))
        return add_lags(to_series(image, order, series_length(order)), order)

    used, unused = kinds == _USED, kinds == _UNUSED
    noise = error + np.where(used, white, np.float32(0))
    of_used, of_unused = add(noise, used), add(noise, unused)
    return np.array([of_used - add(white, used), of_unused, add(noise, used | unused) - of_used - of_unused])


def _correlation(
    products: np.ndarray, level: np.ndarray, kinds: np.ndarray, density: np.ndarray, *, order: TimeOrder
) -> np.ndarray:
    one, nothing = np.ones(kinds.shape, np.float32), np.zeros(kinds.shape, np.float32)
    counts = products_of_kinds(one, nothing, kinds, order) * len(products)
    found = correlations(products.sum(0) + float(level) * counts, counts, float(density[2, 0]))
    return np.vstack([LAGS.T, found]).T.astype(np.float32)
