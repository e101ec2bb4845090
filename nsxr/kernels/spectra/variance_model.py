"""Models of the variance of pixels: photon noise that follows the light, and noise beyond the given variances.

Images are (exposure, y, x) float64.
"""

import numpy as np

__all__ = ["BIN", "excess_noise", "model_variance", "relative_variance", "running_mean", "steady_flux"]

BIN = 32
"""Columns that share one relation between signal and its photon noise."""


def steady_flux(flux: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Return the flux of each column as its neighbours have it, unless it differs from theirs significantly.

    For models of variance: with its own noise in it, a flux that is high by chance makes the brightest pixels count
    less, and comes out low, by 0.3 % at a signal to noise of 11.

    Parameters
    ----------
    flux, precision : (exposure, x) ndarray
        Flux and its inverse variance.
    """
    weight = np.where(np.isfinite(flux) & np.isfinite(precision) & (precision < 1e290), precision, 0.0)
    padded = np.pad(np.where(weight > 0, flux, 0.0) * (weight > 0), ((0, 0), (3, 3)))
    there = np.pad((weight > 0).astype(float), ((0, 0), (3, 3)))
    n = flux.shape[1]
    others = [shift for shift in range(7) if shift != 3]
    count = sum((there[:, shift : shift + n] for shift in others), np.zeros_like(flux))
    mean = sum((padded[:, shift : shift + n] for shift in others), np.zeros_like(flux)) / np.maximum(count, 1.0)
    noise = np.sqrt(np.where(weight > 0, 1 / np.where(weight > 0, weight, 1.0), 0.0) * (1 + 1 / np.maximum(count, 1.0)))
    alike = (count > 0) & (np.abs(flux - mean) < 4.0 * noise)
    return np.where(alike, mean, flux)


def model_variance(
    var_poisson: np.ndarray, var_rnoise: np.ndarray, is_used: np.ndarray, light: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how photon noise follows the light of the source: ``var_poisson = background + slope * light``.

    Variances of single pixels come from their own noisy signal; weights made from them prefer pixels that happen to be
    low, and the flux comes out low. The relation holds for all pixels of some columns.

    Parameters
    ----------
    var_poisson, var_rnoise : (exposure, y, x) ndarray
        Variances as given. The noise of the signal that the first were made from is the sum of both.
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
        found = np.full((2, starts.size), np.nan)
        for number, start in enumerate(starts):
            part = slice(start, start + BIN)
            used = is_used[e, :, part]
            if used.sum() < 3:
                continue
            values, lit = var_poisson[e, :, part][used], np.maximum(light[e, :, part][used], 0.0)
            other = var_rnoise[e, :, part][used]
            level, rate = float(values.mean()), 0.0
            for _ in range(3):
                weight = 1 / (other + level + rate * lit)
                a, b, c = (weight).sum(), (weight * lit).sum(), (weight * lit**2).sum()
                d, f = (weight * values).sum(), (weight * lit * values).sum()
                determinant = a * c - b * b
                rate = max((a * f - b * d) / determinant, 0.0) if determinant > 1e-12 * a * c else 0.0
                level = max((d - rate * b) / a, 0.0)
            found[:, number] = level, rate
        known = np.isfinite(found[0])
        if known.any():
            background[e] = np.interp(columns, middles[known], found[0, known])
            slope[e] = np.interp(columns, middles[known], found[1, known])
    return background, slope


def excess_noise(residual: np.ndarray, variance: np.ndarray, is_dark: np.ndarray) -> np.ndarray:
    """Return the factor of the variance of pixels without light that their scatter asks for (exposure,).

    Mean square about the mean of the columns around in the same row, without pixels off by 5 standard deviations, which
    would be left out of a trace, too; 1 where it is not larger by 3 standard errors. Noise of real pixels has longer
    tails than a normal distribution: a median deviation finds 1.1 where the variance, which fluxes inherit, is 1.25.
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
    """Return the variance, relative to their light squared, that bright pixels show beyond their noise, 0 to 0.1.

    Pixels differ by a percent where flat fields do not know it, or are not applied yet; in the mean of a bright series
    that is many times the noise. A profile fitted to such pixels with weights of the noise alone follows them. From
    medians, over pixels with light of more than 5 standard deviations: outliers are no such thing.
    """
    bright = is_used & (light**2 > 25 * variance)
    if bright.sum() < 50:
        return 0.0
    scatter = np.median(np.abs(residual[bright] / light[bright])) / 0.6745
    return float(np.clip(scatter**2 - np.median(variance[bright] / light[bright] ** 2), 0.0, 0.1))


def running_mean(values: np.ndarray, is_used: np.ndarray, length: int) -> np.ndarray:
    """Return the mean over neighbouring columns, of used pixels alone."""

    def total(array: np.ndarray) -> np.ndarray:
        sums = np.concatenate([np.zeros((*array.shape[:2], 1)), np.cumsum(array, axis=2)], axis=2)
        x = np.arange(array.shape[2])
        low, high = np.maximum(x - length // 2, 0), np.minimum(x + length // 2 + 1, array.shape[2])
        return np.asarray(sums[:, :, high] - sums[:, :, low])

    return np.asarray(total(values * is_used) / np.maximum(total(is_used.astype(float)), 1.0))
