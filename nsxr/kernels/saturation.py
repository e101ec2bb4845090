"""Compare samples with the limits of the converter and of the pixel."""

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = ["box_minimum", "compare_with_limits"]


@kernel
def compare_with_limits(
    sci: np.ndarray, threshold: np.ndarray, saturated: np.uint8, floor: np.uint8
) -> np.ndarray:  # pragma: no cover
    """Flag samples at or above the threshold, and those at or below zero, one by one.

    ``sci`` (integration, group, row, column) float32; ``threshold`` (row, column) float32, infinite where
    only the floor is looked at, NaN where nothing is. Returns uint8 of the shape of ``sci``.
    """
    out = np.empty(sci.shape, dtype=np.uint8)
    n_integrations, n_groups, n_rows, n_columns = sci.shape
    for i in range(n_integrations):
        for g in range(n_groups):
            for r in range(n_rows):
                for c in range(n_columns):
                    value, limit = sci[i, g, r, c], threshold[r, c]
                    high = saturated if value >= limit else np.uint8(0)
                    low = floor if (value <= 0) & (limit == limit) else np.uint8(0)
                    out[i, g, r, c] = high | low
    return out


@kernel
def box_minimum(values: np.ndarray, reach: int) -> np.ndarray:  # pragma: no cover
    """Take the minimum over the square of ``2 reach + 1`` pixels around each pixel; (image, row, column), any dtype."""
    n_images, n_rows, n_columns = values.shape
    out = np.empty_like(values)
    lowest = np.empty(n_columns, values.dtype)
    for image in range(n_images):
        for row in range(n_rows):
            for c in range(n_columns):
                lowest[c] = values[image, row, c]
            for other in range(max(row - reach, 0), min(row + reach + 1, n_rows)):
                for c in range(n_columns):
                    lowest[c] = min(lowest[c], values[image, other, c])
            for c in range(n_columns):
                out[image, row, c] = lowest[c]
            for step in range(1, reach + 1):
                for c in range(n_columns - step):
                    out[image, row, c] = min(out[image, row, c], lowest[c + step])
                for c in range(step, n_columns):
                    out[image, row, c] = min(out[image, row, c], lowest[c - step])
    return out
