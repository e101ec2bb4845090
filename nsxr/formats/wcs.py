"""Compute wavelengths from the gwcs in the ASDF extension of a product, for files without WAVELENGTH.

The libraries of the extra ``gwcs`` compute them when they are needed. The ASDF tree may come from an unknown source. It
is therefore checked first: it must not refer to other files, and must not expand to more memory than expected.
"""

import io
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from threading import Lock
from typing import Any

import numpy as np
from astropy import units
from xarray.backends import BackendArray
from xarray.core import indexing

from nsxr.errors import InputFileError
from nsxr.formats.fits_headers import FitsFile
from nsxr.formats.pixels import PixelSource
from nsxr.storage.urls import shown

__all__ = ["WcsArray", "WcsWavelength", "can_evaluate", "wcs_bytes"]

_LIBRARIES = ("asdf", "gwcs", "stdatamodels")
_BLOCK = b"\xd3BLK"
_END_OF_TREE = b"\n..."
_MOST_NODES = 1_000_000
"""Largest number of nodes in the tree of one slit, with aliases followed. Real trees have 4 to 7 thousand."""

_lock = Lock()  # opening an ASDF file changes settings and warnings of the whole process


def can_evaluate() -> bool:
    """Return whether the libraries of the extra ``gwcs`` are installed."""
    return all(find_spec(name) is not None for name in _LIBRARIES)


@dataclass(frozen=True)
class WcsWavelength:
    """Place of the coordinates of a slit in a file. The object is small, can be pickled, and has no open file.

    Attributes
    ----------
    tree : PixelSource
        The bytes of the ASDF extension, from :func:`wcs_bytes`.
    version : int
        EXTVER of the slit.
    shape : (rows, columns)
        Shape of the slit.
    """

    tree: PixelSource
    version: int
    shape: tuple[int, ...]

    def read(self, key: tuple[Any, ...]) -> np.ndarray:
        """Return the wavelengths [um] of the pixels that integers and slices select.

        Raises
        ------
        InputFileError
            If the tree is damaged, refers to something outside of the file, or has no wavelengths.
        """
        try:
            with _lock, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # newer libraries warn about older files, but can read them
                image = _evaluate(self.tree, self.version, self.shape)
        except InputFileError:
            raise
        except Exception as error:  # a damaged tree may raise any error in the libraries
            raise InputFileError(
                f"{shown(self.tree.path)}: WAVELENGTH is missing, and the gwcs of slit {self.version} cannot be "
                f"evaluated ({str(error) or type(error).__name__}); drop it with drop_vars('wavelength')"
            ) from error
        return np.asarray(image[key])


class WcsArray(BackendArray):
    """Array that xarray indexes lazily, see :class:`WcsWavelength`."""

    def __init__(self, source: WcsWavelength) -> None:
        self.source = source
        self.shape = source.shape
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self.source.read)

    def __dask_tokenize__(self) -> WcsWavelength:
        return self.source


def wcs_bytes(file: FitsFile) -> PixelSource | None:
    """Return the place of the ASDF extension of a file. None if its bytes do not contain a gwcs."""
    if "ASDF" not in file.extensions:
        return None
    extension = file.extensions["ASDF"]
    length = math.prod(extension.shape)
    tree = PixelSource(file.location, extension.offset, (length,), "u1", "uint8", 0, file.stamp, file.options)
    return tree if b"gwcs/wcs-" in tree.read((slice(None),)).tobytes() else None


@lru_cache(maxsize=2)  # otherwise each slit would parse the tree of all slits
def _parsed(source: PixelSource) -> tuple[bytes, Any]:
    """Return the bytes of an ASDF extension, and its tree as plain nodes."""
    content = source.read((slice(None),)).tobytes()
    _require_plain_blocks(content)
    asdf: Any = import_module("asdf")
    return content, asdf.util.load_yaml(io.BytesIO(content), tagged=True)


@lru_cache(maxsize=2)
def _opened(source: PixelSource) -> Any:
    """Return an ASDF file whose objects are created when they are accessed."""
    asdf: Any = import_module("asdf")
    content = io.BytesIO(_parsed(source)[0])
    with asdf.config_context() as config:
        config.validate_on_read = False  # validating all slits would take most of the time
        return asdf.open(content, lazy_tree=True, lazy_load=True, memmap=False, validate_checksums=True)


def _require_plain_blocks(content: bytes) -> None:
    """Raise ValueError if a block is compressed or longer than the file. FITS products have no such blocks."""
    place = content.find(_BLOCK, content.find(_END_OF_TREE))
    while place >= 0 and content[place : place + 4] == _BLOCK:
        length = int.from_bytes(content[place + 4 : place + 6], "big")
        compression = content[place + 10 : place + 14]
        allocated, used, size = (int.from_bytes(content[place + a : place + a + 8], "big") for a in (14, 22, 30))
        place += 6 + length
        if compression.strip(b"\0") or max(used, size) > allocated or place + allocated > len(content):
            raise ValueError("a block of the ASDF extension is compressed or cut off, expected plain bytes")
        place += allocated


def _slit(tree: Any, version: int) -> Any:
    """Return the coordinates of a slit in the tree of a MultiSlitModel, MultiExposureModel or SlitModel."""
    for group in ("slits", "exposures"):
        if tree.get(group):
            tree = tree[group][version - 1]
            break
    return tree["meta"]["wcs"]


def _evaluate(source: PixelSource, version: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the wavelengths of an image [um] float32, NaN outside of the slit."""
    _require_own(_slit(_parsed(source)[1], version), {})
    wcs = _slit(_opened(source).tree, version)
    if not callable(wcs):
        raise ValueError("it is of a kind that the installed libraries do not know")
    axes = [str(kind) for kind in wcs.output_frame.axes_type]
    if "SPECTRAL" not in axes:
        raise ValueError(f"it leads to {', '.join(axes)}, expected a SPECTRAL axis")
    axis = axes.index("SPECTRAL")
    row, column = np.mgrid[: shape[0], : shape[1]]
    found = np.asarray(wcs(column, row)[axis], dtype=np.float64)
    return np.asarray(found * units.Unit(wcs.output_frame.unit[axis]).to(units.um), dtype=np.float32)


def _require_own(node: Any, sizes: dict[int, int]) -> int:
    """Return the number of nodes, with aliases followed.

    Raise ValueError if a node refers to another file, or if there are too many nodes.
    """
    if id(node) in sizes:
        return sizes[id(node)]
    sizes[id(node)] = 0  # counts as 0 if a node contains itself: a model is the inverse of its inverse
    children: list[Any] = []
    if isinstance(node, Mapping):
        if "$ref" in node or isinstance(node.get("source"), str) or isinstance(node.get("fileuri"), str):
            outside = node.get("$ref") or node.get("source") or node.get("fileuri")
            raise ValueError(f"it refers to {str(outside)[:80]!r}, expected nothing outside of the file")
        if math.prod(n for n in node.get("shape", ()) if isinstance(n, int)) > _MOST_NODES:
            raise ValueError(f"it has an array of shape {node['shape']}")
        children = list(node.values())
    elif isinstance(node, list | tuple):
        children = list(node)
    sizes[id(node)] = total = 1 + sum(_require_own(child, sizes) for child in children)
    if total > _MOST_NODES:
        raise ValueError(f"it has more than {_MOST_NODES} nodes, aliases followed")
    return total
