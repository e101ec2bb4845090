"""Read manifests: the number, sizes and checksums of the stored objects of an exposure or a Zarr store."""

import hashlib

from nsxr.errors import InputFileError
from nsxr.model.types import Entries, Named
from nsxr.storage.folder import Folder, parsed_json

__all__ = [
    "MANIFEST",
    "digest",
    "expected_objects",
    "lost_objects",
    "split_object",
    "stored_manifest",
]

MANIFEST = "nsxr_manifest"
"""Attribute of a group that holds its manifest as JSON: all stored objects below the group."""


def digest(content: bytes) -> str:
    """Return the checksum of an object: BLAKE2b of 64 bits, as ``b2sum -l 64`` prints it."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def split_object(path: str) -> tuple[str, str]:
    """Split the path of an object into the path of its array or group, and the rest: ``rate/sci``, ``c/0/0``."""
    parts = path.split("/")
    at = parts.index("c") if "c" in parts[1:] else len(parts) - 1
    return "/".join(parts[:at]), "/".join(parts[at:])


def stored_manifest(document: object) -> Entries | None:
    """Return the manifest in the metadata of a group. None if there is no manifest, empty if it cannot be read."""
    attributes = document.get("attributes") if isinstance(document, dict) else None
    if not isinstance(attributes, dict) or MANIFEST not in attributes:
        return None
    manifest = parsed_json(attributes[MANIFEST])
    return manifest if isinstance(manifest, dict) else {}


def expected_objects(manifest: Named) -> dict[str, tuple[int, str]]:
    """Return size and checksum of each object in a manifest, by path relative to its group.

    Raises
    ------
    InputFileError
        If the mapping is not a manifest.
    """
    try:
        found = {f"{a}/{c}" if a else c: tuple(known) for a, e in manifest.items() for c, known in e["stored"].items()}
        if not found or not all(type(size) is int and isinstance(text, str) for size, text in found.values()):
            raise TypeError("sizes and checksums are missing")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputFileError(f"the manifest cannot be read ({error!r})") from error
    return found


def lost_objects(folder: Folder, node: str, manifest: Named) -> list[str]:
    """Compare names and sizes of stored objects with a manifest, without reading the objects.

    Returns
    -------
    list of str
        A line for each object that is missing or has another size.
    """
    try:
        expected = expected_objects(manifest)
    except InputFileError as error:
        return [str(error)]
    stored, problems = folder.files(node), []
    for name, (size, _) in expected.items():
        array, chunk = split_object(name)
        if name not in stored:
            problems.append(f"{array} {chunk}: missing")
        elif stored[name] != size:
            wrong = "truncated" if stored[name] < size else "too long"
            problems.append(f"{array} {chunk}: {wrong}, {stored[name]} bytes where {size} were written")
    return problems
