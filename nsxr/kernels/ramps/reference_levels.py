"""Levels of reference pixels, reduced to the share that exceeds their uncertainty."""

import numpy as np

from nsxr.kernels.ramps.reference_pixels import clipped_means

__all__ = ["EVIDENCE", "shrinkage", "shrunken_levels"]

EVIDENCE = ("level_kept", "offset", "offset_scatter", "offset_kept")
"""Reported numbers: the share of the variation of the common level that is subtracted; the constant part of the offset
between odd and even rows; the scatter of this offset from group to group beyond the uncertainty of an estimate; and the
share of the variation of the offset that is subtracted."""

CAUTION = 2.6
"""Standard deviations by which a scatter has to exceed that of pure noise before anything is subtracted. 0.5 % of
exposures without any common noise exceed it by chance."""

_LIT = 2.0
"""Rows with more than this many times the variance of dark rows have light. Photon noise as large as the read noise of
each group doubles the variance. With 30 differences of dark pixels, the estimate of the variance scatters by a
quarter."""

_DARK = 0.25
"""Quantile of the rows that is taken as dark: a trace may fill three quarters of a subarray."""

_NOISE_RATIO = 1.5
"""Largest ratio to the median at which the noise of an integration is like the others. Noise is known to some 5 %."""


def shrinkage(square: float, noise: float, freedom: int) -> float:
    r"""Return the factor by which estimates are reduced to their share of signal.

    Parameters
    ----------
    square : float
        Mean square of the estimates.
    noise : float
        Mean variance of an estimate.
    freedom : int
        Number of independent estimates.

    Returns
    -------
    float
        Between 0 and 1.

    Notes
    -----
    If values scatter by :math:`s`, and their estimates have the variance :math:`e^2`, the smallest error is left by the
    factor :math:`s^2 / (s^2 + e^2)`. The denominator is the mean square of the estimates. The mean square of a few
    estimates scatters much even if there is no signal. So the factor is 0 below the quantile of :math:`\chi^2` that
    :data:`CAUTION` stands for. The quantile is found from the cube root of :math:`\chi^2`, which is nearly normal.

    References
    ----------
    Efron & Morris 1973, J. Am. Stat. Assoc. 68, 117. Wilson & Hilferty 1931, Proc. Natl. Acad. Sci. 17, 684.
    """
    if freedom < 1:
        return 0.0
    width = 2 / (9 * freedom)
    if not square > (1 - width + CAUTION * np.sqrt(width)) ** 3 * noise:
        return 0.0
    return 1 - noise / square


def shrunken_levels(
    pixels: np.ndarray,
    label: np.ndarray,
    *,
    n_parities: int,
    limit: float,
    is_lit: bool,
    by_ends: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the levels of one amplifier in all groups of an exposure.

    Parameters
    ----------
    pixels : (integration, group, row, column) float32
        The columns of reference pixels.
    label : (row, column) int8
        Twice the parity of the row, plus 1 at the upper end of the columns; negative if a pixel is not used.
    n_parities : int
        1 if odd and even rows share a level, else 2.
    limit : float
        Clipping limit [standard deviations].
    is_lit : bool
        Whether light falls on the pixels. If so, rows that are noisier than dark rows are left out. The mean slope of
        pixels counts as a drift of the level only in the rows with least light. It counts only if light, which is
        positive, cannot explain it, or if random variations of the level can.
    by_ends : bool
        Whether the uncertainty of the common level includes the difference between both ends. The uncertainty of the
        offset between parities always does.

    Returns
    -------
    levels : (integration, group, parity) float32
        0 where a parity has no pixels.
    evidence : (4,) float64
        The numbers named in :data:`EVIDENCE`; NaN if they are unknown.

    Notes
    -----
    Groups are compared after the mean of each pixel in the integration is subtracted, which removes reset noise and the
    pattern of the bias. Integrations are compared by these means. Each of the three parts (exposure, integrations,
    groups) has its own :func:`shrinkage`.

    The noise of an estimate is the larger of two values: from the scatter of pixels, and from the difference of the two
    ends. Some noise is slow enough to be common to the pixels of one end, but not to the frame. The mean of such noise
    has the error of a mean of two values.

    An integration whose noise or levels differ from the others (saturated, noisy, without values) does not count in the
    numbers that integrations share: which rows are dark, the mean, and all factors. The levels and factors of such an
    integration come from itself alone.
    """
    n_integrations, n_groups = pixels.shape[:2]
    base, deviation = _about_means(pixels)
    time = (np.arange(n_groups) - (n_groups - 1) / 2).astype(np.float32)
    alike = _are_alike(_noise_of_pixels(deviation, label), _NOISE_RATIO, both=True)
    freedom = max(1, (n_groups - 1) // 2 if is_lit else n_groups - 1)
    most = _most(max(1, freedom // 3))  # levels are not independent samples: they share noise of the lowest frequencies
    if is_lit and n_groups > 1:
        for square in _squares_of_levels(deviation, label, alike):
            alike = _are_alike(np.where(alike, square, np.nan), most)
        lever = max(int(alike.sum()), 1) * float((time**2).sum())
        known = np.nan_to_num(deviation[alike])  # a group without values gets the mean of its pixels
        slope = np.einsum("igrc,g->rc", known, time, dtype=np.float64) / lever
        deviation -= slope.astype(np.float32) * time[:, None, None]
        label = np.where(
            _is_dark(known - slope.astype(np.float32) * time[:, None, None])[:, None] if alike.any() else False,
            label,
            np.int8(-1),
        )
    count = np.bincount(label[label >= 0], minlength=2 * n_parities).reshape(n_parities, 2)
    ends = (count > 0).all(0)
    if not ends.any() and (count > 0).any(1).all():
        label = np.where(label >= 0, label & ~np.int8(1), label)  # each parity at one end
        count = np.stack([count.sum(1), np.zeros(n_parities, count.dtype)], 1)
        ends = np.array([True, False])
    nothing = np.zeros((n_integrations, n_groups, n_parities), np.float32), np.full(len(EVIDENCE), np.nan)
    if not ends.any():
        return nothing
    weight = count.sum(0) * ends / count.sum(0)[ends].sum()
    of_exposure = _Parts(base, label, n_parities, limit, weight)
    of_groups = _Parts(deviation, label, n_parities, limit, weight)
    for values in of_groups.values:
        alike = _are_alike(np.where(alike, _mean_of_known(values**2), np.nan), most)
    if not alike.any():
        return nothing
    if is_lit and n_groups > 1:
        square = (of_groups.values[0][alike] ** 2).sum() / max(int(alike.sum()) * (n_groups - 1) - 1, 1)
        rms = float(np.sqrt(square / lever))
        of_groups.values[0] += _drift(np.where(label >= 0, slope, np.nan), rms) * time
    levels = np.zeros((n_integrations, n_groups, n_parities))
    evidence = np.full(len(EVIDENCE), np.nan)
    for part, signs in enumerate(((1.0, 1.0), (-0.5, 0.5))[:n_parities]):
        means, noises = of_exposure.values[part][:, 0], of_exposure.noise[part][:, 0]
        close = _are_close(np.where(alike, means, np.nan), noises)
        mean = float(means[close].mean())
        constant = shrinkage(mean**2, float(noises[close].mean()), 1) * mean
        between = means - mean
        for some, freedom_between in _together(close, int(close.sum()) - 1):
            between[some] *= shrinkage(float((between[some] ** 2).mean()), float(noises[some].mean()), freedom_between)
        groups = of_groups.values[part].copy()
        from_ends = of_groups.between_ends[part] if part == 1 or by_ends else np.zeros_like(groups)
        for number, (some, n_free) in enumerate(_together(alike, int(alike.sum()) * freedom, freedom)):
            kept, rest = _share_of_groups(groups[some], of_groups.noise[part][some], from_ends[some], n_free, part)
            groups[some] *= kept
            if number == 0:
                evidence[[0] if part == 0 else [1, 2, 3]] = kept if part == 0 else (constant, np.sqrt(rest), kept)
        levels += (constant + between[:, None] + groups)[..., None] * np.array(signs[:n_parities])
    return np.nan_to_num(levels).astype(np.float32), evidence


def _together(alike: np.ndarray, freedom: int, freedom_alone: int = 1) -> list[tuple[np.ndarray, int]]:
    """Return the integrations that share an estimate, then each of the others alone, with degrees of freedom."""
    alone = [(np.array([i]), freedom_alone) for i in np.flatnonzero(~alike)]
    return [(np.flatnonzero(alike), freedom), *alone]


def _squares_of_levels(deviation: np.ndarray, label: np.ndarray, alike: np.ndarray) -> list[np.ndarray]:
    """Return, for each label, the mean square by which medians of pixels differ from those of other integrations.

    Light adds the same to all integrations.
    """
    found = []
    for wanted in np.unique(label[label >= 0]):
        those = np.where(np.isfinite(deviation).all((2, 3))[..., None], deviation[:, :, label == wanted], 0)
        medians = np.median(those, axis=2)
        ordered = np.sort(medians[alike], axis=0)
        middle = ordered[(len(ordered) - 1) // 2] if len(ordered) else 0
        found.append(((medians - middle) ** 2).mean(1))
    return found


def _about_means(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of each pixel over the groups of an integration, and the deviations of groups from it."""
    known = np.isfinite(pixels)
    if known.all():
        base = pixels.mean(1, dtype=np.float64, keepdims=True).astype(np.float32)
        return base, pixels - base
    with np.errstate(invalid="ignore"):
        total = np.where(known, pixels, 0).sum(1, dtype=np.float64, keepdims=True)
        base = (total / known.sum(1, keepdims=True)).astype(np.float32)
        return base, np.where(known, pixels, np.float32(np.nan)) - base


def _noise_of_pixels(deviation: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the mean square of changes of pixels between groups, relative to others of their label, (integration,).

    Outliers are left out; NaN for integrations without values.
    """
    if deviation.shape[1] < 2:
        return np.where(np.isfinite(deviation[:, 0][:, label >= 0]).any(1), 0.0, np.nan)
    found = np.full(len(deviation), np.nan)
    for i, planes in enumerate(np.diff(deviation, axis=1)):
        steps = []
        for wanted in np.unique(label[label >= 0]):
            those = planes[:, label == wanted]
            those = those[np.isfinite(those).all(1)]
            steps.append(np.abs(those - np.median(those, axis=1, keepdims=True)).ravel())
        together = np.concatenate(steps) if steps else np.empty(0)
        if together.size:
            found[i] = together[together <= 5 * np.median(together)].mean(dtype=np.float64) ** 2
    return found


def _are_alike(values: np.ndarray, most: float, both: bool = False) -> np.ndarray:
    """Return which integrations have at most ``most`` times the median; with ``both``, also at least 1 / ``most``.

    The median of an even number of values is the lower of the two in the middle, because most disturbances add noise.
    """
    known = np.sort(values[np.isfinite(values)])
    if not known.size:
        return np.zeros(values.shape, np.bool_)
    middle = known[(known.size - 1) // 2]
    alike: np.ndarray = (values <= most * middle) & (not both or values >= middle / most)
    return alike


def _are_close(values: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return which levels are near the median: within six times the scatter, or the uncertainty if it is larger."""
    known = values[np.isfinite(values)]
    if not known.size:
        return np.zeros(values.shape, np.bool_)
    away = np.abs(values - np.median(known))
    scatter = 1.48 * np.median(np.abs(known - np.median(known)))
    close: np.ndarray = away <= 6 * max(scatter, float(np.sqrt(np.nanmedian(variance))))
    return close


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Return the mean of finite values along the last axis, 0 if there are none."""
    known = np.isfinite(values)
    mean: np.ndarray = np.where(known, values, 0).sum(-1) / np.maximum(known.sum(-1), 1)
    return mean


def _most(freedom: int) -> float:
    """Return a limit that the mean square of this many values, over its expectation, hardly ever exceeds."""
    width = 2 / (9 * freedom)
    return float((1 - width + 4 * np.sqrt(width)) ** 3)


def _share_of_groups(
    groups: np.ndarray, noises: np.ndarray, ends: np.ndarray, freedom: int, part: int
) -> tuple[float, float]:
    """Return the share of levels, (integration, group), that is subtracted, and their variance without noise."""
    noise, from_ends, square = (float(_mean_of_known(values.ravel()[None])[0]) for values in (noises, ends, groups**2))
    if part == 0:  # drifts are real if pixels do not explain them, even if the ends say little about the rest
        kept = shrinkage(square, noise, freedom)
        kept = min(kept, max(0.0, 1 - from_ends / square)) if kept else 0.0
    else:
        kept = shrinkage(square, max(noise, from_ends), freedom // 2 if from_ends > noise else freedom)
    return kept, max(0.0, square - max(noise, from_ends))


class _Parts:
    """Common level and offset of parities, (part, integration, group): values, variance, variance from both ends."""

    def __init__(
        self, pixels: np.ndarray, label: np.ndarray, n_parities: int, limit: float, weight: np.ndarray
    ) -> None:
        means, variances = clipped_means(pixels, label, 2 * n_parities, limit)
        shape = (*means.shape[:2], n_parities, 2)
        used = np.flatnonzero(weight)
        mean = means.reshape(shape).astype(np.float64)[..., used]
        variance = variances.reshape(shape).astype(np.float64)[..., used]
        weight = weight[used]
        parts = [mean.mean(2)] + ([mean[:, :, 1] - mean[:, :, 0]] if n_parities == 2 else [])
        errors = [variance.sum(2) / n_parities**2] + ([variance.sum(2)] if n_parities == 2 else [])
        of_end = np.stack(parts)
        self.values = of_end @ weight
        self.noise = np.stack(errors) @ weight**2
        apart = of_end[..., -1] - of_end[..., 0]
        self.between_ends = apart**2 / 2 * (weight**2).sum()


def _is_dark(deviation: np.ndarray) -> np.ndarray:
    """Return which rows have no more noise than dark rows, (row,) bool."""
    steps = np.diff(deviation, axis=1)
    variance = np.median((steps.astype(np.float64) ** 2).mean((0, 1)), axis=1)
    dark: np.ndarray = variance <= _LIT * np.quantile(variance, _DARK)
    return dark


def _drift(slope: np.ndarray, rms: float) -> float:
    """Return the slope of the level, from slopes of (row, column) pixels; 0 if it is too large for this rms."""
    slope = slope[np.isfinite(slope).any(1)]
    of_rows = np.nanmedian(slope, axis=1)
    width = 1.48 * np.nanmedian(np.abs(slope - of_rows[:, None])) / np.sqrt(slope.shape[1])
    # light only adds charge: 0.7 widths from the lower quartile to the median, and 3 more for noise
    dark = of_rows <= np.quantile(of_rows, _DARK) + 3.7 * width
    drift = float(of_rows[dark].mean())
    return drift if drift <= 3 * rms else 0.0
