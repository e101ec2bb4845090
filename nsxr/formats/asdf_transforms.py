"""Read coordinate transforms in ASDF trees as plain frozen dataclasses.

References of the optics, and products, hold transforms as nodes with the tags of the ASDF transform schemas. Each node
becomes one object of this file. No model of astropy, gwcs or stdatamodels is created, so none of these libraries is
needed, and no code is run that a file names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nsxr.errors import ReferenceFileError
from nsxr.formats.asdf_blocks import AsdfArrays, tag_of

__all__ = [
    "Affine",
    "Combination",
    "Compose",
    "Concatenate",
    "Constant",
    "FixInputs",
    "Identity",
    "OtherTransform",
    "Polynomial",
    "RemapAxes",
    "Rotation",
    "Scale",
    "Shift",
    "Tabular",
    "Transform",
    "count_inputs",
    "kind_of",
    "read_transform",
    "require_inputs",
]

_MOST_INPUTS = 100


@dataclass(frozen=True, eq=False)
class Transform:
    """Base of all transforms.

    Attributes
    ----------
    inverse : Transform or None
        The inverse that the file gives. None if it gives none; linear transforms can be inverted all the same.
    name : str
        Name of the transform in the file; empty without one.
    """

    inverse: "Transform | None" = field(default=None, kw_only=True)
    name: str = field(default="", kw_only=True)


@dataclass(frozen=True, eq=False)
class Identity(Transform):
    """Return all ``n`` inputs as they are."""

    n: int = 1


@dataclass(frozen=True, eq=False)
class Shift(Transform):
    """x + ``offset``."""

    offset: float


@dataclass(frozen=True, eq=False)
class Scale(Transform):
    """x times ``factor``."""

    factor: float


@dataclass(frozen=True, eq=False)
class Constant(Transform):
    """The number ``value`` for each of ``n`` inputs; ``n`` is 0, 1 or 2."""

    value: float
    n: int = 1


@dataclass(frozen=True, eq=False)
class Affine(Transform):
    """``matrix`` (2, 2) times (x, y), plus ``translation`` (2)."""

    matrix: np.ndarray
    translation: np.ndarray


@dataclass(frozen=True, eq=False)
class Rotation(Transform):
    """Rotation of (x, y) by ``angle`` [degree], counter-clockwise."""

    angle: float

    @property
    def matrix(self) -> np.ndarray:
        """The matrix (2, 2) by which a place is multiplied."""
        sine, cosine = np.sin(np.deg2rad(self.angle)), np.cos(np.deg2rad(self.angle))
        return np.array([[cosine, -sine], [sine, cosine]])


@dataclass(frozen=True, eq=False)
class Polynomial(Transform):
    """Sum of ``coefficients[i]`` x^i, or of ``coefficients[i, j]`` x^i y^j. Domain and window are those of powers."""

    coefficients: np.ndarray


@dataclass(frozen=True, eq=False)
class RemapAxes(Transform):
    """Output k is input ``mapping[k]`` of ``n_inputs``."""

    mapping: tuple[int, ...]
    n_inputs: int


@dataclass(frozen=True, eq=False)
class Compose(Transform):
    """``first``, then ``second``."""

    first: Transform
    second: Transform


@dataclass(frozen=True, eq=False)
class Concatenate(Transform):
    """``first`` and ``second`` side by side: each takes its own inputs."""

    first: Transform
    second: Transform


@dataclass(frozen=True, eq=False)
class Combination(Transform):
    """Results of ``first`` and ``second`` for the same inputs, combined by ``operation``.

    ``operation`` is ``add``, ``subtract``, ``multiply`` or ``divide``.
    """

    operation: str
    first: Transform
    second: Transform


@dataclass(frozen=True, eq=False)
class Tabular(Transform):
    """Linear interpolation in ``values`` at ``points`` (one array for each input). ``fill`` outside, or None."""

    points: tuple[np.ndarray, ...]
    values: np.ndarray
    fill: float | None


@dataclass(frozen=True, eq=False)
class FixInputs(Transform):
    """``transform`` with some of its inputs given: ``values`` by the number of the input. It takes the others."""

    transform: Transform
    values: Mapping[int, float]


@dataclass(frozen=True, eq=False)
class OtherTransform(Transform):
    """A transform with a tag that is none of the standard ones. Its content stays as it is in the file."""

    tag: str
    node: Mapping[str, Any]


Reader = Callable[[Mapping[str, Any], AsdfArrays, "_Memory"], Transform]
"""Function that makes a transform from a node. It gets the node, the arrays of the file, and the memory to pass on."""

_Memory = dict[int, Transform]


def read_transform(node: Any, arrays: AsdfArrays, memory: _Memory | None = None) -> Transform:
    """Read a transform and all transforms that it consists of.

    Parameters
    ----------
    node : mapping
        Node of a tagged tree, from :func:`nsxr.formats.asdf_blocks.read_asdf`.
    arrays : AsdfArrays
        The arrays of the same file.
    memory : dict, optional
        Transforms that were read before, by the identity of their node. Nodes that the file names twice (aliases) are
        then read once. Use one dict for one file only, as long as its tree is kept.

    Returns
    -------
    Transform
        Tags that are not known become :class:`OtherTransform`.

    Raises
    ------
    ReferenceFileError
        If the node is no transform, lacks a value, or has a value of the wrong kind.
    """
    memory = {} if memory is None else memory
    if id(node) in memory:
        return memory[id(node)]
    if not isinstance(node, Mapping):
        raise ReferenceFileError(f"found {str(node)[:40]!r}, expected a transform")
    tag = tag_of(node)
    kind = tag.removeprefix("transform/")
    try:
        if kind in _READERS and tag.startswith("transform/"):
            made = _READERS[kind](node, arrays, memory)
        else:
            made = OtherTransform(tag, node)
        memory[id(node)] = made
        inverse = node.get("inverse")
        if inverse is not None:
            made = replace(made, inverse=read_transform(inverse, arrays, memory))
        made = replace(made, name=str(node.get("name", "")))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, ReferenceFileError):
            raise
        raise ReferenceFileError(f"a transform {tag or 'without a tag'} cannot be read ({error!r:.80})") from error
    memory[id(node)] = made
    return made


def kind_of(transform: Transform) -> str:
    """Return the kind of a transform, for messages: its tag if it has one, else its class."""
    return str(getattr(transform, "tag", "")).removeprefix("transform/") or type(transform).__name__


def require_inputs(transform: Transform, found: int) -> None:
    """Raise ReferenceFileError unless a transform takes as many coordinates as it gets. Constants may get any."""
    expected = count_inputs(transform)
    if expected != found and not (isinstance(transform, Constant) and not expected):
        raise ReferenceFileError(f"a transform {kind_of(transform)} takes {expected} coordinates, but gets {found}")


def count_inputs(transform: Transform) -> int:
    """Return how many coordinates a transform takes.

    Raises
    ------
    ReferenceFileError
        If the transform is of a kind that is not known, and does not list its inputs.
    """
    match transform:
        case Identity() | Constant():
            return transform.n
        case Shift() | Scale():
            return 1
        case Rotation() | Affine():
            return 2
        case Polynomial():
            return transform.coefficients.ndim
        case RemapAxes():
            return transform.n_inputs
        case Tabular():
            return len(transform.points)
        case Compose() | Combination():
            return count_inputs(transform.first)
        case Concatenate():
            return count_inputs(transform.first) + count_inputs(transform.second)
        case FixInputs():
            return count_inputs(transform.transform) - len(transform.values)
        case OtherTransform(node={"inputs": [*names]}):
            return len(names)
    raise ReferenceFileError(f"a transform of the kind {kind_of(transform)!r} is not known")


def _number(node: Any, key: str, arrays: AsdfArrays) -> float:
    found = arrays.read(node[key])
    if found.size != 1 or not np.isfinite(found).all():
        raise ValueError(f"{key} is {str(node[key])[:40]}, expected a number")
    return float(found.reshape(-1)[0])


def _fixed(array: np.ndarray, dims: tuple[int, ...], what: str) -> np.ndarray:
    array = np.array(array, dtype=np.float64)
    if array.ndim not in dims or not array.size or not np.isfinite(array).all():
        raise ValueError(f"{what} of shape {array.shape}, expected finite numbers")
    array.flags.writeable = False
    return array


def _pair(node: Any, arrays: AsdfArrays, memory: _Memory) -> tuple[Transform, Transform]:
    """Return the two parts of a node. Newer files may list more than two; these are nested to the left."""
    parts = [read_transform(part, arrays, memory) for part in node["forward"]]
    if len(parts) < 2:
        raise ValueError(f"{len(parts)} parts, expected two")
    first = parts[0]
    for part in parts[1:-1]:
        first = Compose(first, part) if tag_of(node).endswith("compose") else Concatenate(first, part)
    return first, parts[-1]


def _affine(node: Any, arrays: AsdfArrays, memory: _Memory) -> Transform:
    matrix = _fixed(arrays.read(node["matrix"]), (2,), "a matrix")
    translation = _fixed(arrays.read(node["translation"]), (1, 2), "a translation").reshape(-1)
    if matrix.shape != (2, 2) or translation.shape != (2,):
        raise ValueError(f"matrix {matrix.shape} and translation {translation.shape}, expected (2, 2) and (2,)")
    return Affine(matrix, translation)


def _polynomial(node: Any, arrays: AsdfArrays, memory: _Memory) -> Transform:
    coefficients = _fixed(arrays.read(node["coefficients"]), (1, 2), "coefficients")
    for key in ("domain", "window", "x_domain", "y_domain", "x_window", "y_window"):
        if node.get(key) is not None and (arrays.read(node[key]).reshape(-1, 2) != (-1, 1)).any():
            raise ValueError(f"{key} is {str(node[key])[:40]}, expected -1 to 1")
    return Polynomial(coefficients)


def _remap(node: Any, arrays: AsdfArrays, memory: _Memory) -> Transform:
    mapping = tuple(int(axis) for axis in node["mapping"])
    n_inputs = int(node.get("n_inputs", max(mapping) + 1))
    if not 0 <= min(mapping) <= max(mapping) < n_inputs < _MOST_INPUTS:
        raise ValueError(f"mapping {mapping} of {n_inputs} inputs")
    return RemapAxes(mapping, n_inputs)


def _tabular(node: Any, arrays: AsdfArrays, memory: _Memory) -> Transform:
    values = _fixed(arrays.read(node["lookup_table"]), (1, 2), "a table")
    points = node["points"]
    listed = points if isinstance(points, list) and not np.isscalar(points[0]) else [points]
    axes = tuple(_fixed(arrays.read(axis).reshape(-1), (1,), "points") for axis in listed)
    if tuple(axis.size for axis in axes) != values.shape:
        raise ValueError(f"a table of shape {values.shape} at {[axis.size for axis in axes]} points")
    fill = node.get("fill_value")
    is_bounded = bool(node.get("bounds_error", True)) or fill is None
    return Tabular(axes, values, None if is_bounded else float(fill))


def _constant(node: Any, arrays: AsdfArrays, memory: _Memory) -> Transform:
    return Constant(_number(node, "value", arrays), int(node.get("dimensions", 1)))


def _identity(node: Any, arrays: AsdfArrays, memory: _Memory) -> Transform:
    n = int(node.get("n_dims", 1))
    if not 0 < n < _MOST_INPUTS:
        raise ValueError(f"n_dims is {n}")
    return Identity(n)


def _fix_inputs(node: Any, arrays: AsdfArrays, memory: _Memory) -> Transform:
    inner, given = node["forward"]
    names = list(inner.get("inputs", ()))
    places = [names.index(key) if isinstance(key, str) else int(key) for key in given["keys"]]
    values = [float(arrays.read(value).reshape(-1)[0]) for value in given["values"]]
    return FixInputs(read_transform(inner, arrays, memory), dict(zip(places, values, strict=True)))


def _combined(operation: str) -> Reader:
    def read(node: Any, arrays: AsdfArrays, memory: _Memory) -> Transform:
        return Combination(operation, *_pair(node, arrays, memory))

    return read


_READERS: Mapping[str, Reader] = {
    "identity": _identity,
    "shift": lambda node, arrays, _: Shift(_number(node, "offset", arrays)),
    "scale": lambda node, arrays, _: Scale(_number(node, "factor", arrays)),
    "multiplyscale": lambda node, arrays, _: Scale(_number(node, "factor", arrays)),
    "constant": _constant,
    "affine": _affine,
    "rotate2d": lambda node, arrays, _: Rotation(_number(node, "angle", arrays)),
    "polynomial": _polynomial,
    "remap_axes": _remap,
    "remap-axes": _remap,
    "compose": lambda node, arrays, memory: Compose(*_pair(node, arrays, memory)),
    "concatenate": lambda node, arrays, memory: Concatenate(*_pair(node, arrays, memory)),
    "add": _combined("add"),
    "subtract": _combined("subtract"),
    "multiply": _combined("multiply"),
    "divide": _combined("divide"),
    "tabular": _tabular,
    "fix_inputs": _fix_inputs,
}
