"""The pixels that see a slit, with the wavelengths and places along the slit at their edges."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from nsxr.optics.slit import Slit

__all__ = ["Geometry", "SlitGrid", "slit_grid"]

_SAMPLES = 60  # wavelengths at which the edges of a slit are traced
_NODES = (48, 6)  # Chebyshev nodes along the dispersion and along the slit


class Geometry(Protocol):
    """What the simulator needs of the optics. :class:`nsxr.optics.Optics` has it."""

    def forward(self, column: Any, row: Any, slit: Any, *, sky: bool = ...) -> Any:
        """Return slit_y, wavelength, and right ascension and declination of pixels."""

    def inverse(
        self, slit_y: Any, wavelength: Any, slit: Any, *, slit_x: Any = ..., newton: bool = ...
    ) -> tuple[Any, Any]:
        """Return the column and row on which light falls."""

    def slit_to_sky(self, slit_x: Any, slit_y: Any, wavelength: Any, slit: Any) -> tuple[Any, Any]:
        """Return right ascension and declination of places in a slit."""

    def sky_to_slit(self, ra: Any, dec: Any, wavelength: Any, slit: Any) -> tuple[Any, Any]:
        """Return the place of sky coordinates in the frame of a slit."""


@dataclass(frozen=True)
class SlitGrid:
    """A box of pixels, and what they see through a slit.

    Attributes
    ----------
    slit : Slit
        The slit.
    rows, columns : ndarray
        Zero-based detector pixels of the box.
    left, right : ndarray
        (row, column) Wavelength at the left and at the right edge of every pixel, in the middle of its row [um].
    slit_y : ndarray
        (row + 1, column) Place along the slit at the lower and upper edge of every pixel, in the middle of its
        column [open heights].
    """

    slit: Slit
    rows: np.ndarray
    columns: np.ndarray
    left: np.ndarray
    right: np.ndarray
    slit_y: np.ndarray

    @property
    def wavelength(self) -> np.ndarray:
        """(row, column) wavelength in the middle of pixels [um]."""
        return np.asarray(0.5 * (self.left + self.right))

    @property
    def centre_slit_y(self) -> np.ndarray:
        """(row, column) place along the slit in the middle of pixels [open heights]."""
        return np.asarray(0.5 * (self.slit_y[1:] + self.slit_y[:-1]))

    @property
    def pixel_wavelength(self) -> np.ndarray:
        """(row, column) range of wavelengths of pixels [um]."""
        return np.asarray(np.abs(self.right - self.left))

    def dispersion(self, wavelength: float) -> float:
        """Return the range of wavelengths of a pixel in the middle row, at a wavelength [um]."""
        middle = self.rows.size // 2
        at, step = self.wavelength[middle], self.pixel_wavelength[middle]
        order = np.argsort(at)
        return float(np.interp(wavelength, at[order], step[order]))


class _Box(NamedTuple):
    column: tuple[float, float]
    row: tuple[float, float]
    rows_a_height: float


def slit_grid(
    optics: Geometry, slit: Slit, wavelengths: tuple[float, float], rows: np.ndarray, columns: np.ndarray, margin: float
) -> SlitGrid | None:
    """Return the pixels that a slit sends light to, or None if there are none.

    The optics are evaluated at 48 by 6 Chebyshev nodes. In between, wavelength and place along the slit are
    polynomials. They are within 0.001 pixel of the optics, and 0.006 pixel at the blue end of the prism, whose glass
    the optics know from a linear table. If the optics give no value at a node, they are evaluated at every pixel.

    Parameters
    ----------
    optics : Optics
        Has ``forward`` and ``inverse``.
    slit : Slit
        The slit.
    wavelengths : (float, float)
        Wavelengths that reach the detector [um].
    rows, columns : ndarray
        Zero-based detector pixels of the exposure. Columns need not be contiguous.
    margin : float
        Length beyond each end of the slit that gets light too [open heights].
    """
    wide = replace(slit, slit_y_low=slit.slit_y_low - margin, slit_y_high=slit.slit_y_high + margin)
    box = _traced(optics, wide, wavelengths)
    if box is None:
        return None
    inner = columns[(columns >= box.column[0] - 1) & (columns <= box.column[1] + 1)]
    crossed = rows[(rows >= box.row[0] - 1) & (rows <= box.row[1] + 1)]
    if inner.size < 1 or crossed.size < 1:
        return None
    # the box may be higher than the slit, because traces are curved: let the frame of the slit reach its corners
    beyond = (crossed[-1] - crossed[0] + 3) / box.rows_a_height
    wide = replace(wide, slit_y_low=wide.slit_y_low - beyond, slit_y_high=wide.slit_y_high + beyond)
    columns_seen, rows_seen = inner.astype(np.float64), np.append(crossed - 0.5, crossed[-1] + 0.5)
    field = _Field(optics, wide, (inner[0] - 0.5, inner[-1] + 0.5), (rows_seen[0], rows_seen[-1]))
    (_, left), (_, right) = (field.at(columns_seen + edge, crossed.astype(np.float64)) for edge in (-0.5, 0.5))
    return SlitGrid(slit, crossed, inner, left, right, field.at(columns_seen, rows_seen)[0])


def _traced(optics: Geometry, slit: Slit, wavelengths: tuple[float, float]) -> _Box | None:
    """Return the edges of the image of a slit on the detector, and the number of rows of an open height."""
    wavelength = np.linspace(*wavelengths, _SAMPLES)
    slit_y = np.array([slit.slit_y_low, 0.5 * (slit.slit_y_low + slit.slit_y_high), slit.slit_y_high])[:, None]
    column, row = (np.asarray(part) for part in optics.inverse(slit_y, wavelength, slit))
    known = np.isfinite(column) & np.isfinite(row)
    if not known.any():
        return None
    height = np.nanmedian(np.abs(row[2] - row[0])) / (slit.slit_y_high - slit.slit_y_low)
    return _Box(
        (float(column[known].min()), float(column[known].max())),
        (float(row[known].min()), float(row[known].max())),
        float(height),
    )


class _Field:
    """slit_y and wavelength over a box of pixels, from a few evaluations of the optics."""

    def __init__(self, optics: Geometry, slit: Slit, columns: tuple[float, float], rows: tuple[float, float]) -> None:
        self.optics, self.slit, self.columns, self.rows = optics, slit, columns, rows
        x, y = (_nodes(ends, n) for ends, n in zip((columns, rows), _NODES, strict=True))
        seen = optics.forward(x[None, :], y[:, None], slit, sky=False)
        self.nodes = np.stack([seen.slit_y, seen.wavelength])
        self.is_smooth = bool(np.isfinite(self.nodes).all())

    def at(self, columns: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return slit_y and wavelength, (row, column), on a grid of pixel coordinates."""
        if not self.is_smooth:
            seen = self.optics.forward(columns[None, :], rows[:, None], self.slit, sky=False)
            return np.asarray(seen.slit_y), np.asarray(seen.wavelength)
        left, right = _interpolator(self.rows, _NODES[1], rows), _interpolator(self.columns, _NODES[0], columns)
        slit_y, wavelength = left @ self.nodes @ right.T
        return slit_y, wavelength


def _nodes(ends: tuple[float, float], n: int) -> np.ndarray:
    """Return Chebyshev nodes between two ends."""
    return 0.5 * (ends[0] + ends[1]) + 0.5 * (ends[1] - ends[0]) * np.polynomial.chebyshev.chebpts1(n)


def _interpolator(ends: tuple[float, float], n: int, at: np.ndarray) -> np.ndarray:
    """Return the matrix that interpolates from Chebyshev nodes to coordinates, (coordinate, node)."""
    chebyshev = np.polynomial.chebyshev
    to_coefficients = np.linalg.inv(chebyshev.chebvander(chebyshev.chebpts1(n), n - 1))
    scaled = (at - 0.5 * (ends[0] + ends[1])) / (0.5 * (ends[1] - ends[0]))
    return np.asarray(chebyshev.chebvander(scaled, n - 1) @ to_coefficients)
