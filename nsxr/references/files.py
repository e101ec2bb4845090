"""Open a reference file as a lazy Dataset, with standard flags, and check that it fits the exposure."""

import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from nsxr.compute.layouts import block_chunks, in_chunks
from nsxr.errors import DegradedResultWarning, InputFileError, ReferenceFileError
from nsxr.formats.fingerprint import describe_file
from nsxr.formats.fits_headers import Extension, FitsFile, keywords, scan
from nsxr.formats.pixels import FitsArray, PixelSource
from nsxr.model.dq import PixelFlag, flag_name, recode
from nsxr.model.keywords import read, require, whole_number
from nsxr.model.readout import DETECTOR_SIZE, IRS2_ROWS, Readout
from nsxr.model.steps import REFERENCES
from nsxr.model.types import Entries
from nsxr.references.limits import flag_unphysical
from nsxr.storage.options import StorageOptions
from nsxr.storage.urls import is_remote

__all__ = ["ANY", "OPTIONAL", "TYPES", "flag_definitions", "open_reference", "region", "sampling", "scan_reference"]

logger = logging.getLogger(__name__)

TYPES = tuple(kind for kind, one in REFERENCES.items() if one.opened == "always")
"""Reference types that stage 1 needs."""

OPTIONAL = tuple(kind for kind, one in REFERENCES.items() if one.opened in ("found", "given"))
"""Optional reference types: steps use them if they are given."""

ANY = ("", "ANY", "N/A", "GENERIC")
"""Values of a keyword in a reference that mean that the reference fits every value."""

IMAGE = ("row", "column")
_KNOWN_TO_NOBODY = ("BAD_LIN_CORR",)  # a flag of linearity references that is not a standard one


def scan_reference(
    path: str | os.PathLike[str], storage_options: Mapping[str, object] | StorageOptions | None = None
) -> FitsFile:
    """Read the headers and small tables of a reference file."""
    return scan(path, ("DQ_DEF", "DQ"), storage_options)


def region(file: FitsFile) -> tuple[int, int, int, int] | None:
    """Return the first row, number of rows, first column and number of columns of a reference's images, from 0.

    Return None for references without an image. An image in raw IRS2 format counts as the 2048 rows of the detector.
    """
    image = next((file.extensions[n] for n in ("SCI", "COEFFS", "DQ") if _is_image(file.extensions.get(n))), None)
    if image is None:
        return None
    rows, columns = image.shape[-2:]
    if rows == IRS2_ROWS:
        return 0, DETECTOR_SIZE, 0, columns
    if (rows, columns) == (DETECTOR_SIZE, DETECTOR_SIZE):
        return 0, rows, 0, columns
    if rows > DETECTOR_SIZE or columns > DETECTOR_SIZE:
        raise ReferenceFileError(f"{file.path}: has {rows} x {columns} pixels, more than a detector")
    starts = _keywords_of(file, "SUBSTRT2", "SUBSTRT1", purpose=f"they give the place of its {rows} x {columns} pixels")
    row, column = starts["SUBSTRT2"] - 1, starts["SUBSTRT1"] - 1
    if row + rows > DETECTOR_SIZE or column + columns > DETECTOR_SIZE:
        raise ReferenceFileError(
            f"{file.path}: keywords SUBSTRT1 and SUBSTRT2 are {column + 1} and {row + 1}; "
            f"its {rows} x {columns} pixels then reach beyond the detector's {DETECTOR_SIZE}"
        )
    return row, rows, column, columns


def _is_image(extension: Extension | None) -> bool:
    return extension is not None and extension.hdu.kind == "IMAGE" and len(extension.shape) > 1


def _keywords_of(file: FitsFile, *keys: str, purpose: str) -> Entries:
    """Return the values of keywords that a reference must have."""
    try:
        return require(keywords(file.primary), *keys, purpose=purpose, source=file.path)
    except InputFileError as error:
        raise ReferenceFileError(str(error)) from None


def open_reference(kind: str, file: FitsFile, exposure: xr.Dataset) -> xr.Dataset:
    """Open a scanned reference file lazily.

    Parameters
    ----------
    kind : str
        One of :data:`TYPES`.
    file : FitsFile
        Result of :func:`scan_reference`.
    exposure : Dataset
        Raw exposure for which the reference is used. It determines the number of dark groups that are needed.

    Returns
    -------
    Dataset
        Dask arrays in bands of rows. Variables depend on the type: ``dq``; ``sci``; ``coefficients`` and
        ``inverse_coefficients``; ``alpha`` and ``beta``. ``dq`` has the standard flags.

    Raises
    ------
    ReferenceFileError
        If the file is not a NIRSpec reference of this type and detector, or if its contents are invalid.
    """
    header = keywords(file.primary)
    found = str(header.get("REFTYPE", "")).strip().lower()
    detector = str(header.get("DETECTOR", "")).strip().upper()
    wanted = Readout.of(exposure).detector
    problems = []
    if found != kind:
        problems.append(f"REFTYPE is {header.get('REFTYPE')!r}, expected {kind.upper()!r}")
    if str(header.get("INSTRUME", "NIRSPEC")).strip().upper() != "NIRSPEC":
        problems.append(f"INSTRUME is {header['INSTRUME']!r}, expected 'NIRSPEC'")
    if detector not in ANY and detector != wanted:
        problems.append(f"DETECTOR is {detector!r}, the exposure is from {wanted!r}")
    if problems:
        raise ReferenceFileError(f"{file.path}: {'; '.join(problems)}")
    try:
        file.require_single()
        contents = _open_refpix(file, exposure) if kind == "refpix" else _open_images(kind, file, exposure)
        dataset = flag_unphysical(kind, contents)
    except InputFileError as error:
        raise ReferenceFileError(str(error)) from error
    dataset.attrs = {
        "reference_type": kind,
        "filename": os.path.basename(file.path),
        "pedigree": str(header.get("PEDIGREE", "")),
        "useafter": str(header.get("USEAFTER", "")),
        "detector": detector,
        **{key: value for key, value in describe_file(file.location, file.stamp).items() if key != "file"},
        **_extra_attributes(kind, file),
    }
    return dataset


def _extra_attributes(kind: str, file: FitsFile) -> Entries:
    header, extra = keywords(file.primary), {}
    if kind == "gain" and (factor := read(header, "GAINFACT", matters=False, source=file.path)) is not None:
        extra["gain_factor"] = factor
    if kind == "dark":
        extra["n_frames"], extra["group_gap"] = sampling(file)
        extra["n_groups"] = file.require("SCI").shape[0]
        if (current := read(header, "AVDRKCUR", matters=False, source=file.path)) is not None:
            extra["average_dark_current"] = current
    return extra


def sampling(file: FitsFile) -> tuple[int, int]:
    """Return the number of frames averaged into a group of a dark, and the number of frames skipped between groups."""
    found = _keywords_of(file, "NFRAMES", "GROUPGAP", purpose="they say how the dark was sampled")
    return found["NFRAMES"], found["GROUPGAP"]


def _open_images(kind: str, file: FitsFile, exposure: xr.Dataset) -> xr.Dataset:
    contents: dict[str, tuple[tuple[str, ...], PixelSource]] = {}
    if kind == "linearity":
        contents["coefficients"] = (("order", *IMAGE), file.image("COEFFS", "float32"))
        if "INV_COEFFS" in file.extensions:
            contents["inverse_coefficients"] = (("inverse_order", *IMAGE), file.image("INV_COEFFS", "float32"))
    elif kind == "dark":
        contents["sci"] = (("group", *IMAGE), file.image("SCI", "float32"))
        if _is_image(file.extensions.get("AVDRKCUR")):
            contents["average_dark_current"] = (IMAGE, file.image("AVDRKCUR", "float32"))
    elif kind != "mask":
        contents["sci"] = (IMAGE, file.image("SCI", "float32"))
    with_dq = kind in ("mask", "saturation", "superbias", "linearity", "dark")
    if with_dq:
        contents["dq"] = (IMAGE, file.image("DQ", "uint32"))
        file.require("DQ_DEF")  # definitions of the flags; if the table is empty the flags are the standard ones

    shapes = {source.shape[-2:] for _, source in contents.values()}
    if len(shapes) != 1 or any(len(dims) != len(source.shape) for dims, source in contents.values()):
        listed = ", ".join(f"{name} {source.shape}" for name, (_, source) in contents.items())
        raise ReferenceFileError(f"{file.path}: shapes do not match in a {kind} reference: {listed}")
    rows, columns = shapes.pop()
    dataset = xr.Dataset({n: (d, indexing.LazilyIndexedArray(FitsArray(s))) for n, (d, s) in contents.items()})
    if kind == "dark":
        dataset = dataset.isel(group=slice(0, _dark_groups(file, exposure)))
    groups = dataset.sizes["group"] if kind == "dark" else exposure.sizes["group"]
    band = block_chunks({"integration": 1, "group": groups, "row": rows, "column": columns})["row"]
    lengths = dict.fromkeys(map(str, dataset.dims), -1) | {"row": band}
    dataset = in_chunks(dataset, lengths, kind, (kind, contents, lengths, dataset.sizes))
    if "dq" in dataset:
        place = _positions_of(exposure, rows, columns, file)
        dataset["dq"] = _standard_flags(dataset["dq"], file, contents["dq"][1], place)
    if REFERENCES[kind].unit:
        dataset["sci"].attrs["units"] = REFERENCES[kind].unit
    return dataset.assign_coords(_coordinates(file, rows, columns, exposure))


def _dark_groups(file: FitsFile, exposure: xr.Dataset) -> int:
    """Return the number of groups of the dark that the exposure needs. Later groups are not read."""
    readout = Readout.of(exposure)
    last_frame = float(readout.mean_frame(exposure.sizes["group"] - 1)) + (readout.n_frames - 1) / 2
    frames, gap = sampling(file)
    begun = int((last_frame - 1) // (frames + gap)) + 1
    # the group after the last frame is needed if the dark has to be interpolated
    return begun if (frames, gap) == (readout.n_frames, readout.group_gap) else begun + 1


def _coordinates(file: FitsFile, rows: int, columns: int, exposure: xr.Dataset) -> Entries:
    place = region(file)
    assert place is not None  # there is an image, which has just been opened
    readout = Readout.from_header(exposure.attrs)
    if rows == IRS2_ROWS:
        labels = dict(readout.row_coordinates(IRS2_ROWS))
    else:
        labels = {"row": ("row", place[0] + np.arange(rows))}
    return {**labels, "column": ("column", place[2] + np.arange(columns))}


def _positions_of(exposure: xr.Dataset, rows: int, columns: int, file: FitsFile) -> tuple[slice, slice]:
    """Return the rows and columns of a reference image that the exposure uses."""
    if rows == IRS2_ROWS:
        return slice(None), slice(None)
    place, readout = region(file), Readout.of(exposure)
    assert place is not None  # there is an image
    row, column = readout.row_start - place[0], readout.column_start - place[2]
    return slice(max(row, 0), max(row + readout.n_rows, 0)), slice(max(column, 0), max(column + readout.n_columns, 0))


def flag_definitions(file: FitsFile) -> list[Entries]:
    """Return NAME and VALUE of the flags that DQ_DEF defines. Empty if there is no table: flags are standard ones.

    Raises
    ------
    ReferenceFileError
        If the table lacks a column, or a value is no number of 32 bits.
    """
    table = file.extensions["DQ_DEF"].table if "DQ_DEF" in file.extensions else None
    if table is None or not table.size:
        return []
    names = {name.upper(): name for name in table.dtype.names or ()}
    missing = [column for column in ("NAME", "VALUE") if column not in names]
    if missing:
        raise ReferenceFileError(f"{file.path}: table DQ_DEF lacks columns {', '.join(missing)}")
    definitions: list[Entries] = []
    for name, value in zip(table[names["NAME"]], table[names["VALUE"]], strict=True):
        if not flag_name(name):
            continue
        bits = whole_number(value.decode("ascii", "replace") if isinstance(value, bytes) else value)
        if bits is None or not -(2**31) <= bits < 2**32:
            raise ReferenceFileError(
                f"{file.path}: DQ_DEF gives {flag_name(name)} the value {value!r}, expected a whole number of 32 bits"
            )
        definitions.append({"NAME": flag_name(name), "VALUE": bits & 0xFFFFFFFF})
    return definitions


def _standard_flags(dq: xr.DataArray, file: FitsFile, source: PixelSource, place: tuple[slice, slice]) -> xr.DataArray:
    """Translate flags by their names in DQ_DEF, block by block. Without DQ_DEF they are standard flags.

    If DQ_DEF has names that are not standard, the flags are read now to warn if flags are lost.
    """
    definitions = flag_definitions(file)
    if not definitions:
        return dq
    strange = [row for row in definitions if row["NAME"] not in (*PixelFlag.__members__, *_KNOWN_TO_NOBODY)]
    unknown = {str(row["NAME"]): np.uint32(row["VALUE"]) for row in strange}
    if unknown:
        logger.debug("%s: flags %s are not standard and dropped", file.path, ", ".join(unknown))
        stored: Any = source.read(place).astype(np.uint32)
        counts = {name: int(np.count_nonzero(stored & value)) for name, value in unknown.items()}
        lost = [f"{name} ({n} pixels)" for name, n in counts.items() if n]
        if lost:
            warnings.warn(
                f"{file.path}: flags {', '.join(lost)} are lost, DQ_DEF gives them names that are not standard",
                DegradedResultWarning,
                stacklevel=2,
            )
    standard: xr.DataArray = xr.apply_ufunc(
        _recoded, dq, kwargs={"definitions": definitions}, dask="parallelized", output_dtypes=[np.uint32]
    )
    return standard


def _recoded(values: np.ndarray, definitions: list[dict[str, object]]) -> np.ndarray:
    return recode(values, definitions)[0]


@dataclass(frozen=True)
class _Weights:
    """Locate ``alpha`` and ``beta`` in a table: float32 columns in which real and imaginary parts alternate."""

    table: PixelSource
    positions: tuple[tuple[int, ...], ...]


class _WeightsArray(BackendArray):
    """Read weights (weight, output, frequency) complex64; outputs are amplifiers. Each access reads the table once."""

    def __init__(self, source: _Weights) -> None:
        self.source = source
        self.shape = (len(source.positions), len(source.positions[0]), source.table.shape[0] // 2)
        self.dtype = np.dtype(np.complex64)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def __dask_tokenize__(self) -> _Weights:
        return self.source

    def _read(self, key: tuple[int | slice, ...], rows_at_once: int = 1 << 18) -> np.ndarray:
        table = self.source.table
        positions = np.array(self.source.positions)[key[:2]]
        values = np.empty((*positions.shape, table.shape[0]), dtype=np.float32)
        for start in range(0, table.shape[0], rows_at_once):
            part = slice(start, start + rows_at_once)
            block = table.read((part, slice(None)))
            for place in np.ndindex(positions.shape):
                values[(*place, part)] = block[:, positions[place]]
        return values.view(np.complex64)[..., key[2]]


def _open_refpix(file: FitsFile, exposure: xr.Dataset) -> xr.Dataset:
    table = file.require("IRS2")
    header = table.header
    if table.hdu.kind != "BINTABLE":
        raise ReferenceFileError(f"{file.path}: extension IRS2 is no table")
    n_rows = int(header["NAXIS2"])
    # real exposures have 2048 columns; simulated exposures may have fewer
    expected = 2 * 712 * exposure.sizes["column"]
    if n_rows != expected:
        raise ReferenceFileError(f"{file.path}: table IRS2 has {n_rows} rows, expected {expected}")
    names = []
    for i in range(1, int(header["TFIELDS"]) + 1):
        code = str(header[f"TFORM{i}"]).strip().upper()
        if code not in ("E", "1E"):
            raise ReferenceFileError(f"{file.path}: column {header[f'TTYPE{i}']} of IRS2 has format {code}, expected E")
        names.append(str(header[f"TTYPE{i}"]).strip().lower())
    wanted = [[f"{name}_{k}" for k in range(4)] for name in ("alpha", "beta")]
    missing = [column for columns in wanted for column in columns if column not in names]
    if missing:
        raise ReferenceFileError(f"{file.path}: table IRS2 lacks columns {', '.join(missing)}")
    source = _Weights(
        PixelSource(
            file.location,
            table.offset,
            (n_rows, len(names)),
            ">f4",
            "float32",
            stamp=file.stamp,
            options=file.options,
        ),
        tuple(tuple(names.index(column) for column in columns) for columns in wanted),
    )
    weights = indexing.LazilyIndexedArray(_WeightsArray(source))
    # the table is stored row by row, so each chunk reads all of it. From a disk this costs little, and each amplifier
    # then waits for its own weights only. From a store, the table is fetched once
    lengths = {"weight": -1, "output": -1 if is_remote(file.location) else 1, "frequency": -1}
    stacked = xr.Dataset({"weights": (("weight", "output", "frequency"), weights)})
    stacked = in_chunks(stacked, lengths, "refpix", (file.location, file.stamp, file.options, lengths))
    dataset = xr.Dataset({name: stacked["weights"].isel(weight=i) for i, name in enumerate(("alpha", "beta"))})
    listed = file.extensions["DQ"].table if "DQ" in file.extensions else None
    if listed is not None:
        found = {name.upper(): name for name in listed.dtype.names or ()}
        for variable, column in (("bad_output", "OUTPUT"), ("bad_parity", "ODD_EVEN"), ("bad_mask", "MASK")):
            if column not in found:
                raise ReferenceFileError(f"{file.path}: table DQ lacks column {column}")
            dataset[variable] = ("bad", listed[found[column]].astype(np.int64))
    return dataset.assign_coords(output=[1, 2, 3, 4])
