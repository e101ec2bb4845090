"""Find the rows on which a place along a slit falls, from the place of each pixel."""

import numpy as np

__all__ = ["rows_of"]


_LEAST = 3  # pixels of a column that tell where the slit is
_DEGREE = 3  # of the polynomial along the dispersion for columns that do not


def rows_of(slit_y: np.ndarray, place: float) -> np.ndarray | None:
    """Return the row of each column on which a place along the slit falls (x,); None if no column tells.

    A straight line through the pixels of a column is right to 0.001 rows. It is continued beyond the ends of the slit.
    Columns with too few pixels follow a polynomial through the others.

    Parameters
    ----------
    slit_y : (y, x) ndarray
        Place of the middle of each pixel along the slit [open heights], NaN outside.
    place : float
        Place along the slit [open heights].
    """
    known = np.isfinite(slit_y)
    count = known.sum(0)
    told = count >= _LEAST
    if told.sum() <= _DEGREE:
        return None
    row = np.where(known, np.arange(slit_y.shape[0])[:, None], 0.0)
    at = np.where(known, slit_y, 0.0).astype(np.float64)
    total = np.maximum(count, 1)
    mean_row, mean_at = row.sum(0) / total, at.sum(0) / total
    along = np.where(known, at - mean_at, 0.0)
    power = (along**2).sum(0)
    slope = (along * (row - mean_row)).sum(0) / np.where(power > 0, power, np.inf)
    found = mean_row + slope * (place - mean_at)
    if not told.all():
        x = np.linspace(-1.0, 1.0, told.size)
        fit = np.polynomial.Polynomial.fit(x[told], found[told], _DEGREE)
        found = np.where(told, found, fit(x))
    return np.asarray(found)
