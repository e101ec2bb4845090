"""Check a product: every byte that has a checksum, every chunk, every header."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nsxr.errors import InputFileError
from nsxr.io.fits_checksums import wrong_checksums
from nsxr.io.folder import Folder
from nsxr.io.manifest import damaged_chunks, digest, expected_objects, lost_objects, split_object, stored_manifest
from nsxr.io.stores import StorageOptions, is_remote, shown
from nsxr.io.zarr_metadata import METADATA, require_plain

__all__ = ["check_product"]


def check_product(path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Read a product through and tell what is wrong with it.

    Parameters
    ----------
    path : path or URL
        FITS file, gzipped or not, or Zarr store written by nsxr (URLs of them end in .zarr).
    storage_options : mapping, optional
        How the store behind a URL is reached, see :func:`nsxr.open_exposure`.

    Yields
    ------
    str
        One line for each problem; nothing if all is well. Chunks of a Zarr store are compared with the checksums that
        its root lists. HDUs of a FITS file are compared with their own CHECKSUM and DATASUM, if they have any.

    Raises
    ------
    InputFileError
        If it is neither.
    RemoteAccessError
        If the store behind a URL cannot be reached.
    """
    name = os.fspath(path)
    if shown(name).rstrip("/").endswith(".zarr") if is_remote(name) else Path(name).is_dir():
        yield from _check_zarr(Folder.at(name, storage_options))
    else:
        yield from wrong_checksums(name, StorageOptions(storage_options))


def _check_zarr(folder: Folder) -> Iterator[str]:
    root = folder.read_json(METADATA)
    if root is None:
        raise InputFileError(f"{folder}: no Zarr store of format 3, there is no {METADATA} that can be read")
    sizes = {name: size for name, size in folder.files("").items() if name != METADATA}
    documents = {"": root} | {name: folder.read_json(name) for name in sizes if name.endswith(f"/{METADATA}")}
    for name, document in documents.items():
        try:
            require_plain(document, name.removesuffix(f"/{METADATA}") or METADATA)
        except InputFileError as error:
            yield str(error)
    manifest = stored_manifest(root)
    if manifest is None:
        yield f"{METADATA}: lists no checksums, as stores of earlier versions do not; what is missing cannot be told"
        known = {name: digest(folder.read(name) or b"") for name in sizes}
    else:
        yield from lost_objects(folder, "", manifest)
        try:
            expected = expected_objects(manifest)
        except InputFileError:
            return
        for name in sorted(set(sizes) - set(expected)):
            yield f"{' '.join(split_object(name))}: not in the manifest"
        known = {name: checksum for name, (size, checksum) in expected.items() if sizes.get(name) == size}
    for name, problem in damaged_chunks(folder, "", known).items():
        yield f"{' '.join(split_object(name))}: {problem}"
    yield from _check_consolidated(root, documents)


def _check_consolidated(root: Any, documents: Mapping[str, Any]) -> Iterator[str]:
    """Compare what the root says with what the groups and arrays say themselves."""
    outer = root.get("consolidated_metadata") if isinstance(root, dict) else None
    if not isinstance(outer, dict) or not isinstance(outer.get("metadata"), dict):
        return
    own = {name.removesuffix(f"/{METADATA}"): document for name, document in documents.items() if name}
    for path in sorted({*own, *outer["metadata"]}):
        if _without_empty(outer["metadata"].get(path)) != own.get(path):
            yield f"{path}: consolidated metadata differ from its own"


def _without_empty(document: Any) -> Any:
    """Return metadata without the empty consolidated ones that zarr gives to each group."""
    if isinstance(document, dict) and document.get("node_type") == "group":
        return {key: value for key, value in document.items() if key != "consolidated_metadata"}
    return document
