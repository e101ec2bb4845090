"""Turn the transforms of references into the parts of the optics.

Files spell the same distortion in many ways: chains of shifts, matrices and polynomials, sums of polynomials, axes that
are duplicated and sorted. Here each becomes an affine map followed by polynomials, see
:class:`nsxr.optics.parts.Distortion`. This is done by following the coordinates x, y and the wavelength through the
transform as symbols, so it does not depend on the spelling.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nsxr.errors import ReferenceFileError
from nsxr.formats.asdf_transforms import (
    Affine,
    Combination,
    Compose,
    Concatenate,
    Constant,
    Identity,
    Polynomial,
    RemapAxes,
    Rotation,
    Scale,
    Shift,
    Transform,
    count_inputs,
    kind_of,
    require_inputs,
)
from nsxr.optics.parts import Distortion, Relay

__all__ = ["affine_of", "distortion_of", "inverse_of", "relay_of"]


@dataclass(frozen=True)
class _Line:
    """A linear function of x and y: ``numbers`` (3,) times (x, y, 1)."""

    numbers: np.ndarray


@dataclass(frozen=True)
class _Sum:
    """A polynomial: coefficients (k, n, n) of the powers of wavelength, u and v."""

    coefficients: np.ndarray


@dataclass(frozen=True)
class _Wavelength:
    """The wavelength itself."""


_Symbol = _Line | _Sum | _Wavelength


def distortion_of(transform: Transform) -> Distortion:
    """Return a transform of (x, y), or of (x, y, wavelength), to two coordinates as one Distortion.

    Raises
    ------
    ReferenceFileError
        If the transform has another form: more than one polynomial after the other, or transforms of other kinds.
    """
    n = count_inputs(transform)
    if n not in (2, 3):
        raise ReferenceFileError(f"a distortion takes {n} coordinates, expected x, y, and possibly the wavelength")
    inputs: list[_Symbol] = [_Line(np.array([1.0, 0, 0])), _Line(np.array([0.0, 1, 0])), _Wavelength()]
    follow = _Follower()
    outputs = follow.through(transform, inputs[:n])
    if len(outputs) not in (2, n) or any(isinstance(one, _Wavelength) for one in outputs[:2]):
        raise ReferenceFileError(f"a distortion gives {len(outputs)} coordinates, expected x and y")
    x, y = outputs[:2]
    if isinstance(x, _Line) and isinstance(y, _Line):
        return Distortion.affine(np.array([x.numbers, y.numbers]))
    sums = [follow.as_sum(one).coefficients for one in (x, y)]
    size = tuple(np.max([one.shape for one in sums], axis=0))
    before = np.eye(2, 3) if follow.before is None else follow.before
    return Distortion(before, _of_total_degree(np.array([_padded(one, size) for one in sums])))


def affine_of(transform: Transform) -> np.ndarray:
    """Return a linear transform of (x, y) as an affine map (2, 3).

    Raises
    ------
    ReferenceFileError
        If it is not linear.
    """
    found = distortion_of(transform)
    if found.coefficients.shape[1] != 1 or _degree(found) > 1:
        raise ReferenceFileError("a transform is not linear, expected shifts, scales, rotations or matrices")
    c = found.coefficients[:, 0]
    second = np.zeros(2) if c.shape[-1] < 2 else c[:, 0, 1]
    first = np.zeros(2) if c.shape[-1] < 2 else c[:, 1, 0]
    matrix = np.column_stack([first, second, c[:, 0, 0]])
    if np.array_equal(found.before, np.eye(2, 3)):
        return matrix
    return np.asarray(matrix @ np.vstack([found.before, [0, 0, 1]]))


def relay_of(transform: Transform) -> Relay:
    """Return a transform with its inverse. The inverse is that of the file, if it gives one."""
    return Relay(distortion_of(transform), distortion_of(inverse_of(transform)))


def inverse_of(transform: Transform) -> Transform:
    """Return the inverse of a transform: the one that the file gives, or else that of its parts.

    Raises
    ------
    ReferenceFileError
        If a part is not linear and has no inverse.
    """
    match transform:
        case Transform(inverse=Transform() as given):
            return given
        case Identity():
            return transform
        case Shift():
            return Shift(-transform.offset)
        case Scale() if transform.factor:
            return Scale(1 / transform.factor)
        case Rotation():
            return Rotation(-transform.angle)
        case Affine():
            back = np.linalg.inv(transform.matrix)
            return Affine(back, -back @ transform.translation)
        case Compose():
            return Compose(inverse_of(transform.second), inverse_of(transform.first))
        case Concatenate():
            return Concatenate(inverse_of(transform.first), inverse_of(transform.second))
    raise ReferenceFileError(f"a transform {type(transform).__name__} {transform.name!r} has no inverse")


class _Follower:
    """Follows symbols through transforms. ``before`` is the affine map that leads to the arguments of polynomials."""

    def __init__(self) -> None:
        self.before: np.ndarray | None = None

    def through(self, transform: Transform, inputs: Sequence[_Symbol]) -> list[_Symbol]:
        """Return the images of symbols under a transform."""
        require_inputs(transform, len(inputs))
        match transform:
            case Identity():
                return list(inputs)
            case RemapAxes():
                return [inputs[axis] for axis in transform.mapping]
            case Compose():
                return self.through(transform.second, self.through(transform.first, inputs))
            case Concatenate():
                cut = count_inputs(transform.first)
                return self.through(transform.first, inputs[:cut]) + self.through(transform.second, inputs[cut:])
            case Combination():
                pair = (self.through(transform.first, inputs), self.through(transform.second, inputs))
                return [self._combined(transform.operation, a, b) for a, b in zip(*pair, strict=True)]
            case Constant():
                return [_constant(transform.value)]
            case Shift():
                return [self._added([inputs[0], _constant(transform.offset)])]
            case Scale():
                return [self._scaled(inputs[0], transform.factor)]
            case Polynomial():
                return [self._polynomial(transform.coefficients, inputs)]
            case Affine():
                return self._matrix(transform.matrix, transform.translation, inputs)
            case Rotation():
                return self._matrix(transform.matrix, np.zeros(2), inputs)
        raise ReferenceFileError(f"a transform of the kind {kind_of(transform)} is in the optics, expected polynomials")

    def as_sum(self, symbol: _Symbol) -> _Sum:
        """Return a symbol as a polynomial of the arguments that all polynomials have."""
        if isinstance(symbol, _Sum):
            return symbol
        if isinstance(symbol, _Wavelength):
            return _Sum(np.array([[[0.0]], [[1.0]]]))
        numbers = symbol.numbers
        if numbers[:2].any():
            self._set_before(np.eye(2, 3))
        coefficients = np.zeros((1, 2, 2))
        coefficients[0, 1, 0], coefficients[0, 0, 1], coefficients[0, 0, 0] = numbers
        return _Sum(coefficients)

    def _set_before(self, before: np.ndarray) -> None:
        if self.before is not None and not np.array_equal(self.before, before):
            raise ReferenceFileError("polynomials of one distortion have different arguments")
        self.before = before

    def _polynomial(self, coefficients: np.ndarray, inputs: Sequence[_Symbol]) -> _Symbol:
        if len(inputs) == 1 and isinstance(inputs[0], _Wavelength):
            return _Sum(coefficients.reshape(-1, 1, 1))
        lines = [one.numbers for one in inputs if isinstance(one, _Line)]
        if len(lines) != 2:
            raise ReferenceFileError("a polynomial is applied to the result of a polynomial, expected one of x and y")
        self._set_before(np.array(lines))
        size = (1, max(coefficients.shape), max(coefficients.shape))
        return _Sum(_padded(coefficients[np.newaxis], size))

    def _matrix(self, matrix: np.ndarray, shift: np.ndarray, inputs: Sequence[_Symbol]) -> list[_Symbol]:
        return [
            self._added([*(self._scaled(one, m) for one, m in zip(inputs, row, strict=True)), _constant(offset)])
            for row, offset in zip(matrix, shift, strict=True)
        ]

    def _scaled(self, symbol: _Symbol, factor: float) -> _Symbol:
        if isinstance(symbol, _Line):
            return _Line(symbol.numbers * factor)
        return symbol if factor == 1 else _Sum(self.as_sum(symbol).coefficients * factor)

    def _added(self, symbols: Sequence[_Symbol]) -> _Symbol:
        if all(isinstance(one, _Line) for one in symbols):
            return _Line(np.sum([one.numbers for one in symbols if isinstance(one, _Line)], axis=0))
        sums = [self.as_sum(one).coefficients for one in symbols]
        size = tuple(np.max([one.shape for one in sums], axis=0))
        return _Sum(np.sum([_padded(one, size) for one in sums], axis=0))

    def _combined(self, operation: str, a: _Symbol, b: _Symbol) -> _Symbol:
        if operation in ("add", "subtract"):
            return self._added([a, b if operation == "add" else self._scaled(b, -1.0)])
        if operation == "multiply":
            for one, other in ((a, b), (b, a)):
                if isinstance(one, _Line) and not one.numbers[:2].any():
                    return self._scaled(other, float(one.numbers[2]))
            for one, other in ((a, b), (b, a)):
                powers = None if isinstance(one, _Line) else self.as_sum(one).coefficients
                if powers is not None and powers.shape[1:] == (1, 1):  # a polynomial of the wavelength alone
                    return _Sum(_multiplied(powers[:, 0, 0], self.as_sum(other).coefficients))
        raise ReferenceFileError(
            f"two coordinates are combined by {operation!r}, expected sums, or products with the wavelength"
        )


def _constant(value: float) -> _Line:
    return _Line(np.array([0.0, 0.0, value]))


def _padded(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    return np.pad(array, [(0, want - have) for have, want in zip(array.shape, size, strict=True)])


def _multiplied(powers: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Return coefficients (k, n, n) times a polynomial of the wavelength."""
    product = np.zeros((powers.size + coefficients.shape[0] - 1, *coefficients.shape[1:]))
    for power, factor in enumerate(powers):
        product[power : power + coefficients.shape[0]] += factor * coefficients
    return product


def _of_total_degree(coefficients: np.ndarray) -> np.ndarray:
    """Return coefficients (2, k, n, n) with the smallest n for which no power i + j is above n - 1."""
    used = np.argwhere(coefficients.any(axis=(0, 1)))
    n = int(used.sum(axis=1).max()) + 1 if used.size else 1
    size = (*coefficients.shape[:2], max(n, coefficients.shape[2]), max(n, coefficients.shape[3]))
    return _padded(coefficients, size)[:, :, :n, :n]


def _degree(distortion: Distortion) -> int:
    used = np.argwhere(distortion.coefficients.any(axis=(0, 1)))
    return int(used.sum(axis=1).max()) if used.size else 0
