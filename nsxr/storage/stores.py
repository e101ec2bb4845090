"""Read files behind URLs with :mod:`fsspec`: open, list, fetch ranges of bytes.

All URLs that fsspec opens can be used: ``s3://``, ``https://``, ``gs://``, ``memory://``, and chains such as
``simplecache::https://``.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import fsspec

from nsxr.errors import InputFileError, ParameterError, install
from nsxr.storage.options import TRIES, StorageOptions, token
from nsxr.storage.remote_errors import NO_RANGES, remote_errors, retried
from nsxr.storage.urls import shown, without_secrets

__all__ = ["filesystem", "list_files", "object_stamp", "open_remote", "read_ranges"]

MERGED_GAP = 2**20
"""Byte ranges closer than this are fetched as one. With s3fs, a request costs 1.6 ms of CPU time and a megabyte 0.8 ms:
a gap of up to 2 MB costs less than a second request. Half of that is used, since bytes also need the network."""


def filesystem(
    path: str, options: Mapping[str, object] | StorageOptions | None = None, tries: int = TRIES
) -> tuple[Any, str]:
    """Return the fsspec filesystem of a URL, and the path there.

    Parameters
    ----------
    path : str
        URL, possibly chained.
    options : mapping or StorageOptions, optional
        See :class:`StorageOptions`.
    tries : int
        Number of tries of a request by the client of the store, if it can try again; 1 if the caller uses
        :func:`retried`.

    Raises
    ------
    ParameterError
        If the filesystem does not exist, its library is not installed, or it does not know an option.
    """
    options = options if isinstance(options, StorageOptions) else StorageOptions(options)
    try:
        system, inner = fsspec.core.url_to_fs(path, **options.of(path, tries))
    except ImportError as error:
        raise ParameterError(
            f"{shown(path)}: a library is missing ({without_secrets(str(error))}); those for s3:// and https:// are "
            f"brought by {install('s3')}"
        ) from error
    except (TypeError, ValueError) as error:
        raise ParameterError(
            f"{shown(path)}: cannot be opened with {options} ({without_secrets(str(error))})"
        ) from error
    if tries == 1:
        layer = system
        while layer is not None:
            if isinstance(getattr(type(layer), "retries", None), int):
                # s3fs has no option for this; 5 tries of nsxr, of s3fs and of botocore would together wait an hour
                layer.retries = 1
            layer = vars(layer).get("fs")  # the filesystem below a cache
    return system, inner


def list_files(path: str, options: Mapping[str, object] | StorageOptions | None = None) -> list[str]:
    """Return the URLs of the files directly below a URL, sorted.

    Raises
    ------
    InputFileError
        If there is nothing at this URL.
    RemoteAccessError
        If the store cannot be listed.
    """
    with remote_errors(path):
        system, inner = filesystem(path, options, tries=1)
        system.invalidate_cache(inner)
        entries = retried(lambda: system.ls(inner, detail=True), path)
    names = {str(entry["name"]).rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "file"}
    return [f"{path.rstrip('/')}/{name}" for name in sorted(names)]


def open_remote(path: str, options: StorageOptions, read_ahead: int) -> Any:
    """Open a URL as a seekable binary file. Each read fetches ``read_ahead`` bytes more than requested."""
    system, inner = filesystem(path, options, tries=1)
    return system.open(inner, "rb", block_size=read_ahead, cache_type="readahead")


def object_stamp(path: str, options: StorageOptions) -> str:
    """Return a hash of what a store reports about an object, such as size, ETag and time of change."""
    system, inner = filesystem(path, options, tries=1)
    system.invalidate_cache(inner)
    return token(sorted((key, str(value)) for key, value in system.info(inner).items()))


def read_ranges(path: str, options: StorageOptions, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
    """Fetch ranges of bytes of one object at the same time. Ranges closer than :data:`MERGED_GAP` are fetched as one.

    Parameters
    ----------
    path : str
        URL.
    options : StorageOptions
        Options of the store.
    ranges : sequence of (start, stop)
        Bytes from the start of the object.

    Returns
    -------
    list of memoryview
        One for each range.

    Raises
    ------
    InputFileError
        If there is no such object, if it ends before a range does, or if its server does not support ranges.
    RemoteAccessError
        If the object cannot be reached, see :func:`remote_errors`.
    """
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start - merged[-1][1] <= MERGED_GAP:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    with remote_errors(path):
        system, inner = filesystem(path, options, tries=1)
        blocks: dict[tuple[int, int], memoryview] = {}

        def fetch() -> None:
            missing = [span for span in merged if span not in blocks]
            starts, stops = (list(ends) for ends in zip(*missing, strict=True))
            results = system.cat_ranges([inner] * len(missing), starts, stops, on_error="return")
            errors = [result for result in results if isinstance(result, BaseException)]
            for span, result in zip(missing, results, strict=True):
                if not isinstance(result, BaseException):
                    blocks[span] = memoryview(result)
            if errors:
                raise errors[0]

        retried(fetch, path)
    for (start, stop), block in blocks.items():
        if len(block) < stop - start:
            raise InputFileError(
                f"{shown(path)}: the file ends at byte {start + len(block)}, {stop - start - len(block)} bytes "
                "before the end of the pixels asked for"
            )
        if len(block) > stop - start:
            raise InputFileError(f"{shown(path)}: {NO_RANGES}")
    first = [start for start, _ in merged]
    found = []
    for start, stop in ranges:
        span = merged[bisect_right(first, start) - 1]
        found.append(blocks[span][start - span[0] : stop - span[0]])
    return found
