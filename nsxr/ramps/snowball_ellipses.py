"""Flag snowballs as ellipses around regions of jumps, as the observatory's pipeline does."""

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.kernels.ramps.snowballs import SnowballLimits, flag_large_events
from nsxr.model.dims import RAMP, RATES

__all__ = ["flag_by_ellipses"]


def flag_by_ellipses(
    frames: xr.DataArray,
    limits: SnowballLimits,
    *,
    expand_factor: float,
    sat_required_snowball: bool,
    edge_size: int,
) -> dict[str, xr.DataArray]:
    """Return flags, cores and number of snowballs, see :func:`nsxr.kernels.ramps.snowballs.flag_large_events`.

    Parameters
    ----------
    frames : DataArray
        ``groupdq``, with whole frames in a chunk.
    limits : SnowballLimits
        Least and largest sizes.
    expand_factor, sat_required_snowball, edge_size
        As in :func:`nsxr.ramps.snowballs.flag_snowballs`.

    Returns
    -------
    dict of DataArray
        ``flags``, ``cores`` and ``events``.
    """
    return map_blocks(
        flag_large_events,
        frames,
        core=("group", "row", "column"),
        outputs={"flags": (RAMP, np.uint8), "cores": (RATES, np.bool_), "events": (("integration",), np.int64)},
        limits=limits,
        expand_factor=expand_factor,
        sat_required_snowball=sat_required_snowball,
        edge_size=edge_size,
    )
