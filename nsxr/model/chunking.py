"""The named chunk layouts, and the only ``.chunk()`` calls.

Two layouts serve the whole of stage 1. Columns are never split: FITS bytes run along them.

``band``
    How raw files are opened: whole integrations, all groups, the rows of one amplifier (in IRS2
    one output of 640 lines). Reference-pixel corrections work inside such a chunk, because an
    amplifier is a band of rows; only small estimates cross from one chunk to another. Subarrays
    have one band, and then several integrations share a chunk. Very long ramps split along groups.
``ramp``
    For jumps and ramp fits: all integrations and all groups of some rows. For a single
    integration it is the band layout again, so nothing moves.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from nsxr.model.readout import AMPLIFIER_ROWS, DETECTOR_SIZE, IRS2_ROWS

__all__ = [
    "BAND_BYTES",
    "CHUNK_BYTES",
    "band_chunks",
    "chunk_like",
    "in_chunks",
    "one_chunk",
    "ramp_chunks",
    "to_frames",
    "to_ramps",
]

BAND_BYTES = 24 * 2**20
"""Largest float32 chunk of the band layout, bytes: four full-frame IRS2 groups of one output. The C
library takes blocks of more than 32 MiB from the system and gives them back one by one: with chunks
of 105 MB a fifth of the CPU time of stage 1 went into page faults."""

CHUNK_BYTES = 128 * 2**20
"""Largest float32 chunk of the ramp layout, bytes: 20 full-frame groups of one amplifier are 84 MB."""


def band_chunks(sizes: Mapping[str, int], limit: int = BAND_BYTES) -> dict[str, int]:
    """Return the chunk lengths of the ``band`` layout for a raw exposure of the given sizes."""
    rows = sizes["row"]
    if rows == IRS2_ROWS:
        band = IRS2_ROWS // 5
    elif rows == DETECTOR_SIZE:
        band = AMPLIFIER_ROWS
    else:
        band = rows
    frame = 4 * band * sizes["column"]
    groups = min(sizes["group"], max(1, limit // frame))
    integrations = min(sizes["integration"], max(1, limit // (frame * sizes["group"])))
    return {"integration": integrations, "group": groups, "row": band, "column": sizes["column"]}


def ramp_chunks(sizes: Mapping[str, int], limit: int = CHUNK_BYTES) -> dict[str, int]:
    """Return the chunk lengths of the ``ramp`` layout: whole time axes, as many rows as fit."""
    line = 4 * sizes["integration"] * sizes["group"] * sizes["column"]
    rows = min(sizes["row"], max(1, limit // line))
    if rows < sizes["row"]:
        while AMPLIFIER_ROWS % rows:  # tiles that divide an amplifier cut no band in two
            rows -= 1
    return {"integration": -1, "group": -1, "row": rows, "column": -1}


def to_ramps(dataset: xr.Dataset, limit: int = CHUNK_BYTES) -> xr.Dataset:
    """Return the Dataset in ``ramp`` layout; arrays that are not lazy stay as they are.

    Chunks that already hold whole integrations and groups within the limit are kept, so a single
    integration opened in bands is not touched.
    """
    sci = dataset["sci"]
    if sci.chunks is None:
        return dataset
    lengths = dict(zip(sci.dims, sci.chunks, strict=True))
    whole = all(len(lengths[dim]) == 1 for dim in ("integration", "group", "column"))
    if whole and 4 * int(np.prod([max(c) for c in sci.chunks])) <= max(limit, 4 * sci.shape[1] * AMPLIFIER_ROWS * 2048):
        rows: int | tuple[int, ...] = lengths["row"]
    else:
        rows = ramp_chunks({str(k): v for k, v in sci.sizes.items()}, limit)["row"]
    # coordinates stay in memory: comparing lazy ones would compute
    return dataset.chunk({"integration": -1, "group": -1, "row": rows, "column": -1}).assign_coords(dataset.coords)


def to_frames(array: xr.DataArray, limit: int = CHUNK_BYTES // 4) -> xr.DataArray:
    """Return ramps in chunks of whole frames and all groups, as many integrations as ``limit`` samples.

    For flags alone: an integration of a full frame is 84 MB of them, but would be 335 MB of signal.
    """
    if array.chunks is None:
        return array
    samples = int(np.prod([size for dim, size in array.sizes.items() if dim != "integration"]))
    lengths = {dim: -1 for dim in array.dims if dim != "integration"}
    return array.chunk({"integration": max(1, limit // samples), **lengths}).assign_coords(array.coords)


def in_chunks(dataset: xr.Dataset, lengths: Mapping[str, int], name: str, token: str | None = None) -> xr.Dataset:
    """Return a Dataset on files as dask arrays; coordinates, which are small, stay in memory.

    Parameters
    ----------
    dataset : Dataset
        Lazily indexed variables.
    lengths : mapping
        Chunk length by dim, -1 for all.
    name : str
        What tasks are called.
    token : str, optional
        What tells these arrays from others, if it does not follow from the variables.
    """
    return dataset.chunk(dict(lengths), name_prefix=f"{name}-", token=token).assign_coords(dataset.coords)


def one_chunk(array: xr.DataArray, *dims: str) -> xr.DataArray:
    """Return the array with the named dims in one chunk each; no-op if it is not lazy."""
    if array.chunks is None:
        return array
    return array.chunk(dict.fromkeys(dims, -1)).assign_coords(array.coords)


def chunk_like(array: xr.DataArray, model: xr.DataArray) -> xr.DataArray:
    """Return ``array`` chunked as ``model`` is along the dims they share, others in one chunk."""
    if model.chunks is None:
        return array
    lengths = dict(zip(model.dims, model.chunks, strict=True))
    return array.chunk({dim: lengths.get(dim, -1) for dim in array.dims}).assign_coords(array.coords)
