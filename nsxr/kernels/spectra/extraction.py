"""Fluxes of the columns of a spectrum from the pixels that can be used, as linear weights; models of variance.

Images are (exposure, y, x) float64. A pixel that cannot be used has ``is_used`` False, whatever its value.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nsxr.kernels.spectra.column_fit import column_weights, solve_parts
from nsxr.kernels.spectra.companions import Others, find_lines, gather
from nsxr.kernels.spectra.off_profile import columns_off_profile
from nsxr.kernels.spectra.trace_profile import Profile, fit_echoes, fit_trace, planned_profile, refine_profile
from nsxr.kernels.spectra.wild_pixels import columns_with_lines

__all__ = ["Place", "Source", "column_weights", "fit_source", "model_variance", "steady_flux"]

REFINEMENTS = 3
"""Times that fluxes, variances and profile are found in turn."""
_BIN = 32
"""Columns that share one relation between signal and its photon noise."""
_POINT, _WIDEST = 0.9, 2.5  # pixels, width of the image of a point to begin with, and at most
_DOUBT = 0.1  # part of the light of others that their shape may be wrong by
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
class Place:
    """What is known of a source and its slit before the light is looked at.

    Attributes
    ----------
    plan : (exposure, x) ndarray
        Planned position of the trace [pixel].
    is_planned : bool
        False where the plan was guessed from the light.
    prior : float
        Standard deviation of the true offset from the plan [pixel].
    half_width : float
        Half width of the aperture [pixel].
    sky : (exposure, y, x) ndarray
        Part of the light of an even sky that reaches each pixel.
    slit : (exposure, y, x) ndarray or None
        Part of each pixel within the slit, which is the aperture of an extended source; None for points.
    nods : sequence of ndarray or None
        For each exposure how many rows from the source other nods can be; None if not known.
    """

    plan: np.ndarray
    is_planned: bool
    prior: float
    half_width: float
    sky: np.ndarray
    slit: np.ndarray | None
    nods: Sequence[np.ndarray | None]


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
    others : Others
        Other sources in the slit, and subtracted nods.
    beside : (exposure, y, x) ndarray
        Light of the others.
    beside_variance : (exposure, y, x) ndarray
        Photon noise of that light, and of nods that were subtracted.
    off_profile : (exposure, x) ndarray of bool
        Columns whose light is distributed otherwise, see :func:`nsxr.kernels.spectra.off_profile.columns_off_profile`.
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
        """Return the variance of pixels but for the photon noise of the source (exposure, y, x)."""
        return np.asarray(self.noise_scale[:, None, None] * (var_rnoise + self.background_variance[:, None, :]))


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
    place: Place,
    order: int = 0,
    rejection: float = 5.0,
    rescale_noise: bool = True,
) -> Source:
    """Fit trace, profile, photon noise, other light in the slit, and find outliers, all from the images.

    Parameters
    ----------
    images, var_poisson, var_rnoise : (exposure, y, x) ndarray
        Signal and variances.
    is_used : (exposure, y, x) ndarray of bool
        Pixels that can be used.
    place : Place
        Where the source should be.
    order : int, default 0
        Terms of the background, see :func:`column_weights`.
    rejection : float, default 5
        Pixels that deviate from the model by more than this many standard deviations, and by more than 2 % of their
        light, are left out, the worst of a column each time. What is common to a whole column, as an emission line,
        deviates in no pixel.
    rescale_noise : bool, default True
        Look for noise beyond the variances in pixels without light, as correlated noise of the detector that was left.

    Notes
    -----
    Pixels where another source, or a subtracted nod, has half of the light of the source or more are left out; from
    others their light is subtracted. Subtracted nods of an extended source are part of its profile.
    """
    n, n_rows, n_columns = images.shape
    can_be_used = is_used & np.isfinite(images) & np.isfinite(var_rnoise) & np.isfinite(var_poisson)
    can_be_used &= var_rnoise + var_poisson > 0
    images, var_rnoise = np.where(can_be_used, images, 0.0), np.where(can_be_used, var_rnoise, 1.0)
    var_poisson = np.where(can_be_used, np.maximum(var_poisson, 0.0), 0.0)
    # without a model yet, photon noise is that of the mean of the columns around
    smooth = _running_mean(var_poisson, can_be_used, _BIN)
    precision = np.where(can_be_used, 1 / np.where(can_be_used, var_rnoise + smooth, 1.0), 0.0)
    around = np.abs(np.arange(n_rows)[:, None] - place.plan[:, None, :]) < place.half_width + 3.0 * place.prior + 1.0
    with_lines = columns_with_lines(images, can_be_used & around)
    profile, others, precision = _find_light(images, precision, place, order, ~with_lines)
    off_profile = np.zeros((n, n_columns), dtype=bool)
    if with_lines.any():
        off_profile = _unlike_lines(images, precision, profile, others, place.sky, order, with_lines, rejection)
        profile, others, precision = _find_light(images, precision, place, order, ~off_profile)
    can_be_used = precision > 0
    taken = others.taken(profile, n_rows, has_level=order > 0)
    if place.slit is None:  # of a point, cores of subtracted nods tell nothing
        taken |= Others(profile.distances, profile.strengths).taken(profile, n_rows)
    is_used = can_be_used & ~taken
    background = slope = flux = np.zeros((n, n_columns))
    variance = np.where(can_be_used, 1 / np.where(can_be_used, precision, 1.0), 0.0)
    beside, scale, relative = np.zeros(images.shape), np.ones(n), 0.0
    for number in range(REFINEMENTS):
        _, aperture = profile.evaluate(n_rows)
        shape, lit = profile.response(n_rows)
        if others:  # all pixels tell how bright the others are
            known = np.where(can_be_used & (is_used | taken), 1 / np.where(can_be_used, variance, 1.0), 0.0)
            _, _, beside, _, _ = _parts(images, known, profile, others, place.sky, order)
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
        if rescale_noise:
            free = np.maximum(1 - leverage, 0.01)
            scale = _excess_noise(residual, dark * free, on_profile & (aperture == 0))
        steady = steady_flux(flux, 1 / np.maximum((flux_weights**2 * variance).sum(1), 1e-300))
        shining = np.maximum(steady[:, None, :] * lit, 0.0) + np.maximum(beside, 0.0)
        variance = scale[:, None, None] * dark + slope[:, None, :] * shining
        known = variance + (relative if number == REFINEMENTS - 1 else 0.0) * light**2  # before, the tolerance is wide
        limit = rejection * np.sqrt(known * np.maximum(1 - leverage, 0.01))
        bright = _around(np.abs(light) + np.abs(beside))
        limit += np.maximum(1 - leverage, 0.01) * _TOLERANCE * (REFINEMENTS - number) ** 2 * bright
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
        relative = _relative_variance(residual - light, variance, light, on_profile & (aperture > 0))
        doubtful = variance + relative * light**2 + (_DOUBT * beside) ** 2
        levels = _levels(place.sky, order) if place.slit is not None else []
        levels += list(others.shapes(profile, n_rows)) if others else []
        profile = refine_profile(residual, np.where(on_profile, 1 / doubtful, 0.0), flux, profile, levels)
    profile_alone, _ = profile.evaluate(n_rows)
    _, lit = profile.response(n_rows)
    from_nods = np.maximum(flux, 0.0)[:, None, :] * (lit - profile_alone)
    noise = slope[:, None, :] * (np.maximum(beside, 0.0) + np.maximum(from_nods, 0.0))
    return Source(profile, is_used, flux, background, slope, scale, others, beside, noise, off_profile)


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
    """Return the columns whose lines are distributed otherwise than the continuum (exposure, x), bool.

    None where there is no continuum to compare with, below a signal to noise of 50.
    """
    n_rows = images.shape[1]
    _, aperture = profile.evaluate(n_rows)
    shape, _ = profile.response(n_rows)
    flux, _, beside, level, _ = _parts(images, precision, profile, others, sky, order)
    is_inside = (precision > 0) & (aperture > 0)
    if ((np.maximum(flux, 0.0) ** 2 * (precision * shape**2).sum(1)) * ~with_lines).sum() < 50.0**2:
        return np.zeros_like(with_lines)
    bright = _around(np.abs(flux[:, None, :] * shape) + np.abs(beside))
    variance = 1 / np.where(precision > 0, precision, 1.0)
    limit = rejection * np.sqrt(variance) + _TOLERANCE * REFINEMENTS**2 * bright
    return columns_off_profile(images - beside - level, variance, shape, limit, is_inside, with_lines)


def _find_light(
    images: np.ndarray, precision: np.ndarray, place: Place, order: int, is_told: np.ndarray
) -> tuple[Profile, Others, np.ndarray]:
    """Return the Gaussian profile of the source, the other light, and the inverse variances of pixels that tell.

    Of the columns, those count that ``is_told`` (exposure, x).
    """
    every, precision = precision, precision * is_told[:, None, :]
    n, n_rows, _ = images.shape
    extended = place.slit is not None
    lines = [
        find_lines(
            images[e],
            precision[e],
            place.plan[e],
            place.sky[e],
            has_level=order > 0,
            is_planned=place.is_planned,
            prior=place.prior,
            nods=place.nods[e],
            extended=extended,
        )
        for e in range(n)
    ]
    offsets = np.array([line.offset for line in lines])
    others, echoes = gather(lines, place.nods)
    away = np.abs(np.arange(n_rows)[:, None] - place.plan[:, None, :] - offsets[:, None, None])
    edge = (place.sky > 0.03) & (place.sky < 0.93)
    if extended:
        precision, every = (np.where(place.sky > 0.5, each, 0.0) for each in (precision, every))
        near = precision
    else:
        if order:  # where the sky fades nobody knows how much of it there is
            is_doubtful = edge & (away > place.half_width + 0.5)
            precision, every = (np.where(is_doubtful, 0.0, each) for each in (precision, every))
        near = np.where(away < place.half_width + 3.0 * place.prior + 1.0, precision, 0.0)
    profile = planned_profile(
        place.plan,
        offsets,
        place.half_width,
        float(np.median([line.width for line in lines])) if extended else _POINT,
        slit=place.slit,
        passed=place.sky if extended else None,
        widest=_WIDEST if place.slit is None else max(0.5 * float(np.median(place.slit.sum(1))), _WIDEST),
        distances=echoes.distances,
        strengths=echoes.strengths,
    )
    planned = np.stack([profile.distances, profile.strengths])
    astray = 0.1 if all(places is not None for places in place.nods) else 0.3
    rounds = 1 + (order > 0) + 3 * bool(others or profile.strengths.any())
    for number in range(rounds):
        own = images
        if order or others:
            flux, amplitudes, beside, level, deviations = _parts(images, precision, profile, others, place.sky, order)
            if number == 0 and others:
                others = others.confirmed(amplitudes, deviations, flux)
            own = images - beside - level
            if number and others:
                rest = own - flux[:, None, :] * profile.response(n_rows)[0]
                others = others.moved(rest, precision, profile, amplitudes)
        taken = others.taken(profile, n_rows)
        if extended:  # its skirt and the background are found at once
            profile = fit_trace(own, near * ~taken, profile, place.prior, levels=_levels(place.sky, order))
        else:
            profile = fit_trace(own, near * ~taken, profile, place.prior)
        if profile.strengths.any() and not (extended and _overlaps(profile)):
            # where another source may stand on an echo, or a level is found, light alone does not tell how strong it is
            unlike = np.where(others.strengths.any(1) | (order > 0), 1e-4, 0.2)
            profile = fit_echoes(own, precision * ~taken, profile, planned, astray, unlike)
    return profile, others, every


def _overlaps(profile: Profile) -> bool:
    """Whether a source overlaps with its echoes: its light then hardly tells where and how strong they are."""
    nearest = np.abs(profile.distances[profile.strengths > 0]).min()
    return bool(nearest < 4.5 * np.median(profile.width()))


def _parts(
    images: np.ndarray, precision: np.ndarray, profile: Profile, others: Others, sky: np.ndarray, order: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit the source, the others and the background at once.

    Returns
    -------
    flux (exposure, x), amplitudes of the others (other, exposure, x), their light, the background (exposure, y, x),
    deviations of the amplitudes.
    """
    n_rows = images.shape[1]
    count = others.strengths.shape[1] if others else 0
    shapes = [profile.response(n_rows)[0], *(others.shapes(profile, n_rows) if count else ())]
    shapes += _levels(sky, order)
    parts = np.stack(shapes)
    found, deviations = solve_parts(images, precision, parts)
    light = found[:, :, None, :] * parts
    amplitudes = found[1 : 1 + count]
    return found[0], amplitudes, light[1 : 1 + count].sum(0), light[1 + count :].sum(0), deviations[1 : 1 + count]


def _levels(sky: np.ndarray, order: int) -> list[np.ndarray]:
    """Return the shapes of the background (exposure, y, x): as the sky is let through, and with a slope."""
    slope = 2.0 * np.arange(sky.shape[1])[:, None] / max(sky.shape[1] - 1, 1) - 1.0
    return [sky, sky * slope][:order]


def _level(weights: np.ndarray, images: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """Return the background of each pixel."""
    return np.asarray((weights * images).sum(1)[:, None, :] * sky)


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
