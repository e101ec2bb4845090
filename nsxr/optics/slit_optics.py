"""The optics of one slit, slitlet or slice."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nsxr.errors import ParameterError
from nsxr.kernels.optics.chains import Spectrograph, pixels_of_slit, slit_of_pixels, wheel_of_slit
from nsxr.optics.light_path import LightPath, flat
from nsxr.optics.parts import Distortion, Part, Relay
from nsxr.optics.slit import Slit

__all__ = ["Coordinates", "SlitOptics"]

SPEED_OF_LIGHT = 299792458.0  # m/s
_NODES = 1000  # of the table of slit_y against beta_in, as in the jwst package


class Coordinates(NamedTuple):
    """What pixels see. All arrays have the shape of the pixels that were given.

    Attributes
    ----------
    slit_y : ndarray
        Place along the slit, relative to its centre [open heights]. NaN outside of the slit.
    wavelength : ndarray
        Wavelength at the barycentre [um]. NaN outside of the slit.
    ra, dec : ndarray or None
        Sky coordinates [degree], float64. None if they were not asked for, or the light came from a lamp.
    """

    slit_y: np.ndarray
    wavelength: np.ndarray
    ra: np.ndarray | None
    dec: np.ndarray | None


@dataclass(frozen=True, eq=False)
class SlitOptics(Part):
    """The optics of one slit. It has what the slit needs, and is small: it can travel to every worker.

    Attributes
    ----------
    path : LightPath
        The optics that all slits share.
    slit : Slit
        The slit, slitlet or slice.
    affine : (2, 3) ndarray
        From the slit, in open widths and heights, to its plane [m]. For a slice this is the plane of the slicer.
    slice_post : Distortion or None
        For a slice: from the slicer to the entrance of the collimator, where the MSA has its plane.
    slice_fore : Relay or None
        For a slice: from the slicer to the plane of the MSA before the slicer, and back.
    """

    path: LightPath
    slit: Slit
    affine: np.ndarray
    slice_post: Distortion | None = None
    slice_fore: Relay | None = None

    @property
    def has_sky(self) -> bool:
        """Whether the light comes from the sky."""
        return self.path.has_sky

    @property
    def middle(self) -> float:
        """Middle of the nominal wavelengths [um]."""
        low, high = self.path.wavelength_range
        return 0.5 * (high - low) + low

    @cached_property
    def spectrograph(self) -> Spectrograph:
        """The path between slit and detector, as kernels take it."""
        path = self.path
        return Spectrograph(
            pixel=path.focal_plane.from_pixels,
            pixel_back=path.focal_plane.to_pixels,
            camera=path.camera.forward.numbers,
            camera_back=path.camera.backward.numbers,
            rotation=path.disperser.rotation,
            disperser=path.disperser.numbers,
            collimator=path.collimator.backward.numbers,
            slicer=(self.slice_post or Distortion.nothing()).numbers,
            slit=self.affine,
            velocity=1.0 / (1.0 + path.velocity / SPEED_OF_LIGHT),
            middle=self.middle * 1e-6,
        )

    @cached_property
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Place along the slit for beta_in, which grows: 1000 nodes from end to end of the slit."""
        slit_y = np.linspace(self.slit.slit_y_low, self.slit.slit_y_high, _NODES)
        _, beta = self.to_wheel(np.zeros(_NODES), slit_y, self.middle)
        steps = np.diff(beta)
        if not ((steps > 0).all() or (steps < 0).all()):
            raise ParameterError(
                f"slit {self.slit.name}: light along it does not leave it in one order, check its ends"
            )
        nodes = (beta, slit_y) if steps[0] > 0 else (beta[::-1].copy(), slit_y[::-1].copy())
        for array in nodes:
            array.flags.writeable = False
        return nodes

    def to_wheel(self, slit_x: ArrayLike, slit_y: ArrayLike, wavelength: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return the direction cosines alpha_in and beta_in of light of the slit at the grating wheel.

        Parameters
        ----------
        slit_x, slit_y : array_like
            Place in the slit [open widths and heights].
        wavelength : array_like
            Wavelength [um]; it matters for slices only.
        """
        x, y, lam, shape = flat(slit_x, slit_y, wavelength)
        alpha, beta = np.empty_like(x), np.empty_like(x)
        wheel_of_slit(self.spectrograph, x, y, lam * 1e-6, alpha, beta)
        return alpha.reshape(shape), beta.reshape(shape)

    def forward(self, column: ArrayLike, row: ArrayLike, *, sky: bool = True) -> Coordinates:
        """Return what pixels see, see :meth:`Optics.forward`."""
        x, y, _, shape = flat(column, row, 0.0)
        slit_y, wavelength = np.empty_like(x), np.empty_like(x)
        slit_of_pixels(self.spectrograph, *self.table, x, y, slit_y, wavelength)
        ra = dec = None
        if sky and self.has_sky:
            ra, dec = self.slit_to_sky(np.zeros_like(slit_y), slit_y, wavelength)
            ra, dec = ra.reshape(shape), dec.reshape(shape)
        return Coordinates(slit_y.reshape(shape), wavelength.reshape(shape), ra, dec)

    def inverse(
        self, slit_y: ArrayLike, wavelength: ArrayLike, *, slit_x: ArrayLike = 0.0, newton: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels (column, row) to which light of the slit goes, see :meth:`Optics.inverse`."""
        x, y, lam, shape = flat(slit_x, slit_y, wavelength)
        index, disperser = lam, self.path.disperser
        if disperser.is_prism:
            inside = lam * 1e-6 / self.spectrograph.velocity
            index = disperser.tabulated_index(inside) if newton else disperser.refractive_index(inside)
        column, row = np.empty_like(x), np.empty_like(x)
        pixels_of_slit(self.spectrograph, 2 if newton else 0, x, y, lam, index, column, row)
        return column.reshape(shape), row.reshape(shape)

    def slit_to_msa(
        self, slit_x: ArrayLike, slit_y: ArrayLike, wavelength: ArrayLike | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return positions in the plane of the MSA [m], see :meth:`Optics.slit_to_msa`."""
        return self._outwards(0, slit_x, slit_y, self.middle if wavelength is None else wavelength)

    def slit_to_v2v3(
        self, slit_x: ArrayLike, slit_y: ArrayLike, wavelength: ArrayLike
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return V2, V3 [arcsec], before the correction for the aberration."""
        self.path.require_sky()
        return self._outwards(2, slit_x, slit_y, wavelength)

    def slit_to_sky(self, slit_x: ArrayLike, slit_y: ArrayLike, wavelength: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return sky coordinates (ra, dec) [degree], see :meth:`Optics.slit_to_sky`."""
        self.path.require_sky()
        return self._outwards(3, slit_x, slit_y, wavelength)

    def sky_to_slit(self, ra: ArrayLike, dec: ArrayLike, wavelength: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return the place in the slit (slit_x, slit_y) [open widths and heights], see :meth:`Optics.sky_to_slit`."""
        self.path.require_sky()
        return self._inwards(3, ra, dec, wavelength)

    def v2v3_to_slit(self, v2: ArrayLike, v3: ArrayLike, wavelength: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return the place in the slit of V2, V3 [arcsec]. Inverse of :meth:`slit_to_v2v3`."""
        self.path.require_sky()
        return self._inwards(2, v2, v3, wavelength)

    def msa_to_slit(
        self, x: ArrayLike, y: ArrayLike, wavelength: ArrayLike | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the place in the slit of positions in the plane of the MSA [m]. Inverse of :meth:`slit_to_msa`."""
        return self._inwards(0, x, y, self.middle if wavelength is None else wavelength)

    def _outwards(self, stage: int, x: ArrayLike, y: ArrayLike, lam: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        flat_x, flat_y, flat_lam, shape = flat(x, y, lam)
        plane = self.affine[:, :2] @ [flat_x, flat_y] + self.affine[:, 2:]
        first, second = self.path.outwards(self.slice_fore, stage, plane[0], plane[1], flat_lam)
        return first.reshape(shape), second.reshape(shape)

    def _inwards(self, stage: int, a: ArrayLike, b: ArrayLike, lam: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        x, y = self.path.inwards(self.slice_fore, stage, a, b, lam)
        x, y = x - self.affine[0, 2], y - self.affine[1, 2]
        back = np.linalg.inv(self.affine[:, :2])
        return back[0, 0] * x + back[0, 1] * y, back[1, 0] * x + back[1, 1] * y
