"""Enlarge the flags of large cosmic-ray events, called snowballs."""

from typing import Any

import numpy as np
import xarray as xr

from nsxr.corrections.jump import event_rate
from nsxr.errors import ParameterError
from nsxr.kernels.snowballs import flag_large_events
from nsxr.lazy import map_blocks
from nsxr.model.chunking import chunk_like, to_frames
from nsxr.model.dq import GroupFlag
from nsxr.model.history import record
from nsxr.model.readout import Readout
from nsxr.model.variables import check

__all__ = ["flag_snowballs"]

_RAMP = ("integration", "group", "row", "column")


def flag_snowballs(
    exposure: xr.Dataset,
    *,
    min_sat_area: float = 1.0,
    min_jump_area: float = 5.0,
    expand_factor: float = 2.0,
    sat_required_snowball: bool = True,
    min_sat_radius_extend: float = 2.5,
    sat_expand: int = 2,
    edge_size: int = 25,
    max_extended_radius: int = 200,
    mask_snowball_core_next_int: bool = True,
    snowball_time_masked_next_int: float = 4000.0,
) -> xr.Dataset:
    """Flag the surroundings of large cosmic-ray events.

    A snowball is a round event of tens to hundreds of pixels: a core that saturates, a ring of pixels that
    jump, and around it a halo too faint to be found pixel by pixel. The ring is found among the flags, and
    an ellipse larger than it is flagged. Call it after :func:`nsxr.corrections.jump.flag_jumps`.

    Parameters
    ----------
    exposure : Dataset
        ``groupdq`` (integration, group, row, column) uint8 with jumps flagged.
    min_sat_area, min_jump_area : float
        Least area, holes filled, of a saturated core and of a region of jumps [pixel].
    expand_factor : float
        By how much the minor axis of the region of jumps grows. The major axis grows by as many pixels.
    sat_required_snowball : bool
        Whether a region of jumps counts only if the centre of a core, saturated for the first time in this
        group or the next, lies inside its ellipse. Without it all regions count and cores do not grow.
    min_sat_radius_extend : float
        Cores with a larger minor axis than this [pixel, full] grow.
    sat_expand : int
        By how much the semi-axes of a core grow [pixel].
    edge_size : int
        A region with its centre within this distance of an edge needs no core, which may be outside [pixel].
    max_extended_radius : int
        Largest semi-axis of a flagged ellipse [pixel].
    mask_snowball_core_next_int : bool
        Whether cores that grow are also flagged as jumps in the next integration, where the pixels
        still release charge,
    snowball_time_masked_next_int : float
        for this time [s].

    Returns
    -------
    Dataset
        ``groupdq`` with JUMP_DET added around each event, in its group, where it is not SATURATED; with
        SATURATED added around each large core, from its group on; and with JUMP_DET in the same cores in
        the next integration. No flag is cleared. A lazy scalar ``extended_emission_events`` is added.

    Raises
    ------
    ModelError
        If ``groupdq`` is missing or not as declared.
    ParameterError
        If a parameter is negative.

    Notes
    -----
    Regions are 8-connected. The ellipse of a region has its second moments; both axes are one pixel shorter.

    References
    ----------
    Regan 2023, JWST-STScI-008545: "Detection and Flagging of Showers and Snowballs in JWST".
    """
    check(exposure, "groupdq")
    events_parameters: dict[str, Any] = {
        "min_sat_area": float(min_sat_area),
        "min_jump_area": float(min_jump_area),
        "expand_factor": float(expand_factor),
        "sat_required_snowball": bool(sat_required_snowball),
        "min_sat_radius_extend": float(min_sat_radius_extend),
        "sat_expand": int(sat_expand),
        "edge_size": int(edge_size),
        "max_extended_radius": int(max_extended_radius),
    }
    parameters = {
        **events_parameters,
        "mask_snowball_core_next_int": bool(mask_snowball_core_next_int),
        "snowball_time_masked_next_int": float(snowball_time_masked_next_int),
    }
    negative = [name for name, value in parameters.items() if value < 0]
    if negative:
        raise ParameterError(f"snowball parameters must not be negative: {', '.join(negative)}")
    readout = Readout.from_header(exposure.attrs)
    groupdq = exposure["groupdq"]
    flags, cores, events = map_blocks(
        flag_large_events,
        to_frames(groupdq),
        core=("group", "row", "column"),
        outputs=[(_RAMP, np.uint8), (("integration", "row", "column"), np.bool_), (("integration",), np.int64)],
        **events_parameters,
    )
    masked = min(int(snowball_time_masked_next_int // readout.group_time), groupdq.sizes["group"])
    if mask_snowball_core_next_int and masked > 1 and groupdq.sizes["integration"] > 1:
        before = chunk_like(cores.shift(integration=1, fill_value=False), flags)
        group = np.arange(groupdq.sizes["group"])
        is_masked = xr.DataArray((group > 0) & (group < masked), dims="group")
        flags = flags | before * (is_masked * np.uint8(GroupFlag.JUMP_DET))
    rate = event_rate(events.sum(), groupdq, readout.group_time) * 1e6
    rate.attrs = {"long_name": "snowballs found, per second and 10^6 pixels", "units": "1/s", "keyword": "EXTNCRS"}
    result = record(exposure, "jump", (), parameters, groupdq=chunk_like(flags, groupdq))
    return result.assign(extended_emission_events=rate)
