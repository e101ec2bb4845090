"""Open exposures, raw or as count rates, from one file or from segments."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import xarray as xr

from nsxr.compute.layouts import in_chunks, raw_chunks
from nsxr.errors import DegradedResultWarning, InputFileError, ParameterError
from nsxr.formats.zarr_read import open_store
from nsxr.model.history import steps
from nsxr.model.readout import AMPLIFIER_ROWS, Readout
from nsxr.model.types import Entries
from nsxr.products.fits_read import read_dataset
from nsxr.storage.folder import Folder
from nsxr.storage.options import StorageOptions
from nsxr.storage.urls import is_remote, shown

__all__ = ["open_exposure"]

_RATE_BYTES = 4 * 2**20
"""Chunks of count rates have the rows of an amplifier, and as many small integrations as these bytes hold."""

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
    chunks: Literal["raw"] | Mapping[str, int] | None = "raw",
    storage_options: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Open an exposure lazily: raw ramps, count rates, or a calibrated frame of the IFU. No pixels are read.

    Parameters
    ----------
    paths : path, URL, or sequence of them
        ``_uncal.fits``, ``_rate.fits`` or ``_rateints.fits`` file, or a calibrated frame of the IFU (``_cal.fits``
        or ``_cal.zarr``), possibly gzipped, or the segments of one exposure (``-seg001``, ...) in any order.
    chunks : "raw", mapping or None
        Chunk lengths by dim. ``"raw"`` is the layout of :mod:`nsxr.compute.layouts`, which suits the pipeline. Dims
        that a mapping leaves out also get this layout. None opens one file without dask. Its pixels are read when they
        are used.
    storage_options : mapping, optional
        Options of fsspec for access to URLs: ``{"anon": True}`` for public data on S3,
        ``{"client_kwargs": {"endpoint_url": ...}}`` for your own server. Options under the name of a protocol,
        ``{"s3": {"anon": True}}``, apply only to URLs of that protocol. The arrays carry the options, so that workers
        on other machines can read the URLs too.

    Returns
    -------
    Dataset
        ``sci`` (integration, group, row, column) float32 [DN]. Labels of ``integration`` count through all segments,
        from 1. Of count rates, ``sci`` (row, column) or (integration, row, column) float32 [DN/s], ``dq`` uint32,
        ``var_poisson`` and ``var_rnoise`` float32. Of a calibrated frame of the IFU (``_cal.fits``), ``sci`` has
        the units of BUNIT; there are also ``var_flat``, ``wavelength`` [um], factors and their variances as far as the
        file has them, and the coordinate ``slice`` uint8, 1 to 30, 0 between the slices.

    Raises
    ------
    InputFileError
        If a file does not exist, is neither a raw NIRSpec exposure nor count rates, is cut off, or contradicts its
        header. If segments leave a gap, overlap, or belong to different exposures.
    RemoteAccessError
        If a URL cannot be reached, or needs credentials.

    Warns
    -----
    DegradedResultWarning
        If several segments are given, but the first or the last ones are missing. INTSTART and INTEND in the attributes
        give the integrations of the Dataset.
    """
    names = [os.fspath(paths)] if isinstance(paths, str | os.PathLike) else [os.fspath(p) for p in paths]
    if not names:
        raise ParameterError("no file given")
    if len(names) > 1 and chunks is None:
        raise ParameterError("several segments can only be opened with chunks")
    options = StorageOptions(storage_options)
    segments = [_open_one(name, chunks, options) for name in names]
    return segments[0] if len(segments) == 1 else _join(names, segments)


def _open_one(name: str, chunks: Literal["raw"] | Mapping[str, int] | None, options: StorageOptions) -> xr.Dataset:
    plain = _open_frame(name, options) if name.rstrip("/").endswith(".zarr") else read_dataset(name, options)
    if "group" not in plain.dims:
        return plain if chunks is None else _rates_in_chunks(plain, chunks)
    corrected = [key for key in ("pixeldq", "groupdq") if key in plain] + [s["step"] for s in steps(plain)]
    if corrected:
        raise InputFileError(
            f"{shown(name)}: has {', '.join(corrected)} already, expected a raw exposure; "
            "open corrected ramps with xarray.open_dataset(path, engine='nirspec', chunks={})"
        )
    if chunks is None:
        return plain
    sizes = {str(dim): size for dim, size in plain.sizes.items()}
    of_all_segments = Readout.from_header(plain.attrs).n_integrations
    sizes["integration"] = max(sizes["integration"], of_all_segments)
    lengths = raw_chunks(sizes, in_pieces=not (is_remote(name) or name.endswith(".gz")))
    lengths |= {} if chunks == "raw" else chunks
    return in_chunks(plain, lengths, "raw")


def _open_frame(name: str, options: StorageOptions) -> xr.Dataset:
    """Open a calibrated frame of the IFU in Zarr."""
    frame = open_store(Folder.at(name, options)).to_dataset()
    if not {"sci", "slice"} <= set(frame.variables):
        raise InputFileError(
            f"{shown(name)}: is no calibrated frame of the IFU, with variables sci and slice; open slits with "
            "nsxr.open_slits, count rates with xarray.open_datatree"
        )
    return frame.reset_coords("wavelength") if "wavelength" in frame.coords else frame


def _rates_in_chunks(rates: xr.Dataset, chunks: Literal["raw"] | Mapping[str, int]) -> xr.Dataset:
    frame = 4 * rates.sizes["row"] * rates.sizes["column"]
    lengths = {"integration": max(1, _RATE_BYTES // frame), "row": AMPLIFIER_ROWS}
    lengths = {dim: length for dim, length in lengths.items() if dim in rates.dims}
    lengths |= {} if chunks == "raw" else chunks
    return in_chunks(rates, lengths, "rate")


def _join(names: Sequence[str], segments: Sequence[xr.Dataset]) -> xr.Dataset:
    order = np.argsort([int(s["integration"][0]) for s in segments])
    names, segments = [shown(names[i]) for i in order], [segments[i] for i in order]
    problems = []
    first = segments[0].attrs
    for name, segment in zip(names[1:], segments[1:], strict=True):
        for key in _SAME:
            if segment.attrs.get(key) != first.get(key):
                problems.append(f"{key} is {segment.attrs.get(key)!r} in {name}, {first.get(key)!r} in {names[0]}")
        differing = sorted(map(str, set(segment.coords) ^ set(segments[0].coords)))
        if differing:
            problems.append(f"{name} and {names[0]} do not both have {', '.join(differing)}")
    expected = int(segments[0]["integration"][0])
    for name, segment in zip(names, segments, strict=True):
        start, stop = int(segment["integration"][0]), int(segment["integration"][-1])
        if start > expected:
            problems.append(f"integrations {expected} to {start - 1} are missing before {name}")
        elif start < expected:
            problems.append(f"{name} starts at integration {start}, but the file before goes on to {expected - 1}")
        expected = stop + 1
    if problems:
        raise InputFileError(f"segments do not make one exposure: {'; '.join(problems)}")
    joined = xr.concat(
        segments, "integration", data_vars="minimal", coords="minimal", compat="override", combine_attrs="override"
    )
    covered: Entries = {"INTSTART": int(joined["integration"][0]), "INTEND": int(joined["integration"][-1])}
    total = Readout.from_header(first).n_integrations
    if joined.sizes["integration"] == total:
        covered |= {"EXSEGNUM": 1, "EXSEGTOT": 1}
    else:
        warnings.warn(
            f"{len(segments)} segments from {names[0]} hold integrations {covered['INTSTART']} to "
            f"{covered['INTEND']} of {total}; the others are missing",
            DegradedResultWarning,
            stacklevel=3,
        )
    joined.attrs = {**first, **covered}
    return joined
