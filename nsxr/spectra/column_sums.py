"""Extract spectra from the images of one slit with a fitted profile: the calculation for one block of NumPy arrays.

Images are (y, x), with or without integrations in front. See :func:`nsxr.extract_spectrum`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import ndtr

from nsxr.kernels.shared_noise import PlacesInTime, SharedNoise, shared_in_columns
from nsxr.kernels.spectra.column_fit import box_weights, column_weights
from nsxr.model.dq import UNUSABLE, PixelFlag

__all__ = ["MODEL", "SumSettings", "at_mean_wavelength", "extract_columns", "mean_over_profile", "weights_of_sum"]

MODEL = (
    "profile",
    "response",
    "aperture",
    "is_used",
    "beside",
    "beside_variance",
    "sky",
    "steady_flux",
    "background_variance",
    "variance_of_signal",
    "profile_variance",
    "off_profile",
    "trace",
    "width",
    "noise_scale",
    "background_terms",
)
"""The variables of a trace model that an extraction needs, in this order."""

_LIT = 0.5
"""Part of a uniform sky above which a row counts in the mean brightness of an extended source."""
_FARTHEST, _SPLINE = 0.5, 4  # pixels; columns, fewer tell no slope
_STUCK = 0.02
"""Part of the profile on pixels that see a stuck shutter, above which a column has their flag."""
_MOST_OF_LIGHT = 1.5
"""Largest sum of absolute values of a profile; 1 for light. Above it errors would be below those of a pixel."""


@dataclass(frozen=True)
class SumSettings:
    """Hold what an extraction needs besides images and model.

    Attributes
    ----------
    is_box : bool
        Whether the pixels in the aperture are summed; otherwise the profile is fitted.
    first_row : float or None
        Detector row of the first row of a point source's cut-out; None for extended sources.
    rejection_threshold, least_coverage : float
        See :func:`nsxr.extract_spectrum`.
    to_flux : float
        Factor from a sum of pixels to a flux.
    to_brightness : float
        Factor from the level of a pixel to a brightness; 0 where it is not known.
    is_per_area : bool
        Whether pixels are in units of brightness.
    places : PlacesInTime or None
        When pixels are read, if it is known what they share of the noise.
    """

    is_box: bool
    first_row: float | None
    rejection_threshold: float
    least_coverage: float
    to_flux: float
    to_brightness: float
    is_per_area: bool
    places: PlacesInTime | None = None


@dataclass(frozen=True)
class _Model:
    """Hold the trace model of a slit, see :data:`MODEL`, and what all integrations derive from it."""

    profile: np.ndarray
    response: np.ndarray
    aperture: np.ndarray
    is_used: np.ndarray
    beside: np.ndarray
    beside_variance: np.ndarray
    sky: np.ndarray
    steady_flux: np.ndarray
    background_variance: np.ndarray
    variance_of_signal: np.ndarray
    profile_variance: np.ndarray
    off_profile: np.ndarray
    trace: np.ndarray
    width: np.ndarray
    noise_scale: np.ndarray
    background_terms: np.ndarray
    light: np.ndarray = field(init=False)
    """Light of the source in each pixel."""
    photons: np.ndarray = field(init=False)
    """Variance of each pixel from photons."""
    around: np.ndarray = field(init=False)
    """Light of the brightest of three pixels: the pixel itself, and its neighbours above and below."""

    def __post_init__(self) -> None:
        light = np.maximum(self.steady_flux * self.profile, 0.0)
        dark = float(self.noise_scale) * self.background_variance
        neighbours = np.pad(light + np.abs(self.beside), ((1, 1), (0, 0)))
        object.__setattr__(self, "light", light)
        object.__setattr__(self, "photons", dark + self.variance_of_signal * light + self.beside_variance)
        object.__setattr__(self, "around", np.maximum(np.maximum(neighbours[:-2], neighbours[2:]), light))

    @property
    def order(self) -> int:
        """Number of terms of the local background."""
        return int(self.background_terms)

    def weights(self, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the weights of pixels in the flux and in the background level, and the leverages of pixels."""
        found = column_weights(self.response[None], self.aperture[None], precision[None], self.order, self.sky[None])
        return found[0], found[1], found[2]


@dataclass(frozen=True)
class _Sums:
    """Hold the result of one image: flux and background level of each column, and each kind of variance of both."""

    flux: np.ndarray
    level: np.ndarray
    npixels: np.ndarray
    covered: np.ndarray
    there: np.ndarray
    flux_variances: Sequence[np.ndarray]
    level_variances: Sequence[np.ndarray]


def extract_columns(
    sci: np.ndarray,
    dq: np.ndarray,
    *arrays: np.ndarray,
    settings: SumSettings,
) -> tuple[np.ndarray, ...]:
    """Extract images with one trace model.

    Parameters
    ----------
    sci, dq : (..., y, x) ndarray
        Signal and flags.
    *arrays : ndarray
        The parts of the trace model, in the order of :data:`MODEL`; then ``var_rnoise`` and, if there is one,
        ``var_flat``, with the shape of ``sci``; then ``flatfield_common``, if it is known; then ``noise_used`` and
        ``noise_correlation``, if there are ``places``.
    settings : SumSettings
        All other inputs.

    Returns
    -------
    tuple of ndarray
        (..., x): flux and its three variances; brightness and its variances; background and its variances; number of
        pixels; height of the aperture; coverage; flags.
    """
    shared = None if settings.places is None else SharedNoise(arrays[-2], arrays[-1], settings.places)
    arrays = arrays if shared is None else arrays[:-2]
    model = _Model(*arrays[: len(MODEL)])
    var_rnoise, *var_flat = arrays[len(MODEL) :]
    own_part = 1 - var_flat[1] if len(var_flat) > 1 else 1.0  # errors of single pixels
    usable = ((dq & UNUSABLE) == 0) & np.isfinite(sci)
    shape = (*sci.shape[:-2], sci.shape[-1])
    flux, level, npixels, coverage = (np.empty(shape) for _ in range(4))
    flux_variances, level_variances = ([np.empty(shape) for _ in range(3)] for _ in range(2))
    flags = np.zeros(shape, dtype=np.uint32)
    inside = _inside(model, sci.shape[-2], settings.first_row)
    sum_of_profile = (model.aperture * np.abs(model.profile)).sum(0)
    is_stuck = (dq & np.uint32(PixelFlag.MSA_FAILED_OPEN)) > 0
    stuck = (model.aperture * np.abs(model.profile) * is_stuck).sum(-2)
    is_light = settings.is_box | model.off_profile | (sum_of_profile <= _MOST_OF_LIGHT)
    for index in np.ndindex(sci.shape[:-2]):
        flat = var_flat[0][index].astype(np.float64) * own_part if var_flat else None
        noise = var_rnoise[index].astype(np.float64)
        found = _extract(sci[index], usable[index], noise, flat, model, settings, sci.ndim > 2, shared)
        covered = found.covered * inside
        flux[index], level[index], npixels[index] = found.flux, found.level, found.npixels
        coverage[index] = np.clip(covered, 0.0, 1.0)
        for kind in range(3):
            flux_variances[kind][index] = found.flux_variances[kind]
            level_variances[kind][index] = found.level_variances[kind]
        is_good = found.there & is_light & (covered >= settings.least_coverage)
        flags[index] = np.where(is_good, 0, int(PixelFlag.DO_NOT_USE))
    flags |= np.where(stuck > _STUCK, np.uint32(PixelFlag.MSA_FAILED_OPEN), np.uint32(0))
    pixels = model.aperture.sum(0)
    to_flux, to_level = settings.to_flux, settings.to_brightness
    to_surface = np.zeros(pixels.shape)
    if settings.is_per_area:
        counted = model.aperture
        if settings.first_row is None:  # rows beyond the open shutters are not part of the mean
            counted = np.where((model.sky > _LIT).any(0), model.aperture * (model.sky > _LIT), model.aperture)
        share = (counted * model.profile).sum(0) / np.where(pixels > 0, (model.aperture * model.profile).sum(0), np.nan)
        to_surface = share / np.where(counted.sum(0) > 0, counted.sum(0), np.nan)
    return (
        flux * to_flux,
        *(variance * to_flux**2 for variance in flux_variances),
        flux * to_surface,
        *(variance * to_surface**2 for variance in flux_variances),
        level * to_level,
        *(variance * to_level**2 for variance in level_variances),
        npixels,
        np.broadcast_to(pixels, shape).copy(),
        coverage,
        flags,
    )


def _inside(model: _Model, n_rows: int, first_row: float | None) -> np.ndarray:
    """Return the part of the light of each column that falls on the rows of the cut-out."""
    if first_row is None:
        return np.ones(model.aperture.shape[-1])
    # where the cut-out ends within the trace, the profile describes only the part of the light in the cut-out
    edges = np.array([-0.5, n_rows - 0.5])[:, None] + first_row - model.trace
    return np.asarray(np.subtract(*ndtr(edges / model.width)[::-1]))


def _extract(
    sci: np.ndarray,
    usable: np.ndarray,
    var_rnoise: np.ndarray,
    var_flat: np.ndarray | None,
    model: _Model,
    settings: SumSettings,
    is_series: bool,
    shared: SharedNoise | None,
) -> _Sums:
    """Extract one image (y, x)."""
    read = float(model.noise_scale) * var_rnoise
    variance = read + model.photons
    good = usable & model.is_used & np.isfinite(variance) & (variance > 0)
    image = np.where(good, sci.astype(np.float64) - model.beside, 0.0)
    precision = np.where(good, 1 / np.where(good, variance, 1.0), 0.0)
    weights, level_weights, leverage = model.weights(precision)
    if settings.rejection_threshold > 0 and is_series:
        fitted = (weights[0] * image).sum(0) * model.response
        residual = image - fitted - (level_weights[0] * image).sum(0) * model.sky
        bad = _rejected(residual, variance, good, leverage[0], model, settings.rejection_threshold)
        if bad.any():
            good &= ~bad
            image, precision = np.where(good, image, 0.0), np.where(good, precision, 0.0)
            weights, level_weights, _ = model.weights(precision)
    w, b = weights[0], level_weights[0]
    noise_of_light = model.photons
    if settings.is_box or model.off_profile.any():
        summed, beside = box_weights(
            weights,
            level_weights,
            model.profile[None],
            model.response[None],
            model.aperture[None],
            precision[None],
            model.sky[None],
            model.order,
            model.off_profile[None],
        )
        w, b = np.where(settings.is_box | model.off_profile, summed[0], w), beside[0]
        # sums have fixed weights, so the noise of a pixel in its own variance does not bias the flux
        own = model.variance_of_signal * (np.maximum(image - (b * image).sum(0) * model.sky, 0.0) - model.light)
        noise_of_light = model.photons + np.where(model.off_profile, own, 0.0)
    there = w.any(0) & (good & (model.aperture > 0)).any(0)
    flux = np.where(there, (w * image).sum(0), np.nan)
    of_flux, of_level = [], []
    for term in (noise_of_light, read, np.zeros_like(read) if var_flat is None else var_flat):
        known = np.where(good & np.isfinite(term), term, 0.0)
        of_flux.append(np.where(there, (w**2 * known).sum(0), np.nan))
        of_level.append((b**2 * known).sum(0))
    if shared is not None:
        known = np.where(good, read, 0.0)
        of_flux[1] = of_flux[1] + shared_in_columns(w, known, shared)
        of_level[1] = of_level[1] + shared_in_columns(b, known, shared)
    noise = of_flux[0] + of_flux[1]
    factor = 1 + model.profile_variance * np.where(there, flux, 0.0) ** 2 / np.where(noise > 0, noise, 1.0)
    of_flux[0], of_flux[1] = of_flux[0] * factor, of_flux[1] * factor
    npixels = np.where(there, (model.aperture * good).sum(0), 0.0)
    covered = (model.aperture * model.profile * good).sum(0)
    return _Sums(flux, (b * image).sum(0), npixels, covered, there, of_flux, of_level)


def _rejected(
    residual: np.ndarray, variance: np.ndarray, good: np.ndarray, leverage: np.ndarray, model: _Model, limit: float
) -> np.ndarray:
    """Return the pixel of each column that deviates most from the model, if it deviates by too much."""
    free = np.maximum(1 - leverage, 0.01)
    most = limit * np.sqrt(np.where(good, variance, 1.0) * free) + 0.05 * free * model.around
    excess = np.where(good & (model.aperture > 0), np.abs(residual) / most, 0.0)
    return np.asarray((excess > 1) & (excess == excess.max(0)) & ~model.off_profile)


def mean_over_profile(wavelength: np.ndarray, profile: np.ndarray, aperture: np.ndarray) -> np.ndarray:
    """Return the mean wavelength of each column, weighted by the profile; NaN where there is none."""
    values = wavelength.astype(np.float64)
    known = np.isfinite(values)
    weight = np.where(known, profile * aperture, 0.0)
    total = weight.sum(0)
    product = weight * np.where(known, values, 0.0)
    mean = np.where(np.isnan(product), 0.0, product).sum(0) / np.where(total > 0, total, np.nan)
    return np.asarray(np.where(total > 0, mean, np.nan))


def at_mean_wavelength(
    flux: np.ndarray,
    dq: np.ndarray,
    wavelength: np.ndarray,
    profile: np.ndarray,
    aperture: np.ndarray,
    weight: np.ndarray,
) -> np.ndarray:
    """Return fluxes (..., x) at the mean wavelengths of their columns, see :func:`mean_over_profile`.

    Wavelengths change along a column, and a column that lost a pixel sees the other side of the trace. The difference
    is the slope of the spectrum, from a cubic spline through good columns, times the distance of both wavelengths.
    """
    mean = mean_over_profile(wavelength, profile, aperture)
    step = np.gradient(mean) if mean.size > 1 else np.ones(mean.shape)
    shift = mean_over_profile(wavelength, profile, weight) - mean
    is_near = np.abs(shift) < _FARTHEST * np.abs(step)  # not where wavelengths are unknown or all the same
    shift = np.where(is_near, shift, 0.0) / np.where(is_near, step, 1.0)
    found = flux.astype(np.float64)
    for index in np.ndindex(flux.shape[:-1]):
        good = np.flatnonzero(np.isfinite(flux[index]) & ((dq[index] & np.uint32(PixelFlag.DO_NOT_USE)) == 0))
        if good.size > _SPLINE:
            found[index][good] -= shift[good] * CubicSpline(good, flux[index][good])(good, 1)
    return found


def weights_of_sum(
    weight: np.ndarray,
    profile: np.ndarray,
    response: np.ndarray,
    aperture: np.ndarray,
    is_used: np.ndarray,
    *,
    is_box: bool,
    to_flux: float,
) -> np.ndarray:
    """Return the weights of pixels in the flux of the mean image, float32."""
    if is_box:
        summed = np.where(is_used & (2 * response > profile), aperture, 0.0)
        covered = (response * summed).sum(0)
        weight = summed + (1 - covered) * weight
    return np.asarray(weight.astype(np.float32) * np.float32(to_flux))
