"""Split exposures into chunks, in three layouts.

No layout splits columns, because the bytes of a FITS image run along them. Chunks have about :data:`CHUNK_BYTES`.

``raw``
    The layout in which files are opened: all groups of a few integrations and a few rows. Both layouts below are built
    from such chunks, and no raw chunk is read for two of their chunks. Frames in IRS2 readout have chunks with
    the 640 rows of one amplifier and as many groups as fit, because the Fourier transforms need them. Files that are
    slow to read in pieces have such chunks too.
``block``
    Whole integrations: all groups and all rows of as many integrations as fit. Where one integration does not fit, a
    chunk has some of its rows. This layout is for steps that need a whole frame or a whole ramp.
``ramp``
    Whole time series: all integrations and all groups of a few rows. This layout is for steps that compare the
    integrations of a pixel. For a single integration it is the same as the block layout.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dask
import numpy as np
import xarray as xr
from dask.base import tokenize

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
"""Largest float32 chunk [bytes]: four IRS2 groups of one amplifier, or 20 groups of 128 rows of a full frame.

The C library requests each block of more than 32 MiB from the system and returns it after use. With chunks of 105 MB, a
fifth of the CPU time of stage 1 went into page faults."""

KEPT_BYTES = 640 * 2**20
"""Largest exposure that may be in memory at once [bytes of float32]. SUB2048 with 200 groups and 10 integrations has
524 MB. Longer time series are read several times instead."""

FRAME_BYTES = 32 * 2**20
"""Size of a chunk with flags of whole frames [bytes]."""


def raw_chunks(sizes: Mapping[str, int], in_pieces: bool = True, limit: int | None = None) -> dict[str, int]:
    """Return the chunk lengths of the ``raw`` layout.

    Parameters
    ----------
    sizes : mapping
        Sizes of ``integration``, ``group``, ``row``, ``column``.
    in_pieces : bool
        Whether rows can be read separately at little cost. False over a network and for compressed files.
    limit : int, optional
        Largest chunk [bytes]. Default: :data:`CHUNK_BYTES`.
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


def is_kept(sizes: Mapping[Any, int]) -> bool:
    """Return whether a float32 array of these sizes may be in memory as a whole, see :data:`KEPT_BYTES`."""
    return 4 * math.prod(sizes.values()) <= KEPT_BYTES


def _rows_within(most: int, rows: int) -> int:
    """Return the largest number of rows, up to ``most``, that divides the rows of an amplifier or of the subarray."""
    whole = IRS2_ROWS // 5 if rows == IRS2_ROWS else AMPLIFIER_ROWS if rows % AMPLIFIER_ROWS == 0 else rows
    return next((n for n in range(min(most, whole), 0, -1) if whole % n == 0), 1)


@contextmanager
def rechunk_by_tasks() -> Iterator[None]:
    """Make dask change chunks with plain tasks, also on a cluster, where its default is a shuffle through files.

    If a worker is lost, a shuffle has to start again from the beginning. A second reason is that graphs have to be the
    same with and without a cluster.
    """
    with dask.config.set({"array.rechunk.method": "tasks"}):  # if this is not set, dask imports distributed
        yield


def to_blocks(dataset: xr.Dataset) -> xr.Dataset:
    """Return the Dataset in ``block`` layout. Arrays that are not lazy do not change."""
    return _in_layout(dataset, block_chunks)


def to_ramps(dataset: xr.Dataset) -> xr.Dataset:
    """Return the Dataset in ``ramp`` layout. Arrays that are not lazy do not change."""
    return _in_layout(dataset, ramp_chunks)


def _in_layout(dataset: xr.Dataset, layout: Callable[[Mapping[str, int]], dict[str, int]]) -> xr.Dataset:
    if dataset["sci"].chunks is None:
        return dataset
    lengths = layout({str(dim): size for dim, size in dataset["sci"].sizes.items()})
    # change chunks in one step: dask's intermediate layout has fewer tasks, but stays in memory
    with dask.config.set({"array.rechunk.threshold": 10**9}):
        turned = dataset.chunk({dim: n for dim, n in lengths.items() if dim in dataset.dims})
    return turned.assign_coords(dataset.coords)  # keep coordinates in memory: comparing lazy ones computes them


def to_frames(array: xr.DataArray, limit: int = FRAME_BYTES) -> xr.DataArray:
    """Return flags in chunks of whole frames and all groups, with as many integrations as fit into ``limit`` bytes.

    This is for flags only: an integration of 20 full frames has 84 MB of flags, but 335 MB of signal.
    """
    if array.chunks is None:
        return array
    if all(len(lengths) == 1 for dim, lengths in zip(array.dims, array.chunks, strict=True) if dim != "integration"):
        return array
    samples = int(np.prod([size for dim, size in array.sizes.items() if dim != "integration"]))
    lengths = {dim: -1 for dim in array.dims if dim != "integration"}
    return array.chunk({"integration": max(1, limit // samples), **lengths}).assign_coords(array.coords)


def to_whole_frames(array: xr.DataArray, *split: str) -> xr.DataArray:
    """Return an array in chunks of single frames, or of whole integrations if all their frames are small.

    An integration is not split in any other way. Sums over its groups therefore do not depend on the chunks. Dims in
    ``split`` keep their chunks.
    """
    if array.chunks is None:
        return array
    sizes = {dim: size for dim, size in array.sizes.items() if dim in ("group", "row", "column")}
    integrations = FRAME_BYTES // (4 * math.prod(sizes.values()))
    lengths = {"group": -1, "integration": integrations} if integrations else {"group": 1, "integration": 1}
    lengths |= {dim: -1 for dim in ("row", "column") if dim not in split}
    kept = {dim: n for dim, n in lengths.items() if dim in array.dims}
    return array.chunk(kept).assign_coords(array.coords)


def in_chunks(
    dataset: xr.Dataset, lengths: Mapping[str, int], name: str, origin: tuple[Any, ...] | None = None
) -> xr.Dataset:
    """Return a Dataset whose variables are dask arrays. Coordinates, which are small, stay in memory.

    Parameters
    ----------
    dataset : Dataset
        Dataset of lazily indexed variables.
    lengths : mapping
        Chunk length by dim, -1 for all.
    name : str
        Name of the tasks.
    origin : tuple, optional
        Values that identify these arrays, if the variables do not. dask makes the names of its tasks from them.

    Raises
    ------
    ParameterError
        If a dim is unknown, or a length is not allowed.
    """
    for dim, length in lengths.items():
        if dim not in dataset.dims:
            raise ParameterError(f"chunks along {dim!r}, expected dims out of {', '.join(map(str, dataset.dims))}")
        is_whole = isinstance(length, int | np.integer) and not isinstance(length, bool)
        if not is_whole or not (length == -1 or 1 <= length < 2**63):
            raise ParameterError(
                f"chunks along {dim} are {said(length)}, expected a whole number from 1, or -1 for all"
            )
    token = None if origin is None else tokenize(*origin)
    return dataset.chunk(dict(lengths), name_prefix=f"{name}-", token=token).assign_coords(dataset.coords)


def one_chunk(array: xr.DataArray, *dims: str) -> xr.DataArray:
    """Return the array with one chunk along each of the named dims. An array that is not lazy is returned as it is."""
    chunks = array.chunks
    if chunks is None or all(len(lengths) == 1 for dim, lengths in zip(array.dims, chunks, strict=True) if dim in dims):
        return array
    return array.chunk(dict.fromkeys(dims, -1)).assign_coords(array.coords)


def in_groups(array: xr.DataArray, dim: str, length: int = 8) -> xr.DataArray:
    """Return the array with chunks of ``length`` along one dim. An array that is not lazy is returned as it is."""
    return array if array.chunks is None else array.chunk({dim: length}).assign_coords(array.coords)


def chunk_like(array: xr.DataArray, model: xr.DataArray) -> xr.DataArray:
    """Return ``array`` with the chunks of ``model`` along the dims that both have, and one chunk along others."""
    if model.chunks is None:
        return array
    lengths = dict(zip(model.dims, model.chunks, strict=True))
    return array.chunk({dim: lengths.get(dim, -1) for dim in array.dims}).assign_coords(array.coords)
