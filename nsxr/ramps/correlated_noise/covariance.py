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

_KINDS = (1, 2)
"""Pixels that were used for the estimate of the noise, and pixels that were not. Others, as at the border, are 0."""

LAG_SIZES = {"kind": len(_KINDS), "lag": len(LAGS)}


def kinds_of(weight: xr.DataArray, frames: Frames) -> xr.DataArray:
    """Return whether each pixel was used (1), was not used (2) or cannot be used (0), (row, column) uint8."""
    used = weight > 0
    return (used + 2 * (~used & frames.mean.notnull())).astype(np.uint8)


def correlation_of(
    products: xr.DataArray, kinds: xr.DataArray, density: xr.DataArray, order: TimeOrder
) -> xr.DataArray:
    """Return the table ``noise_correlation`` (lag, kind) float32 from errors of the estimate in simulated frames.

    ``products`` (draw, kind, lag) float64 are from :func:`products_of_kinds`, and ``density`` (component, frequency) is
    the spectrum with which frames were simulated.
    """
    table = map_blocks(
        _correlation,
        one_chunk(products, "draw", "kind", "lag"),
        kinds,
        density,
        core=("draw", "kind", "lag", *IMAGE, *map(str, density.dims)),
        outputs={"table": (("lag", "column"), np.float32)},
        sizes={"column": len(CORRELATION_COLUMNS)},
        order=order,
    )["table"]
    return table.rename(column="kind")


def products_of_kinds(error: np.ndarray, kinds: np.ndarray, order: TimeOrder) -> np.ndarray:
    """Return the sums of the products of pairs of pixels of each kind, at each lag, (kind, lag) float64.

    Pixels that cannot be used, as at the border, have the kind 0.
    """
    length = series_length(order)
    masked = (np.where(kinds == kind, error, np.float32(0)) for kind in _KINDS)
    return np.array([add_lags(to_series(image, order, length), order) for image in masked])


def _correlation(products: np.ndarray, kinds: np.ndarray, density: np.ndarray, *, order: TimeOrder) -> np.ndarray:
    counts = products_of_kinds(np.ones(kinds.shape, np.float32), kinds, order) * len(products)
    found = correlations(products.sum(0), counts, float(density[2, 0]))
    return np.vstack([LAGS.T, found]).T.astype(np.float32)
