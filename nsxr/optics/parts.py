"""The parts of the optics, as frozen objects that hold numbers only.

Parts are equal if their contents are equal, can be pickled, and have a name for dask that depends on their contents
only. Their arrays are read-only.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from nsxr.errors import ParameterError
from nsxr.kernels.optics.stages import Dispersing, Distorting
from nsxr.optics.rotations import about

__all__ = [
    "SHUTTERS_ALONG_DISPERSION",
    "SHUTTERS_ALONG_SLIT",
    "Disperser",
    "Distortion",
    "FocalPlane",
    "Part",
    "Quadrant",
    "Relay",
    "shutter_id",
]

SHUTTERS_ALONG_DISPERSION, SHUTTERS_ALONG_SLIT = 365, 171
"""Numbers of shutters of a quadrant of the MSA."""

_USUAL_PITCH = (1.35, 1.15)

PRISM_WAVELENGTHS = np.arange(0.3, 8.005, 0.005) * 1e-6
"""Wavelengths [m] at which the table of the refractive index has its nodes."""


class Part:
    """Base of frozen dataclasses that are equal by content. Arrays become read-only, float64 and contiguous."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value = np.array(value, dtype=np.float64, order="C")
                value.flags.writeable = False
            elif isinstance(value, Mapping):
                value = MappingProxyType(dict(value))
            else:
                continue
            object.__setattr__(self, field.name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        values = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
        return type(self), tuple(dict(value) if isinstance(value, Mapping) else value for value in values)

    @cached_property
    def fingerprint(self) -> str:
        """A text that depends on the content only, the same in every process."""
        found = hashlib.blake2b(type(self).__name__.encode(), digest_size=16)
        for field in fields(self):  # type: ignore[arg-type]
            found.update(f"|{field.name}=".encode())
            _add(found, getattr(self, field.name))
        return found.hexdigest()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Part) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __dask_tokenize__(self) -> str:
        return self.fingerprint


def _add(found: Any, value: object) -> None:
    """Add a value to a fingerprint."""
    if isinstance(value, np.ndarray):
        found.update(f"{value.shape}".encode())
        found.update(value.tobytes())
    elif isinstance(value, Part):
        found.update(value.fingerprint.encode())
    elif isinstance(value, Mapping):
        _add(found, tuple(sorted(value.items())))
    elif isinstance(value, tuple):
        found.update(f"({len(value)}".encode())
        for part in value:
            _add(found, part)
    else:
        found.update(repr(value).encode() + b";")


@dataclass(frozen=True, eq=False)
class Distortion(Part):
    """The one form of all distortions: an affine map of the plane, then a polynomial for each coordinate.

    (u, v) = before (x, y, 1); x' = sum over k, i, j of coefficients[0, k, i, j] wavelength^k u^i v^j; y' likewise with
    coefficients[1]. An affine map after the polynomials is part of the coefficients.

    Attributes
    ----------
    before : (2, 3) ndarray
        Affine map of the input.
    coefficients : (2, k, n, n) ndarray
        Polynomials of the total degree n - 1 in u and v; k is 1, or 2 if they depend on the wavelength [m]. k is 0 for
        a distortion that changes nothing.
    """

    before: np.ndarray
    coefficients: np.ndarray

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.before.shape != (2, 3) or self.coefficients.ndim != 4 or self.coefficients.shape[0] != 2:
            raise ValueError(f"shapes {self.before.shape} and {self.coefficients.shape}")

    @classmethod
    def nothing(cls) -> "Distortion":
        """Return the distortion that changes nothing."""
        return cls(np.eye(2, 3), np.zeros((2, 0, 1, 1)))

    @classmethod
    def affine(cls, matrix: np.ndarray) -> "Distortion":
        """Return an affine map (2, 3) as a distortion."""
        coefficients = np.zeros((2, 1, 2, 2))
        coefficients[:, 0, 1, 0], coefficients[:, 0, 0, 1], coefficients[:, 0, 0, 0] = (
            matrix[:, 0],
            matrix[:, 1],
            matrix[:, 2],
        )
        return cls(np.eye(2, 3), coefficients)

    @property
    def numbers(self) -> Distorting:
        """The arrays, as kernels take them."""
        return Distorting(self.before, self.coefficients)


@dataclass(frozen=True, eq=False)
class Relay(Part):
    """Optics between two planes.

    Attributes
    ----------
    forward : Distortion
        From the side of the detector to the side of the sky.
    backward : Distortion
        The opposite way. Its polynomials were fitted on their own, so it is no exact inverse.
    """

    forward: Distortion
    backward: Distortion


@dataclass(frozen=True, eq=False)
class FocalPlane(Part):
    """Place of a detector in the focal plane.

    Attributes
    ----------
    detector : str
        NRS1 or NRS2.
    affine, inverse : (2, 3) ndarray
        From pixels of the detector's own frame, from 0, to the focal plane [m], and back. The own frame of NRS2 is
        turned by 180 degrees against the images, which are in science orientation.
    """

    detector: str
    affine: np.ndarray
    inverse: np.ndarray

    def _turned(self) -> np.ndarray:
        """Return the map (3, 3) from pixels in science orientation to pixels in the own frame, which is its inverse."""
        return np.array([[-1, 0, 2047.0], [0, -1, 2047], [0, 0, 1]]) if self.detector == "NRS2" else np.eye(3)

    @property
    def from_pixels(self) -> np.ndarray:
        """Affine map (2, 3) from pixels in science orientation, from 0, to the focal plane [m]."""
        return _frozen(self.affine @ self._turned())

    @property
    def to_pixels(self) -> np.ndarray:
        """Affine map (2, 3) from the focal plane [m] to pixels in science orientation, from 0."""
        return _frozen(self._turned()[:2, :2] @ self.inverse + self._turned()[:2, 2:] * [0, 0, 1])


@dataclass(frozen=True, eq=False)
class Disperser(Part):
    """A grating or the prism, as the grating wheel held it in one exposure.

    Attributes
    ----------
    name : str
        G140M to G395H, or PRISM.
    theta_x, theta_y, theta_z, tilt_y : float
        Angles [degree] of its orientation, after the correction for the tilt of the wheel.
    groove_density : float
        Grooves per metre; 0 for the prism.
    order : int
        Spectral order, -1 as a rule.
    prism_angle : float
        Angle [degree] between the front and the back side of the prism.
    glass_k, glass_l : tuple of float
        Coefficients K and L of the glass, for wavelengths in um.

    Notes
    -----
    The rotation to the frame of the wheel turns the axes by theta_x about x, theta_y about y, theta_z about z, and
    tilt_y about y again. The refractive index is that of Sellmeier, n^2 = 1 + sum of K_i w^2 / (w^2 - L_i). Its change
    with the temperature is left out: the glass was measured within a few kelvin of the temperature in flight.
    """

    name: str
    theta_x: float
    theta_y: float
    theta_z: float
    tilt_y: float
    order: int
    groove_density: float = 0.0
    prism_angle: float = 0.0
    glass_k: tuple[float, ...] = ()
    glass_l: tuple[float, ...] = ()

    @property
    def is_prism(self) -> bool:
        """Whether this is the prism."""
        return self.groove_density == 0.0

    @property
    def rotation(self) -> np.ndarray:
        """Matrix (3, 3) from the frame of camera and collimator to the frame of the wheel."""
        angles = zip("xyzy", (self.theta_x, self.theta_y, self.theta_z, self.tilt_y), strict=True)
        matrix = np.eye(3)
        for axis, angle in angles:
            matrix = about(axis, -angle) @ matrix
        return _frozen(matrix)

    def refractive_index(self, wavelength: np.ndarray) -> np.ndarray:
        """Return the refractive index of the prism at wavelengths [m]."""
        square = (np.asarray(wavelength, dtype=np.float64) * 1e6) ** 2
        terms = [k * square / (square - pole) for k, pole in zip(self.glass_k, self.glass_l, strict=True)]
        return np.asarray(np.sqrt(1 + sum(terms)))

    def tabulated_index(self, wavelength: np.ndarray) -> np.ndarray:
        """Return the index at wavelengths [m] that the table of wavelengths gives them back for, NaN outside of it."""
        nodes = PRISM_WAVELENGTHS
        return np.asarray(np.interp(wavelength, nodes, self.refractive_index(nodes), left=np.nan, right=np.nan))

    @property
    def numbers(self) -> Dispersing:
        """The numbers, as kernels take them. The table of the prism has steps of 5 nm, as in the jwst package."""
        sine, cosine = np.sin(np.deg2rad(self.prism_angle)), np.cos(np.deg2rad(self.prism_angle))
        prism = _frozen(np.array([1 - 2 * sine**2, 2 * sine * cosine]))
        nodes = PRISM_WAVELENGTHS[::-1] if self.is_prism else np.zeros(0)
        indices = self.refractive_index(nodes) if self.is_prism else np.zeros(0)
        return Dispersing(float(self.groove_density * self.order), prism, _frozen(indices), _frozen(nodes))


def shutter_id(xcen: int, ycen: int) -> int:
    """Return the number of a shutter in the table of its quadrant, from 1.

    Parameters
    ----------
    xcen, ycen : int
        Its numbers along the dispersion and along the slit, from 1.

    Raises
    ------
    ParameterError
        If there is no such shutter.
    """
    if not (1 <= xcen <= SHUTTERS_ALONG_DISPERSION and 1 <= ycen <= SHUTTERS_ALONG_SLIT):
        raise ParameterError(
            f"shutter ({xcen}, {ycen}) does not exist, expected 1 to {SHUTTERS_ALONG_DISPERSION} along the dispersion "
            f"and 1 to {SHUTTERS_ALONG_SLIT} along the slit"
        )
    return xcen + (ycen - 1) * SHUTTERS_ALONG_DISPERSION


@dataclass(frozen=True, eq=False)
class Quadrant(Part):
    """A quadrant of the MSA with all its shutters. The fifth has the fixed slits; the slicer has 30 slices.

    Attributes
    ----------
    number : int
        1 to 4 for the quadrants of the MSA, 5 for the fixed slits and for the slicer of the IFU.
    x, y : (shutter,) ndarray
        Centres in the frame of the quadrant [m], in the order of :func:`shutter_id`.
    width, height : (shutter,) ndarray
        Sizes of the open areas [m].
    affine : (2, 3) ndarray
        From the frame of the quadrant to the plane of the MSA [m].
    """

    number: int
    x: np.ndarray
    y: np.ndarray
    width: np.ndarray
    height: np.ndarray
    affine: np.ndarray

    @property
    def pitch(self) -> tuple[float, float]:
        """Distance of neighbouring shutters, in open widths and in open heights. 1 and 1 for fixed slits."""
        if self.number == 5:
            return 1.0, 1.0
        if self.x.size <= SHUTTERS_ALONG_DISPERSION:
            return _USUAL_PITCH
        along = (self.x[1] - self.x[0]) / self.width[0]
        across = (self.y[SHUTTERS_ALONG_DISPERSION] - self.y[0]) / self.height[0]
        return float(along), float(across)

    def to_plane(self, x: float, y: float, width: float, height: float) -> np.ndarray:
        """Return the affine map (2, 3) from a slit with this centre and size, in open units, to the plane [m]."""
        linear, shift = self.affine[:, :2], self.affine[:, 2]
        return _frozen(np.column_stack([linear * [width, height], linear @ [x, y] + shift]))


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.array(array, dtype=np.float64, order="C")
    array.flags.writeable = False
    return array
