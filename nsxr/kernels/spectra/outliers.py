"""Find pixels of a trace that disagree with the other exposures of the source, on the detector, without resampling.

Arrays are (exposure, y, x) or (exposure, x), float64.
"""

import numpy as np

from nsxr.kernels.spectra.column_fit import column_weights

__all__ = ["DISAGREEING", "disagreeing_pixels", "expected_fluxes"]

_WINDOW = 101
"""Number of columns over which the ratio of fluxes of two exposures is constant."""
DISAGREEING = 0.2
"""Largest part of the columns in which two exposures of the same source may differ."""


def expected_fluxes(
    fluxes: np.ndarray, variances: np.ndarray, wavelengths: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the flux of each column that the other exposures predict.

    Fluxes of the other exposures are interpolated to the wavelengths of an exposure. They are scaled by the ratio of
    both over 101 columns, because slit losses differ. With three or more other exposures the median is used, so one of
    them may be wrong. With two the mean is used, or the lower value where they disagree, because cosmic rays add light.
    An exposure that differs from this one in a fifth of all columns, as behind a closed shutter, is not used.

    Parameters
    ----------
    fluxes, variances, wavelengths : (exposure, x) ndarray
        Values of each exposure; NaN where there are none.
    tolerance : float
        Allowed displacement of a spectrum, as a part of its change from column to column.

    Returns
    -------
    expected, variance : (exposure, x) ndarray
        NaN where no other exposure has a flux.
    roughness : (exposure, x) ndarray
        Possible error of the interpolation where the spectrum changes from column to column: the allowed displacement,
        plus the error of linear interpolation, estimated from second differences.
    disagreement : (exposure,) ndarray
        Part of the columns in which an exposure differs by more than 3 standard deviations from the most similar of the
        others; 0 if there is only one exposure.
    """
    n, n_columns = fluxes.shape
    expected, variance, roughness = (np.full((n, n_columns), np.nan) for _ in range(3))
    disagreement = np.zeros(n)
    for e in range(n):
        votes, errors, bends = [], [], []
        apart_from = []
        for j in range(n):
            if j == e:
                continue
            known = np.isfinite(fluxes[j]) & np.isfinite(wavelengths[j]) & (variances[j] > 0)
            if known.sum() < 3:
                continue
            at = wavelengths[e]
            order = np.argsort(wavelengths[j][known])
            w, f, v = (array[j][known][order] for array in (wavelengths, fluxes, variances))
            other = np.interp(at, w, f, left=np.nan, right=np.nan)
            doubt = np.interp(at, w, v, left=np.nan, right=np.nan)
            step, bend = np.zeros_like(f), np.zeros_like(f)
            step[1:-1] = np.maximum(np.abs(np.diff(f))[1:], np.abs(np.diff(f))[:-1])
            bend[1:-1] = np.abs(np.diff(f, 2))
            after = np.clip(np.searchsorted(w, at), 1, w.size - 1)
            part = np.clip((at - w[after - 1]) / (w[after] - w[after - 1]), 0.0, 1.0)
            rough = tolerance * np.interp(at, w, step) + part * (1 - part) / 2 * np.interp(at, w, bend)
            ratio = _ratio(fluxes[e], other, variances[e] + doubt)
            both = np.isfinite(fluxes[e]) & np.isfinite(other) & (variances[e] > 0)
            limit = 3 * np.sqrt(variances[e] + ratio**2 * doubt) + ratio * rough
            apart_from.append(float((np.abs(fluxes[e] - ratio * other) > limit)[both].mean()) if both.any() else 0.0)
            if apart_from[-1] > DISAGREEING:
                continue
            votes.append(ratio * other)
            errors.append(ratio**2 * doubt)
            bends.append(ratio * rough)
        disagreement[e] = min(apart_from, default=0.0)
        if not votes:
            continue
        vote, error = np.array(votes), np.array(errors)
        there = np.isfinite(vote)
        count = np.maximum(there.sum(0), 1)
        some = there.any(0)
        ranked = np.sort(np.where(there, vote, np.finfo(float).max / 4), axis=0)  # missing values last
        columns = np.arange(n_columns)
        middle = 0.5 * (ranked[(count - 1) // 2, columns] + ranked[count // 2, columns])
        mean_error = np.where(there, error, 0.0).sum(0) / count**2
        if len(votes) >= 2:
            apart = np.where(count == 2, ranked[1] - ranked[0], 0.0)
            disagree = apart > 5 * np.sqrt(np.where(there, error, 0.0).sum(0))
            middle = np.where(disagree, ranked[0], middle)
        expected[e] = np.where(some, middle, np.nan)
        variance[e] = np.where(some, np.where(count > 2, 1.57, 1.0) * mean_error, np.nan)
        roughness[e] = np.where(some, np.nanmax(np.where(there, np.array(bends), 0.0), axis=0), 0.0)
    return expected, variance, roughness, disagreement


def _ratio(one: np.ndarray, other: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return the running ratio of two spectra; 1 where it cannot be measured because of noise."""
    used = np.isfinite(one) & np.isfinite(other) & (variance > 0)
    weight = np.where(used, 1 / np.where(used, variance, 1.0), 0.0)
    a, b = np.where(used, one, 0.0), np.where(used, other, 0.0)
    ratio = np.ones(one.size)
    for _ in range(2):
        top, bottom = (_running_sum(weight * a * b), _running_sum(weight * b * b))
        significant = bottom > 400.0  # the ratio is known to 5 %
        ratio = np.where(significant, top / np.where(significant, bottom, 1.0), 1.0)
        deviation = np.abs(a - ratio * b) * np.sqrt(weight)
        weight = np.where(deviation > 5.0, 0.0, weight)
    return np.clip(ratio, 0.2, 5.0)


def _running_sum(values: np.ndarray) -> np.ndarray:
    sums = np.concatenate([[0.0], np.cumsum(values)])
    x = np.arange(values.size)
    return np.asarray(sums[np.minimum(x + _WINDOW // 2 + 1, values.size)] - sums[np.maximum(x - _WINDOW // 2, 0)])


def disagreeing_pixels(
    images: np.ndarray,
    usable: np.ndarray,
    dark_variance: np.ndarray,
    variance_of_signal: np.ndarray,
    wavelengths: np.ndarray,
    profile: np.ndarray,
    profile_uncertainty: np.ndarray,
    aperture: np.ndarray,
    is_used: np.ndarray,
    off_profile: np.ndarray,
    order: int,
    threshold: float,
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return which pixels in the apertures deviate from the expected light (exposure, y, x), bool.

    The second result is the part of the columns in which each exposure differs from all others, see
    :func:`expected_fluxes`.

    Parameters
    ----------
    images, usable : (exposure, y, x) ndarray
        Signal, and the pixels that can be used.
    dark_variance : (exposure, y, x) ndarray
        Variance without the photon noise of the source. ``variance_of_signal`` (exposure, x) is the photon noise per
        signal.
    wavelengths : (exposure, x) ndarray
        Wavelengths of the trace.
    profile, profile_uncertainty, aperture, is_used : (exposure, y, x) ndarray
        Model of the trace.
    off_profile : (exposure, x) ndarray of bool
        Columns whose light is distributed differently from the profile; their pixels are not tested.
    order : int
        Number of terms of the local background.
    threshold : float
        Number of standard deviations by which a pixel may deviate.
    tolerance : float
        Additional deviation that is allowed, as a part of the light around and of its change along the dispersion.
    """
    light = np.zeros_like(images)
    filled = np.where(usable, images, 0.0)
    flux = variance = level = np.zeros(wavelengths.shape)
    for _ in range(2):
        total = dark_variance + variance_of_signal[:, None, :] * light
        precision = np.where(usable & is_used, 1 / total, 0.0)
        weights, level_weights, _ = column_weights(profile, aperture, precision, order)
        flux, level = (weights * filled).sum(1), (level_weights * filled).sum(1)
        variance = (weights**2 * total).sum(1)
        light = np.maximum(flux, 0.0)[:, None, :] * profile
    known = weights.any(1)
    # a column whose pixels disagree with its profile gets less weight in the comparison with other exposures
    deviation = (filled - flux[:, None, :] * profile - level[:, None, :]) ** 2 * precision * (aperture > 0)
    contradiction = deviation.sum(1) / np.maximum(((precision > 0) & (aperture > 0)).sum(1) - 1, 1)
    said = variance * np.maximum(contradiction, 1.0)
    expected, doubt, roughness, disagreement = expected_fluxes(
        np.where(known, flux, np.nan), np.where(known, said, np.nan), wavelengths, tolerance
    )
    # the flux of the exposure itself, without deviating pixels, is used too where it agrees with the others
    alone = ~np.isfinite(expected)
    agrees = np.abs(flux - expected) < 3 * np.sqrt(variance + doubt) + roughness
    own, wrong = known & (alone | agrees), doubt + roughness**2
    weight = np.where(own & ~alone, wrong / np.where(variance + wrong > 0, variance + wrong, 1.0), 1.0)
    expected = np.where(own, np.where(alone, flux, weight * flux + (1 - weight) * expected), expected)
    doubt = np.where(own, np.where(alone, variance, weight**2 * variance + (1 - weight) ** 2 * wrong), doubt)
    roughness = np.where(own, 0.0, roughness)
    model = expected[:, None, :] * profile
    neighbours = np.pad(np.abs(model), ((0, 0), (1, 1), (0, 0)))
    around = np.maximum(np.maximum(neighbours[:, :-2], neighbours[:, 2:]), np.abs(model))
    total = dark_variance + variance_of_signal[:, None, :] * np.maximum(model, 0.0)
    total = total + doubt[:, None, :] * profile**2 + (expected[:, None, :] * profile_uncertainty) ** 2
    limit = threshold * np.sqrt(total) + tolerance * around + roughness[:, None, :] * profile
    judged = usable & (aperture > 0) & ~off_profile[:, None, :]
    return judged & (np.abs(images - model - level[:, None, :]) > limit), disagreement
