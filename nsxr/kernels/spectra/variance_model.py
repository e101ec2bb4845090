"""Model the variance of pixels: photon noise proportional to the light, and noise beyond the given variances.

Images are (exposure, y, x) float64.
"""

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.kernels.medians import median_of_finite

__all__ = ["BIN", "excess_noise", "model_variance", "relative_variance", "running_mean", "steady_flux"]

BIN = 32
"""Number of columns with one common relation between signal and photon noise."""
_SMOOTH = 7
"""Number of columns over which the scale of the signal is smoothed."""
_LEAST_ROWS = 3
"""Least number of pixels whose read noise tells the scale of a column."""


def steady_flux(flux: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Return the flux of each column from its neighbours, unless the column differs from them significantly.

    Models of variance use this flux, without the noise of the column itself. Otherwise a flux that is high by chance
    lowers the weights of the brightest pixels, and the result is too low, by 0.3 % at a signal to noise of 11.

    Parameters
    ----------
    flux, precision : (exposure, x) ndarray
        Flux and its inverse variance.
    """
    weight = np.where(np.isfinite(flux) & np.isfinite(precision) & (precision < 1e290), precision, 0.0)
    found = np.empty(flux.shape)
    _steady(np.ascontiguousarray(flux, dtype=np.float64), weight, found)
    return found


@kernel
def _steady(flux: np.ndarray, weight: np.ndarray, found: np.ndarray) -> None:
    """Write the mean of the six nearest columns with a weight to ``found``, or the flux itself if it differs."""
    n, n_columns = flux.shape
    for e in range(n):
        for x in range(n_columns):
            count, total = 0.0, 0.0
            for other in range(max(x - 3, 0), min(x + 4, n_columns)):
                if other != x and weight[e, other] > 0:
                    count += 1.0
                    total += flux[e, other]
            mean = total / max(count, 1.0)
            noise = np.sqrt((1 / weight[e, x] if weight[e, x] > 0 else 0.0) * (1 + 1 / max(count, 1.0)))
            found[e, x] = mean if count > 0 and abs(flux[e, x] - mean) < 4.0 * noise else flux[e, x]


def model_variance(
    var_poisson: np.ndarray, var_rnoise: np.ndarray, is_used: np.ndarray, light: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the relation of photon noise to the light of the source: ``var_poisson = background + slope * light``.

    Variances of single pixels come from their own noisy signal. Weights made from such variances prefer pixels that are
    low by chance, and the flux becomes too low. One relation is fitted to all pixels of a group of columns. Calibrated
    pixels were multiplied by a sensitivity that may change much within a group, at the ends of a spectrum. The read
    noise tells how much: its deviation was multiplied by the same.

    Parameters
    ----------
    var_poisson, var_rnoise : (exposure, y, x) ndarray
        Given variances. ``var_poisson`` was made from a signal whose noise is the sum of both.
    is_used : (exposure, y, x) ndarray of bool
        Pixels that can be used.
    light : (exposure, y, x) ndarray
        Model of the light of the source.

    Returns
    -------
    background, slope : (exposure, x) ndarray
        Variance of pixels without light, and variance per signal; neither is negative.
    """
    n, _, n_columns = var_poisson.shape
    starts = np.arange(0, n_columns, BIN)
    middles = np.minimum(starts + BIN / 2, n_columns) - 0.5
    background, slope = np.zeros((n, n_columns)), np.zeros((n, n_columns))
    columns = np.arange(n_columns)
    for e in range(n):
        scale = _scale_of_columns(var_rnoise[e], is_used[e])
        found = np.empty((2, starts.size))
        _relate(var_poisson[e], var_rnoise[e], is_used[e], light[e], scale, found)
        known = np.isfinite(found[0])
        if known.any():
            background[e] = np.interp(columns, middles[known], found[0, known]) * scale**2
            slope[e] = np.interp(columns, middles[known], found[1, known]) * scale
    return background, slope


@kernel
def _relate(
    var_poisson: np.ndarray,
    var_rnoise: np.ndarray,
    is_used: np.ndarray,
    light: np.ndarray,
    scale: np.ndarray,
    found: np.ndarray,
) -> None:
    """Write background and slope of each group of columns to ``found`` (2, group), NaN for less than three pixels."""
    n_rows, n_columns = light.shape
    values, lit, other = np.empty(n_rows * BIN), np.empty(n_rows * BIN), np.empty(n_rows * BIN)
    for number in range(found.shape[1]):
        count = 0
        for y in range(n_rows):
            for x in range(number * BIN, min((number + 1) * BIN, n_columns)):
                if is_used[y, x]:
                    values[count] = var_poisson[y, x] / scale[x] ** 2
                    lit[count] = max(light[y, x], 0.0) / scale[x]
                    other[count] = var_rnoise[y, x] / scale[x] ** 2
                    count += 1
        found[:, number] = np.nan
        if count < 3:
            continue
        level, rate = values[:count].mean(), 0.0
        for _ in range(3):
            a = b = c = d = f = 0.0
            for k in range(count):
                weight = 1 / (other[k] + level + rate * lit[k])
                a += weight
                b += weight * lit[k]
                c += weight * lit[k] ** 2
                d += weight * values[k]
                f += weight * lit[k] * values[k]
            determinant = a * c - b * b
            rate = max((a * f - b * d) / determinant, 0.0) if determinant > 1e-12 * a * c else 0.0
            level = max((d - rate * b) / a, 0.0)
        found[0, number] = level
        found[1, number] = rate


def _scale_of_columns(var_rnoise: np.ndarray, is_used: np.ndarray) -> np.ndarray:
    """Return the relative scale of the signal in each column (x,) from its read noise, smooth over a few columns."""
    known = is_used & (var_rnoise > 0) & np.isfinite(var_rnoise)
    there = known.sum(0) >= _LEAST_ROWS
    if not there.any():
        return np.ones(var_rnoise.shape[1])
    masked = np.where(known, var_rnoise, np.nan)[:, there]
    columns = np.arange(there.size)
    logarithm = np.interp(columns, columns[there], 0.5 * np.log(median_of_finite(masked)))
    half = _SMOOTH // 2
    # reflected about its ends, so that a steep slope goes on there
    padded = np.pad(logarithm, half, mode="reflect", reflect_type="odd") if there.size > half else logarithm
    smooth = np.convolve(padded, np.full(_SMOOTH, 1 / _SMOOTH), "valid") if there.size > half else logarithm
    return np.asarray(np.exp(smooth - np.median(smooth)))


def excess_noise(residual: np.ndarray, variance: np.ndarray, is_dark: np.ndarray) -> np.ndarray:
    """Return the ratio of the scatter of pixels without light to their variance (exposure,).

    The scatter is the mean square about the mean of the columns around in the same row, without pixels that deviate by
    5 standard deviations; such pixels are also left out of a trace. The result is 1 if the ratio is not above 1 by 3
    standard errors. The mean square is used because the noise of real pixels has longer tails than a normal
    distribution: a median deviation gives 1.1 where the variance, which enters the fluxes, gives 1.25.
    """
    found = np.ones(residual.shape[0])
    pull = np.where(is_dark, residual / np.sqrt(variance), 0.0)
    around = running_mean(pull, is_dark, 2 * BIN)
    for e in range(residual.shape[0]):
        values = (pull[e] - around[e])[is_dark[e]]
        if values.size < 200:
            continue
        typical = max(float(np.median(np.abs(values))) / 0.6745, 1.0)
        square = values[np.abs(values) < 5.0 * typical] ** 2
        factor = float(square.mean())
        found[e] = factor if factor > 1 + 3 * square.std() / np.sqrt(square.size) else 1.0
    return found


def relative_variance(residual: np.ndarray, variance: np.ndarray, light: np.ndarray, is_used: np.ndarray) -> float:
    """Return the variance of bright pixels beyond their noise, relative to their light squared, from 0 to 0.1.

    The sensitivities of pixels differ by about a percent if the flat field is inaccurate, or not applied yet. In the
    mean of a bright time series this is many times the noise. A profile that is fitted with weights of the noise alone
    follows these differences. The variance is estimated with medians, so that outliers do not count, over pixels whose
    light is above 5 standard deviations.
    """
    bright = is_used & (light**2 > 25 * variance)
    if bright.sum() < 50:
        return 0.0
    scatter = np.median(np.abs(residual[bright] / light[bright])) / 0.6745
    return float(np.clip(scatter**2 - np.median(variance[bright] / light[bright] ** 2), 0.0, 0.1))


def running_mean(values: np.ndarray, is_used: np.ndarray, length: int) -> np.ndarray:
    """Return the mean of used pixels over neighbouring columns."""

    def total(array: np.ndarray) -> np.ndarray:
        sums = np.concatenate([np.zeros((*array.shape[:2], 1)), np.cumsum(array, axis=2)], axis=2)
        x = np.arange(array.shape[2])
        low, high = np.maximum(x - length // 2, 0), np.minimum(x + length // 2 + 1, array.shape[2])
        return np.asarray(sums[:, :, high] - sums[:, :, low])

    return np.asarray(total(values * is_used) / np.maximum(total(is_used.astype(float)), 1.0))
