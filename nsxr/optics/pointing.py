"""Where the telescope points: from V2, V3 to the sky."""

from dataclasses import dataclass

import numpy as np

from nsxr.optics.parts import Part
from nsxr.optics.rotations import about

__all__ = ["Pointing"]


@dataclass(frozen=True, eq=False)
class Pointing(Part):
    """Attitude of the telescope, and its velocity aberration.

    Attributes
    ----------
    ra, dec : float
        Sky coordinates of the reference point [degree].
    v2, v3 : float
        The reference point in the telescope's frame [arcsec].
    roll : float
        Position angle of the V3 axis at the reference point, from north to east [degree].
    aberration : float
        Scale factor of the differential velocity aberration: apparent over true distance from the reference point.

    Notes
    -----
    v' = s v - (s - 1) v_ref. Then the rotation that takes V1 at the reference point to (ra, dec).
    """

    ra: float
    dec: float
    v2: float
    v3: float
    roll: float
    aberration: float = 1.0

    @property
    def attitude(self) -> np.ndarray:
        """Matrix (3, 3) from the telescope's frame to the sky."""
        telescope = about("y", self.v3 / 3600) @ about("z", -self.v2 / 3600)
        matrix = about("z", self.ra) @ about("y", -self.dec) @ about("x", -self.roll) @ telescope
        matrix = np.array(matrix, order="C")
        matrix.flags.writeable = False
        return matrix

    def affine(self, *, inverse: bool = False) -> np.ndarray:
        """Return the aberration as an affine map (2, 3) of V2, V3 [arcsec]."""
        scale = 1 / self.aberration if inverse else self.aberration
        matrix = np.array([[scale, 0, (1 - scale) * self.v2], [0, scale, (1 - scale) * self.v3]])
        matrix.flags.writeable = False
        return matrix
