"""Find spectra, and samples of spectra, that do not show the same light as the others, on NumPy arrays."""

import numpy as np

from nsxr.kernels.medians import median_of_finite

__all__ = ["LEAST_LIGHT", "MOST_LIGHT", "clip", "pixels_around", "unlike_others", "without_light"]

_NEAR = 2
"""Pixels on either side that decide which of two samples is the outlier."""
_BLOCKS = 16
"""Number of parts of a spectrum that are compared. A cosmic ray, or an error of a flat field, affects one part."""
LEAST_LIGHT = 0.3
"""Least light relative to the brightest spectrum. Slit losses of nods differ by one or two tenths."""
MOST_LIGHT = 3.0
"""Largest light relative to the other spectra. A spectrum with more does not show the same source."""


def pixels_around(values: np.ndarray, half: int) -> np.ndarray:
    """Return the values within ``half`` pixels of each pixel along the last axis, along a new first axis."""
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(half, half)], constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1, axis=-1)
    return np.moveaxis(windows, -1, 0)


def unlike_others(values: np.ndarray, variances: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Return which spectra, of three or more, differ too much from the others to be averaged with them.

    Parameters
    ----------
    values, variances, used : (spectrum, wavelength) ndarray
        See :func:`without_light`.

    Returns
    -------
    (spectrum,) bool
        True where, in most parts of the spectrum, the absolute mean is above :data:`MOST_LIGHT` times the median of the
        others by 5 standard deviations. For two others the brighter one is used as the median. Only parts are compared
        in which this median is above 5 standard deviations. Also true where the variance is below a ten thousandth of
        that of the others in most parts, because such a spectrum would dominate the mean.
    """
    n, size = values.shape
    found = np.zeros(n, dtype=bool)
    if n < 3 or size < _BLOCKS:
        return found
    starts = np.arange(_BLOCKS) * size // _BLOCKS
    count = np.add.reduceat(used.astype(float), starts, axis=1)
    known = np.where(count > 0, count, np.nan)
    mean = np.add.reduceat(np.where(used, values, 0.0), starts, axis=1) / known
    noise = np.sqrt(np.add.reduceat(np.where(used, variances, 0.0), starts, axis=1)) / known
    for i in range(n):
        others = np.arange(n) != i
        there = np.isfinite(mean[others]).sum(0) >= 2
        # of two spectra take the brighter one, because the other may have no light
        rank = np.minimum(np.isfinite(mean[others]).sum(0) // 2, n - 2)
        light = np.take_along_axis(np.sort(mean[others], axis=0), rank[None], axis=0)[0]
        doubt = median_of_finite(noise[others])
        compared = np.isfinite(mean[i]) & there
        bright = compared & (light > 5 * doubt)
        beyond = np.abs(mean[i]) > MOST_LIGHT * light + 5 * np.where(compared, noise[i], 0.0)
        precise = compared & (noise[i] < 1e-2 * doubt)
        found[i] = bright.any() and 2 * (bright & beyond).sum() > bright.sum()
        found[i] |= compared.any() and 2 * precise.sum() > compared.sum()
    return found


def without_light(values: np.ndarray, variances: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Return which spectra lack the light of the brightest one, such as nods behind a closed shutter.

    Parameters
    ----------
    values, variances : (spectrum, wavelength) float64
        Flux on a common grid.
    used : (spectrum, wavelength) bool
        Samples that can be used.

    Returns
    -------
    (spectrum,) bool
        True where the median over parts of the spectrum is below :data:`LEAST_LIGHT` by 5 standard deviations. Only
        parts are used in which the brightest spectrum is above 5 standard deviations; at least three such parts are
        needed.

    Notes
    -----
    The amplitude of a spectrum f in a part is ``sum(f m) / sum(m**2 - var(m))``, where m is the brightest spectrum.
    Without the term ``var(m)`` the noise of m would make all others too faint.
    """
    n, size = values.shape
    found = np.zeros(n, dtype=bool)
    if n < 2 or size < _BLOCKS:
        return found
    starts = np.arange(_BLOCKS) * size // _BLOCKS

    def sums(array: np.ndarray) -> np.ndarray:
        return np.asarray(np.add.reduceat(array, starts, axis=-1))

    f, v = np.where(used, values, 0.0), np.where(used, variances, 1.0)
    power = sums(np.where(used, f**2 / v - 1, 0.0))
    # a negative spectrum is never the brightest, even if it is significant
    brightest = int(np.argmax((np.sqrt(np.maximum(power, 0.0)) * np.sign(sums(f / v))).sum(axis=-1)))
    m, own = f[brightest], v[brightest]
    for i in range(n):
        both = used[i] & used[brightest]
        light, noise = sums(np.where(both, m**2 - own, 0.0)), sums(np.where(both, 2 * own**2 + 4 * m**2 * own, 0.0))
        bright = light > 5 * np.sqrt(noise)
        if i == brightest or bright.sum() < 3:
            continue
        amplitude = sums(np.where(both, f[i] * m, 0.0))[bright] / light[bright]
        variance = sums(np.where(both, v[i] * m**2, 0.0))[bright] / light[bright] ** 2
        error = 1.25 * np.sqrt(np.median(variance) / bright.sum())
        found[i] = np.median(amplitude) + 5 * error < LEAST_LIGHT
    return found


def clip(values: np.ndarray, variances: np.ndarray, weights: np.ndarray, used: np.ndarray, limit: float) -> np.ndarray:
    """Return ``used`` without outliers, all (spectrum, wavelength), see :func:`nsxr.combine_spectra`."""
    used = used.copy()
    pooled = pixels_around(np.where(used, values, np.nan), _NEAR)
    near = median_of_finite(pooled.reshape(-1, values.shape[1]))
    every = np.arange(values.shape[1])
    for _ in range(len(values) - 1):
        weight = np.where(used, weights, 0.0)
        value, variance = np.where(used, values, 0.0), np.where(used, variances, 0.0)
        rest = weight.sum(axis=0) - weight
        count = used.sum(axis=0)
        tested = used & (count >= 2)
        safe = np.where(tested, rest, 1.0)
        others = ((weight * value).sum(axis=0) - weight * value) / safe
        spread = variance + ((weight**2 * variance).sum(axis=0) - weight**2 * variance) / safe**2
        score = np.where(tested, np.abs(value - others) / np.sqrt(np.where(tested, spread, 1.0)), 0.0)
        distance = np.where(used, np.abs(value - near), -1.0)
        worst = np.where(count == 2, np.argmax(distance, axis=0), np.argmax(score, axis=0))
        out = score[worst, every] > limit
        if not out.any():
            break
        used[worst[out], every[out]] = False
    return used
