"""Read ASDF files as plain tagged trees, without the classes that wrote them.

Nothing outside of the file is read, and no object of a library is created. The YAML text becomes nested dictionaries
and lists that remember their tags. Arrays are read from the blocks of the file when they are asked for.
"""

import bz2
import hashlib
import io
import math
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np

from nsxr.errors import ReferenceFileError
from nsxr.formats.asdf_trees import require_plain_tree
from nsxr.formats.whole_files import read_whole
from nsxr.formats.zarr_metadata import first_line

__all__ = ["AsdfArrays", "AsdfFile", "read_asdf", "tag_of"]

_MAGIC = b"\xd3BLK"
_LONGEST = 2**30  # bytes of a file, and of a block after decompression
_DATATYPES = {"ascii": "S", "bool8": "?", "ucs4": "U"}
_KINDS = ("bool8", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32")
_WIDER = ("float64", "complex64", "complex128")


class AsdfArrays:
    """The blocks of an ASDF file, from which arrays are made.

    Parameters
    ----------
    content : bytes
        The whole file.
    name : str
        Name of the file, for messages.

    Raises
    ------
    ReferenceFileError
        If a block is cut off.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self._content = memoryview(content)
        self._name = name
        self._places: list[tuple[int, int, int, bytes, bytes]] = []
        end = content.find(b"\n...")
        place = content.find(_MAGIC, max(end, 0))
        while place >= 0 and content[place : place + 4] == _MAGIC:
            header = content[place + 6 : place + 6 + int.from_bytes(content[place + 4 : place + 6], "big")]
            if len(header) < 48:
                raise ReferenceFileError(f"{name}: the header of block {len(self._places)} is cut off")
            allocated, used, size = (int.from_bytes(header[start : start + 8], "big") for start in (8, 16, 24))
            start = place + 6 + len(header)
            if used > allocated or start + used > len(content):
                raise ReferenceFileError(f"{name}: block {len(self._places)} is cut off")
            self._places.append((start, used, size, bytes(header[4:8]), bytes(header[32:48])))
            place = start + allocated

    def read(self, node: Any) -> np.ndarray:
        """Return the array that a node describes: a list of numbers, an array in the text, or an array in a block.

        Raises
        ------
        ReferenceFileError
            If the node describes no array, or its block is missing, too short, or damaged.
        """
        if isinstance(node, Mapping) and "value" in node and "source" not in node:
            node = node["value"]  # a quantity; transforms of NIRSpec have no units of their own
        try:
            if not isinstance(node, Mapping):
                return np.array(node, dtype=np.float64)
            dtype = _dtype(node.get("datatype", "float64"), str(node.get("byteorder", "little")))
            if "data" in node:
                return _inline(node["data"], dtype)
            return self._from_block(node, dtype)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise ReferenceFileError(f"{self._name}: an array cannot be read ({first_line(error)})") from error

    def _from_block(self, node: Mapping[str, Any], dtype: np.dtype[Any]) -> np.ndarray:
        source, shape = node["source"], tuple(int(n) for n in node["shape"])
        if not isinstance(source, int) or isinstance(source, bool):
            raise ValueError(f"its source is {str(source)[:40]!r}, expected a block of this file")
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > _LONGEST:
            raise ValueError(f"its shape is {shape}")
        if not -len(self._places) <= source < len(self._places):
            raise ValueError(f"block {source} is missing, the file has {len(self._places)}")
        data = self._block(source)
        offset, strides = int(node.get("offset", 0)), node.get("strides")
        array: np.ndarray = np.ndarray(
            shape, dtype, data, offset, None if strides is None else tuple(map(int, strides))
        )
        return array.copy()

    def _block(self, number: int) -> bytes | memoryview:
        start, used, size, compression, checksum = self._places[number]
        data = self._content[start : start + used]
        if any(checksum) and hashlib.md5(data, usedforsecurity=False).digest() != checksum:
            raise ValueError(f"the checksum of block {number} does not match its bytes")
        if not compression.strip(b"\0"):
            return data[:size]
        if size > _LONGEST or compression not in (b"zlib", b"bzp2"):
            raise ValueError(f"block {number} has {size} bytes, compressed by {compression!r}; expected zlib or bzp2")
        try:
            if compression == b"zlib":
                return zlib.decompressobj().decompress(bytes(data), size)
            return bz2.BZ2Decompressor().decompress(bytes(data), size)
        except (zlib.error, OSError) as error:
            raise ValueError(f"block {number} cannot be decompressed ({error})") from error


@dataclass(frozen=True)
class AsdfFile:
    """An ASDF file as a plain tree.

    Attributes
    ----------
    name : str
        Path of the file, for messages.
    tree : mapping
        The tree: dictionaries and lists, which remember their tags, see :func:`tag_of`.
    arrays : AsdfArrays
        Reads the arrays of the tree.
    """

    name: str
    tree: Mapping[str, Any]
    arrays: AsdfArrays


def read_asdf(path: str | os.PathLike[str]) -> AsdfFile:
    """Read an ASDF file as a plain tree, after it was checked with :func:`~nsxr.formats.asdf_trees.require_plain_tree`.

    Raises
    ------
    ReferenceFileError
        If the file cannot be read, is no ASDF file, is damaged, refers to other files, or is too large.
    """
    load_yaml: Any = import_module("asdf.util").load_yaml

    name = os.fspath(path)
    require_plain_tree(path)
    content = read_whole(name, _LONGEST)
    try:
        tree = load_yaml(io.BytesIO(content), tagged=True)
    except Exception as error:  # a damaged text may raise any error of asdf or yaml
        raise ReferenceFileError(f"{name}: its YAML text cannot be read ({first_line(error)})") from error
    if not isinstance(tree, Mapping):
        raise ReferenceFileError(f"{name}: holds no values by name")
    return AsdfFile(name, tree, AsdfArrays(content, name))


def tag_of(node: Any) -> str:
    """Return the tag of a node without its organisation and version: ``transform/polynomial``. Empty without a tag.

    Tags of all ages are understood: ``tag:stsci.edu:asdf/transform/affine-1.0.0``, ``!transform/affine-1.3.0``, and
    ``asdf://asdf-format.org/transform/tags/affine-1.4.0``.
    """
    tag = str(getattr(node, "_tag", "") or "")
    name = tag.rpartition("/")[2].rpartition("-")[0]
    return "/".join((*(part for part in ("transform", "core", "unit") if f"{part}/" in tag), name)) if name else ""


def _dtype(datatype: Any, byteorder: str) -> np.dtype[Any]:
    order: Literal["<", ">"] = ">" if byteorder == "big" else "<"
    if isinstance(datatype, str):
        if datatype not in (*_KINDS, *_WIDER):
            raise ValueError(f"its datatype is {datatype[:20]!r}")
        return np.dtype("?") if datatype == "bool8" else np.dtype(datatype).newbyteorder(order)
    if isinstance(datatype, list) and len(datatype) == 2 and datatype[0] in ("ascii", "ucs4"):
        return np.dtype(f"{order}{_DATATYPES[datatype[0]]}{int(datatype[1])}")
    if isinstance(datatype, list):
        fields = []
        for number, field in enumerate(datatype):
            part = field if isinstance(field, Mapping) else {"datatype": field}
            inner = _dtype(part["datatype"], str(part.get("byteorder", byteorder)))
            fields.append((str(part.get("name", f"f{number}")), inner, tuple(part.get("shape", ()))))
        return np.dtype(fields)
    raise ValueError(f"its datatype is {str(datatype)[:20]!r}")


def _inline(data: Any, dtype: np.dtype[Any]) -> np.ndarray:
    if dtype.names is None:
        return np.array(data, dtype=dtype)
    return np.array([tuple(row) for row in data], dtype=dtype)
