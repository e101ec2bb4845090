"""Read the gwcs in the ASDF extension of a product as plain steps, without the libraries that wrote it.

The tree may come from an unknown source. It is therefore checked first: it must not refer to other files, and must not
expand to more memory than expected.
"""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
from astropy import units

from nsxr.errors import ReferenceFileError
from nsxr.formats.asdf_blocks import AsdfArrays, tag_of
from nsxr.formats.asdf_transforms import Transform, read_transform
from nsxr.formats.asdf_trees import require_shallow
from nsxr.formats.fits_headers import FitsFile
from nsxr.formats.pixels import PixelSource
from nsxr.formats.transform_values import evaluate
from nsxr.storage.urls import shown

__all__ = ["GwcsStep", "GwcsSteps", "read_gwcs", "read_quadrant", "wcs_bytes"]

_BLOCK = b"\xd3BLK"
_END_OF_TREE = b"\n..."
_MOST_NODES = 1_000_000
"""Largest number of nodes in the tree of one slit, with aliases followed. Real trees have 4 to 7 thousand."""


@dataclass(frozen=True, eq=False)
class GwcsStep:
    """A frame, and the transform from it to the next frame. The last frame has none.

    Attributes
    ----------
    frame : str
        Name of the frame.
    transform : Transform or None
        The transform to the next frame.
    node : mapping
        The description of the frame in the file.
    """

    frame: str
    transform: Transform | None
    node: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class GwcsSteps:
    """The coordinates of one slit: frames, and the transforms between them.

    Attributes
    ----------
    steps : tuple of GwcsStep
        From the pixels of the cut-out, counted from 0, to the last frame.
    arrays : AsdfArrays
        The arrays that transforms refer to.
    """

    steps: tuple[GwcsStep, ...]
    arrays: AsdfArrays

    def between(self, first: str, last: str) -> Transform | None:
        """Return the transform of the step from one frame to the next one. None if it is no step of this gwcs."""
        for step, following in zip(self.steps, self.steps[1:], strict=False):
            if (step.frame, following.frame) == (first, last):
                return step.transform
        return None

    def evaluate(self, column: np.ndarray, row: np.ndarray, frame: str | None = None) -> list[np.ndarray]:
        """Return the coordinates of pixels in a frame, the last one by default. They are float64, in its units.

        Parameters
        ----------
        column, row : ndarray
            Pixels of the cut-out, from 0.
        frame : str, optional
            Name of a frame.
        """
        found = [np.asarray(one, dtype=np.float64) for one in np.broadcast_arrays(column, row)]
        for step in self.steps:
            if step.frame == frame or step.transform is None:
                break
            found = evaluate(step.transform, found, self.arrays)
        return found

    def wavelength(self, column: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Return the wavelengths of pixels in the last frame [um], float64. NaN outside of the slit.

        Raises
        ------
        ReferenceFileError
            If the last frame has no spectral axis.
        """
        node = self.steps[-1].node
        axis = 0
        for part in node.get("frames") or [node]:
            if tag_of(part).startswith("spectral_frame"):
                axis = int((part.get("axes_order") or [axis])[0])
                unit = units.Unit(str(part["unit"][0]))
                return np.asarray(self.evaluate(column, row)[axis] * unit.to(units.um))
            axis += len(part.get("axes_names") or part.get("unit") or "?")
        raise ReferenceFileError(f"it leads to the frame {self.steps[-1].frame!r}, expected a SPECTRAL axis")


def wcs_bytes(file: FitsFile) -> PixelSource | None:
    """Return the place of the ASDF extension of a file. None if its bytes do not contain a gwcs."""
    if "ASDF" not in file.extensions:
        return None
    extension = file.extensions["ASDF"]
    length = math.prod(extension.shape)
    tree = PixelSource(file.location, extension.offset, (length,), "u1", "uint8", 0, file.stamp, file.options)
    return tree if b"gwcs/wcs-" in tree.read((slice(None),)).tobytes() else None


def read_gwcs(source: PixelSource, version: int) -> GwcsSteps:
    """Read the gwcs of a slit.

    Parameters
    ----------
    source : PixelSource
        The bytes of the ASDF extension, from :func:`wcs_bytes`.
    version : int
        EXTVER of the slit.

    Raises
    ------
    ReferenceFileError, ValueError
        If the tree is damaged, refers to something outside of the file, or is too large.
    """
    tree, arrays = _parsed(source)
    node = _slit(tree, version)["meta"]["wcs"]
    _require_own(node, {})
    memory: dict[int, Transform] = {}
    steps = []
    for step in node["steps"]:
        transform = step.get("transform")
        made = None if transform is None else read_transform(transform, arrays, memory)
        frame = step["frame"]
        steps.append(GwcsStep(str(frame["name"]) if isinstance(frame, Mapping) else str(frame), made, frame))
    if len(steps) < 2 or any(step.transform is None for step in steps[:-1]):
        raise ReferenceFileError(f"it has {len(steps)} frames, expected two or more with transforms between them")
    return GwcsSteps(tuple(steps), arrays)


@lru_cache(maxsize=2)  # otherwise each slit would parse the tree of all slits
def _parsed(source: PixelSource) -> tuple[Any, AsdfArrays]:
    """Return the tree of an ASDF extension as plain nodes, and its arrays."""
    content = source.read((slice(None),)).tobytes()
    _require_plain_blocks(content)
    require_shallow(content[: max(content.find(_END_OF_TREE), 0) + len(_END_OF_TREE)])
    asdf: Any = import_module("asdf.util")
    return asdf.load_yaml(io.BytesIO(content), tagged=True), AsdfArrays(content, shown(source.path))


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


def read_quadrant(source: PixelSource, version: int) -> int | None:
    """Return the quadrant of a slit as the tree has it. Products of versions to 1.15 have no keyword for it."""
    number = _slit(_parsed(source)[0], version).get("quadrant")
    return number if isinstance(number, int) else None


def _slit(tree: Any, version: int) -> Any:
    """Return the node of a slit in the tree of a MultiSlitModel, MultiExposureModel or SlitModel."""
    for group in ("slits", "exposures"):
        if tree.get(group):
            return tree[group][version - 1]
    return tree


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
