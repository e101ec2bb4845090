"""Optics with formulas that can be inverted by hand, for tests of the simulator."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Seen(NamedTuple):
    slit_y: np.ndarray
    wavelength: np.ndarray
    ra: None
    dec: None


@dataclass(frozen=True)
class AffineOptics:
    """column = middle + u + curve u**2 + slant y + across x, row = base + height y + slope (column - middle).

    u is the wavelength minus 2 um, in pixels of ``dispersion`` um. The sky is flat: x and y count 0.2 and 0.46 arcsec
    from ra 83.82, dec -69.27, turned by 30 degrees.
    """

    dispersion: float = 0.005
    curve: float = 2e-4
    slant: float = 0.5
    slope: float = 0.01
    across: float = 2.0
    height: float = 4.6
    middle: float = 300.0
    base: float = 100.0
    ra: float = 83.82
    dec: float = -69.27

    def inverse(self, slit_y, wavelength, slit, *, slit_x=0.0, newton=False):
        u = (np.asarray(wavelength) - 2.0) / self.dispersion
        column = self.middle + u + self.curve * u**2 + self.slant * np.asarray(slit_y) + self.across * slit_x
        return column, self.base + slit.y + self.height * np.asarray(slit_y) + self.slope * (column - self.middle)

    def forward(self, column, row, slit, *, sky=True):
        slit_y = (row - self.base - slit.y - self.slope * (column - self.middle)) / self.height
        inside = (slit_y >= slit.slit_y_low) & (slit_y <= slit.slit_y_high)
        moved = column - self.middle - self.slant * slit_y
        u = 2 * moved / (1 + np.sqrt(np.maximum(1 + 4 * self.curve * moved, 1e-9)))
        wavelength = 2.0 + self.dispersion * u
        return Seen(np.where(inside, slit_y, np.nan), np.where(inside, wavelength, np.nan), None, None)

    def slit_to_sky(self, slit_x, slit_y, wavelength, slit):
        east, north = 0.2 * np.asarray(slit_x), 0.46 * (np.asarray(slit_y) + slit.y / self.height)
        c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
        dec = self.dec + (-s * east + c * north) / 3600
        return self.ra + (c * east + s * north) / 3600 / np.cos(np.deg2rad(dec)), dec + 0 * np.asarray(wavelength)

    def sky_to_slit(self, ra, dec, wavelength, slit):
        x, y = (np.asarray(ra) - self.ra) * 3600 * np.cos(np.deg2rad(dec)), (np.asarray(dec) - self.dec) * 3600
        c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
        none = 0 * np.asarray(wavelength)
        return (c * x - s * y) / 0.2 + none, (s * x + c * y) / 0.46 - slit.y / self.height + none
