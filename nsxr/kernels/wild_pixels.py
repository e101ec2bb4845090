"""Pixels that stand alone: no light looks like that, so they are left out before anything is fitted.

Images are (exposure, y, x) float64.
"""

import numpy as np

__all__ = ["wild_pixels", "wild_variances"]

_BIN = 32
"""Columns of a row that share a level and a scatter."""
_CONTRAST = 32.0
"""Light spreads: the fourth brightest neighbour has 1/25 of a pixel or more, for a FWHM of 1.2 pixels, 1/5 for 1.8."""
_THRESHOLD = 10.0  # deviations of the scatter in the row, on top
_RATIO = 100.0  # of variances
_PASSES = 3
_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


def wild_pixels(images: np.ndarray, is_used: np.ndarray) -> np.ndarray:
    """Return which pixels differ from the level of their row as nothing around them does (exposure, y, x), bool.

    Variances are not asked: a pixel that is hit claims the photon noise of the hit. Lines of emission, other sources,
    steep flanks cover several pixels in both directions; streaks and hits of up to two by two pixels do not.

    Parameters
    ----------
    images : (exposure, y, x) ndarray
        Signal; whatever it is where it is not used.
    is_used : (exposure, y, x) ndarray of bool
        Pixels that can be used.
    """
    level, scatter = _rows(images, is_used)
    deviation = np.abs(np.where(is_used, images, 0.0) - level)
    good = is_used
    for _ in range(_PASSES):
        around = _fourth_of_neighbours(np.where(good, deviation, -1.0))
        alone = good & (deviation > _CONTRAST * around + _THRESHOLD * scatter)
        if not alone.any():
            break
        good = good & ~alone
    return np.asarray(is_used & ~good)


def wild_variances(var_poisson: np.ndarray, var_rnoise: np.ndarray, is_used: np.ndarray) -> np.ndarray:
    """Return which pixels claim a hundred times the variance around, or no read noise (exposure, y, x), bool.

    What is left out has no more than a hundredth of the weight that it would have otherwise, or all of it.

    Parameters
    ----------
    var_poisson, var_rnoise : (exposure, y, x) ndarray
        Variances.
    is_used : (exposure, y, x) ndarray of bool
        Pixels that can be used.
    """
    total, read = (np.where(is_used, array, 0.0) for array in (var_poisson + var_rnoise, var_rnoise))
    around = _fourth_of_neighbours(np.where(is_used, total, -1.0))
    typical = float(np.median(read[is_used])) if is_used.any() else 0.0
    return np.asarray(is_used & ((total > _RATIO * around) & (around > 0) | (read < typical / 1e6)))


def _rows(images: np.ndarray, is_used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median of each pixel's row in its bin of columns, and the scatter from column to column there."""
    n, n_rows, n_columns = images.shape
    n_bins = -(-n_columns // _BIN)
    padding = ((0, 0), (0, 0), (0, n_bins * _BIN - n_columns))
    values = np.pad(np.where(is_used, images, np.nan), padding, constant_values=np.nan)
    bins = values.reshape(n, n_rows, n_bins, _BIN)
    found = []
    for array in (bins, np.abs(np.diff(bins, axis=3))):
        ordered = np.sort(array, axis=3)  # NaN goes last
        count = np.isfinite(array).sum(3, keepdims=True)
        middle = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis=3)
        found.append(np.repeat(np.where(count > 0, middle, 0.0)[..., 0], _BIN, axis=2)[:, :, :n_columns])
    return found[0], found[1] / (0.6745 * np.sqrt(2))


def _fourth_of_neighbours(deviation: np.ndarray) -> np.ndarray:
    """Return the fourth largest of the eight pixels around, of fewer one earlier; negative ones are not there."""
    n_rows, n_columns = deviation.shape[1:]
    padded = np.pad(deviation, ((0, 0), (1, 1), (1, 1)), constant_values=-1.0)
    around = np.stack([padded[:, 1 + dy : 1 + dy + n_rows, 1 + dx : 1 + dx + n_columns] for dy, dx in _NEIGHBOURS])
    falling = -np.sort(-around, axis=0)
    rank = np.minimum((around >= 0).sum(0) // 2, 3)
    return np.asarray(np.maximum(np.take_along_axis(falling, rank[None], axis=0)[0], 0.0))
