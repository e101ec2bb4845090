"""Pixels of a FITS image as an array that is read when, and where, it is indexed."""

import gzip
import os
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import fsspec
import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from nsxr.errors import InputFileError

__all__ = ["FitsArray", "PixelSource", "file_stamp", "is_remote", "open_binary"]


def is_remote(path: str) -> bool:
    """Tell whether a path is a URL that fsspec opens, rather than a local file."""
    return "://" in path


def open_binary(path: str) -> BinaryIO:
    """Open a file for reading: local, gzipped or behind a URL."""
    if is_remote(path):
        compression = "gzip" if path.endswith(".gz") else None
        return cast(BinaryIO, fsspec.open(path, "rb", compression=compression).open())
    if path.endswith(".gz"):
        return cast(BinaryIO, gzip.open(path, "rb"))
    return open(path, "rb", buffering=0)


@dataclass(frozen=True)
class PixelSource:
    """Where the pixels of an image are, and how they are coded. Small, picklable, no open file.

    Attributes
    ----------
    path : str
        File or URL; gzipped files are read through from the start at every access, which is slow.
    offset : int
        Bytes before the first pixel, decompressed.
    shape : tuple of int
        NumPy order.
    stored : str
        Big-endian dtype in the file.
    dtype : str
        Dtype of the values.
    zero : int
        BZERO, added to the stored values.
    stamp : tuple
        What :func:`file_stamp` said when the file was scanned, so that graphs on a changed file differ.
    """

    path: str
    offset: int
    shape: tuple[int, ...]
    stored: str
    dtype: str
    zero: int = 0
    stamp: tuple[int | str, ...] = ()

    def read(self, key: tuple[int | slice, ...]) -> np.ndarray:
        """Return the values selected by integers and slices.

        Raises
        ------
        InputFileError
            If the file ends before the last byte needed, or its compressed bytes are damaged.
        """
        ranges = [
            range(n)[k] if isinstance(k, slice) else range(n)[int(k) : (int(k) + 1) or None]
            for k, n in zip(key, self.shape, strict=True)
        ]
        out = np.empty([len(r) for r in ranges], dtype=self.dtype)
        if out.size:
            self._fill(out, ranges)
        return out[tuple(0 if isinstance(k, int | np.integer) else slice(None) for k in key)]

    def _fill(self, out: np.ndarray, ranges: list[range]) -> None:
        """Read the runs of bytes that hold the wanted rows, one for each index of the leading axes."""
        rows = ranges[-2] if len(ranges) > 1 else range(1)
        columns = self.shape[-1]
        first, last = min(rows), max(rows)
        itemsize = np.dtype(self.stored).itemsize
        buffer = np.empty((last - first + 1, columns), dtype=self.stored)
        pick = (_as_slice(rows, first), _as_slice(ranges[-1], 0))
        lines = out.reshape(*out.shape[:-1], out.shape[-1]) if out.ndim > 1 else out[None]
        with open_binary(self.path) as file:
            for where in np.ndindex(out.shape[:-2]):
                position = 0
                for axis, index in enumerate(where):
                    position = position * self.shape[axis] + ranges[axis][index]
                line = position * (self.shape[-2] if len(self.shape) > 1 else 1) + first
                file.seek(self.offset + line * columns * itemsize)
                self._read_into(file, buffer.view(np.uint8).reshape(-1).data)
                values = buffer[pick]
                if self.zero:
                    # BZERO of unsigned integers: the sum fits the wider or unsigned dtype exactly
                    np.add(values, np.dtype(self.dtype).type(self.zero), out=lines[where], casting="unsafe")
                else:
                    lines[where] = values

    def _read_into(self, file: BinaryIO, view: memoryview) -> None:
        done = 0
        while done < len(view):
            try:
                count = cast(Any, file).readinto(view[done:])
            except EOFError:
                count = 0
            except (gzip.BadGzipFile, zlib.error) as error:
                raise InputFileError(f"{self.path}: the gzip file is damaged ({error})") from error
            if not count:
                raise InputFileError(
                    f"{self.path}: the file ends at byte {file.tell()}, "
                    f"{len(view) - done} bytes before the end of the pixels asked for"
                )
            done += count


def _as_slice(part: range, start: int) -> slice:
    stop = part[-1] - start + (1 if part.step > 0 else -1)
    return slice(part[0] - start, None if stop < 0 else stop, part.step)


class FitsArray(BackendArray):
    """What xarray indexes lazily: see :class:`PixelSource`."""

    def __init__(self, source: PixelSource) -> None:
        self.source = source
        self.shape = source.shape
        self.dtype = np.dtype(source.dtype)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self.source.read)

    def __dask_tokenize__(self) -> PixelSource:
        return self.source


def file_stamp(path: str) -> tuple[int | str, ...]:
    """Return what changes with a file: time of change [ns] and size [bytes], or what fsspec knows of a URL."""
    if is_remote(path):
        system, inner = fsspec.core.url_to_fs(path)
        return (str(system.ukey(inner)),)
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size
