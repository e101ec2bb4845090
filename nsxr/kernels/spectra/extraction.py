"""Fit a source to images: its trace and profile, its flux in each column, and outliers.

Images are (exposure, y, x) float64. A pixel that cannot be used has ``is_used`` False, whatever its value.
"""

from dataclasses import dataclass

import numpy as np

from nsxr.kernels.spectra.column_fit import column_weights
from nsxr.kernels.spectra.companions import Others
from nsxr.kernels.spectra.light import Place, find_light, levels_of, parts_of
from nsxr.kernels.spectra.off_profile import columns_off_profile
from nsxr.kernels.spectra.profile_correction import refine_profile
from nsxr.kernels.spectra.trace_profile import Profile
from nsxr.kernels.spectra.variance_model import (
    BIN,
    excess_noise,
    model_variance,
    relative_variance,
    running_mean,
    steady_flux,
)
from nsxr.kernels.spectra.wild_pixels import columns_with_lines

__all__ = ["Place", "Source", "column_weights", "fit_source", "model_variance", "steady_flux"]

REFINEMENTS = 3
"""Number of iterations of fluxes, variances and profile."""
_LEAST_SEEN = 0.1  # part of the profile on good pixels, below which a column does not help to find the profile
_DOUBT = 0.1  # error of the shape of other sources, as a part of their light
_TOLERANCE = 0.02
"""Error of the profile, as a part of the light of a pixel, that does not make the pixel an outlier."""
_WIDE = 0.2  # the same where two sources overlap


@dataclass(frozen=True)
class Source:
    """Hold a source fitted to images.

    Attributes
    ----------
    profile : Profile
        Trace and profile.
    is_used : (exposure, y, x) ndarray of bool
        Pixels that can be used, without outliers and negative traces.
    flux : (exposure, x) ndarray
        Flux of each column.
    background_variance, variance_of_signal : (exposure, x) ndarray
        Photon noise of pixels without light, and photon noise per signal, see :func:`model_variance`.
    noise_scale : (exposure,) ndarray
        Ratio of the variance of pixels without light to the given variance; 1 or more.
    others : Others
        Other sources in the slit, and subtracted nods.
    beside : (exposure, y, x) ndarray
        Light of other sources and subtracted nods.
    beside_variance : (exposure, y, x) ndarray
        Photon noise of ``beside``, and of nods that were subtracted.
    off_profile : (exposure, x) ndarray of bool
        Columns whose light is distributed differently, see
        :func:`nsxr.kernels.spectra.off_profile.columns_off_profile`.
    """

    profile: Profile
    is_used: np.ndarray
    flux: np.ndarray
    background_variance: np.ndarray
    variance_of_signal: np.ndarray
    noise_scale: np.ndarray
    others: Others
    beside: np.ndarray
    beside_variance: np.ndarray
    off_profile: np.ndarray

    def dark_variance(self, var_rnoise: np.ndarray) -> np.ndarray:
        """Return the variance of pixels without the photon noise of the source (exposure, y, x)."""
        return np.asarray(self.noise_scale[:, None, None] * (var_rnoise + self.background_variance[:, None, :]))


def fit_source(
    images: np.ndarray,
    var_poisson: np.ndarray,
    var_rnoise: np.ndarray,
    is_used: np.ndarray,
    place: Place,
    order: int = 0,
    rejection: float = 5.0,
    rescale_noise: bool = True,
) -> Source:
    """Fit trace, profile, photon noise and other light in the slit to the images, and find outliers.

    Parameters
    ----------
    images, var_poisson, var_rnoise : (exposure, y, x) ndarray
        Signal and variances.
    is_used : (exposure, y, x) ndarray of bool
        Pixels that can be used.
    place : Place
        Planned position of the source, and its slit.
    order : int, default 0
        Terms of the background, see :func:`column_weights`.
    rejection : float, default 5
        Pixels are left out that deviate from the model by more than this number of standard deviations plus 2 % of
        their light. The worst pixel of a column is left out in each iteration. An emission line changes a whole column,
        so its pixels do not deviate.
    rescale_noise : bool, default True
        Measure noise that exceeds the variances in pixels without light, such as residual correlated noise of the
        detector.

    Notes
    -----
    Pixels are left out where another source, or a subtracted nod, has half of the light of the source or more. In the
    remaining pixels the light of other sources is subtracted. Subtracted nods of an extended source are part of its
    profile.
    """
    n, n_rows, n_columns = images.shape
    can_be_used = is_used & np.isfinite(images) & np.isfinite(var_rnoise) & np.isfinite(var_poisson)
    can_be_used &= var_rnoise + var_poisson > 0
    images, var_rnoise = np.where(can_be_used, images, 0.0), np.where(can_be_used, var_rnoise, 1.0)
    var_poisson = np.where(can_be_used, np.maximum(var_poisson, 0.0), 0.0)
    # there is no model yet, so photon noise is the mean over the columns around
    smooth = running_mean(var_poisson, can_be_used, BIN)
    precision = np.where(can_be_used, 1 / np.where(can_be_used, var_rnoise + smooth, 1.0), 0.0)
    around = np.abs(np.arange(n_rows)[:, None] - place.plan[:, None, :]) < place.half_width + 3.0 * place.prior + 1.0
    with_lines = columns_with_lines(images, can_be_used & around)
    profile, others, precision = find_light(images, precision, place, order, ~with_lines)
    off_profile = np.zeros_like(with_lines)
    if with_lines.any():
        off_profile = _unlike_lines(images, precision, profile, others, place.sky, order, with_lines, rejection)
        profile, others, precision = find_light(images, precision, place, order, ~off_profile)
    can_be_used = precision > 0
    taken = others.taken(profile, n_rows, has_level=order > 0)
    if place.slit is None:  # for a point source, pixels in the cores of subtracted nods have no information
        taken |= Others(profile.distances, profile.strengths).taken(profile, n_rows)
    is_used = can_be_used & ~taken
    background = slope = flux = np.zeros((n, n_columns))
    variance = np.where(can_be_used, 1 / np.where(can_be_used, precision, 1.0), 0.0)
    beside, scale, relative = np.zeros(images.shape), np.ones(n), 0.0
    for number in range(REFINEMENTS):
        alone, aperture = profile.evaluate(n_rows)
        shape, lit = profile.response(n_rows)
        if others:  # all pixels are used to fit the brightness of the others
            known = np.where(can_be_used & (is_used | taken), 1 / np.where(can_be_used, variance, 1.0), 0.0)
            _, _, beside, _, _ = parts_of(images, known, profile, others, place.sky, order)
        own = images - beside
        precision = np.where(is_used, 1 / np.where(can_be_used, variance, 1.0), 0.0)
        flux_weights, background_weights, leverage = column_weights(shape, aperture, precision, order, place.sky)
        flux = (flux_weights * own).sum(1)
        level = _level(background_weights, own, place.sky)
        light = flux[:, None, :] * shape
        shining = np.maximum(flux[:, None, :] * lit, 0.0) + np.maximum(beside, 0.0)
        on_profile = is_used & ~off_profile[:, None, :]
        background, slope = model_variance(var_poisson, var_rnoise, on_profile, shining)
        dark = var_rnoise + background[:, None, :]
        residual = own - light - level
        free = np.maximum(1 - leverage, 0.01)
        if rescale_noise:
            scale = excess_noise(residual, dark * free, on_profile & (aperture == 0))
        steady = steady_flux(flux, 1 / np.maximum((flux_weights**2 * variance).sum(1), 1e-300))
        shining = np.maximum(steady[:, None, :] * lit, 0.0) + np.maximum(beside, 0.0)
        variance = scale[:, None, None] * dark + slope[:, None, :] * shining
        is_last = number == REFINEMENTS - 1
        known = variance + (relative if is_last else 0.0) * light**2  # the last limit is narrow
        tolerance = (_WIDE if others.overlap else _TOLERANCE) * (REFINEMENTS - number) ** 2
        limit = rejection * np.sqrt(known * free) + free * tolerance * _around(np.abs(light) + np.abs(beside))
        inside = can_be_used & ~taken & (aperture > 0)
        off_profile = columns_off_profile(own - level, variance, shape, limit, inside, with_lines)
        excess = np.abs(np.where(inside & ~off_profile[:, None, :], residual, 0.0)) / limit
        worst = excess == (excess * is_used).max(1, keepdims=True)
        is_used = can_be_used & ~taken & ~((excess > 1) & (worst | ~is_used))
        precision = np.where(is_used, 1 / variance, 0.0)
        flux_weights, background_weights, _ = column_weights(shape, aperture, precision, order, place.sky)
        flux = (flux_weights * own).sum(1)
        light, residual = flux[:, None, :] * shape, own - _level(background_weights, own, place.sky)
        on_profile = is_used & ~off_profile[:, None, :]
        relative = relative_variance(residual - light, variance, light, on_profile & (aperture > 0))
        doubtful = variance + relative * light**2 + (_DOUBT * beside) ** 2
        levels = levels_of(place.sky, order) if place.slit is not None else []
        levels += list(others.shapes(profile, n_rows)) if others else []
        if not others.overlap:  # a free profile would take the light of its neighbour
            trusted = np.where(on_profile & _sees_source(is_used, alone), 1 / doubtful, 0.0)
            profile = refine_profile(residual, trusted, flux, profile, levels, with_covariance=is_last)
    in_nods = np.maximum(profile.response(n_rows)[1] - profile.evaluate(n_rows)[0], 0.0)
    noise = slope[:, None, :] * (np.maximum(beside, 0.0) + np.maximum(flux, 0.0)[:, None, :] * in_nods)
    return Source(profile, is_used, flux, background, slope, scale, others, beside, noise, off_profile)


def _sees_source(is_used: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """Return the columns whose good pixels have enough of the profile (exposure, 1, x), bool.

    In the others, as at the slanted end of a slit, a faint wing alone is left, and the flux is arbitrary.
    """
    return np.asarray(np.where(is_used, profile, 0.0).sum(1, keepdims=True) > _LEAST_SEEN)


def _unlike_lines(
    images: np.ndarray,
    precision: np.ndarray,
    profile: Profile,
    others: Others,
    sky: np.ndarray,
    order: int,
    with_lines: np.ndarray,
    rejection: float,
) -> np.ndarray:
    """Return columns with lines whose light is distributed differently from the continuum (exposure, x), bool.

    There are no such columns if the continuum is too faint to compare with, below a signal to noise of 50.
    """
    n_rows = images.shape[1]
    _, aperture = profile.evaluate(n_rows)
    shape, _ = profile.response(n_rows)
    flux, _, beside, level, _ = parts_of(images, precision, profile, others, sky, order)
    is_inside = (precision > 0) & (aperture > 0)
    if ((np.maximum(flux, 0.0) ** 2 * (precision * shape**2).sum(1)) * ~with_lines).sum() < 50.0**2:
        return np.zeros_like(with_lines)
    bright = _around(np.abs(flux[:, None, :] * shape) + np.abs(beside))
    variance = 1 / np.where(precision > 0, precision, 1.0)
    limit = rejection * np.sqrt(variance) + _TOLERANCE * REFINEMENTS**2 * bright
    return columns_off_profile(images - beside - level, variance, shape, limit, is_inside, with_lines)


def _level(weights: np.ndarray, images: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """Return the background of each pixel."""
    return np.asarray((weights * images).sum(1)[:, None, :] * sky)


def _around(light: np.ndarray) -> np.ndarray:
    """Return the largest of three values: each pixel and its two neighbours in the column."""
    found = light.copy()
    np.maximum(found[:, :-1], light[:, 1:], out=found[:, :-1])
    np.maximum(found[:, 1:], light[:, :-1], out=found[:, 1:])
    return found
