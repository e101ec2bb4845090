"""Where the telescope points: apertures, dithers, and the keywords that follow."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from nsxr.kernels.optics.stages import spherical
from nsxr.optics.pointing import Pointing as Attitude

__all__ = ["APERTURES", "DITHERS", "Aperture", "Pointing", "pointed"]


@dataclass(frozen=True)
class Aperture:
    """An aperture of the observatory's table (SIAF).

    Attributes
    ----------
    name : str
        Name, as keyword APERNAME has it.
    v2, v3 : float
        Reference point [arcsec].
    ideal_angle : float
        Angle from V3 to the y axis of the ideal frame [degree] (V3I_YANG).
    """

    name: str
    v2: float
    v3: float
    ideal_angle: float


APERTURES: Mapping[str, Aperture] = {
    "S200A1": Aperture("NRS_S200A1_SLIT", 331.867, -479.418, 138.842),
    "S200A2": Aperture("NRS_S200A2_SLIT", 314.698, -489.614, 138.914),
    "S400A1": Aperture("NRS_S400A1_SLIT", 321.591, -478.107, 138.864),
    "S1600A1": Aperture("NRS_S1600A1_SLIT", 321.263, -473.851, 138.853),
    "S200B1": Aperture("NRS_S200B1_SLIT", 440.405, -364.877, 138.244),
    "IFU": Aperture("NRS_FULL_IFU", 300.009, -498.079, 138.972),
    "MSA": Aperture("NRS_FULL_MSA", 378.563, -428.403, 138.575),
}
"""Apertures by fixed slit, IFU or MSA, in flight."""

_PITCH = 0.53  # arcsec along the slit from one shutter to the next
DITHERS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "MOS": ((0.0, 0.0), (0.0, _PITCH), (0.0, -_PITCH)),
    "FS": ((0.0, 0.0), (0.0, 0.8), (0.0, -0.8), (0.0, 1.4), (0.0, -1.4)),
    "IFU": ((0.4, 0.4), (-0.4, -0.4), (-0.4, 0.4), (0.4, -0.4)),
    "BOTS": ((0.0, 0.0),),
}
"""Places of the target in the ideal frame of the aperture [arcsec], in the order of PATT_NUM, for each mode."""


@dataclass(frozen=True)
class Pointing:
    """Where the telescope points in one exposure.

    Attributes
    ----------
    target : (float, float)
        Right ascension and declination of the target [degree].
    roll : float
        Position angle of V3 at the reference point, from north through east [degree] (ROLL_REF).
    aperture : Aperture
        The aperture that the target is placed in.
    offset : (float, float)
        Place of the target in the ideal frame of the aperture [arcsec] (XOFFSET, YOFFSET).
    dither, dithers : int
        Number of the dither position from 1, and number of positions (PATT_NUM, NUMDTHPT).
    velocity : float
        Barycentric velocity [m/s] (VELOSYS).
    aberration : float
        Scale of velocity aberration (VA_SCALE).
    """

    target: tuple[float, float] = (83.82, -69.27)
    roll: float = 120.0
    aperture: Aperture = APERTURES["S200A1"]
    offset: tuple[float, float] = (0.0, 0.0)
    dither: int = 1
    dithers: int = 1
    velocity: float = -9300.0
    aberration: float = 1.00003

    @property
    def reference(self) -> tuple[float, float]:
        """Sky coordinates of the reference point of the aperture [degree] (RA_REF, DEC_REF)."""
        x, y = self.offset
        angle = math.radians(self.aperture.ideal_angle)
        # ideal frame to V2, V3: the x axis points the other way (VPARITY is -1)
        v2, v3 = -x * math.cos(angle) + y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)
        v2, v3 = self.aberration * v2, self.aberration * v3
        ra, dec = self.target
        for _ in range(4):  # converges to 1e-12 degree
            there = self._sky(v2, v3, ra, dec)
            ra += (self.target[0] - there[0] + 180) % 360 - 180
            dec += self.target[1] - there[1]
        return ra % 360, dec

    def _sky(self, v2: float, v3: float, ra: float, dec: float) -> tuple[float, float]:
        """Return the sky coordinates of a small distance [arcsec] from a reference point at ``ra``, ``dec``."""
        v2_ref, v3_ref = self.aperture.v2, self.aperture.v3
        attitude = Attitude(ra, dec, v2_ref, v3_ref, self.roll).attitude
        return spherical(attitude, (v2_ref + v2) / 3600, (v3_ref + v3) / 3600)


def pointed(mode: str, slit: str, dither: int, dithers: int) -> Pointing:
    """Return the pointing of a mode at one of its dither positions.

    Parameters
    ----------
    mode : str
        ``MOS``, ``FS``, ``IFU`` or ``BOTS``.
    slit : str
        The fixed slit of ``FS`` and ``BOTS``.
    dither, dithers : int
        Number of the position from 1, and number of positions.
    """
    name = {"MOS": "MSA", "IFU": "IFU"}.get(mode, slit if slit in APERTURES else "S200A1")
    offset = DITHERS[mode][dither - 1] if mode in DITHERS and dithers > 1 else (0.0, 0.0)
    if mode == "FS" and slit == "S1600A1":
        offset = (0.5 * offset[0], 0.5 * offset[1])
    return replace(Pointing(), aperture=APERTURES[name], offset=offset, dither=dither, dithers=dithers)
