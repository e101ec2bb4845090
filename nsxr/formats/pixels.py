"""Read the pixels of a FITS image, but only those that are indexed."""

import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from nsxr.errors import InputFileError
from nsxr.storage.local import open_regular
from nsxr.storage.options import NO_OPTIONS, StorageOptions
from nsxr.storage.remote_errors import remote_errors, retried
from nsxr.storage.stores import object_stamp, open_remote, read_ranges
from nsxr.storage.urls import is_remote, shown

__all__ = ["FitsArray", "PixelSource", "file_length", "file_stamp", "open_binary"]

HEADER_READ_AHEAD = 2**16
"""Bytes to read ahead while headers are read from a URL. A primary header has 20 to 40 kB."""

GZIP_READ_AHEAD = 2**22
"""Bytes to read ahead for gzipped files, which are read from start to end."""


def open_binary(path: str, options: StorageOptions = NO_OPTIONS) -> BinaryIO:
    """Open a file for reading. It may be local or a URL, gzipped or not."""
    if is_remote(path):
        if _is_gzipped(path):
            return cast(BinaryIO, _Gunzipped(open_remote(path, options, GZIP_READ_AHEAD)))
        return cast(BinaryIO, open_remote(path, options, HEADER_READ_AHEAD))
    if _is_gzipped(path):
        return cast(BinaryIO, _Gunzipped(open_regular(path)))
    return open_regular(path)


def file_length(file: BinaryIO, path: str) -> int | None:
    """Return the length of an open file [bytes]. None if all of the file must be read to know its length."""
    if _is_gzipped(path):
        return None
    if is_remote(path):
        size = getattr(file, "size", None)
        return size if isinstance(size, int) else None
    return os.fstat(file.fileno()).st_size


def _is_gzipped(path: str) -> bool:
    return shown(path).endswith(".gz")


class _Gunzipped(gzip.GzipFile):
    """Gzip file that also closes the file that it reads."""

    def __init__(self, compressed: BinaryIO) -> None:
        super().__init__(fileobj=compressed, mode="rb")
        self._compressed = compressed

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._compressed.close()


@dataclass(frozen=True)
class PixelSource:
    """Place and encoding of the pixels of an image. The object is small, can be pickled, and has no open file.

    Attributes
    ----------
    path : str
        File or URL. Gzipped files are read from the start at every access, which is slow. From other files at a URL,
        only the needed bytes are downloaded.
    offset : int
        Bytes before the first pixel, after decompression.
    shape : tuple of int
        Shape in NumPy order.
    stored : str
        Big-endian dtype in the file.
    dtype : str
        Dtype of the values.
    zero : int
        BZERO, added to the stored values.
    stamp : tuple
        Result of :func:`file_stamp` when the headers were read. It makes the graphs on a changed file different.
    options : StorageOptions
        Options for access to a URL.
    """

    path: str
    offset: int
    shape: tuple[int, ...]
    stored: str
    dtype: str
    zero: int = 0
    stamp: tuple[int | str, ...] = ()
    options: StorageOptions = NO_OPTIONS

    def read(self, key: tuple[int | slice, ...]) -> np.ndarray:
        """Return the values that integers and slices select.

        Raises
        ------
        InputFileError
            If the file ends before the last needed byte, or its compressed bytes are damaged.
        RemoteAccessError
            If a URL cannot be reached.
        """
        ranges = [
            range(n)[k] if isinstance(k, slice) else range(n)[int(k) : (int(k) + 1) or None]
            for k, n in zip(key, self.shape, strict=True)
        ]
        out = np.empty([len(r) for r in ranges], dtype=self.dtype)
        if out.size:
            with remote_errors(self.path):
                retried(lambda: self._fill(out, ranges), self.path)
        return out[tuple(0 if isinstance(k, int | np.integer) else slice(None) for k in key)]

    def _fill(self, out: np.ndarray, ranges: list[range]) -> None:
        """Read the runs of bytes with the wanted rows: one run for each index of the leading axes."""
        rows = ranges[-2] if len(ranges) > 1 else range(1)
        columns = self.shape[-1]
        first, last = sorted((rows[0], rows[-1]))
        itemsize = np.dtype(self.stored).itemsize
        pick = (_as_slice(rows, first), _as_slice(ranges[-1], 0))
        lines = out.reshape(*out.shape[:-1], out.shape[-1]) if out.ndim > 1 else out[None]
        starts = []
        for where in np.ndindex(out.shape[:-2]):
            position = 0
            for axis, index in enumerate(where):
                position = position * self.shape[axis] + ranges[axis][index]
            line = position * (self.shape[-2] if len(self.shape) > 1 else 1) + first
            starts.append(self.offset + line * columns * itemsize)
        runs = self._runs(starts, (last - first + 1) * columns * itemsize)
        for where, run in zip(np.ndindex(out.shape[:-2]), runs, strict=True):
            values = run.view(self.stored).reshape(-1, columns)[pick]
            if self.zero:
                # Add BZERO of unsigned integers: the sum fits exactly into the wider or unsigned dtype. This single
                # pass takes 1.2 ms for 4 M samples. Swapping bytes and flipping the sign bit would take 3.5 ms.
                np.add(values, np.dtype(self.dtype).type(self.zero), out=lines[where], casting="unsafe")
            else:
                lines[where] = values

    def _runs(self, starts: Sequence[int], length: int) -> Iterator[np.ndarray]:
        """Yield runs of bytes. Each is valid until the next one is yielded."""
        if is_remote(self.path) and not _is_gzipped(self.path):
            for run in read_ranges(self.path, self.options, [(start, start + length) for start in starts]):
                yield np.frombuffer(run, dtype=np.uint8)
            return
        buffer = np.empty(length, dtype=np.uint8)
        with open_binary(self.path, self.options) as file:
            if not is_remote(self.path) and self.stamp:
                self._require_unchanged(os.fstat(file.fileno()))
            for start in starts:
                file.seek(start)
                self._read_into(file, buffer.data)
                yield buffer

    def _require_unchanged(self, status: os.stat_result) -> None:
        """Raise InputFileError if the file has changed since its headers were read."""
        if _stamp(status) != self.stamp:
            raise InputFileError(
                f"{self.path}: the file has changed since it was opened: {status.st_size} bytes, {self.stamp[1]} "
                "expected, or another time of change; start again, and do not change the file meanwhile"
            )

    def _read_into(self, file: BinaryIO, view: memoryview) -> None:
        done = 0
        while done < len(view):
            try:
                count = cast(Any, file).readinto(view[done:])
            except EOFError:
                count = 0
            except (gzip.BadGzipFile, zlib.error) as error:
                raise InputFileError(f"{shown(self.path)}: the gzip file is damaged ({error})") from error
            if not count:
                raise InputFileError(
                    f"{shown(self.path)}: the file ends at byte {file.tell()}, "
                    f"{len(view) - done} bytes before the end of the pixels asked for"
                )
            done += count


def _as_slice(part: range, start: int) -> slice:
    stop = part[-1] - start + (1 if part.step > 0 else -1)
    return slice(part[0] - start, None if stop < 0 else stop, part.step)


class FitsArray(BackendArray):
    """The array of a :class:`PixelSource` that xarray indexes lazily."""

    def __init__(self, source: PixelSource) -> None:
        self.source = source
        self.shape = source.shape
        self.dtype = np.dtype(source.dtype)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self.source.read)

    def __dask_tokenize__(self) -> PixelSource:
        return self.source


def file_stamp(path: str, options: StorageOptions = NO_OPTIONS) -> tuple[int | str, ...]:
    """Return values that change with a file: its times [ns] and size [bytes], or the state of an object at a URL."""
    if is_remote(path):
        return (object_stamp(path, options),)
    return _stamp(os.stat(path))


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    """Return the time of change of the content, the size, the inode, and the time of any change.

    The last two values change if another file of the same size and time replaces the file.
    """
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns
