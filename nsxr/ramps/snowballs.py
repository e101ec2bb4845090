"""Enlarge the flags of large cosmic-ray events, called snowballs."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import chunk_like, one_chunk, to_blocks, to_frames
from nsxr.errors import ParameterError
from nsxr.kernels.ramps.halos import flag_halos, scaled_differences
from nsxr.kernels.ramps.showers import flag_excess
from nsxr.kernels.ramps.snowballs import flag_large_events
from nsxr.model.dq import GroupFlag
from nsxr.model.history import record
from nsxr.model.parameters import Choices, Pixels, Range, Sigmas, Times, Unit
from nsxr.model.readout import DETECTOR_SIZE, REFERENCE_BORDER, Readout
from nsxr.model.variables import EVENT_PROPERTIES, check, variable_attributes
from nsxr.ramps.jump import event_rate
from nsxr.references.match import match

__all__ = ["flag_snowballs"]

_RAMP = ("integration", "group", "row", "column")
_Area = Annotated[float, Range(0, 2048**2), Unit("pixel")]
_ALGORITHMS = ("halo", "ellipse")
_MOST_EVENTS = 16, 2.5e-7
"""Rows of the table of events: so many, and so many for each second and pixel, twenty times the usual rate."""


def flag_snowballs(
    exposure: xr.Dataset,
    readnoise: xr.Dataset | None = None,
    gain: xr.Dataset | None = None,
    *,
    snowball_algorithm: Annotated[str, Choices("halo", "ellipse")] = "halo",
    halo_tolerance: Annotated[float, Range(0, 1e3, is_open=True), Unit("sigma")] = 0.1,
    find_showers: bool = False,
    shower_threshold: Sigmas = 6.0,
    shower_min_area: _Area = 100.0,
    min_sat_area: _Area = 1.0,
    min_jump_area: _Area = 5.0,
    expand_factor: Annotated[float, Range(0, 100)] = 2.0,
    sat_required_snowball: bool = True,
    min_sat_radius_extend: Annotated[float, Range(0, 2048), Unit("pixel")] = 2.5,
    sat_expand: Pixels = 2,
    edge_size: Pixels = 25,
    max_extended_radius: Pixels = 200,
    mask_snowball_core_next_int: bool = True,
    snowball_time_masked_next_int: Times = 4000.0,
) -> xr.Dataset:
    """Flag the surroundings of large cosmic-ray events.

    A snowball is a round event of tens to hundreds of pixels: a core that saturates, a ring of pixels that
    jump, and around it a halo too faint to be found pixel by pixel. Call it after
    :func:`nsxr.ramps.jump.flag_jumps`.

    With ``snowball_algorithm="halo"``, differences of groups, less the ordinary one of each pixel and in units of its
    noise, are averaged in rings around a core that has just saturated and around which pixels jump. The fall of charge
    that is fitted to them says how far the event matters: to where its charge shifts the rate of a pixel by
    ``halo_tolerance`` of its uncertainty. As long as charge arrives in following groups, from traps or because frames
    are averaged, these are flagged as far as it reaches. A region of jumps at an edge of the detector may belong to
    a core outside; it is taken for a segment of a circle, and counts if a halo is seen around it.

    With ``"ellipse"``, the observatory's way, the ring is found among the flags, and an ellipse larger
    than it is flagged.

    Parameters
    ----------
    exposure : Dataset
        ``groupdq`` (integration, group, row, column) uint8 with jumps flagged; for halos and showers also ``sci``
        float32 [DN].
    readnoise, gain : Dataset
        As in :func:`flag_jumps`; for halos and showers.
    snowball_algorithm : {"halo", "ellipse"}
        How far events are flagged.
    halo_tolerance : float
        Shift of a rate that may remain at the rim of a flagged halo.
    find_showers : bool
        Whether to flag regions in which many pixels have a little too much signal in the same group, without a core.
    shower_threshold : float
        Mean of 11 x 11 pixels from which on they are flagged as a shower, in robust standard deviations of such means.
    shower_min_area : float
        Least area of connected pixels that are flagged as a shower.
    min_sat_area : float
        Least area of a saturated core, holes filled.
    min_jump_area : float
        Least area of a region of jumps, holes filled.
    expand_factor : float
        By how much the minor axis of the region of jumps grows. The major axis grows by as many pixels. Ellipses only.
    sat_required_snowball : bool
        Whether a region of jumps counts only if the centre of a core, saturated for the first time in this
        group or the next, lies inside its ellipse. Without it all regions count and cores do not grow. Ellipses only.
    min_sat_radius_extend : float
        Cores with a larger full minor axis than this grow.
    sat_expand : int
        By how much the semi-axes of a core grow.
    edge_size : int
        A region with its centre within this distance of an edge needs no core, which may be outside.
        Ellipses only.
    max_extended_radius : int
        Largest semi-axis of a flagged ellipse, or radius of a halo.
    mask_snowball_core_next_int : bool
        Whether cores that grow are also flagged as jumps in the next integration, where the pixels
        still release charge.
    snowball_time_masked_next_int : float
        How long cores are flagged in the next integration.

    Returns
    -------
    Dataset
        ``groupdq`` with JUMP_DET added around each event, in its group, where it is not SATURATED; with
        SATURATED added around each large core, from its group on; and with JUMP_DET in the same cores in
        the next integration. No flag is cleared. A lazy scalar ``extended_emission_events`` is added, and, for halos,
        ``snowballs`` (snowball, property) float32: integration and group, counted from 1, in which an event
        arrives; row and column of its centre, detector pixels; radius of the core as saturated, neighbours included,
        and radius flagged [pixel]; amplitude of the halo at the edge of the core [standard deviations of a
        difference of groups], NaN where the halo is too steep to tell; number of samples flagged. NaN beyond the
        last event.

    Raises
    ------
    ModelError
        If variables are missing or not as declared.
    ParameterError
        If a parameter is negative, the algorithm unknown, or references are missing.

    Notes
    -----
    Regions are 8-connected. The ellipse of a region has its second moments; both axes are one pixel shorter.

    Charge of z standard deviations of a difference that arrives before group k of N shifts a slope that is limited by
    read noise by ``z k (N - k) sqrt(6 / (N (N^2 - 1)))`` standard deviations.

    References
    ----------
    Regan 2023, JWST-STScI-008545: "Detection and Flagging of Showers and Snowballs in JWST".
    """
    if snowball_algorithm not in _ALGORITHMS:
        raise ParameterError(f"snowball_algorithm is {snowball_algorithm!r}, expected one of {', '.join(_ALGORITHMS)}")
    check(exposure, "groupdq")
    common: dict[str, Any] = {
        "min_sat_area": float(min_sat_area),
        "min_jump_area": float(min_jump_area),
        "min_sat_radius_extend": float(min_sat_radius_extend),
        "sat_expand": int(sat_expand),
        "max_extended_radius": int(max_extended_radius),
    }
    of_ellipses: dict[str, Any] = {
        "expand_factor": float(expand_factor),
        "sat_required_snowball": bool(sat_required_snowball),
        "edge_size": int(edge_size),
    }
    of_showers: dict[str, Any] = {
        "shower_threshold": float(shower_threshold),
        "shower_min_area": float(shower_min_area),
    }
    by_halo = snowball_algorithm == "halo"
    own = {"halo_tolerance": float(halo_tolerance)} if by_halo else of_ellipses
    parameters = {
        **common,
        **own,
        **(of_showers if find_showers else {}),
        "mask_snowball_core_next_int": bool(mask_snowball_core_next_int),
        "snowball_time_masked_next_int": float(snowball_time_masked_next_int),
    }
    negative = [name for name, value in parameters.items() if value < 0]
    if negative or not halo_tolerance > 0:
        raise ParameterError(f"snowball parameters must be positive: {', '.join(negative) or 'halo_tolerance'}")
    readout = Readout.of(exposure)
    groupdq = exposure["groupdq"]
    frames = to_frames(groupdq)
    per_integration = ("integration", "row", "column")
    outputs = [(_RAMP, np.uint8), (per_integration, np.bool_), (("integration",), np.int64)]
    core = ("group", "row", "column", "pair")
    needed = by_halo or find_showers
    scaled = [_scaled(exposure, readnoise, gain, readout)] if needed else []
    table = None
    if by_halo:
        seconds = readout.group_time * groupdq.sizes["group"]
        pixels = groupdq.sizes["row"] * groupdq.sizes["column"]
        most = [
            _MOST_EVENTS[0] + int(_MOST_EVENTS[1] * pixels * s)
            for s in (seconds, seconds * groupdq.sizes["integration"])
        ]
        flags, cores, events, table = map_blocks(
            flag_halos,
            frames,
            *scaled,
            core=core,
            outputs=[*outputs, (("integration", "event", "property"), np.float32)],
            sizes={"event": most[0], "property": len(EVENT_PROPERTIES) - 1},
            edges=_light_sensitive(exposure),
            tolerance=float(halo_tolerance),
            most=most[0],
            **common,
        )
        table = _packed(table, exposure, most[1])
    else:
        flags, cores, events = map_blocks(
            flag_large_events, frames, core=core, outputs=outputs, **common, **of_ellipses
        )
    if find_showers:
        (flags,) = map_blocks(flag_excess, flags, *scaled, core=core, outputs=[(_RAMP, np.uint8)], **of_showers)
    masked = min(int(snowball_time_masked_next_int // readout.group_time), groupdq.sizes["group"])
    if mask_snowball_core_next_int and masked > 1 and groupdq.sizes["integration"] > 1:
        before = chunk_like(cores.shift(integration=1, fill_value=False), flags)
        group = np.arange(groupdq.sizes["group"])
        is_masked = xr.DataArray((group > 0) & (group < masked), dims="group")
        flags = flags | before * (is_masked * np.uint8(GroupFlag.JUMP_DET))
    rate = event_rate(events.sum(), groupdq, readout.group_time) * 1e6
    rate.attrs = {"long_name": "snowballs found, per second and 10^6 pixels", "units": "1/s", "keyword": "EXTNCRS"}
    given = [reference for reference in (readnoise, gain) if needed and reference is not None]
    parameters = {"snowball_algorithm": snowball_algorithm, "find_showers": bool(find_showers), **parameters}
    result = record(exposure, "jump", given, parameters, groupdq=chunk_like(flags, groupdq))
    result = result.assign(extended_emission_events=rate)
    return result if table is None else result.assign(snowballs=table)


def _scaled(
    exposure: xr.Dataset, readnoise: xr.Dataset | None, gain: xr.Dataset | None, readout: Readout
) -> xr.DataArray:
    """Return differences of groups in units of their noise, whole frames in a chunk like the flags."""
    if readnoise is None or gain is None:
        raise ParameterError("readnoise and gain are needed for halos and showers; give them, or choose ellipses")
    check(exposure, "sci", units={"sci": "DN"})
    blocks = to_blocks(exposure)
    image = blocks["sci"].isel(integration=0, group=0)
    references = (
        chunk_like(match(r, exposure, kind)["sci"].astype(np.float32, copy=False), image)
        for kind, r in {"gain": gain, "readnoise": readnoise}.items()
    )
    (scaled,) = map_blocks(
        scaled_differences,
        blocks["sci"],
        chunk_like(blocks["groupdq"], blocks["sci"]),
        *references,
        core=("group", "column"),
        outputs=[(("integration", "group", "row", "pair"), np.int8)],
        sizes={"pair": (exposure.sizes["column"] + 1) // 2},
        n_frames=readout.n_frames,
    )
    return chunk_like(scaled, to_frames(exposure["groupdq"]))


def _light_sensitive(exposure: xr.Dataset) -> tuple[int, int, int, int]:
    """Return the first and the last row and column that see light, as positions in the array."""
    edges: list[int] = []
    for dim in ("row", "column"):
        label = exposure[dim].values
        positions = np.flatnonzero((label >= REFERENCE_BORDER) & (label < DETECTOR_SIZE - REFERENCE_BORDER))
        edges += [int(positions[0]), int(positions[-1])] if positions.size else [0, 0]
    return edges[0], edges[1], edges[2], edges[3]


def _packed(table: xr.DataArray, exposure: xr.Dataset, most: int) -> xr.DataArray:
    """Return the events of all integrations, (snowball, property), with labels for positions."""
    labels = {str(dim): exposure[dim].values for dim in _RAMP}
    (packed,) = map_blocks(
        _pack,
        one_chunk(table, "integration"),
        core=("integration", "event"),
        outputs=[(("snowball", "property"), np.float32)],
        sizes={"snowball": most, "property": len(EVENT_PROPERTIES)},
        labels=labels,
        most=most,
    )
    attributes = variable_attributes("snowballs")
    return packed.assign_coords(property=list(EVENT_PROPERTIES)).assign_attrs(attributes)


def _pack(table: np.ndarray, labels: Mapping[str, np.ndarray], most: int) -> np.ndarray:
    packed = np.full((most, 1 + table.shape[-1]), np.nan, np.float32)
    integration, event = np.nonzero(~np.isnan(table[:, :, 0]))
    integration, event = integration[:most], event[:most]
    found = table[integration, event]
    found[:, 0] = labels["group"][found[:, 0].astype(int)]
    for property, dim in ((1, "row"), (2, "column")):
        inside = np.clip(found[:, property], 0, labels[dim].size - 1)  # centres may be beyond an edge
        beyond = found[:, property] - inside
        found[:, property] = np.interp(inside, np.arange(labels[dim].size), labels[dim]) + beyond
    packed[: event.size, 0] = labels["integration"][integration]
    packed[: event.size, 1:] = found
    return packed
