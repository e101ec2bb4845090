"""Fluxes of the columns of a spectrum from the pixels that can be used, as linear weights; models of variance.

Images are (exposure, y, x) float64. A pixel that cannot be used has ``is_used`` False, whatever its value.
"""

from dataclasses import dataclass

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.kernels.trace_profile import Profile, fit_trace, refine_profile

__all__ = ["Source", "column_weights", "fit_source", "model_variance", "steady_flux"]

REFINEMENTS = 3
"""Times that fluxes, variances and profile are found in turn."""
_BIN = 32
"""Columns that share one relation between signal and its photon noise."""
_TOLERANCE = 0.02
"""Part of the light of a pixel by which the profile may be wrong without the pixel being an outlier."""


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


@dataclass(frozen=True)
class Source:
    """A source fitted to images.

    Attributes
    ----------
    profile : Profile
        Where the light is.
    is_used : (exposure, y, x) ndarray of bool
        Pixels that can be used, without outliers and negative traces.
    flux : (exposure, x) ndarray
        Flux of each column.
    background_variance, variance_of_signal : (exposure, x) ndarray
        Photon noise of pixels without light, and per signal, see :func:`model_variance`.
    noise_scale : (exposure,) ndarray
        Factor by which the variance of pixels without light is larger than given; 1 or more.
    """

    profile: Profile
    is_used: np.ndarray
    flux: np.ndarray
    background_variance: np.ndarray
    variance_of_signal: np.ndarray
    noise_scale: np.ndarray

    def dark_variance(self, var_rnoise: np.ndarray) -> np.ndarray:
        """Return the variance of pixels but for the photon noise of the source (exposure, y, x)."""
        return np.asarray(self.noise_scale[:, None, None] * (var_rnoise + self.background_variance[:, None, :]))


@kernel
def _weights(
    profile: np.ndarray,
    aperture: np.ndarray,
    precision: np.ndarray,
    order: int,
    flux_weights: np.ndarray,
    background_weights: np.ndarray,
    leverage: np.ndarray,
) -> None:
    """Solve the least squares of each column for flux and background; see :func:`column_weights`."""
    n, n_rows, n_columns = profile.shape
    n_terms = 1 + order
    terms = np.empty(n_terms)
    normal, inverse = np.empty((n_terms, n_terms)), np.empty((n_terms, n_terms))
    for e in range(n):
        for x in range(n_columns):
            normal[:] = 0.0
            scale = 0.0
            for y in range(n_rows):
                weight = precision[e, y, x]
                if weight <= 0.0 or (order == 0 and aperture[e, y, x] <= 0.0):
                    continue
                _terms(profile[e, y, x], y, n_rows, terms)
                for i in range(n_terms):
                    for j in range(n_terms):
                        normal[i, j] += weight * terms[i] * terms[j]
                scale = max(scale, weight)
            flux_weights[e, :, x] = 0.0
            background_weights[e, :, x] = 0.0
            leverage[e, :, x] = 0.0
            if scale == 0.0 or not _invert(normal, inverse):
                continue
            centre, total = 0.0, 0.0
            for y in range(n_rows):
                centre += aperture[e, y, x] * y
                total += aperture[e, y, x]
            centre /= max(total, 1e-9)
            at_centre = 2.0 * centre / max(n_rows - 1, 1) - 1.0
            for y in range(n_rows):
                weight = precision[e, y, x]
                if weight <= 0.0 or (order == 0 and aperture[e, y, x] <= 0.0):
                    continue
                _terms(profile[e, y, x], y, n_rows, terms)
                for i in range(n_terms):
                    flux_weights[e, y, x] += inverse[0, i] * terms[i] * weight
                    for j in range(n_terms):
                        leverage[e, y, x] += terms[i] * inverse[i, j] * terms[j] * weight
                    if order >= 1:
                        background_weights[e, y, x] += inverse[1, i] * terms[i] * weight
                    if order >= 2:
                        background_weights[e, y, x] += at_centre * inverse[2, i] * terms[i] * weight


@kernel
def _terms(profile: float, y: int, n_rows: int, out: np.ndarray) -> None:
    out[0] = profile
    for i in range(1, out.size):
        out[i] = 1.0 if i == 1 else 2.0 * y / max(n_rows - 1, 1) - 1.0


@kernel
def _invert(matrix: np.ndarray, inverse: np.ndarray) -> bool:
    """Invert a small positive matrix; False if it is singular, as of a column where too few pixels can be used."""
    n = matrix.shape[0]
    lower = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            if i == j:
                if total <= 1e-9 * matrix[i, i] or matrix[i, i] <= 0.0:
                    return False
                lower[i, i] = np.sqrt(total)
            else:
                lower[i, j] = total / lower[j, j]
    column = np.empty(n)
    for c in range(n):
        for i in range(n):
            total = 1.0 if i == c else 0.0
            for k in range(i):
                total -= lower[i, k] * column[k]
            column[i] = total / lower[i, i]
        for i in range(n - 1, -1, -1):
            total = column[i]
            for k in range(i + 1, n):
                total -= lower[k, i] * inverse[k, c]
            inverse[i, c] = total / lower[i, i]
    return True


def column_weights(
    profile: np.ndarray, aperture: np.ndarray, precision: np.ndarray, order: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the factors with which pixels enter the flux and the background of their column.

    Parameters
    ----------
    profile, aperture : (exposure, y, x) ndarray
        Part of the flux in each pixel; part of each pixel within the aperture.
    precision : (exposure, y, x) ndarray
        Inverse variances; 0 where a pixel cannot be used.
    order : int, default 0
        Terms of a background that is fitted together with the flux: none, a constant, or a line. Without
        background only pixels in the aperture count.

    Returns
    -------
    flux_weights, background_weights : (exposure, y, x) ndarray
        ``sum(weights * image)`` is the flux, or the background of a pixel in the middle of the aperture. All zero in
        columns where too little can be used.
    leverage : (exposure, y, x) ndarray
        Part of its own value in what is fitted to a pixel.
    """
    found = tuple(np.empty_like(profile) for _ in range(3))
    _weights(profile, aperture, precision, order, *found)
    return found[0], found[1], found[2]


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
    starts = np.arange(0, n_columns, _BIN)
    middles = np.minimum(starts + _BIN / 2, n_columns) - 0.5
    background, slope = np.zeros((n, n_columns)), np.zeros((n, n_columns))
    columns = np.arange(n_columns)
    for e in range(n):
        found = np.full((2, starts.size), np.nan)
        for number, start in enumerate(starts):
            part = slice(start, start + _BIN)
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


def fit_source(
    images: np.ndarray,
    var_poisson: np.ndarray,
    var_rnoise: np.ndarray,
    is_used: np.ndarray,
    plan: np.ndarray,
    half_width: float,
    prior: float,
    order: int = 0,
    rejection: float = 5.0,
    rescale_noise: bool = True,
    width: float = 0.9,
) -> Source:
    """Fit trace, profile, photon noise, and find outliers, all from the images.

    Parameters
    ----------
    images, var_poisson, var_rnoise : (exposure, y, x) ndarray
        Signal and variances.
    is_used : (exposure, y, x) ndarray of bool
        Pixels that can be used.
    plan : (exposure, x) ndarray
        Planned position of the trace [pixel].
    half_width : float
        Half width of the aperture [pixel].
    prior : float
        Standard deviation of the true offset from the plan [pixel].
    order : int, default 0
        Terms of the background, see :func:`column_weights`.
    rejection : float, default 5
        Pixels that deviate from the model by more than this many standard deviations, and by more than 2 % of their
        light, are left out, the worst of a column each time. What is common to a whole column, as an emission line,
        deviates in no pixel.
    rescale_noise : bool, default True
        Look for noise beyond the variances in pixels without light, as correlated noise of the detector that was left.
    width : float, default 0.9
        Standard deviation of the profile to begin with [pixel].

    Notes
    -----
    Where the source stands in exposures that were subtracted, pixels are left out, too.
    """
    n, n_rows, n_columns = images.shape
    can_be_used = is_used & np.isfinite(images) & np.isfinite(var_rnoise) & np.isfinite(var_poisson)
    can_be_used &= var_rnoise + var_poisson > 0
    is_used = can_be_used
    images, var_rnoise = np.where(is_used, images, 0.0), np.where(is_used, var_rnoise, 1.0)
    var_poisson = np.where(is_used, np.maximum(var_poisson, 0.0), 0.0)
    rows = np.arange(n_rows)[:, None]
    away = np.abs(rows - plan[:, None, :])
    # without a model yet, photon noise is that of the mean of the columns around
    smooth = _running_mean(var_poisson, is_used, _BIN)
    precision = np.where(is_used, 1 / np.where(is_used, var_rnoise + smooth, 1.0), 0.0)
    near = np.where(away < half_width + 3.0 * prior + 1.0, precision, 0.0)
    profile = fit_trace(images, near, plan, half_width, prior, width)
    can_be_used &= ~_negative_traces(images, precision, profile)
    if order:
        level = _outer_level(images, precision * can_be_used, away > half_width + prior)
        cleared = images - level[:, None, :]
        profile = fit_trace(cleared, near * can_be_used, plan, half_width, prior, width)
        can_be_used &= ~_negative_traces(cleared, precision, profile)
    is_used, precision = can_be_used, np.where(can_be_used, precision, 0.0)
    background = slope = flux = np.zeros((n, n_columns))
    variance = np.where(precision > 0, 1 / np.where(precision > 0, precision, 1.0), 0.0)
    scale, relative = np.ones(n), 0.0
    for number in range(REFINEMENTS):
        shape, aperture = profile.evaluate(n_rows)
        flux_weights, background_weights, leverage = column_weights(shape, aperture, precision, order)
        flux = (flux_weights * images).sum(1)
        level = (background_weights * images).sum(1)
        light = flux[:, None, :] * shape
        background, slope = model_variance(var_poisson, var_rnoise, is_used, light)
        dark = var_rnoise + background[:, None, :]
        residual = images - light - level[:, None, :]
        if rescale_noise:
            free = np.maximum(1 - leverage, 0.01)
            scale = _excess_noise(residual, dark * free, is_used & (aperture == 0))
        steady = steady_flux(flux, 1 / np.maximum((flux_weights**2 * variance).sum(1), 1e-300))
        variance = scale[:, None, None] * dark + slope[:, None, :] * np.maximum(steady[:, None, :] * shape, 0.0)
        deviation = residual * can_be_used * (aperture > 0)
        known = variance + (relative if number == REFINEMENTS - 1 else 0.0) * light**2  # before, the tolerance is wide
        limit = rejection * np.sqrt(known * np.maximum(1 - leverage, 0.01))
        limit += np.maximum(1 - leverage, 0.01) * _TOLERANCE * (REFINEMENTS - number) ** 2 * _around(np.abs(light))
        excess = np.abs(deviation) / limit
        worst = excess == (excess * is_used).max(1, keepdims=True)
        is_used = can_be_used & ~((excess > 1) & (worst | ~is_used))
        precision = np.where(is_used, 1 / variance, 0.0)
        flux_weights, background_weights, _ = column_weights(shape, aperture, precision, order)
        flux = (flux_weights * images).sum(1)
        level = (background_weights * images).sum(1)
        light, residual = flux[:, None, :] * shape, images - level[:, None, :]
        relative = _relative_variance(residual - light, variance, light, is_used & (aperture > 0))
        doubtful = np.where(is_used, 1 / (variance + relative * light**2), 0.0)
        profile = refine_profile(residual, doubtful, flux, profile)
    return Source(profile, is_used, flux, background, slope, scale)


def _excess_noise(residual: np.ndarray, variance: np.ndarray, is_dark: np.ndarray) -> np.ndarray:
    """Return the factor of the variance of pixels without light that their scatter asks for (exposure,).

    Mean square about the mean of the columns around in the same row, without pixels off by 5 standard deviations, which
    would be left out of a trace, too; 1 where it is not larger by 3 standard errors. Noise of real pixels has longer
    tails than a normal distribution: a median deviation finds 1.1 where the variance, which fluxes inherit, is 1.25.
    """
    found = np.ones(residual.shape[0])
    pull = np.where(is_dark, residual / np.sqrt(variance), 0.0)
    around = _running_mean(pull, is_dark, 2 * _BIN)
    for e in range(residual.shape[0]):
        values = (pull[e] - around[e])[is_dark[e]]
        if values.size < 200:
            continue
        typical = max(float(np.median(np.abs(values))) / 0.6745, 1.0)
        square = values[np.abs(values) < 5.0 * typical] ** 2
        factor = float(square.mean())
        found[e] = factor if factor > 1 + 3 * square.std() / np.sqrt(square.size) else 1.0
    return found


def _relative_variance(residual: np.ndarray, variance: np.ndarray, light: np.ndarray, is_used: np.ndarray) -> float:
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


def _negative_traces(images: np.ndarray, precision: np.ndarray, profile: Profile) -> np.ndarray:
    """Return where the source stands in exposures that were subtracted: lines along the trace, significantly negative.

    They reach 5 standard deviations and a tenth of the brightest line of the source.
    """
    n_rows = images.shape[1]
    distance = np.arange(n_rows)[:, None] - profile.trace()[:, None, :]
    line = np.clip(np.rint(distance).astype(int) + n_rows, 0, 2 * n_rows)
    found = np.zeros(images.shape, dtype=bool)
    for e in range(images.shape[0]):
        size = 2 * n_rows + 1
        weight = np.bincount(line[e].ravel(), precision[e].ravel(), size)
        mean = np.bincount(line[e].ravel(), (precision[e] * images[e]).ravel(), size) / np.maximum(weight, 1e-300)
        negative = (mean * np.sqrt(weight) < -5.0) & (mean < -0.1 * mean[n_rows])
        grown = np.convolve(negative, np.ones(5), mode="same") > 0  # their flanks, two rows to each side
        grown[n_rows - 2 : n_rows + 3] = False
        found[e] = grown[line[e]]
    return found


def _around(light: np.ndarray) -> np.ndarray:
    """Return the largest value of each pixel and its two neighbours in the column."""
    padded = np.pad(light, ((0, 0), (1, 1), (0, 0)))
    return np.asarray(np.maximum(np.maximum(padded[:, :-2], padded[:, 2:]), light))


def _running_mean(values: np.ndarray, is_used: np.ndarray, length: int) -> np.ndarray:
    """Return the mean over neighbouring columns, of used pixels alone."""

    def total(array: np.ndarray) -> np.ndarray:
        sums = np.concatenate([np.zeros((*array.shape[:2], 1)), np.cumsum(array, axis=2)], axis=2)
        x = np.arange(array.shape[2])
        low, high = np.maximum(x - length // 2, 0), np.minimum(x + length // 2 + 1, array.shape[2])
        return np.asarray(sums[:, :, high] - sums[:, :, low])

    return np.asarray(total(values * is_used) / np.maximum(total(is_used.astype(float)), 1.0))


def _outer_level(images: np.ndarray, precision: np.ndarray, is_outside: np.ndarray) -> np.ndarray:
    """Return the weighted mean of the pixels far from the trace (exposure, x)."""
    weight = precision * is_outside
    return np.asarray((weight * images).sum(1) / np.maximum(weight.sum(1), 1e-300))
