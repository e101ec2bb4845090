"""Open one reference file as a lazy Dataset, flags translated, and check that it fits the exposure."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from dask.base import tokenize
from xarray.backends import BackendArray
from xarray.core import indexing

from nsxr.errors import InputFileError, ReferenceFileError
from nsxr.io.fingerprint import describe_file
from nsxr.io.fits_headers import Extension, FitsFile, scan
from nsxr.io.pixels import FitsArray, PixelSource
from nsxr.io.stores import StorageOptions, is_remote
from nsxr.model.chunking import block_chunks, in_chunks
from nsxr.model.dq import recode
from nsxr.model.readout import DETECTOR_SIZE, IRS2_ROWS, Readout

__all__ = ["ANY", "OPTIONAL", "TYPES", "open_reference", "region", "scan_reference"]

logger = logging.getLogger(__name__)

TYPES = ("mask", "saturation", "superbias", "refpix", "linearity", "dark", "gain", "readnoise")
"""Reference types that stage 1 needs."""

OPTIONAL = ("pictureframe", "sirskernel")
"""Reference types that steps take if they are given."""

ANY = ("", "ANY", "N/A", "GENERIC")
"""Values by which a reference says that a keyword does not matter."""

IMAGE = ("row", "column")
_UNITS = {
    "saturation": "DN",
    "superbias": "DN",
    "dark": "DN",
    "gain": "electron/DN",
    "readnoise": "DN",
    "pictureframe": "1",
}


def scan_reference(
    path: str | os.PathLike[str], storage_options: Mapping[str, Any] | StorageOptions | None = None
) -> FitsFile:
    """Read the headers and small tables of a reference file."""
    return scan(path, ("DQ_DEF", "DQ"), storage_options)


def region(file: FitsFile) -> tuple[int, int, int, int] | None:
    """Return zero-based row start, rows, column start, columns covered by a reference's images.

    None for references without an image. Raw IRS2 images count as the 2048 rows that they hold.
    """
    image = next((file.extensions[n] for n in ("SCI", "COEFFS", "DQ") if _is_image(file.extensions.get(n))), None)
    if image is None:
        return None
    rows, columns = image.shape[-2:]
    if rows == IRS2_ROWS:
        return 0, DETECTOR_SIZE, 0, columns
    starts = [file.primary.get(key) for key in ("SUBSTRT2", "SUBSTRT1")]
    if None in starts:
        if (rows, columns) != (DETECTOR_SIZE, DETECTOR_SIZE):
            raise ReferenceFileError(
                f"{file.path}: SUBSTRT1 or SUBSTRT2 is missing; the place of its {rows} x {columns} pixels is unknown"
            )
        starts = [1, 1]
    return int(starts[0]) - 1, rows, int(starts[1]) - 1, columns


def _is_image(extension: Extension | None) -> bool:
    return (
        extension is not None and extension.header.get("XTENSION", "").strip() == "IMAGE" and len(extension.shape) > 1
    )


def open_reference(kind: str, file: FitsFile, exposure: xr.Dataset) -> xr.Dataset:
    """Open a scanned reference file lazily.

    Parameters
    ----------
    kind : str
        One of :data:`TYPES`.
    file : FitsFile
        Result of :func:`scan_reference`.
    exposure : Dataset
        Raw exposure that the reference is for; sets how many dark groups are needed.

    Returns
    -------
    Dataset
        Dask arrays in bands of rows; variables by type: ``dq``; ``sci``; ``coefficients`` and
        ``inverse_coefficients``; ``alpha`` and ``beta``. DQ carries the standard bits.

    Raises
    ------
    ReferenceFileError
        If the file is no NIRSpec reference of this type and detector, or its contents are not as they
        must be.
    """
    header = file.primary
    found = str(header.get("REFTYPE", "")).strip().lower()
    detector = str(header.get("DETECTOR", "")).strip().upper()
    wanted = str(exposure.attrs["DETECTOR"]).upper()
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
        dataset = _open_refpix(file, exposure) if kind == "refpix" else _open_images(kind, file, exposure)
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


def _extra_attributes(kind: str, file: FitsFile) -> dict[str, Any]:
    header, extra = file.primary, {}
    if kind == "gain" and header.get("GAINFACT") is not None:
        extra["gain_factor"] = float(header["GAINFACT"])
    if kind == "dark":
        extra["n_frames"], extra["group_gap"] = _sampling(file)
        extra["n_groups"] = file.require("SCI").shape[0]
        if header.get("AVDRKCUR") is not None:
            extra["average_dark_current"] = float(header["AVDRKCUR"])
    return extra


def _sampling(file: FitsFile) -> tuple[int, int]:
    """Return the frames averaged into a group of a dark, and the frames left out between groups."""
    missing = [key for key in ("NFRAMES", "GROUPGAP") if file.primary.get(key) is None]
    if missing:
        raise ReferenceFileError(f"{file.path}: keywords {', '.join(missing)} are missing; they say how it was sampled")
    return int(file.primary["NFRAMES"]), int(file.primary["GROUPGAP"])


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
    if with_dq and (kind == "mask" or _is_image(file.extensions.get("DQ"))):
        contents["dq"] = (IMAGE, file.image("DQ", "uint32"))

    shapes = {source.shape[-2:] for _, source in contents.values()}
    if len(shapes) != 1 or any(len(dims) != len(source.shape) for dims, source in contents.values()):
        listed = ", ".join(f"{name} {source.shape}" for name, (_, source) in contents.items())
        raise ReferenceFileError(f"{file.path}: shapes do not go together as a {kind} reference: {listed}")
    rows, columns = shapes.pop()
    dataset = xr.Dataset({n: (d, indexing.LazilyIndexedArray(FitsArray(s))) for n, (d, s) in contents.items()})
    if kind == "dark":
        dataset = dataset.isel(group=slice(0, _dark_groups(file, exposure)))
    groups = dataset.sizes["group"] if kind == "dark" else exposure.sizes["group"]
    band = block_chunks({"integration": 1, "group": groups, "row": rows, "column": columns})["row"]
    lengths = dict.fromkeys(map(str, dataset.dims), -1) | {"row": band}
    dataset = in_chunks(dataset, lengths, kind, tokenize(kind, contents, lengths, dataset.sizes))
    if "dq" in dataset:
        dataset["dq"] = _standard_flags(dataset["dq"], file)
    elif with_dq:
        first = next(iter(dataset.data_vars.values()))
        dataset["dq"] = xr.zeros_like(first.isel({d: 0 for d in first.dims if d not in IMAGE}), dtype=np.uint32)
    if kind in _UNITS:
        dataset["sci"].attrs["units"] = _UNITS[kind]
    return dataset.assign_coords(_coordinates(file, rows, columns, exposure))


def _dark_groups(file: FitsFile, exposure: xr.Dataset) -> int:
    """Leading groups of the dark that the exposure needs; the others are never read."""
    readout = Readout.of(exposure)
    last_frame = float(readout.mean_frame(exposure.sizes["group"] - 1)) + (readout.n_frames - 1) / 2
    frames, gap = _sampling(file)
    begun = int((last_frame - 1) // (frames + gap)) + 1
    # the group after the last frame is needed where the dark has to be interpolated
    return begun if (frames, gap) == (readout.n_frames, readout.group_gap) else begun + 1


def _coordinates(file: FitsFile, rows: int, columns: int, exposure: xr.Dataset) -> dict[str, Any]:
    place = region(file)
    assert place is not None  # there is an image: it was just opened
    readout = Readout.from_header(exposure.attrs)
    if rows == IRS2_ROWS:
        labels = dict(readout.row_coordinates(IRS2_ROWS))
    else:
        labels = {"row": ("row", place[0] + np.arange(rows))}
    return {**labels, "column": ("column", place[2] + np.arange(columns))}


def _standard_flags(dq: xr.DataArray, file: FitsFile) -> xr.DataArray:
    """Translate flags by name, block by block; without DQ_DEF they are standard already."""
    table = file.extensions["DQ_DEF"].table if "DQ_DEF" in file.extensions else None
    if table is None or not table.size:
        return dq
    names = {name.upper(): name for name in table.dtype.names or ()}
    missing = [column for column in ("NAME", "VALUE") if column not in names]
    if missing:
        raise ReferenceFileError(f"{file.path}: table DQ_DEF lacks columns {', '.join(missing)}")
    definitions = [
        {"NAME": str(name).strip(), "VALUE": int(value)}
        for name, value in zip(table[names["NAME"]], table[names["VALUE"]], strict=True)
    ]
    unknown = recode(np.zeros(0, np.uint32), definitions)[1]
    if unknown:
        logger.debug("%s: flags %s are not standard and dropped", file.path, ", ".join(unknown))
    standard: xr.DataArray = xr.apply_ufunc(
        _recoded, dq, kwargs={"definitions": definitions}, dask="parallelized", output_dtypes=[np.uint32]
    )
    return standard


def _recoded(values: np.ndarray, definitions: list[dict[str, object]]) -> np.ndarray:
    return recode(values, definitions)[0]


@dataclass(frozen=True)
class _Weights:
    """Where ``alpha`` and ``beta`` are: real and imaginary parts, alternating by row, in float32 columns of a table."""

    table: PixelSource
    positions: tuple[tuple[int, ...], ...]


class _WeightsArray(BackendArray):
    """(weight, output, frequency) complex64 of such columns; reads the whole table, once for all that is asked for."""

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
    if header.get("XTENSION", "").strip() != "BINTABLE":
        raise ReferenceFileError(f"{file.path}: extension IRS2 is no table")
    n_rows = int(header["NAXIS2"])
    # 2048 columns but for exposures simulated with fewer
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
    # the columns lie side by side, so each chunk reads the whole table: cheap from a disk, and the outputs then wait
    # for nothing but their own weights; from a store it is fetched once
    lengths = {"weight": -1, "output": -1 if is_remote(file.location) else 1, "frequency": -1}
    stacked = xr.Dataset({"weights": (("weight", "output", "frequency"), weights)})
    stacked = in_chunks(stacked, lengths, "refpix", tokenize(file.location, file.stamp, file.options, lengths))
    dataset = xr.Dataset({name: stacked["weights"].isel(weight=i) for i, name in enumerate(("alpha", "beta"))})
    listed = file.extensions["DQ"].table if "DQ" in file.extensions else None
    if listed is not None:
        found = {name.upper(): name for name in listed.dtype.names or ()}
        for variable, column in (("bad_output", "OUTPUT"), ("bad_parity", "ODD_EVEN"), ("bad_mask", "MASK")):
            if column not in found:
                raise ReferenceFileError(f"{file.path}: table DQ lacks column {column}")
            dataset[variable] = ("bad", listed[found[column]].astype(np.int64))
    return dataset.assign_coords(output=[1, 2, 3, 4])
