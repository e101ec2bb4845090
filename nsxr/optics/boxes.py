"""Find the rectangle of detector pixels that the light of a slit falls on.

The edges of a slit are smooth curves on the detector. A few hundred samples of them are enough: the margins of the box
are wider than what the curve can do between two samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nsxr.errors import ParameterError
from nsxr.optics.slit import Slit
from nsxr.optics.slit_optics import SlitOptics

__all__ = ["DETECTOR_LIMIT", "Box", "extended_range", "find_box", "seen_range"]

DETECTOR_LIMIT = 5.6
"""Wavelength beyond which the detectors see no light [um]."""
_DETECTOR_START = 0.5
"""Wavelength below which the optics let no light pass [um]."""

_SAMPLES = 400
_COLUMNS, _ROWS = 11, 3
"""Margins of a box [pixel]. They cover the box of the observatory's pipeline: 11 and 9 columns, 3 rows and 1 row."""


@dataclass(frozen=True)
class Box:
    """Rows and columns of the detector: zero-based labels, from the first one to the one after the last.

    Attributes
    ----------
    first_row, end_row, first_column, end_column : int
        Labels. ``end_row`` and ``end_column`` are not in the box.
    """

    first_row: int
    end_row: int
    first_column: int
    end_column: int

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and of columns."""
        return self.end_row - self.first_row, self.end_column - self.first_column


def extended_range(slit: Slit) -> tuple[float, float]:
    """Return the wavelengths that the detector can see behind the filter [um]: to the red limit of the detectors."""
    low, high = slit.wavelength_range
    return low, max(high, DETECTOR_LIMIT)


def seen_range(wavelength_range: Sequence[float]) -> tuple[float, float]:
    """Return the part of a range of wavelengths that the detectors can see [um].

    Raises
    ------
    ParameterError
        If it is not a lower and a higher number, or if the detectors see none of it.
    """
    low, high = wavelength_range if len(wavelength_range) == 2 else (np.nan, np.nan)
    low, high = max(float(low), _DETECTOR_START), min(float(high), DETECTOR_LIMIT)
    if not low < high:
        raise ParameterError(
            f"wavelength_range is {wavelength_range}, expected a lower and a higher wavelength within "
            f"{_DETECTOR_START} to {DETECTOR_LIMIT} um"
        )
    return low, high


def find_box(optics: SlitOptics, window: Box, wavelength_range: tuple[float, float] | None = None) -> Box | None:
    """Return the box of a slit, cut at the edges of the exposure.

    Parameters
    ----------
    optics : SlitOptics
        The optics of the slit.
    window : Box
        Pixels that the exposure has: the whole detector or a subarray.
    wavelength_range : (float, float), optional
        Wavelengths to look for [um]. By default the range of the slit.

    Returns
    -------
    Box or None
        None if fewer than two columns or fewer than one row of the window see the slit.

    Notes
    -----
    Rows are counted only where the slit lies within the columns of the window. A slit that leaves a subarray at one
    side has no rows for the part of its light that misses the subarray.
    """
    low, high = wavelength_range or optics.slit.wavelength_range
    wavelength = np.linspace(low, high, _SAMPLES)
    bottom, top = optics.slit.slit_y_low, optics.slit.slit_y_high
    column, row = optics.inverse(np.array([[bottom], [0.5 * (bottom + top)], [top]]), wavelength)
    is_known = np.isfinite(column) & np.isfinite(row)
    if not is_known.any():
        return None
    step = np.nanmax(np.abs(np.diff(np.where(is_known, column, np.nan), axis=1)), initial=0.0)
    is_near = is_known & (column > window.first_column - 0.5 - step) & (column < window.end_column - 0.5 + step)
    if not is_near.any():
        return None
    found = Box(
        max(int(np.floor(row[is_near].min())) - _ROWS, window.first_row),
        min(int(np.ceil(row[is_near].max())) + _ROWS, window.end_row),
        max(int(np.floor(column[is_known].min())) - _COLUMNS, window.first_column),
        min(int(np.ceil(column[is_known].max())) + _COLUMNS, window.end_column),
    )
    sees_rows = row[is_near].max() >= window.first_row - 0.5 and row[is_near].min() <= window.end_row - 0.5
    sees_columns = column[is_known].max() > window.first_column and column[is_known].min() < window.end_column - 1
    n_rows, n_columns = found.shape
    return found if sees_rows and sees_columns and n_rows >= 1 and n_columns >= 2 else None
