"""Flag snowballs out to where their halos no longer matter."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import chunk_like, one_chunk, to_blocks, to_frames
from nsxr.errors import ParameterError
from nsxr.kernels.ramps.halos import flag_halos
from nsxr.kernels.ramps.rings import scaled_differences
from nsxr.kernels.ramps.snowballs import SnowballLimits
from nsxr.model.dims import RAMP, RATES
from nsxr.model.readout import DETECTOR_SIZE, REFERENCE_BORDER, Readout
from nsxr.model.variables import EVENT_PROPERTIES, check, variable_attributes
from nsxr.references.match import match

__all__ = ["flag_by_halos", "scaled_frames"]

_MOST_EVENTS = 16, 2.5e-7
"""Rows of the table of snowballs: a fixed number, plus a number for each second and pixel at twenty times the usual
rate."""


def scaled_frames(
    exposure: xr.Dataset, readnoise: xr.Dataset | None, gain: xr.Dataset | None, readout: Readout
) -> xr.DataArray:
    """Return differences of groups in units of their noise, with whole frames in a chunk, like the flags."""
    if readnoise is None or gain is None:
        raise ParameterError("halos and showers need readnoise and gain; give both, or use 'ellipse' without showers")
    check(exposure, "sci", units={"sci": "DN"})
    blocks = to_blocks(exposure)
    references = (match(r, exposure, kind) for kind, r in {"gain": gain, "readnoise": readnoise}.items())
    images = (reference["sci"].astype(np.float32, copy=False) for reference in references)
    scaled = map_blocks(
        scaled_differences,
        blocks["sci"],
        blocks["groupdq"],
        *images,
        core=("group", "column"),
        outputs={"scaled": (("integration", "group", "row", "pair"), np.int8)},
        sizes={"pair": (exposure.sizes["column"] + 1) // 2},
        n_frames=readout.n_frames,
    )["scaled"]
    return chunk_like(scaled, to_frames(exposure["groupdq"]))


def flag_by_halos(
    exposure: xr.Dataset, frames: xr.DataArray, scaled: xr.DataArray, limits: SnowballLimits, tolerance: float
) -> dict[str, xr.DataArray]:
    """Return flags, cores, number and table of snowballs, see :func:`nsxr.kernels.ramps.halos.flag_halos`.

    Parameters
    ----------
    exposure : Dataset
        With ``groupdq``.
    frames : DataArray
        ``groupdq``, with whole frames in a chunk.
    scaled : DataArray
        From :func:`scaled_frames`.
    limits : SnowballLimits
        Least and largest sizes.
    tolerance : float
        Shift of a rate that may remain at the edge of a flagged halo [standard deviations].

    Returns
    -------
    dict of DataArray
        ``flags``, ``cores``, ``events``, and ``snowballs`` (snowball, property).
    """
    readout = Readout.of(exposure)
    seconds = readout.group_time * frames.sizes["group"]
    pixels = frames.sizes["row"] * frames.sizes["column"]
    most, most_of_all = (
        _MOST_EVENTS[0] + int(_MOST_EVENTS[1] * pixels * s) for s in (seconds, seconds * frames.sizes["integration"])
    )
    found = map_blocks(
        flag_halos,
        frames,
        scaled,
        core=("group", "row", "column", "pair"),
        outputs={
            "flags": (RAMP, np.uint8),
            "cores": (RATES, np.bool_),
            "events": (("integration",), np.int64),
            "table": (("integration", "event", "property"), np.float32),
        },
        sizes={"event": most, "property": len(EVENT_PROPERTIES) - 1},
        edges=_light_sensitive(exposure),
        tolerance=tolerance,
        most=most,
        limits=limits,
    )
    table = found.pop("table")
    return {**found, "snowballs": _packed(table, exposure, most_of_all)}


def _light_sensitive(exposure: xr.Dataset) -> tuple[int, int, int, int]:
    """Return the first and the last row and column that see light, as positions in the array."""
    edges: list[int] = []
    for dim in ("row", "column"):
        label = exposure[dim].values
        positions = np.flatnonzero((label >= REFERENCE_BORDER) & (label < DETECTOR_SIZE - REFERENCE_BORDER))
        edges += [int(positions[0]), int(positions[-1])] if positions.size else [0, 0]
    return edges[0], edges[1], edges[2], edges[3]


def _packed(table: xr.DataArray, exposure: xr.Dataset, most: int) -> xr.DataArray:
    """Return the snowballs of all integrations, (snowball, property), with positions replaced by labels."""
    labels = {str(dim): exposure[dim].values for dim in RAMP}
    packed = map_blocks(
        _pack,
        one_chunk(table, "integration"),
        core=("integration", "event", "property"),
        outputs={"snowballs": (("snowball", "property"), np.float32)},
        sizes={"snowball": most, "property": len(EVENT_PROPERTIES)},
        labels=labels,
        most=most,
    )["snowballs"]
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
