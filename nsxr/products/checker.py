"""Check a product: every byte that has a checksum, every chunk, every header."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nsxr.errors import InputFileError
from nsxr.formats.fits_checksums import wrong_checksums
from nsxr.formats.fits_headers import FitsFile, scan
from nsxr.formats.manifest import digest, expected_objects, lost_objects, split_object, stored_manifest
from nsxr.formats.zarr_metadata import METADATA, require_plain
from nsxr.products.checksums import damaged_chunks
from nsxr.storage.folder import Folder
from nsxr.storage.options import StorageOptions
from nsxr.storage.urls import is_remote, shown

__all__ = ["check_product"]


_RATES = ("ERR", "DQ", "VAR_POISSON", "VAR_RNOISE")
_ALONE: Mapping[str, tuple[str, ...]] = {
    "Level1bModel": ("SCI", "GROUP", "INT_TIMES"),
    "RampModel": ("SCI",),
    "ImageModel": ("SCI",),
    "IFUImageModel": ("SCI",),
    "CubeModel": ("SCI", "INT_TIMES"),
    "SlitModel": ("SCI",),
    "MultiSlitModel": ("SCI",),
    "MultiExposureModel": ("SCI",),
    "MultiSpecModel": ("EXTRACT1D",),
    "TSOMultiSpecModel": ("EXTRACT1D",),
    "MultiCombinedSpecModel": ("COMBINE1D",),
}
"""Extensions that products always have, by DATAMODL."""
_BESIDE_SCI = dict.fromkeys(("ImageModel", "IFUImageModel", "CubeModel"), _RATES)
_BESIDE_SCI |= dict.fromkeys(("SlitModel", "MultiSlitModel", "MultiExposureModel"), _RATES)


def check_product(path: str | os.PathLike[str], storage_options: Mapping[str, object] | None = None) -> Iterator[str]:
    """Read a whole product, and yield a line for each problem.

    Chunks of a Zarr store are compared with the checksums that its root lists. HDUs of a FITS file are compared with
    their own CHECKSUM and DATASUM, if they have these keywords. A FITS product (DATAMODL) must have the extensions that
    its kind always has, and ASDF as the last one. This finds files that were cut off between two HDUs.

    Parameters
    ----------
    path : path or URL
        FITS file, gzipped or not, or Zarr store written by nsxr. URLs of Zarr stores end in .zarr.
    storage_options : mapping, optional
        Options for access to a URL, see :func:`nsxr.open_exposure`.

    Yields
    ------
    str
        One line for each problem.

    Raises
    ------
    InputFileError
        If the path is neither a FITS file nor a Zarr store.
    RemoteAccessError
        If a URL cannot be reached.
    """
    name = os.fspath(path)
    if shown(name).rstrip("/").endswith(".zarr") if is_remote(name) else Path(name).is_dir():
        yield from _check_zarr(Folder.at(name, storage_options))
    else:
        yield from _lost_extensions(scan(name, storage_options=storage_options))
        yield from wrong_checksums(name, StorageOptions(storage_options))


def _lost_extensions(file: FitsFile) -> Iterator[str]:
    """Yield a line for each extension that a product lacks. References are not checked: their extensions vary."""
    kind = str(file.primary.get("DATAMODL") or "").strip()
    if not kind or file.primary.get("REFTYPE"):
        return
    for name in _ALONE.get(kind, ()):
        if name not in file.extensions:
            yield f"{name} is missing, which each {kind} has"
    for version in sorted(version for name, version in file.versions if name == "SCI"):
        for name in _BESIDE_SCI.get(kind, ()):
            is_resampled = ("WHT", version) in file.versions  # resampled slits have weights instead of flags
            if (name, version) not in file.versions and not (name == "DQ" and is_resampled):
                yield f"{name} {version} is missing beside SCI {version}, which each {kind} has"
    if "ASDF" not in file.extensions:
        yield "ASDF is missing, the last extension of products: the file was cut off, or another program has written it"


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
        yield f"{METADATA}: lists no checksums, like stores of earlier versions; missing objects cannot be detected"
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


def _check_consolidated(root: object, documents: Mapping[str, object]) -> Iterator[str]:
    """Compare the consolidated metadata with the metadata of each group and array."""
    outer = root.get("consolidated_metadata") if isinstance(root, dict) else None
    if not isinstance(outer, dict) or not isinstance(outer.get("metadata"), dict):
        return
    own = {name.removesuffix(f"/{METADATA}"): document for name, document in documents.items() if name}
    for path in sorted({*own, *outer["metadata"]}):
        if _without_empty(outer["metadata"].get(path)) != own.get(path):
            yield f"{path}: consolidated metadata differ from its own"


def _without_empty(document: object) -> Any:
    """Return metadata without the empty consolidated metadata that zarr gives to each group."""
    if isinstance(document, dict) and document.get("node_type") == "group":
        return {key: value for key, value in document.items() if key != "consolidated_metadata"}
    return document
