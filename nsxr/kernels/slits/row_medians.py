"""Medians in a window that runs along the rows of an image."""

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = ["row_medians"]


@kernel
def row_medians(values: np.ndarray, length: int, outside: float) -> np.ndarray:  # pragma: no cover
    """Return the median of the finite values in a window around each pixel, along its row.

    Parameters
    ----------
    values : (row, column) float32
        An image.
    length : int
        Columns of the window, odd.
    outside : float
        Value of pixels beyond the ends of a row. NaN leaves them out.

    Returns
    -------
    (row, column) float32
        NaN where no value in the window is finite.
    """
    n_rows, n_columns = values.shape
    half = length // 2
    out = np.empty((n_rows, n_columns), np.float32)
    ordered = np.empty(length, np.float32)
    for r in range(n_rows):
        n = 0
        for c in range(-half, n_columns + half):
            # the window around column c - half gets column c, and loses column c - length
            old, new = c - length, c
            if c >= half + 1:
                value = np.float32(outside)
                if 0 <= old < n_columns:
                    value = values[r, old]
                if np.isfinite(value):
                    k = 0
                    while ordered[k] != value:
                        k += 1
                    n -= 1
                    for i in range(k, n):
                        ordered[i] = ordered[i + 1]
            value = np.float32(outside)
            if 0 <= new < n_columns:
                value = values[r, new]
            if np.isfinite(value):
                k = n
                while k > 0 and ordered[k - 1] > value:
                    ordered[k] = ordered[k - 1]
                    k -= 1
                ordered[k] = value
                n += 1
            if c >= half:
                middle = np.float32(np.nan)
                if n > 0:
                    middle = np.float32(0.5) * (ordered[(n - 1) // 2] + ordered[n // 2])
                out[r, c - half] = middle
    return out
