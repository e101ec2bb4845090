"""Check the metadata of Zarr arrays and groups before they are used. Other software may have written or damaged them.

The metadata determine which code reads a store: codecs are found by their names, and one codec of format 2 unpickles.
The metadata also determine how much memory is needed. nsxr therefore reads only format 3, only codecs in a list, and
only sizes below limits.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from nsxr.errors import InputFileError
from nsxr.storage.urls import without_secrets

__all__ = ["DEPTH", "METADATA", "NODES", "first_line", "require_plain"]

METADATA = "zarr.json"
"""Name of the file with the metadata of a group or an array."""

_CODECS = ("blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "transpose", "vlen-utf8", "zstd")
_INDEX_CODECS = ("bytes", "crc32c")  # codecs whose result has a known length
_ITEMSIZE: Mapping[str, int] = {
    "bool": 1,
    **{f"{sign}int{8 * n}": n for sign in ("", "u") for n in (1, 2, 4, 8)},
    **{f"float{8 * n}": n for n in (2, 4, 8)},
    **{f"complex{8 * n}": n for n in (8, 16)},
    "string": 16,
    "numpy.datetime64": 8,
    "numpy.timedelta64": 8,
    "fixed_length_utf32": 4,
    "null_terminated_bytes": 1,
}

_CHUNK = 2**31  # bytes: the limit of blosc
_INNER_CHUNKS = 2**20  # chunks of a shard: the index has 16 bytes for each
_CHUNKS = 2**28  # shards of an array
_LABELS = 2**24  # length of a dim: indexes are read when a store is opened
NODES = 10**6
DEPTH = 16


def first_line(error: BaseException) -> str:
    """Return the message of an exception of another library in one line without secrets."""
    return without_secrets((str(error) or type(error).__name__).strip().partition("\n")[0])


def require_plain(document: object, where: str) -> None:
    """Raise InputFileError unless nsxr can read stores with these metadata of a node. Check consolidated metadata too.

    Parameters
    ----------
    document : Any
        Content of the JSON file.
    where : str
        Path of the node, for the message.
    """
    for path, inner in _consolidated(document, where):
        try:
            problem = _problem(inner)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            problem = f"damaged ({type(error).__name__}: {first_line(error)})"
        if problem:
            raise InputFileError(f"{path}: its Zarr metadata are {problem}")


def _consolidated(document: object, where: str, depth: int = 0) -> Iterator[tuple[str, object]]:
    yield where, document
    outer = document.get("consolidated_metadata") if isinstance(document, dict) else None
    if outer is None:
        return
    inner = outer.get("metadata") if isinstance(outer, dict) else None
    if not isinstance(inner, dict) or depth > DEPTH or len(inner) > NODES:
        raise InputFileError(f"{where}: its consolidated metadata are damaged")
    for path, found in inner.items():
        yield from _consolidated(found, f"{where}/{path}", depth + 1)


def _problem(document: object) -> str:
    """Return what is wrong with the metadata of one node. Empty if nothing is wrong."""
    if not isinstance(document, dict):
        return "no JSON object"
    if document.get("zarr_format") != 3:
        return f"of format {document.get('zarr_format')!r}, expected 3; reading another format may run code"
    if not isinstance(document.get("attributes", {}), dict):
        return "damaged: attributes are no JSON object"
    if document.get("node_type") == "group":
        return ""
    if document.get("node_type") != "array":
        return f"of a {document.get('node_type')!r}, expected a group or an array"
    if document.get("storage_transformers"):
        return "of an array with storage transformers, which nsxr does not read"
    kind = document["data_type"]
    name, settings = (kind["name"], kind.get("configuration", {})) if isinstance(kind, dict) else (kind, {})
    if name not in _ITEMSIZE:
        return f"of an array of dtype {name!r}, which nsxr does not read"
    itemsize = max(_ITEMSIZE[name], _natural(settings.get("length_bytes", 1), 2**16))
    grid = document["chunk_grid"]
    if grid["name"] != "regular":
        return f"of an array with a {grid['name']!r} grid of chunks, expected 'regular'"
    shape = [_natural(n, 2**48) for n in document["shape"]]
    chunk = [_natural(n, 2**48) for n in grid["configuration"]["chunk_shape"]]
    if len(shape) != len(chunk) or 0 in chunk or len(shape) > 32:
        return f"damaged: chunks {chunk} of an array {shape}"
    if math.prod(-(-n // length) for n, length in zip(shape, chunk, strict=True)) > _CHUNKS:
        return f"of {shape} in chunks of {chunk}, more than {_CHUNKS} chunks"
    if len(shape) == 1 and shape[0] > _LABELS:
        return f"of {shape[0]} labels along one dimension, more than {_LABELS}"
    return _wrong_codecs(document["codecs"], _CODECS, chunk, itemsize)


def _natural(number: object, most: int) -> int:
    if type(number) is not int or not 0 <= number <= most:
        raise ValueError(f"{number!r} is no whole number from 0 to {most}")
    return number


def _wrong_codecs(codecs: Any, known: tuple[str, ...], chunk: list[int], itemsize: int) -> str:
    names = [codec["name"] if isinstance(codec, dict) else codec for codec in codecs]
    unknown = [name for name in names if name not in known]
    if unknown:
        return f"of an array with codec {unknown[0]!r}, expected {', '.join(known)}"
    if "sharding_indexed" not in names:
        size = math.prod(chunk) * itemsize
        return f"of chunks of {size} bytes, more than {_CHUNK}" if size > _CHUNK else ""
    settings = codecs[names.index("sharding_indexed")]["configuration"]
    inner = [_natural(n, 2**48) for n in settings["chunk_shape"]]
    if len(inner) != len(chunk) or any(not n or length % n for n, length in zip(inner, chunk, strict=True)):
        return f"damaged: chunks {inner} in shards of {chunk}"
    if math.prod(length // n for n, length in zip(inner, chunk, strict=True)) > _INNER_CHUNKS:
        return f"of shards of {chunk} in chunks of {inner}, more than {_INNER_CHUNKS} a shard"
    index = _wrong_codecs(settings.get("index_codecs", []), _INDEX_CODECS, [], 1)
    without = tuple(name for name in _CODECS if name != "sharding_indexed")
    return index or _wrong_codecs(settings["codecs"], without, inner, itemsize)
