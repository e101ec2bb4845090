"""The named chunk layouts, and the only ``.chunk()`` calls.

Columns are never split: FITS bytes run along them. Chunks have about :data:`CHUNK_BYTES`.

``raw``
    How files are opened, in pieces from which both layouts below are put together without the pixels of
    other chunks: all groups, a few integrations, a few rows. IRS2 frames instead have the 640 rows of one
    output and as many groups as fit, for the transforms; so have files that are slow to read in pieces.
``block``
    Whole integrations: all groups, and all rows of as many integrations as fit, or, where one
    integration does not fit, some rows of it. For everything that looks at a frame or at a ramp.
``ramp``
    Whole series: all integrations and all groups of a few rows. For what is ordinary for a pixel. For
    a single integration it is the block layout again.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import dask
import numpy as np
import xarray as xr

from nsxr.errors import ParameterError
from nsxr.model.parameters import said
from nsxr.model.readout import AMPLIFIER_ROWS, IRS2_ROWS

__all__ = [
    "CHUNK_BYTES",
    "KEPT_BYTES",
    "block_chunks",
    "chunk_like",
    "in_chunks",
    "in_groups",
    "is_kept",
    "one_chunk",
    "ramp_chunks",
    "raw_chunks",
    "rechunk_by_tasks",
    "to_blocks",
    "to_frames",
    "to_ramps",
    "to_whole_frames",
]

CHUNK_BYTES = 24 * 2**20
"""Largest float32 chunk, bytes: four full-frame IRS2 groups of one output, or 20 groups of 128 rows. The C
library takes blocks of more than 32 MiB from the system and gives them back one by one: with chunks
of 105 MB a fifth of the CPU time of stage 1 went into page faults."""

KEPT_BYTES = 640 * 2**20
"""Largest exposure that may be in memory at once, bytes of float32: SUB2048 with 200 x 10 is 524 MB. Longer series
are read several times instead."""

FRAME_BYTES = 32 * 2**20
"""Flags of whole frames in one chunk, bytes."""


def raw_chunks(sizes: Mapping[str, int], in_pieces: bool = True, limit: int | None = None) -> dict[str, int]:
    """Return the chunk lengths of the ``raw`` layout.

    Parameters
    ----------
    sizes : mapping
        Sizes of ``integration``, ``group``, ``row``, ``column``.
    in_pieces : bool
        Whether rows can be read by themselves at little cost; not so over a network or from compressed files.
    limit : int, optional
        Largest chunk [bytes]; default :data:`CHUNK_BYTES`.
    """
    limit = limit or CHUNK_BYTES
    rows = sizes["row"]
    if in_pieces and rows != IRS2_ROWS:
        block, ramp = block_chunks(sizes, limit), ramp_chunks(sizes, limit)
        return block if is_kept(sizes) else {**block, "row": min(block["row"], ramp["row"])}
    band = IRS2_ROWS // 5 if rows == IRS2_ROWS else min(rows, AMPLIFIER_ROWS)
    frame = 4 * band * sizes["column"]
    groups = min(sizes["group"], max(1, limit // frame))
    integrations = min(sizes["integration"], max(1, limit // (frame * sizes["group"])))
    return {"integration": integrations, "group": groups, "row": band, "column": sizes["column"]}


def block_chunks(sizes: Mapping[str, int], limit: int | None = None) -> dict[str, int]:
    """Return the chunk lengths of the ``block`` layout."""
    limit = limit or CHUNK_BYTES
    line = 4 * sizes["group"] * sizes["column"]
    rows = _rows_within(limit // line, sizes["row"])
    integrations = min(sizes["integration"], max(1, limit // (line * sizes["row"])))
    return {"integration": integrations, "group": sizes["group"], "row": rows, "column": sizes["column"]}


def ramp_chunks(sizes: Mapping[str, int], limit: int | None = None) -> dict[str, int]:
    """Return the chunk lengths of the ``ramp`` layout."""
    line = 4 * sizes["integration"] * sizes["group"] * sizes["column"]
    rows = _rows_within((limit or CHUNK_BYTES) // line, sizes["row"])
    return {"integration": sizes["integration"], "group": sizes["group"], "row": rows, "column": sizes["column"]}


def is_kept(sizes: Mapping[str, int]) -> bool:
    """Whether float32 samples of these sizes may wait in memory for each other, see :data:`KEPT_BYTES`."""
    return 4 * math.prod(sizes.values()) <= KEPT_BYTES


def _rows_within(most: int, rows: int) -> int:
    """Return the largest number of rows, up to ``most``, that divides an amplifier, an IRS2 output or the subarray."""
    whole = IRS2_ROWS // 5 if rows == IRS2_ROWS else AMPLIFIER_ROWS if rows % AMPLIFIER_ROWS == 0 else rows
    return next((n for n in range(min(most, whole), 0, -1) if whole % n == 0), 1)


@contextmanager
def rechunk_by_tasks() -> Iterator[None]:
    """Have dask cut and join blocks by plain tasks, also where it would rather shuffle them over workers' disks.

    What a lost worker held of a shuffle costs all of it, and a graph has to be the same with and without a cluster.
    """
    with dask.config.set({"array.rechunk.method": "tasks"}):  # given, it spares importing distributed to choose
        yield


def to_blocks(dataset: xr.Dataset) -> xr.Dataset:
    """Return the Dataset in ``block`` layout; arrays that are not lazy stay as they are."""
    return _in_layout(dataset, block_chunks)


def to_ramps(dataset: xr.Dataset) -> xr.Dataset:
    """Return the Dataset in ``ramp`` layout; arrays that are not lazy stay as they are."""
    return _in_layout(dataset, ramp_chunks)


def _in_layout(dataset: xr.Dataset, layout: Callable[[Mapping[str, int]], dict[str, int]]) -> xr.Dataset:
    if dataset["sci"].chunks is None:
        return dataset
    lengths = layout({str(dim): size for dim, size in dataset["sci"].sizes.items()})
    # in one go: an intermediate layout, which makes for fewer tasks, would be kept in memory
    with dask.config.set({"array.rechunk.threshold": 10**9}):
        turned = dataset.chunk({dim: n for dim, n in lengths.items() if dim in dataset.dims})
    return turned.assign_coords(dataset.coords)  # in memory: comparing lazy ones would compute


def to_frames(array: xr.DataArray, limit: int = FRAME_BYTES) -> xr.DataArray:
    """Return flags in chunks of whole frames and all groups, as many integrations as make ``limit`` bytes.

    For flags alone: an integration of a full frame is 84 MB of them, but would be 335 MB of signal.
    """
    if array.chunks is None:
        return array
    if all(len(lengths) == 1 for dim, lengths in zip(array.dims, array.chunks, strict=True) if dim != "integration"):
        return array
    samples = int(np.prod([size for dim, size in array.sizes.items() if dim != "integration"]))
    lengths = {dim: -1 for dim in array.dims if dim != "integration"}
    return array.chunk({"integration": max(1, limit // samples), **lengths}).assign_coords(array.coords)


def to_whole_frames(array: xr.DataArray) -> xr.DataArray:
    """Return an array in chunks of single frames, or of whole integrations if all their frames are small.

    An integration is never cut in another way, so that sums over its groups do not depend on chunks.
    """
    if array.chunks is None:
        return array
    sizes = {dim: size for dim, size in array.sizes.items() if dim in ("group", "row", "column")}
    integrations = FRAME_BYTES // (4 * math.prod(sizes.values()))
    lengths = {"group": -1, "integration": integrations} if integrations else {"group": 1, "integration": 1}
    kept = {dim: n for dim, n in lengths.items() if dim in array.dims}
    return array.chunk({**dict.fromkeys(("row", "column"), -1), **kept}).assign_coords(array.coords)


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

    Raises
    ------
    ParameterError
        If a dim is unknown, or a length is none.
    """
    for dim, length in lengths.items():
        if dim not in dataset.dims:
            raise ParameterError(f"chunks along {dim!r}, expected some of {', '.join(map(str, dataset.dims))}")
        is_whole = isinstance(length, int | np.integer) and not isinstance(length, bool)
        if not is_whole or not (length == -1 or 1 <= length < 2**63):
            raise ParameterError(
                f"chunks along {dim} are {said(length)}, expected a whole number from 1, or -1 for all"
            )
    return dataset.chunk(dict(lengths), name_prefix=f"{name}-", token=token).assign_coords(dataset.coords)


def one_chunk(array: xr.DataArray, *dims: str) -> xr.DataArray:
    """Return the array with the named dims in one chunk each; no-op if it is not lazy."""
    if array.chunks is None:
        return array
    return array.chunk(dict.fromkeys(dims, -1)).assign_coords(array.coords)


def in_groups(array: xr.DataArray, dim: str, length: int = 8) -> xr.DataArray:
    """Return the array with chunks of ``length`` along one dim; no-op if it is not lazy."""
    return array if array.chunks is None else array.chunk({dim: length}).assign_coords(array.coords)


def chunk_like(array: xr.DataArray, model: xr.DataArray) -> xr.DataArray:
    """Return ``array`` chunked as ``model`` is along the dims they share, others in one chunk."""
    if model.chunks is None:
        return array
    lengths = dict(zip(model.dims, model.chunks, strict=True))
    return array.chunk({dim: lengths.get(dim, -1) for dim in array.dims}).assign_coords(array.coords)
