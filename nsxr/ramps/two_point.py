"""Find jumps among the differences of successive groups: the two-point search, as in the observatory's pipeline."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import ramp_chunks
from nsxr.kernels.ramps.jump import JumpSizes, flag_outside
from nsxr.kernels.ramps.jump_limits import find_limits
from nsxr.kernels.ramps.series_rate import TwoPointSearch, find_series_rates
from nsxr.model.dims import IMAGE, RAMP

__all__ = ["find_ordinary", "flag_by_differences"]


def find_ordinary(
    ramps: xr.Dataset, gain: xr.DataArray, readnoise: xr.DataArray, search: TwoPointSearch, with_limits: bool
) -> dict[str, xr.DataArray]:
    """Find the limits of ordinary differences of each pixel, and the rate that its integrations share.

    Parameters
    ----------
    ramps : Dataset
        ``sci`` and ``groupdq`` of all integrations.
    gain, readnoise : DataArray
        (row, column) float32.
    search : TwoPointSearch
        Rules that say which differences are ordinary.
    with_limits : bool
        Whether to find the limits. Finding the rate alone takes less time.

    Returns
    -------
    dict of DataArray
        ``lower``, ``upper``, ``median`` and ``sigma``, if wanted, and ``rate``, see
        :func:`nsxr.kernels.ramps.jump_limits.find_limits`.
    """
    arrays = ramps["sci"], ramps["groupdq"], gain, readnoise
    if not with_limits:
        images = {"error": (IMAGE, np.float32), "rate": (IMAGE, np.float32)}
        found = _of_all_integrations(find_series_rates, *arrays, outputs=images, search=search)
        return {"rate": found["rate"]}
    steps = ramps.sizes["group"] - 1
    is_each = search.only_integrations and ramps.sizes["integration"] >= search.min_clip_groups and steps > 1
    limits = ("difference", *IMAGE)
    outputs = {
        "lower": (limits, np.float64),
        "upper": (limits, np.float64),
        "median": (IMAGE, np.float64),
        "sigma": (IMAGE, np.float64),
        "rate": (IMAGE, np.float32),
    }
    sizes = {"difference": steps if is_each else 1}
    return _of_all_integrations(find_limits, *arrays, outputs=outputs, sizes=sizes, search=search)


def _of_all_integrations(
    kernel: Callable[..., Any], sci: xr.DataArray, *arrays: xr.DataArray, outputs: Mapping[str, Any], **parameters: Any
) -> dict[str, xr.DataArray]:
    """Run a kernel that needs all integrations of a pixel."""
    run = partial(map_blocks, kernel, sci, *arrays, outputs=outputs, joined="integration", **parameters)
    if sci.chunks is None or len(sci.chunks[2]) > 1:
        return run(core=("integration", "group", "column"))
    # each block has all rows of a few integrations, so all blocks are needed; take some rows at a time from all blocks
    rows = ramp_chunks({str(dim): size for dim, size in sci.sizes.items()})["row"]
    tiles = [run(core=RAMP, within=("row", slice(start, start + rows))) for start in range(0, sci.sizes["row"], rows)]
    return {name: xr.concat([tile[name] for tile in tiles], "row").transpose(..., "row", "column") for name in tiles[0]}


def flag_by_differences(
    sci: xr.DataArray,
    groupdq: xr.DataArray,
    gain: xr.DataArray,
    ordinary: Mapping[str, xr.DataArray],
    median_gain: xr.DataArray,
    sizes: JumpSizes,
) -> xr.DataArray:
    """Return the detection code of each sample, see :func:`nsxr.kernels.ramps.jump.flag_outside`.

    Parameters
    ----------
    sci, groupdq : DataArray
        Ramps, with whole integrations in a chunk.
    gain : DataArray
        (row, column) float32.
    ordinary : mapping of DataArray
        From :func:`find_ordinary`.
    median_gain : DataArray
        Scalar that converts the sizes from DN to electrons.
    sizes : JumpSizes
        Sizes of jumps that flag more than their own group [DN].
    """
    limits = [ordinary[name] for name in ("lower", "upper", "median", "sigma")]
    outputs = {"code": (RAMP, np.uint8)}
    arrays = sci, groupdq, median_gain, gain, *limits
    return map_blocks(_flag, *arrays, core=("group", "column"), outputs=outputs, sizes_in_dn=sizes)["code"]


def _flag(
    sci: np.ndarray,
    groupdq: np.ndarray,
    median_gain: np.ndarray,
    gain: np.ndarray,
    *limits: np.ndarray,
    sizes_in_dn: JumpSizes,
) -> np.ndarray:
    lower, upper, median, sigma = limits
    return flag_outside(sci, groupdq, gain, lower, upper, median, sigma, sizes_in_dn.in_electrons(float(median_gain)))
