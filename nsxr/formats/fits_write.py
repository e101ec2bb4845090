"""Write Datasets as JWST FITS products, block by block.

A product is laid out in full before any pixel is known: headers, tables and the space of every image
go to a file of its final size, and each image is handed out as a :class:`BlockFile` that puts a block
where it belongs. Blocks may arrive in any order, from any thread or process that sees the file.
"""

import errno
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from nsxr.errors import ModelError
from nsxr.formats.fits_tables import (
    LateTable,
    asdf_marker,
    groups,
    integration_times,
    late_header,
    origin,
    provenance,
    table,
)
from nsxr.formats.keywords import carried_header, primary_header, set_keyword
from nsxr.model.variables import TABLES, check

__all__ = ["BlockFile", "CardFile", "allocate", "create_fits", "image_header"]

_BLOCK = 2880  # FITS pads headers and data to multiples of this many bytes
_SIGN = np.uint32(0x80000000)
_BITPIX = {"float32": -32, "float64": -64, "uint8": 8, "uint32": 32, "int32": 32, "int16": 16}


@dataclass(frozen=True)
class BlockFile:
    """One FITS image inside a file that exists already; assignment writes a block in place.

    Every assignment opens the file anew and writes each contiguous run of bytes at its offset, so
    the object pickles, and threads and processes may write different blocks at once. The file is
    never created here: a block that comes late, after a failure elsewhere, cannot bring it back.

    Attributes
    ----------
    path : str
        The file.
    offset : int
        Bytes before the first pixel.
    shape : tuple of int
        Shape of the whole image, NumPy order.
    dtype : str
        NumPy name of the dtype in memory; unsigned 32-bit pixels are stored with BZERO.
    """

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: str

    def _encode(self, run: np.ndarray) -> bytes:
        if self.dtype == "uint32":  # BZERO = 2**31: flipping the sign bit subtracts it
            return (run ^ _SIGN).astype(">u4").tobytes()
        return run.astype(run.dtype.newbyteorder(">"), copy=False).tobytes()

    def __setitem__(self, index: Any, block: Any) -> None:
        values = np.asarray(block)
        if values.dtype != np.dtype(self.dtype):
            raise ModelError(f"a block of dtype {values.dtype} reached an image of {self.dtype} in {self.path}")
        index = (index if isinstance(index, tuple) else (index,)) if index is not Ellipsis else ()
        index = index + (slice(None),) * (len(self.shape) - len(index))
        bounds = [part.indices(length) for part, length in zip(index, self.shape, strict=True)]
        if tuple(stop - start for start, stop, _ in bounds) != values.shape or any(s[2] != 1 for s in bounds):
            raise ModelError(f"a block of shape {values.shape} does not fit {index} of {self.shape} in {self.path}")
        # axes behind the first one that is cut are whole: bytes run on from `outer` to the end
        outer = len(self.shape)
        while outer > 0 and (outer == len(self.shape) or values.shape[outer] == self.shape[outer]):
            outer -= 1
        strides = np.cumprod((1, *self.shape[:0:-1]))[::-1] * values.dtype.itemsize
        first = self.offset + sum(
            int(start) * int(stride) for (start, _, _), stride in zip(bounds, strides, strict=True)
        )
        descriptor = os.open(self.path, os.O_WRONLY)
        try:
            for lead in np.ndindex(values.shape[:outer]):
                at = first + sum(i * int(stride) for i, stride in zip(lead, strides[:outer], strict=True))
                rest = memoryview(self._encode(values[lead]))
                while rest:
                    written = os.pwrite(descriptor, rest, at)
                    rest, at = rest[written:], at + written
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class CardFile:
    """One keyword in the primary header of a file that exists already; assignment writes its value.

    For numbers that are known only when the pixels are, such as the rate of cosmic rays. NaN, which
    FITS cannot hold, becomes a keyword without value.
    """

    path: str
    offset: int
    keyword: str
    comment: str

    def __setitem__(self, index: Any, value: Any) -> None:
        number = float(value)
        card = fits.Card(self.keyword, number if math.isfinite(number) else None, self.comment[:45])
        with open(self.path, "r+b") as file:
            file.seek(self.offset)
            file.write(card.image.encode("ascii"))


def _late_keywords(dataset: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the numbers of a Dataset that belong into the header, by keyword."""
    return {str(a.attrs["keyword"]): a for a in dataset.data_vars.values() if not a.ndim and "keyword" in a.attrs}


def image_header(name: str, array: xr.DataArray) -> fits.Header:
    """Return the header of an image extension; that of SCI carries what is in ``attrs["fits_header"]`` of the array.

    Parameters
    ----------
    name : str
        EXTNAME.
    array : DataArray
        Only its shape, dtype and attributes are looked at.
    """
    kind = array.dtype.name
    if kind not in _BITPIX:
        raise ModelError(f"{name} has dtype {array.dtype}; FITS products hold {', '.join(_BITPIX)}")
    header = fits.Header(
        [
            ("XTENSION", "IMAGE", "Image extension"),
            ("BITPIX", _BITPIX[kind], "array data type"),
            ("NAXIS", array.ndim, "number of array dimensions"),
            *((f"NAXIS{axis + 1}", length) for axis, length in enumerate(reversed(array.shape))),
            ("PCOUNT", 0, "number of parameters"),
            ("GCOUNT", 1, "number of groups"),
            *([("BSCALE", 1), ("BZERO", 2147483648)] if kind == "uint32" else []),
        ]
    )
    header["EXTNAME"] = (name, "extension name")
    if name == "SCI":
        header.extend(carried_header(array.attrs).cards, update=False, unique=False, end=True)
    if name in ("SCI", "ERR") and "units" in array.attrs:
        header["BUNIT"] = (array.attrs["units"], "physical units of the array values")
    return header


def _extensions(dataset: xr.Dataset) -> Iterator[tuple[str, xr.DataArray | np.ndarray]]:
    """Yield name and content of each extension, images and tables, in the order of the peer's files."""
    is_ramp = "group" in dataset.dims
    times = integration_times(dataset) if "integration" in dataset.dims else None
    tables = {"INT_TIMES": times} if times is not None else {}
    own = {"fits_header": dataset.attrs["sci_header"]} if "sci_header" in dataset.attrs else {}
    yield "SCI", dataset["sci"].assign_attrs(own)
    if is_ramp:
        yield from ((name.upper(), dataset[name]) for name in ("pixeldq", "groupdq") if name in dataset)
        rows = groups(dataset)
        tables = ({"GROUP": rows} if rows is not None else {}) | tables
        yield from tables.items()
    else:
        error = xr.ufuncs.sqrt(dataset["var_poisson"] + dataset["var_rnoise"])
        yield "ERR", error.assign_attrs(units=dataset["sci"].attrs["units"])
        yield "DQ", dataset["dq"]
        yield from tables.items()
        yield "VAR_POISSON", dataset["var_poisson"]
        yield "VAR_RNOISE", dataset["var_rnoise"]
        if "chi_square" in dataset:
            yield "CHI_SQUARE", dataset["chi_square"]
    yield from ((name, dataset[variable]) for name, (variable, _, _) in TABLES.items() if variable in dataset)
    records = provenance(dataset)
    if records is not None:
        yield "NSXR_STEPS", records
    known = origin(dataset.attrs)
    if known is not None:
        yield "NSXR_PROVENANCE", known
    yield "ASDF", asdf_marker()


def allocate(descriptor: int, offset: int, length: int) -> None:
    """Reserve space, so that a full disk is noticed before anything is computed."""
    try:
        os.posix_fallocate(descriptor, offset, length)
    except (AttributeError, OSError) as error:  # not on this system, or not on this file system
        if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        os.ftruncate(descriptor, offset + length)


def create_fits(
    path: Path, dataset: xr.Dataset, filename: str
) -> list[tuple[xr.DataArray, BlockFile | CardFile | LateTable]]:
    """Create a FITS product of full size, all but its pixels, and say where those go.

    Rates get SCI ERR DQ VAR_POISSON VAR_RNOISE, with INT_TIMES before the variances if there are
    integrations; ramps get SCI PIXELDQ GROUPDQ GROUP INT_TIMES, as far as the Dataset has them.
    ``ERR = sqrt(var_poisson + var_rnoise)``, float32. Provenance follows in a table ``NSXR_STEPS``
    with the JSON text of each record, after tables ``SNOWBALLS`` of large cosmic-ray events and ``NOISE`` of noise
    spectra, and a small ASDF extension for the tools that insist on one.

    Parameters
    ----------
    path : Path
        File to create; it must not exist.
    dataset : Dataset
        ``sci`` (integration, group, row, column) [DN], with ``pixeldq`` and ``groupdq`` if made
        already; or ``sci`` [DN/s], ``dq``, ``var_poisson``, ``var_rnoise`` (row, column) with or
        without a leading integration.
    filename : str
        Final name of the product, for its header.

    Returns
    -------
    list of (DataArray, BlockFile, CardFile or LateTable)
        Each image, each table of events or noise, and each number with an attribute ``keyword``, lazy if the input was,
        and the place to store it. Nothing is computed.

    Raises
    ------
    ModelError
        If a variable is missing or has dims or a dtype that the product cannot hold.
    OSError
        If the file cannot be created or the disk is full.
    """
    is_ramp = "group" in dataset.dims
    check(dataset, *(("sci",) if is_ramp else ("sci", "dq", "var_poisson", "var_rnoise")))
    contents: list[tuple[str, fits.Header, xr.DataArray | bytes]] = []
    for name, content in _extensions(dataset):
        if not isinstance(content, xr.DataArray):
            contents.append((name, *table(name, content)))
        elif name in TABLES:
            check(dataset, TABLES[name][0])
            contents.append((name, late_header(name, content.shape[0]), content))
        else:
            contents.append((name, image_header(name, content), content))
    targets: list[tuple[xr.DataArray, BlockFile | CardFile | LateTable]] = []
    primary = primary_header(dataset, filename)
    late = _late_keywords(dataset)
    for keyword in late:
        set_keyword(primary, keyword, None)
    text = primary.tostring()
    for keyword, array in late.items():
        offset = next(i for i in range(0, len(text), 80) if text[i : i + 8].rstrip() == keyword)
        targets.append((array, CardFile(str(path), offset, keyword, str(array.attrs.get("long_name", "")))))
    with open(path, "xb") as file:
        file.write(text.encode("ascii"))
        for name, header, data in contents:
            text = header.tostring()
            file.write(text.encode("ascii"))
            offset = file.tell()
            if isinstance(data, bytes):
                file.write(data)
                length = len(data)
            elif name in TABLES:
                targets.append((data, LateTable(str(path), name, text, offset)))
                length = data.nbytes
            else:
                targets.append((data, BlockFile(str(path), offset, data.shape, data.dtype.name)))
                length = data.nbytes
            length += -length % _BLOCK
            file.flush()
            allocate(file.fileno(), offset, length)
            file.seek(offset + length)
    return targets
