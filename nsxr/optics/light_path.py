"""The optics that all slits of an exposure share."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from nsxr.errors import ParameterError
from nsxr.kernels.optics.chains import Sky, plane_of_sky, sky_of_plane
from nsxr.optics.parts import Disperser, Distortion, FocalPlane, Part, Relay
from nsxr.optics.pointing import Pointing

__all__ = ["LightPath", "flat"]


@dataclass(frozen=True, eq=False)
class LightPath(Part):
    """All optics of an exposure except slits and shutters.

    Attributes
    ----------
    detector, filter, grating, exposure_type : str
        Keywords of the exposure.
    wavelength_range : (float, float)
        Nominal wavelengths of the filter and the grating [um].
    order : int
        Spectral order.
    focal_plane : FocalPlane
        The detector.
    camera, collimator : Relay
        Optics of the spectrograph. ``backward`` of the collimator leads from the plane of the slits to the wheel.
    disperser : Disperser
        Grating or prism.
    fore, telescope : Relay or None
        Fore optics, and telescope up to V2, V3 [arcsec]. None for lamps.
    correction : Relay or None
        Correction of the fore optics for their colours, IFU only.
    pointing : Pointing or None
        Attitude. None for lamps.
    velocity : float
        Velocity of the telescope towards the source, relative to the barycentre [m/s]: VELOSYS. It divides wavelengths
        by 1 + velocity / c.
    """

    detector: str
    filter: str
    grating: str
    exposure_type: str
    wavelength_range: tuple[float, float]
    order: int
    focal_plane: FocalPlane
    camera: Relay
    collimator: Relay
    disperser: Disperser
    fore: Relay | None = None
    correction: Relay | None = None
    telescope: Relay | None = None
    pointing: Pointing | None = None
    velocity: float = 0.0

    @property
    def has_sky(self) -> bool:
        """Whether the light comes from the sky. False for lamps: the path then ends in the plane of the slits."""
        return self.telescope is not None and self.pointing is not None

    def sky(self, slicer: Relay | None, *, inverse: bool = False) -> Sky:
        """Return the way from the slits to the sky, or back, as kernels take it."""
        relays = [slicer, self.fore, self.correction, self.telescope]
        nothing = Distortion.nothing()
        parts = [nothing if r is None else r.backward if inverse else r.forward for r in relays]
        pointing = self.pointing or Pointing(0.0, 0.0, 0.0, 0.0, 0.0)
        attitude = pointing.attitude
        if inverse:
            attitude = np.array(attitude.T, order="C")
            attitude.flags.writeable = False
        slicer_numbers, fore, correction, telescope = (part.numbers for part in parts)
        return Sky(slicer_numbers, fore, correction, telescope, pointing.affine(inverse=inverse), attitude)

    def require_sky(self) -> None:
        """Raise ParameterError if the light comes from a lamp."""
        if not self.has_sky:
            raise ParameterError(f"an exposure of a lamp ({self.exposure_type}, filter {self.filter}) sees no sky")

    def outwards(
        self, slicer: Relay | None, stage: int, x: ArrayLike, y: ArrayLike, wavelength: ArrayLike
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the images of points of the plane of the slits or of the slicer [m] for wavelengths [um].

        ``stage`` says where to stop, see :func:`nsxr.kernels.optics.chains.sky_of_plane`.
        """
        a, b, lam, shape = flat(x, y, wavelength)
        first, second = np.empty_like(a), np.empty_like(a)
        sky_of_plane(self.sky(slicer), stage, a, b, lam, first, second)
        return first.reshape(shape), second.reshape(shape)

    def inwards(
        self, slicer: Relay | None, stage: int, a: ArrayLike, b: ArrayLike, wavelength: ArrayLike
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the points [m] whose images are given. Inverse of :meth:`outwards`, by the backward polynomials."""
        first, second, lam, shape = flat(a, b, wavelength)
        x, y = np.empty_like(first), np.empty_like(first)
        plane_of_sky(self.sky(slicer, inverse=True), stage, first, second, lam, x, y)
        return x.reshape(shape), y.reshape(shape)


def flat(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, ...]]:
    """Return three arrays as flat float64 arrays of one length, and the shape to which they broadcast."""
    arrays = [np.asarray(array, dtype=np.float64) for array in (a, b, c)]
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    first, second, third = (_plain(array, shape) for array in arrays)
    return first, second, third, shape


def _plain(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a flat array that can be written, because kernels are compiled again for arrays that are read-only."""
    if array.shape != shape or not array.flags.c_contiguous or not array.flags.writeable:
        array = np.array(np.broadcast_to(array, shape), order="C")
    return array.reshape(-1)
