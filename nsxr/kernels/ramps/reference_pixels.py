"""Statistics of the reference pixels of traditional readouts."""

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = ["clipped_means", "running_median"]


@kernel
def clipped_means(
    sci: np.ndarray, label: np.ndarray, n_labels: int, limit: float
) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    """Return the iteratively clipped mean of the pixels of each label, frame by frame, and its variance.

    ``sci`` (integration, group, row, column) float32; ``label`` (row, column) int8, negative where a
    pixel is not used. Values that are not finite are not used either. Values beyond ``limit`` population standard
    deviations from the mean are dropped until no value is beyond the limit. Returns the means, and their squared
    standard errors from the scatter of the kept values, (integration, group, label) float32; NaN for a label without
    pixels.
    """
    n_integrations, n_groups, n_rows, n_columns = sci.shape
    means = np.full((n_integrations, n_groups, n_labels), np.nan, dtype=np.float32)
    variances = np.full((n_integrations, n_groups, n_labels), np.nan, dtype=np.float32)
    values = np.empty(n_rows * n_columns, dtype=np.float64)
    for i in range(n_integrations):
        for g in range(n_groups):
            for wanted in range(n_labels):
                n = 0
                for r in range(n_rows):
                    for c in range(n_columns):
                        if label[r, c] == wanted and np.isfinite(sci[i, g, r, c]):
                            values[n] = sci[i, g, r, c]
                            n += 1
                before = n + 1
                mean = np.nan
                square = np.nan
                while 0 < n < before:
                    before = n
                    mean = 0.0
                    for k in range(n):
                        mean += values[k]
                    mean /= n
                    square = 0.0
                    for k in range(n):
                        square += (values[k] - mean) ** 2
                    width = limit * np.sqrt(square / n)
                    n = 0
                    for k in range(before):
                        if mean - width <= values[k] <= mean + width:
                            values[n] = values[k]
                            n += 1
                means[i, g, wanted] = mean
                variances[i, g, wanted] = square / max(before - 1, 1) / max(before, 1)
    return means, variances


@kernel
def running_median(sci: np.ndarray, good: np.ndarray, length: int) -> np.ndarray:  # pragma: no cover
    """Return the median in a window that runs along columns, frame by frame.

    ``sci`` (integration, group, row, column) float32 has the few rows of side reference pixels; ``good`` (row, column)
    bool; values that are not finite are left out. The window spans all rows and ``length`` (odd) columns; ends are
    reflected without repeating the first and last column. Returns (integration, group, column) float32, NaN where no
    pixel in the window is good.
    """
    n_integrations, n_groups, n_rows, n_columns = sci.shape
    out = np.empty((n_integrations, n_groups, n_columns), dtype=np.float32)
    window = np.empty(n_rows * length, dtype=np.float32)
    half = length // 2
    period = max(2 * (n_columns - 1), 1)  # a frame with few columns is reflected several times
    for i in range(n_integrations):
        for g in range(n_groups):
            for c in range(n_columns):
                n = 0
                for offset in range(-half, half + 1):
                    column = abs(c + offset) % period
                    if column >= n_columns:
                        column = period - column
                    for r in range(n_rows):
                        if good[r, column] and np.isfinite(sci[i, g, r, column]):
                            window[n] = sci[i, g, r, column]
                            n += 1
                if n == 0:
                    out[i, g, c] = np.nan
                    continue
                ordered = np.sort(window[:n])
                if n % 2:
                    out[i, g, c] = ordered[n // 2]
                else:
                    out[i, g, c] = np.float32(0.5) * (ordered[n // 2 - 1] + ordered[n // 2])
    return out
