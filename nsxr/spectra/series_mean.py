"""Average the integrations of a time series, without bad pixels and bad integrations."""

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import one_chunk
from nsxr.compute.passes import settle
from nsxr.kernels.medians import median_of_finite
from nsxr.model.dims import image_dims

__all__ = ["mean_image"]

_TYPICAL = 33
"""Number of integrations, evenly spread over the time series, whose median is the typical image."""
_THRESHOLD = 8.0  # standard deviations from the typical image
_VARIABILITY = 0.2  # additional limit, as a part of the light of a pixel: stars flare and are eclipsed
_BRIGHT = 4.0  # standard deviations above which a pixel has light
_ELSEWHERE = 0.15  # part of the bright pixels that deviate if an integration shows something else
_RATIO = 100.0  # largest ratio of a variance to the typical variance


def mean_image(slit: xr.Dataset, usable: xr.DataArray) -> xr.Dataset:
    """Return the mean of usable pixels over integrations, with its variances.

    Pixels of an integration that deviate from the typical image are left out, such as pixels with jumps. Whole
    integrations that are saturated, empty, noisy, or pointed somewhere else are left out too. A pixel that is usable in
    less than half of the integrations has no mean.

    Parameters
    ----------
    slit : Dataset
        ``sci``, ``var_poisson``, ``var_rnoise`` of an image, with or without integration in front.
    usable : DataArray of bool
        Pixels that are measurements.

    Returns
    -------
    Dataset
        The same variables without integration, NaN where no integration can be used; ``usable``, the pixels that have a
        mean; and the scalar ``n_averaged``, the number of integrations in the mean of a pixel, averaged over pixels.
    """
    dims = image_dims(slit)
    names = [name for name in ("sci", "var_poisson", "var_rnoise") if name in slit]
    if "integration" not in slit.dims:
        found = xr.Dataset({name: slit[name].where(usable) for name in names})
        return found.assign(usable=usable, n_averaged=1.0)
    every = slit.sizes["integration"]
    if every > 2:
        variance = slit["var_poisson"] + slit["var_rnoise"]
        few = slice(None, None, -(-every // _TYPICAL))
        whole = [one_chunk(array.isel(integration=few), "integration") for array in (slit["sci"], variance, usable)]
        outputs = dict.fromkeys(("value", "limit", "variance"), (dims, np.float64))
        typical = map_blocks(_typical, *whole, core=("integration",), outputs=outputs)
        value, limit, usual = (settle(typical[name]) for name in outputs)
        is_bright = abs(value) > _BRIGHT * np.sqrt(usual)
        is_off = abs(slit["sci"] - value) > limit
        judged = usable & is_bright
        is_elsewhere = (judged & is_off).sum(dims) > _ELSEWHERE * judged.sum(dims)
        usable = usable & ~is_off & ~is_elsewhere & (variance <= _RATIO * usual) & (variance * _RATIO >= usual)
    found = xr.Dataset({name: slit[name].where(usable) for name in names})
    count = usable.sum("integration")
    often = count >= 0.5 * every
    total, count = found.sum("integration", dtype=np.float64), count.where(often)
    mean = xr.Dataset({name: total[name] / (count if name == "sci" else count**2) for name in names})
    return mean.assign(usable=often, n_averaged=count.mean().fillna(1.0))


def _typical(sci: np.ndarray, variance: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the median over integrations, the largest deviation from it, and the median of the variances."""
    there = usable & np.isfinite(sci) & np.isfinite(variance)
    value = median_of_finite(np.where(there, sci, np.nan).astype(np.float64))
    scatter = median_of_finite(np.abs(np.where(there, sci, np.nan) - value)) / 0.6745
    usual = median_of_finite(np.where(there, variance, np.nan).astype(np.float64))
    limit = _THRESHOLD * np.maximum(scatter, np.sqrt(np.maximum(usual, 0.0))) + _VARIABILITY * np.abs(value)
    return value, limit, usual
