"""Open Zarr stores, after a check of their metadata."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.backends.zarr import ZarrBackendEntrypoint
from xarray.core import indexing

from nsxr.errors import InputFileError, NsxrError
from nsxr.formats.manifest import MANIFEST, lost_objects, stored_manifest
from nsxr.formats.zarr_metadata import DEPTH, METADATA, NODES, first_line, require_plain
from nsxr.storage.folder import Folder, parsed_json
from nsxr.storage.remote_errors import remote_errors
from nsxr.storage.urls import shown

__all__ = ["open_store"]

_FORMAT_2 = (".zgroup", ".zarray", ".zattrs", ".zmetadata")


def open_store(folder: Folder, root: Any = None) -> xr.DataTree:
    """Open a Zarr store lazily, after a check of all its metadata.

    Parameters
    ----------
    folder : Folder
        The store.
    root : mapping, optional
        Metadata of the root, if they were read before.

    Returns
    -------
    DataTree
        Content of the store, in its stored chunks.

    Raises
    ------
    InputFileError
        If there is no store, or the store does not have format 3, needs a codec or a dtype that nsxr does not use, has
        sizes beyond the limits, cannot be opened by xarray, or lacks objects that its manifest lists.
    RemoteAccessError
        If a URL cannot be reached.
    """
    document = root if root is not None else _root(folder)
    require_plain(document, str(folder))
    is_consolidated = isinstance(document.get("consolidated_metadata"), dict)
    if not is_consolidated and document.get("node_type") == "group":
        for path, inner in _below(folder):
            require_plain(inner, f"{folder}/{path}")
    manifest = stored_manifest(document)
    if manifest is not None and not folder.is_remote:
        lost = lost_objects(folder, "", manifest)
        if lost:
            raise InputFileError(f"{folder}: {lost[0]}{f' and {len(lost) - 1} more' if len(lost) > 1 else ''}")
    try:
        with remote_errors(folder.root):
            tree = xr.open_datatree(
                folder.root,
                engine=_Guarded,
                chunks={},
                consolidated=is_consolidated,
                zarr_format=3,
                storage_options=folder.given(),
            )
    except NsxrError:
        raise
    except Exception as error:  # damaged metadata may raise any error of zarr, xarray and what they call
        raise InputFileError(f"{folder}: not a Zarr store that xarray can open ({first_line(error)})") from None
    tree.attrs.pop(MANIFEST, None)  # the manifest describes the store, not the data
    return tree


class _Guarded(ZarrBackendEntrypoint):
    """xarray's engine for Zarr, with errors about damaged pixels in one line."""

    def open_groups_as_dict(self, filename_or_obj: Any, **settings: Any) -> dict[str, xr.Dataset]:
        """Open all groups of a store."""
        found = super().open_groups_as_dict(filename_or_obj, **settings)
        guarded = {}
        for name, dataset in found.items():
            where = f"{shown(str(filename_or_obj))}{name.rstrip('/')}"
            # xarray reads the labels of dims when it opens the store, and raises their errors then
            late = {str(key): v for key, v in dataset.variables.items() if v.dims != (key,)}
            guarded[name] = dataset.assign({key: _guarded(v, f"{where}/{key}") for key, v in late.items()})
            guarded[name].set_close(dataset.close)
        return guarded


def _guarded(variable: xr.Variable, where: str) -> xr.Variable:
    data = indexing.LazilyIndexedArray(_GuardedArray(variable._data, where))
    return xr.Variable(variable.dims, data, variable.attrs, variable.encoding)


class _GuardedArray(BackendArray):
    """Array of a store. Exceptions of zarr and its codecs become errors of nsxr."""

    def __init__(self, inner: Any, where: str) -> None:
        self.inner, self.where = inner, where
        self.shape, self.dtype = inner.shape, inner.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        try:
            with remote_errors(self.where):
                return np.asarray(indexing.apply_indexer(self.inner, indexing.OuterIndexer(key)).get_duck_array())
        except (NsxrError, OSError):
            raise
        except Exception as error:  # a damaged chunk may raise any error: of its checksum, its codec, its length
            raise InputFileError(f"{self.where}: a chunk cannot be read ({first_line(error)})") from None


def _root(folder: Folder) -> Any:
    content = folder.read(METADATA)
    if content is not None:
        return parsed_json(content)
    folders, files = folder.names("")
    older = next((name for name in _FORMAT_2 if name in files), None)
    if older is not None:
        raise InputFileError(f"{folder}: Zarr format 2 ({older}) is not read, as it may run code; write format 3")
    if folders or files:
        raise InputFileError(f"{folder}: no such Zarr store, there is no {METADATA} in it")
    if folder.is_remote:
        raise InputFileError(f"there is no such object: {folder}")
    raise InputFileError(f"{folder}: no such Zarr store, there is nothing of that name")


def _below(folder: Folder) -> Iterator[tuple[str, Any]]:
    """Yield path and metadata of all nodes below the root of a store without consolidated metadata."""
    waiting, seen = [("", 0)], 0
    while waiting:
        key, depth = waiting.pop()
        for name in folder.names(key)[0]:
            path, seen = f"{key}/{name}" if key else name, seen + 1
            if depth > DEPTH or seen > NODES:
                raise InputFileError(f"{folder}/{path}: more than {NODES} nodes, or {DEPTH} nested groups")
            files = folder.names(path)[1]
            older = next((file for file in files if file in _FORMAT_2), None)
            if older is not None:
                raise InputFileError(f"{folder}/{path}: Zarr format 2 ({older}) is not read, as it may run code")
            document = folder.read_json(f"{path}/{METADATA}") if METADATA in files else None
            if document is not None or METADATA in files:
                yield path, document
            if not (isinstance(document, dict) and document.get("node_type") == "array"):
                waiting.append((path, depth + 1))
