"""Compute checksums of stored objects after a store is written, and compare them when it is checked."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import in_chunks
from nsxr.formats.manifest import MANIFEST, digest, split_object
from nsxr.formats.zarr_metadata import METADATA, first_line, require_plain
from nsxr.model.types import Entries
from nsxr.storage.folder import Folder, parsed_json
from nsxr.storage.local import sync

__all__ = ["add_manifest", "damaged_chunks", "make_manifest"]


def each_object(
    kernel: Any, folder: Folder, node: str, names: list[str], digests: list[str] | None = None
) -> list[Any]:
    """Call a function for each object of an exposure, in a separate task of dask, and return the results.

    ``kernel(folder, node, name, digest)`` returns a text.
    """
    if not names:
        return []
    table = xr.Dataset(
        {"name": ("object", np.array(names)), "digest": ("object", np.array(digests or [""] * len(names)))}
    )
    lazy = in_chunks(table, {"object": 1}, "archive")

    def run(block: np.ndarray, sums: np.ndarray) -> np.ndarray:
        results = [kernel(folder, node, str(name), str(known)) for name, known in zip(block, sums, strict=True)]
        return np.array(results, dtype=object)

    outputs = {"found": (("object",), np.object_)}
    found = map_blocks(run, lazy["name"], lazy["digest"], core=(), outputs=outputs)["found"]
    return [str(text) for text in found.compute().values]


def _summed(folder: Folder, node: str, name: str, _: str) -> str:
    key = f"{node}/{name}" if node else name
    if not folder.is_remote:
        sync(Path(folder.place(key)))
    content = folder.read(key)
    if content is None:
        raise FileNotFoundError(f"{folder}/{key} has just been written, but is not there")
    return digest(content)


def make_manifest(folder: Folder, node: str, is_here: bool = False) -> Entries:
    """Read back the stored objects of an exposure, and return their manifest.

    Local files are flushed to the disk first. Tasks of dask do this work, unless ``is_here``.

    Returns
    -------
    dict
        For each array or group below the node: the number of ``objects``, their ``bytes``, and the size and checksum of
        each object under ``stored``.
    """
    prefix = f"{node}/" if node else ""
    sizes = {name: size for name, size in folder.files(node).items() if name != METADATA}
    if is_here:
        sums = [_summed(folder, node, name, "") for name in sizes]
    else:
        sums = each_object(_summed, folder, node, list(sizes))
    if not folder.is_remote:
        for parent in sorted({Path(folder.place(f"{prefix}{name}")).parent for name in sizes}):
            sync(parent)
    manifest: Entries = {}
    for (name, size), checksum in zip(sizes.items(), sums, strict=True):
        array, chunk = split_object(name)
        entry = manifest.setdefault(array, {"objects": 0, "bytes": 0, "stored": {}})
        entry["objects"] += 1
        entry["bytes"] += size
        entry["stored"][chunk] = [size, checksum]
    return manifest


def add_manifest(folder: Folder) -> None:
    """Read back a store after it was written, and add its manifest to the attributes of its root."""
    document = folder.read_json(METADATA)
    text = json.dumps(make_manifest(folder, "", is_here=True), separators=(",", ":"))
    document["attributes"] = {**document.get("attributes", {}), MANIFEST: text}
    folder.put_json(METADATA, document)


def damaged_chunks(folder: Folder, node: str, objects: Mapping[str, str]) -> dict[str, str]:
    """Read and decode every chunk of the given objects, and compare their checksums, one object at a time in memory.

    Parameters
    ----------
    folder, node : Folder, str
        Store, and path of the exposure in it.
    objects : mapping of str to str
        Checksum of each object, by path below the node.

    Returns
    -------
    dict of str to str
        Problems, by path of the object.
    """
    names = list(objects)
    found = each_object(_examined, folder, node, names, list(objects.values()))
    return {name: text for name, text in zip(names, found, strict=True) if text}


def _examined(folder: Folder, node: str, name: str, known: str) -> str:
    prefix = f"{node}/" if node else ""
    content = folder.read(f"{prefix}{name}")
    if content is None:
        return "missing"
    changed = "" if digest(content) == known else "stored bytes changed"
    path, chunk = split_object(name)
    if chunk == METADATA:
        return changed
    undecodable = _undecodable(folder.read(f"{prefix}{path}/{METADATA}"), chunk, content)
    return ", ".join(text for text in (changed, undecodable) if text)


def _undecodable(metadata: bytes | None, chunk: str, content: bytes) -> str:
    """Decode the chunks of an object, and tell which chunks cannot be decoded."""
    import zarr
    from zarr.core.buffer.cpu import Buffer
    from zarr.storage import MemoryStore

    if metadata is None:
        return f"there is no {METADATA} beside it"
    try:
        require_plain(parsed_json(metadata), METADATA)
        buffers = {METADATA: Buffer.from_bytes(metadata), chunk: Buffer.from_bytes(content)}
        array = zarr.open_array(MemoryStore(buffers), mode="r")
    except Exception as error:
        return f"its {METADATA} cannot be read ({first_line(error)})"
    numbers = chunk.split("/")[1:]
    outer = array.shards or array.chunks
    if len(numbers) != len(outer) or not all(number.isdecimal() for number in numbers):
        return f"belongs to no array of {len(outer)} dims"
    corner = [int(number) for number in numbers]
    region = [
        (n * length, min((n + 1) * length, size)) for n, length, size in zip(corner, outer, array.shape, strict=True)
    ]
    try:
        array[tuple(slice(*ends) for ends in region)]
        return ""
    except Exception as error:
        reason = first_line(error)
    wrong = []
    for where in np.ndindex(*(-(-(stop - start) // n) for (start, stop), n in zip(region, array.chunks, strict=True))):
        starts = [start + i * n for i, n, (start, _) in zip(where, array.chunks, region, strict=True)]
        stops = [min(start + n, stop) for start, n, (_, stop) in zip(starts, array.chunks, region, strict=True)]
        try:
            array[tuple(map(slice, starts, stops))]
        except Exception:
            wrong.append("[" + ", ".join(f"{start}:{stop}" for start, stop in zip(starts, stops, strict=True)) + "]")
    return f"cannot be decoded ({reason}), pixels {', '.join(wrong)}"
