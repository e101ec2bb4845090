"""Compute fingerprints of files. They show whether an input or a reference is the one that was used."""

import hashlib
import os
from functools import lru_cache

from nsxr.model.types import Entries
from nsxr.storage.urls import is_remote, shown

__all__ = ["describe_file", "fingerprint"]

PIECE, PIECES = 2**16, 16
"""Size [bytes] and number of the pieces that are read: a megabyte in all, 1 ms from the cache."""


def fingerprint(path: str) -> str:
    """Return a fingerprint of a local file, 64 bits: BLAKE2b of its size and of 16 pieces of 64 kB.

    The pieces are the beginning, where the headers are, the end, and others at equal distances between them. Files up
    to a megabyte are covered completely. In larger files, the fingerprint detects a changed header, another exposure,
    other processing, and missing or added bytes. It does not detect single changed pixels. Reading all bytes of a raw
    exposure would take 5 % of the time of its calibration.
    """
    status = os.stat(path)
    return _fingerprint(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1024)
def _fingerprint(path: str, changed: int, size: int) -> str:
    """Return the fingerprint. An unchanged file is read only once."""
    digest = hashlib.blake2b(str(size).encode(), digest_size=8)
    with open(path, "rb", buffering=0) as file:
        if size <= PIECE * PIECES:
            digest.update(file.read())
        else:
            for number in range(PIECES):
                file.seek((size - PIECE) * number // (PIECES - 1))
                digest.update(file.read(PIECE))
    return digest.hexdigest()


def describe_file(location: str, stamp: tuple[int | str, ...] = ()) -> Entries:
    """Return name, size and fingerprint of a file that has been scanned, as provenance keeps them.

    Parameters
    ----------
    location : str
        Path or URL. For a Zarr store on disk, the fingerprint is that of its metadata.
    stamp : tuple
        From :func:`nsxr.formats.pixels.file_stamp`. For a URL, it is used as the fingerprint: size, ETag and time of
        change of the object.
    """
    name = shown(location).rstrip("/").rpartition("/")[2]
    if is_remote(location):
        return {"file": name, "fingerprint": f"store:{stamp[0]}"} if stamp else {"file": name}
    if os.path.isdir(location):
        metadata = os.path.join(location, "zarr.json")
        return {"file": name, "fingerprint": fingerprint(metadata)} if os.path.isfile(metadata) else {"file": name}
    return {"file": name, "size": os.stat(location).st_size, "fingerprint": fingerprint(location)}
