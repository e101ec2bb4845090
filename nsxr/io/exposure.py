"""Open raw exposures, in one file or in segments."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from nsxr.errors import InputFileError, ParameterError
from nsxr.io.fits_read import read_dataset

__all__ = ["open_exposure"]

_SAME: tuple[str, ...] = (
    "INSTRUME",
    "DETECTOR",
    "EXP_TYPE",
    "FILTER",
    "GRATING",
    "PROGRAM",
    "OBSERVTN",
    "VISIT",
    "EXPOSURE",
)
_SAME += ("READPATT", "SUBARRAY", "SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2", "NINTS", "NGROUPS", "NFRAMES")
_SAME += ("GROUPGAP", "FRMDIVSR", "TFRAME", "TGROUP", "EXSEGTOT")


def open_exposure(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    chunks: Literal["band"] | Mapping[str, int] | None = "band",
) -> xr.Dataset:
    """Open a raw exposure lazily; no pixel is read.

    Parameters
    ----------
    paths : path, URL, or sequence of them
        ``_uncal.fits`` file, possibly gzipped, or the segments of one exposure (``-seg001``, ...) in any order.
    chunks : "band", mapping or None
        Chunk lengths by dim; ``"band"`` is the layout of :mod:`nsxr.model.chunking` and suits the
        pipeline. None opens without dask; pixels are then read when asked for (one file only).

    Returns
    -------
    Dataset
        ``sci`` (integration, group, row, column) float32 [DN]; ``integration`` numbers count through
        all segments, from 1.

    Raises
    ------
    InputFileError
        If a file is not a raw NIRSpec exposure, is cut off or contradicts its header; if segments
        leave a gap, overlap, or belong to different exposures.
    """
    names = [os.fspath(paths)] if isinstance(paths, str | os.PathLike) else [os.fspath(p) for p in paths]
    if not names:
        raise ParameterError("no file given")
    if len(names) > 1 and chunks is None:
        raise ParameterError("several segments can only be opened with chunks")
    segments = [_open_one(name, chunks) for name in names]
    return segments[0] if len(segments) == 1 else _join(names, segments)


def _open_one(name: str, chunks: Literal["band"] | Mapping[str, int] | None) -> xr.Dataset:
    plain = read_dataset(name)
    if "group" not in plain.dims:
        raise InputFileError(f"{name}: SCI has dims {plain['sci'].dims}; this is a rate product, not an exposure")
    if chunks is None:
        return plain
    wanted: Mapping[str, int] = {} if chunks == "band" else chunks
    lazy = xr.open_dataset(name, engine="nirspec", chunks=dict(wanted), cache=False)
    # coordinates are small: kept in memory, as comparing lazy ones would compute
    return lazy.assign_coords(plain.coords)


def _join(names: Sequence[str], segments: Sequence[xr.Dataset]) -> xr.Dataset:
    order = np.argsort([int(s["integration"][0]) for s in segments])
    names, segments = [names[i] for i in order], [segments[i] for i in order]
    problems = []
    first = segments[0].attrs
    for name, segment in zip(names[1:], segments[1:], strict=True):
        for key in _SAME:
            if segment.attrs.get(key) != first.get(key):
                problems.append(f"{key} is {segment.attrs.get(key)!r} in {name}, {first.get(key)!r} in {names[0]}")
    expected = int(segments[0]["integration"][0])
    for name, segment in zip(names, segments, strict=True):
        start, stop = int(segment["integration"][0]), int(segment["integration"][-1])
        if start > expected:
            problems.append(f"integrations {expected} to {start - 1} are missing before {name}")
        elif start < expected:
            problems.append(f"{name} starts at integration {start}, but {expected - 1} is in the file before")
        expected = stop + 1
    if problems:
        raise InputFileError(f"segments do not make one exposure: {'; '.join(problems)}")
    joined = xr.concat(
        segments, "integration", data_vars="minimal", coords="minimal", compat="override", combine_attrs="override"
    )
    covered: dict[str, Any] = {"INTSTART": int(joined["integration"][0]), "INTEND": int(joined["integration"][-1])}
    whole = len(segments) == first.get("EXSEGTOT")
    if whole:
        covered |= {"EXSEGNUM": 1, "EXSEGTOT": 1}
    joined.attrs = {**first, **covered}
    return joined
