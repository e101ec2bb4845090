"""Compute what a coordinate transform of an ASDF tree does to coordinates, with NumPy alone.

All kinds of transforms that products of NIRSpec hold are known here: those of the standard, and those of the
observatory's pipeline. Nothing of gwcs, astropy's models or stdatamodels is needed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nsxr.errors import ReferenceFileError
from nsxr.formats.asdf_blocks import AsdfArrays
from nsxr.formats.asdf_transforms import (
    Affine,
    Combination,
    Compose,
    Concatenate,
    Constant,
    FixInputs,
    Identity,
    OtherTransform,
    Polynomial,
    RemapAxes,
    Rotation,
    Scale,
    Shift,
    Tabular,
    Transform,
    count_inputs,
    kind_of,
    require_inputs,
)

__all__ = ["evaluate"]

Arrays = Sequence[np.ndarray]


def evaluate(transform: Transform, inputs: Arrays, arrays: AsdfArrays) -> list[np.ndarray]:
    """Return the coordinates that a transform makes of coordinates.

    Parameters
    ----------
    transform : Transform
        From :func:`nsxr.formats.asdf_transforms.read_transform`.
    inputs : sequence of ndarray
        Coordinates, all of one shape.
    arrays : AsdfArrays
        The arrays of the same file.

    Raises
    ------
    ReferenceFileError
        If the transform has a part of a kind that is not known, or takes another number of coordinates.
    """
    require_inputs(transform, len(inputs))
    match transform:
        case Identity():
            return list(inputs)
        case RemapAxes():
            return [inputs[axis] for axis in transform.mapping]
        case Compose():
            return evaluate(transform.second, evaluate(transform.first, inputs, arrays), arrays)
        case Concatenate():
            cut = count_inputs(transform.first)
            first = evaluate(transform.first, inputs[:cut], arrays)
            return first + evaluate(transform.second, inputs[cut:], arrays)
        case Combination():
            pair = (evaluate(part, inputs, arrays) for part in (transform.first, transform.second))
            return [_OPERATIONS[transform.operation](a, b) for a, b in zip(*pair, strict=True)]
        case FixInputs():
            waiting = iter(inputs)
            like = inputs[0] if inputs else np.zeros(())
            whole = [
                np.full_like(like, transform.values[number]) if number in transform.values else next(waiting)
                for number in range(count_inputs(transform.transform))
            ]
            return evaluate(transform.transform, whole, arrays)
        case OtherTransform():
            kind = kind_of(transform)
            if kind not in _OTHERS:
                raise _unknown(transform)
            return _OTHERS[kind](transform.node, inputs, arrays)
    return _simple(transform, inputs)


def _simple(transform: Transform, inputs: Arrays) -> list[np.ndarray]:
    x = inputs[0]
    match transform:
        case Shift():
            return [x + transform.offset]
        case Scale():
            return [x * transform.factor]
        case Constant():
            return [np.full_like(x, transform.value, dtype=np.float64)]
        case Affine():
            return _turned(transform.matrix, inputs, transform.translation)
        case Rotation():
            return _turned(transform.matrix, inputs)
        case Polynomial() if len(inputs) == 1:
            return [np.polynomial.polynomial.polyval(x, transform.coefficients)]
        case Polynomial():
            return [np.polynomial.polynomial.polyval2d(x, inputs[1], transform.coefficients)]
        case Tabular() if len(inputs) == 1:
            return [_interpolated(x, transform.points[0], transform.values, transform.fill)]
    raise _unknown(transform)


def _interpolated(x: np.ndarray, points: np.ndarray, values: np.ndarray, fill: float | None) -> np.ndarray:
    """Return a table at places. Without a value to fill in, its first and last steps go on beyond its ends."""
    if points.size < 2 or not (np.diff(points) > 0).all():
        raise ReferenceFileError("the points of a table do not increase")
    if fill is not None:
        return np.asarray(np.interp(x, points, values, left=fill, right=fill))
    step = np.clip(np.searchsorted(points, x, side="right") - 1, 0, points.size - 2)
    slope = (values[step + 1] - values[step]) / (points[step + 1] - points[step])
    return np.asarray(values[step] + slope * (x - points[step]))


def _turned(
    matrix: np.ndarray, inputs: Arrays, shift: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0)
) -> list[np.ndarray]:
    return [
        np.asarray(sum(m * one for m, one in zip(row, inputs, strict=True)) + offset)
        for row, offset in zip(matrix, shift, strict=False)
    ]


def _root(square: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # beyond the unit sphere there is no light: NaN
        return np.asarray(np.sqrt(square))


def _cosines(node: Mapping[str, Any], inputs: Arrays, arrays: AsdfArrays) -> list[np.ndarray]:
    """Turn slopes (x, y) into direction cosines, or back."""
    if node["model_type"] == "unitless2directional":
        length = np.sqrt(1 + inputs[0] ** 2 + inputs[1] ** 2)
        return [inputs[0] / length, inputs[1] / length, 1 / length]
    return [inputs[0] / inputs[2], inputs[1] / inputs[2]]


def _about(axis: str, angle: float) -> np.ndarray:
    """Return the matrix of a rotation of the axes by an angle [degree]."""
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix, radians = np.eye(3), np.deg2rad(angle)
    matrix[first, first] = matrix[second, second] = np.cos(radians)
    matrix[first, second], matrix[second, first] = np.sin(radians), -np.sin(radians)
    return matrix


def _wheel(node: Mapping[str, Any], inputs: Arrays, arrays: AsdfArrays) -> list[np.ndarray]:
    """Rotate direction cosines into the frame of the grating wheel. The third one follows from the others."""
    x, y, z = inputs
    for axis, angle in zip(node["axes_order"], arrays.read(node["angles"]), strict=True):
        x, y, _ = _turned(_about(axis, float(angle)), (x, y, z))
        z = _root(1 - x**2 - y**2)
    return [x, y, z]


def _rotated(node: Mapping[str, Any], inputs: Arrays, arrays: AsdfArrays) -> list[np.ndarray]:
    if str(node.get("rotation_type", "cartesian")) != "cartesian":
        raise ReferenceFileError(f"a rotation is of the type {str(node['rotation_type'])[:20]!r}, expected 'cartesian'")
    matrix = np.eye(3)
    for axis, angle in zip(node["axes_order"], arrays.read(node["angles"]), strict=True):
        matrix = _about(axis, float(angle)) @ matrix
    return _turned(matrix, inputs)


def _spherical(node: Mapping[str, Any], inputs: Arrays, arrays: AsdfArrays) -> list[np.ndarray]:
    if node["transform_type"] == "spherical_to_cartesian":
        lon, lat = np.deg2rad(inputs[0]), np.deg2rad(inputs[1])
        return [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]
    x, y, z = inputs
    lon = np.rad2deg(np.arctan2(y, x))
    lon = np.mod(lon, 360.0) if int(node.get("wrap_lon_at", 360)) == 360 else lon
    return [lon, np.rad2deg(np.arctan2(z, np.hypot(x, y)))]


def _index_of_prism(node: Mapping[str, Any], inputs: Arrays, arrays: AsdfArrays) -> list[np.ndarray]:
    alpha_in, beta_in, alpha_out = inputs
    sine, cosine = np.sin(np.deg2rad(float(node["prism_angle"]))), np.cos(np.deg2rad(float(node["prism_angle"])))
    along = (alpha_out + alpha_in * (1 - 2 * sine**2)) / (2 * sine * cosine)
    return [_root(along**2 + alpha_in**2 + beta_in**2)]


def _grating(node: Mapping[str, Any], inputs: Arrays, arrays: AsdfArrays) -> list[np.ndarray]:
    """Solve the grating equation as the observatory's pipeline does, or as gwcs does: with other inputs and signs."""
    grooves = float(node["groove_density"]) * float(node["order"])
    if node["output"] == "wavelength":
        return [-(inputs[0] + inputs[2]) / grooves] if len(inputs) == 3 else [(inputs[0] + inputs[1]) / grooves]
    sign = -1 if len(inputs) == 4 else 1
    x, y = sign * inputs[1] - grooves * inputs[0], -inputs[2]
    return [x, y, _root(1 - x**2 - y**2)]


def _replaced(node: Mapping[str, Any], inputs: Arrays, arrays: AsdfArrays) -> list[np.ndarray]:
    """Replace coordinates that fulfil a condition."""
    limit, value = arrays.read(node["compareto"]), arrays.read(node["value"])
    with np.errstate(invalid="ignore"):
        return [np.where(_CONDITIONS[node["condition"]](inputs[0], limit), value, inputs[0])]


def _line(node: Mapping[str, Any], inputs: Arrays, arrays: AsdfArrays) -> list[np.ndarray]:
    return [inputs[0] * float(arrays.read(node["slope"])) + float(arrays.read(node["intercept"]))]


def _unknown(transform: Transform) -> ReferenceFileError:
    return ReferenceFileError(f"a transform of the kind {kind_of(transform)!r} is not known")


_OPERATIONS: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
}
_CONDITIONS = {"GT": np.greater, "LT": np.less, "EQ": np.equal, "NE": np.not_equal}
_OTHERS: Mapping[str, Callable[[Mapping[str, Any], Arrays, AsdfArrays], list[np.ndarray]]] = {
    "coords": _cosines,
    "grating_equation": _grating,
    "linear1d": _line,
    "logical": _replaced,
    "refraction_index_from_prism": _index_of_prism,
    "rotate_sequence_3d": _rotated,
    "rotation_sequence": _wheel,
    "spherical_cartesian": _spherical,
}
