"""The optics of one exposure: from pixels of the detector to slits and to the sky, and back.

The model is that of the NIRSpec team of ESA. Each step is a coordinate transform between two planes:

1. Pixels to the focal plane: an affine map. Then the camera: polynomials of degree 5.
2. Rotation into the frame of the grating wheel. The tilt of the wheel in this exposure, which sensors measured, is part
   of its angles.
3. A slit is straight in its plane. The collimator takes its centre line to the wheel. Dispersion happens across it, so
   the direction along the slit tells the place along the slit: beta_in = -beta_out.
4. The grating equation, or the prism with its glass, gives the wavelength from both directions.
5. The plane of the slits to the sky: fore optics, which depend on filter and wavelength, telescope, attitude.

The IFU has its slicer between the fore optics and the collimator.

References
----------
Alves de Oliveira et al. 2018, "Preparing the NIRSpec/JWST science data calibration: from ground testing to sky", Proc.
SPIE 10704. Luetzgendorf et al. 2022, "Astrometric and wavelength calibration of the NIRSpec instrument during
commissioning using a model-based approach", Proc. SPIE 12180.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from nsxr.errors import ParameterError
from nsxr.optics.light_path import LightPath
from nsxr.optics.parts import Distortion, Part, Quadrant, Relay
from nsxr.optics.slit import Slit
from nsxr.optics.slit_optics import Coordinates, SlitOptics

__all__ = ["Coordinates", "LightPath", "Optics", "SlitOptics"]


@dataclass(frozen=True, eq=False)
class Optics(Part):
    """The optics of one exposure, with its slits and shutters.

    Attributes
    ----------
    path : LightPath
        The optics that all slits share.
    slits : mapping of str to Slit
        The fixed slits by name. For the IFU, the 30 slices: ``"0"`` to ``"29"``.
    quadrants : tuple of Quadrant
        The quadrants of the MSA 1 to 4, and 5 for the fixed slits. Those that the references do not have are absent.
    slicer : Quadrant or None
        The slicer of the IFU.
    slice_post : tuple of Distortion
        For each slice, the optics from the slicer to the collimator.
    slice_fore : Relay or None
        The optics between the plane of the MSA and the slicer.
    references : tuple of (str, str)
        Type and name of each reference file.
    """

    path: LightPath
    slits: Mapping[str, Slit]
    quadrants: tuple[Quadrant, ...] = ()
    slicer: Quadrant | None = None
    slice_post: tuple[Distortion, ...] = ()
    slice_fore: Relay | None = None
    references: tuple[tuple[str, str], ...] = ()

    @property
    def detector(self) -> str:
        """NRS1 or NRS2."""
        return self.path.detector

    @property
    def filter(self) -> str:
        """Name of the filter."""
        return self.path.filter

    @property
    def grating(self) -> str:
        """Name of the grating, or PRISM."""
        return self.path.grating

    @property
    def exposure_type(self) -> str:
        """Keyword EXP_TYPE of the exposure."""
        return self.path.exposure_type

    @property
    def has_sky(self) -> bool:
        """Whether the light comes from the sky. False for lamps."""
        return self.path.has_sky

    @property
    def is_ifu(self) -> bool:
        """Whether the slits are the slices of the IFU."""
        return self.slicer is not None

    @property
    def wavelength_range(self) -> tuple[float, float]:
        """Nominal wavelengths of the filter and the grating [um]."""
        return self.path.wavelength_range

    @property
    def order(self) -> int:
        """Spectral order."""
        return self.path.order

    def quadrant(self, number: int) -> Quadrant:
        """Return a quadrant by its number.

        Raises
        ------
        ParameterError
            If the references do not have it.
        """
        for quadrant in self.quadrants:
            if quadrant.number == number:
                return quadrant
        listed = ", ".join(str(quadrant.number) for quadrant in self.quadrants) or "none"
        raise ParameterError(f"quadrant {number} of the MSA is unknown; these optics have {listed}")

    def slit(self, slit: Slit | str) -> Slit:
        """Return a slit by its name. A slit is returned as it is.

        Raises
        ------
        ParameterError
            If there is no slit of this name.
        """
        if isinstance(slit, Slit):
            return slit
        if slit not in self.slits:
            raise ParameterError(f"slit {slit!r} is unknown; these optics have {', '.join(self.slits) or 'none'}")
        return self.slits[slit]

    def shutter(self, quadrant: int, number: int) -> Slit:
        """Return the open area of one shutter as a slit.

        Parameters
        ----------
        quadrant : int
            Quadrant of the MSA, 1 to 4.
        number : int
            Number of the shutter in the table of the quadrant, see :func:`nsxr.optics.parts.shutter_id`.

        Raises
        ------
        ParameterError
            If there is no such quadrant or shutter, or if the optics are from a product and know no shutters.
        """
        table = self.quadrant(quadrant)
        if not table.x.size:
            raise ParameterError(
                "these optics are from a product, which has its own slits but no other shutters; open the optics from "
                "references"
            )
        if not 1 <= number <= table.x.size:
            raise ParameterError(
                f"shutter {number} of quadrant {quadrant} does not exist, expected 1 to {table.x.size}"
            )
        x, y, width, height = (float(axis[number - 1]) for axis in (table.x, table.y, table.width, table.height))
        return Slit(str(number), quadrant, x, y, width, height, -0.5, 0.5, self.wavelength_range, self.order)

    def for_slit(self, slit: Slit | str) -> SlitOptics:
        """Return the optics of one slit, which are small enough to travel with each task.

        Parameters
        ----------
        slit : Slit or str
            A slit, or its name in ``slits``.

        Raises
        ------
        ParameterError
            If the slit or its quadrant is unknown.
        """
        slit = self.slit(slit)
        place = (slit.x, slit.y, slit.width, slit.height)
        if self.slicer is not None and slit.quadrant == 5:
            number = int(slit.name) if slit.name.isdecimal() else -1
            if not 0 <= number < len(self.slice_post):
                raise ParameterError(f"slice {slit.name!r} is unknown, expected 0 to {len(self.slice_post) - 1}")
            return SlitOptics(self.path, slit, self.slicer.to_plane(*place), self.slice_post[number], self.slice_fore)
        return SlitOptics(self.path, slit, self.quadrant(slit.quadrant).to_plane(*place))

    def forward(self, column: ArrayLike, row: ArrayLike, slit: Slit | str, *, sky: bool = True) -> Coordinates:
        """Return what pixels see through a slit.

        Parameters
        ----------
        column, row : array_like
            Pixels of the whole detector, from 0, in science orientation, as in the labels of Datasets; they broadcast.
            Fractions are allowed.
        slit : Slit or str
            A slit, or its name in ``slits``.
        sky : bool
            Whether to compute sky coordinates; they cost as much time as the wavelengths.

        Returns
        -------
        Coordinates
            float64: ``slit_y`` [open heights], ``wavelength`` [um], ``ra``, ``dec`` [degree]. NaN outside the slit.

        Raises
        ------
        ParameterError
            If the slit is unknown.
        """
        return self.for_slit(slit).forward(column, row, sky=sky)

    def inverse(
        self,
        slit_y: ArrayLike,
        wavelength: ArrayLike,
        slit: Slit | str,
        *,
        slit_x: ArrayLike = 0.0,
        newton: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels to which light of a slit goes.

        Parameters
        ----------
        slit_y, slit_x : array_like
            Place along and across the slit, relative to its centre [open heights and widths].
        wavelength : array_like
            Wavelength [um].
        slit : Slit or str
            A slit, or its name in ``slits``.
        newton : bool
            With False, the camera's backward polynomials are used as they are, as in the jwst package: pixels are
            right to about 0.01. With True, the result is the exact inverse of :meth:`forward`.

        Returns
        -------
        column, row : ndarray
            Pixels of the whole detector, from 0, in science orientation. They may lie outside of the detector.
        """
        return self.for_slit(slit).inverse(slit_y, wavelength, slit_x=slit_x, newton=newton)

    def slit_to_msa(
        self, slit_x: ArrayLike, slit_y: ArrayLike, slit: Slit | str, wavelength: ArrayLike | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return positions (x, y) in the plane of the MSA [m] of places in a slit [open widths and heights].

        For a slice, this is the place before the slicer, which depends slightly on the wavelength [um]; the middle of
        the range if not given.
        """
        return self.for_slit(slit).slit_to_msa(slit_x, slit_y, wavelength)

    def slit_to_sky(
        self, slit_x: ArrayLike, slit_y: ArrayLike, wavelength: ArrayLike, slit: Slit | str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return sky coordinates (ra, dec) [degree] of places in a slit [open widths and heights].

        ``wavelength`` [um] matters because the fore optics depend on it.
        """
        return self.for_slit(slit).slit_to_sky(slit_x, slit_y, wavelength)

    def sky_to_slit(
        self, ra: ArrayLike, dec: ArrayLike, wavelength: ArrayLike, slit: Slit | str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the place (slit_x, slit_y) in a slit [open widths and heights] of sky coordinates [degree].

        The backward polynomials are used. Places outside of the slit are returned too.
        """
        return self.for_slit(slit).sky_to_slit(ra, dec, wavelength)

    def msa_to_sky(self, x: ArrayLike, y: ArrayLike, wavelength: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return sky coordinates (ra, dec) [degree] of positions in the plane of the MSA [m], for a wavelength [um]."""
        self.path.require_sky()
        return self.path.outwards(None, 3, x, y, wavelength)

    def msa_to_v2v3(self, x: ArrayLike, y: ArrayLike, wavelength: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return V2, V3 [arcsec] of positions in the plane of the MSA [m], before the correction for aberration."""
        self.path.require_sky()
        return self.path.outwards(None, 2, x, y, wavelength)

    def sky_to_msa(self, ra: ArrayLike, dec: ArrayLike, wavelength: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return positions (x, y) in the plane of the MSA [m] of sky coordinates [degree], for a wavelength [um]."""
        self.path.require_sky()
        return self.path.inwards(None, 3, ra, dec, wavelength)

    def v2v3_to_msa(self, v2: ArrayLike, v3: ArrayLike, wavelength: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return positions in the plane of the MSA [m] of V2, V3 [arcsec]. Inverse of :meth:`msa_to_v2v3`."""
        self.path.require_sky()
        return self.path.inwards(None, 2, v2, v3, wavelength)

    def msa_to_detector(
        self, x: ArrayLike, y: ArrayLike, wavelength: ArrayLike, *, newton: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels (column, row) to which light of positions in the plane of the MSA [m] goes.

        For the IFU, this is the light that comes through the MSA itself, not through the slicer.
        """
        low, high = self.wavelength_range
        plane = Slit("MSA", 0, 0.0, 0.0, 1.0, 1.0, -1.0, 1.0, (low, high), self.order)
        return SlitOptics(self.path, plane, np.eye(2, 3)).inverse(y, wavelength, slit_x=x, newton=newton)
