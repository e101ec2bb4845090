"""The stages of the light path, for one point each. All other kernels of the optics are made of these functions.

Every formula of the optical model stands here once. Arrays that describe the instrument:

- ``affine`` (2, 3): x' = a[0,0] x + a[0,1] y + a[0,2], and likewise y'.
- ``rotation`` (3, 3): from the camera and the collimator to the grating wheel.
- ``attitude`` (3, 3): from the frame of the telescope (V1, V2, V3) to the sky.
"""

import math
from typing import NamedTuple

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = [
    "Dispersing",
    "Distorting",
    "apply_affine",
    "camera_angles",
    "distort",
    "emerging_angle",
    "interpolate",
    "root",
    "spherical",
    "unit_vector",
    "wavelength_at",
]


class Distorting(NamedTuple):
    """An affine map ``before`` (2, 3), then two polynomials of its results.

    ``coefficients`` (2, k, n, n): the first index is x or y; the second is the power of the wavelength; then come the
    powers of x and of y.
    """

    before: np.ndarray
    coefficients: np.ndarray


class Dispersing(NamedTuple):
    """A grating or a prism.

    ``grooves`` is the number of grooves per metre times the spectral order; 0 for a prism. ``prism`` has 1 - 2 sin^2 A
    and 2 sin A cos A for the prism angle A. ``wavelengths`` [m] at the refractive ``indices`` of the prism's glass.
    """

    grooves: float
    prism: np.ndarray
    indices: np.ndarray
    wavelengths: np.ndarray


@kernel
def apply_affine(affine: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """Return the affine image of a point."""
    return (
        affine[0, 0] * x + affine[0, 1] * y + affine[0, 2],
        affine[1, 0] * x + affine[1, 1] * y + affine[1, 2],
    )


@kernel
def root(x: float) -> float:
    """Return the square root, NaN for negative numbers."""
    return math.sqrt(x) if x >= 0.0 else math.nan


@kernel
def distort(distortion: Distorting, x: float, y: float, wavelength: float) -> tuple[float, float]:
    """Return the image of a point: an affine map, then polynomials in x and y, linear in the wavelength [m].

    Polynomials have the total degree n - 1. They are evaluated by Horner's scheme, first in y, then in x. Without
    coefficients (k = 0), the image is the point itself.
    """
    before, coefficients = distortion.before, distortion.coefficients
    if coefficients.shape[1] == 0:
        return x, y
    u, v = apply_affine(before, x, y)
    degree = coefficients.shape[2] - 1
    first, second = 0.0, 0.0
    for k in range(coefficients.shape[1] - 1, -1, -1):
        p, q = 0.0, 0.0
        for i in range(degree, -1, -1):
            a, b = coefficients[0, k, i, degree - i], coefficients[1, k, i, degree - i]
            for j in range(degree - i - 1, -1, -1):
                a = a * v + coefficients[0, k, i, j]
                b = b * v + coefficients[1, k, i, j]
            p = p * u + a
            q = q * u + b
        first = first * wavelength + p
        second = second * wavelength + q
    return first, second


@kernel
def unit_vector(rotation: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """Return the direction cosines of the ray (x, y, 1) in the frame of the grating wheel, without the third."""
    length = math.sqrt(1.0 + x * x + y * y)
    a, b, c = x / length, y / length, 1.0 / length
    return (
        rotation[0, 0] * a + rotation[0, 1] * b + rotation[0, 2] * c,
        rotation[1, 0] * a + rotation[1, 1] * b + rotation[1, 2] * c,
    )


@kernel
def camera_angles(rotation: np.ndarray, alpha: float, beta: float) -> tuple[float, float]:
    """Return the ray (x, y, 1) at the camera of the direction cosines at the grating wheel. Inverse of unit_vector."""
    gamma = root(1.0 - alpha * alpha - beta * beta)
    a = rotation[0, 0] * alpha + rotation[1, 0] * beta + rotation[2, 0] * gamma
    b = rotation[0, 1] * alpha + rotation[1, 1] * beta + rotation[2, 1] * gamma
    c = rotation[0, 2] * alpha + rotation[1, 2] * beta + rotation[2, 2] * gamma
    return a / c, b / c


@kernel
def interpolate(nodes: np.ndarray, values: np.ndarray, x: float) -> float:
    """Return the linear interpolation at ``x`` between ``nodes``, which grow. NaN outside."""
    low, high = 0, nodes.size - 1
    if not nodes[low] <= x <= nodes[high]:
        return math.nan
    while high - low > 1:
        middle = (low + high) // 2
        if nodes[middle] <= x:
            low = middle
        else:
            high = middle
    share: float = (x - nodes[low]) / (nodes[high] - nodes[low])
    result: float = values[low] * (1.0 - share) + values[high] * share
    return result


@kernel
def wavelength_at(disperser: Dispersing, alpha_in: float, beta_in: float, alpha_out: float) -> float:
    """Return the wavelength [m] of light that enters and leaves the disperser with these direction cosines.

    Grating with g grooves per metre, in order m: -(alpha_in + alpha_out) / (g m). Prism of the angle A, in which light
    is reflected by the back side: the refractive index n follows from
    n^2 = ((alpha_out + (1 - 2 sin^2 A) alpha_in) / (2 sin A cos A))^2 + alpha_in^2 + beta_in^2,
    and the wavelength from the table of n. NaN outside of the table.
    """
    if disperser.grooves != 0.0:
        return -(alpha_in + alpha_out) / disperser.grooves
    inner = (alpha_out + disperser.prism[0] * alpha_in) / disperser.prism[1]
    index = math.sqrt(inner * inner + alpha_in * alpha_in + beta_in * beta_in)
    return interpolate(disperser.indices, disperser.wavelengths, index)


@kernel
def emerging_angle(disperser: Dispersing, alpha_in: float, beta_in: float, wavelength: float, index: float) -> float:
    """Return alpha_out, see :func:`wavelength_at`. ``index`` is the refractive index of the prism at the wavelength."""
    if disperser.grooves != 0.0:
        return -disperser.grooves * wavelength - alpha_in
    inner = root(index * index - alpha_in * alpha_in - beta_in * beta_in)
    result: float = disperser.prism[1] * inner - disperser.prism[0] * alpha_in
    return result


@kernel
def spherical(attitude: np.ndarray, longitude: float, latitude: float) -> tuple[float, float]:
    """Return longitude (0 to 360) and latitude [degree] after a rotation of the sphere."""
    lon, lat = math.radians(longitude), math.radians(latitude)
    cosine = math.cos(lat)
    a, b, c = math.cos(lon) * cosine, math.sin(lon) * cosine, math.sin(lat)
    x = attitude[0, 0] * a + attitude[0, 1] * b + attitude[0, 2] * c
    y = attitude[1, 0] * a + attitude[1, 1] * b + attitude[1, 2] * c
    z = attitude[2, 0] * a + attitude[2, 1] * b + attitude[2, 2] * c
    turned = math.degrees(math.atan2(y, x))
    return (turned + 360.0 if turned < 0.0 else turned), math.degrees(math.atan2(z, math.hypot(x, y)))
