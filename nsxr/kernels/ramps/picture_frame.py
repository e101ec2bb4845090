"""Means of short segments of lines, and the amplitude of a pattern in them."""

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = ["fit_amplitudes", "leading_pattern", "mean_slope", "segment_means", "shrink_amplitudes"]

_MAD = 1.4826  # standard deviation of normal noise over its median absolute deviation


@kernel
def segment_means(
    sci: np.ndarray,
    groupdq: np.ndarray,
    is_used: np.ndarray,
    template: np.ndarray,
    edges: np.ndarray,
    unusable: int,
    jump: int,
    limit: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover
    """Return clipped means along columns, of each group minus the first group and of the template on the same pixels.

    ``sci`` and ``groupdq`` (integration, group, row, column); ``is_used`` (integration, row, column) bool;
    ``template`` (row, column); ``edges`` (segment + 1,) positions of columns. A pixel is left out if it is flagged
    ``unusable``, from its first ``jump`` on, and if it is more than ``limit`` times the scatter from the median of the
    segment. Returns means of signal and template, and counts, (integration, group, row, segment) float32.
    """
    n_integrations, n_groups, n_rows, n_columns = sci.shape
    shape = (n_integrations, n_groups, n_rows, edges.size - 1)
    mean, pattern, count = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    values, where = np.empty(n_columns, np.float32), np.empty(n_columns, np.int64)
    is_lost = np.empty(n_columns, np.bool_)
    for i in range(n_integrations):
        for r in range(n_rows):
            for c in range(n_columns):
                first = sci[i, 0, r, c] + template[r, c]
                is_lost[c] = not (is_used[i, r, c] and np.isfinite(first)) or groupdq[i, 0, r, c] & unusable != 0
            for g in range(1, n_groups):
                for s in range(edges.size - 1):
                    n = 0
                    for c in range(edges[s], edges[s + 1]):
                        flags = groupdq[i, g, r, c]
                        if flags & jump:
                            is_lost[c] = True
                        value = sci[i, g, r, c] - sci[i, 0, r, c]
                        if not is_lost[c] and flags & unusable == 0 and np.isfinite(value):
                            values[n], where[n] = value, c
                            n += 1
                    if n == 0:
                        continue
                    middle = np.median(values[:n])
                    widest = limit * _MAD * np.median(np.abs(values[:n] - middle))
                    total, total_pattern, kept = 0.0, 0.0, 0
                    for k in range(n):
                        if abs(values[k] - middle) <= widest or widest == 0:
                            total += values[k]
                            total_pattern += template[r, where[k]]
                            kept += 1
                    mean[i, g, r, s], pattern[i, g, r, s] = total / kept, total_pattern / kept
                    count[i, g, r, s] = kept
    return mean, pattern, count


def mean_slope(sci: np.ndarray, groupdq: np.ndarray, unusable: int, jump: int) -> np.ndarray:
    """Return the mean difference of successive good groups, (integration, row, column) float32; NaN without any."""
    total = np.zeros(sci[:, 0].shape, np.float64)
    count = np.zeros(sci[:, 0].shape, np.int32)
    for g in range(1, sci.shape[1]):
        step = sci[:, g] - sci[:, g - 1]
        good = np.isfinite(step) & (((groupdq[:, g] | groupdq[:, g - 1]) & unusable) == 0) & (groupdq[:, g] & jump == 0)
        total += np.where(good, step, 0)
        count += good
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def fit_amplitudes(
    mean: np.ndarray, pattern: np.ndarray, count: np.ndarray, output: np.ndarray, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the amplitude of the pattern together with a level for every segment of every amplifier.

    ``mean``, ``pattern``, ``count`` are from :func:`segment_means`; ``output`` (row,) is the amplifier of each row.
    Returns amplitude and its uncertainty, (integration, group) float32; NaN if the pattern cannot be distinguished from
    levels.
    """
    n_segments = mean.shape[-1]
    _, band = np.unique(output, return_inverse=True)
    level = (band[:, None] * n_segments + np.arange(n_segments)).ravel()
    line = np.broadcast_to(np.arange(n_segments), (band.size, n_segments)).ravel()
    amplitude = np.full(mean.shape[:2], np.nan, np.float32)
    uncertainty = np.full(mean.shape[:2], np.nan, np.float32)
    for index in np.ndindex(mean.shape[:2]):
        y, t = (values[index].ravel().astype(np.float64) for values in (mean, pattern))
        weight = count[index].ravel().astype(np.float64)
        n_before = -1
        for _ in range(5):
            residual, inner = _without_levels(y, weight, level), _without_levels(t, weight, level)
            norm = (weight * inner**2).sum()
            if not norm > 1e-9 * (weight * t**2).sum():
                break
            found = (weight * inner * residual).sum() / norm
            residual = residual - found * inner
            used = weight > 0
            scatter = _MAD * np.median(np.abs(residual[used]) * np.sqrt(weight[used]))
            # neighbouring lines share 1/f noise, so a line of all amplifiers counts as one independent measurement
            scores = np.bincount(line, weight * inner * residual, n_segments)
            n_lines = np.count_nonzero(np.bincount(line, weight, n_segments))
            variance = (scores**2).sum() / norm**2 * n_lines / max(n_lines - 1, 1)
            amplitude[index] = found
            uncertainty[index] = np.sqrt(max(variance, scatter**2 / norm))
            if used.sum() == n_before:
                break
            n_before = int(used.sum())
            if scatter > 0:
                weight = np.where(np.abs(residual) * np.sqrt(weight) > limit * scatter, 0, weight)
    return amplitude, uncertainty


def _without_levels(values: np.ndarray, weight: np.ndarray, level: np.ndarray) -> np.ndarray:
    total = np.bincount(level, weight)
    levels = np.bincount(level, weight * values) / np.where(total > 0, total, 1)
    return np.asarray(values - levels[level])


def shrink_amplitudes(amplitude: np.ndarray, uncertainty: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return amplitudes relative to their mean over an integration, reduced by their share of noise, and uncertainties.

    ``amplitude`` and ``uncertainty`` (integration, group) are those of groups minus the first group, so groups share
    the noise of the first one.
    """
    amplitude, uncertainty = amplitude.astype(np.float64), uncertainty.astype(np.float64)
    amplitude[:, 0], uncertainty[:, 0] = 0, np.nan
    out, error = np.zeros_like(amplitude), np.zeros_like(amplitude)
    for i, values in enumerate(amplitude):
        found = np.isfinite(values)
        free = int(found.sum()) - 1
        if free < 1:
            continue
        deviation = np.where(found, values - values[found].mean(), 0)
        of_one = np.nanmean(uncertainty[i][found] ** 2) / 2  # a difference holds the noise of two frames
        total = (deviation**2).sum()
        chance = (free + 2 * np.sqrt(2 * free) + 2) * of_one  # noise alone exceeds this in 3 % of all integrations
        kept = max(0.0, 1 - chance / total) if total > 0 else 0.0
        # if the pattern is significant, the least-squares estimate is reduced by its share of noise only
        kept = max(0.0, 1 - free * of_one / total) if kept > 0 else 0.0
        out[i] = kept * deviation
        # a pattern of variance s2, measured with variance v, has the remaining variance s2 v / (s2 + v)
        error[i] = np.where(found, np.sqrt(kept * of_one), 0)
    return out.astype(np.float32), error.astype(np.float32)


def leading_pattern(blocks: np.ndarray, output: np.ndarray, limit: float = 5.0) -> np.ndarray:
    """Return the pattern that varies most in a sequence of block images, with rms 1; a (row, column) image.

    ``blocks`` (frame, row, column) are images less their mean over the frames of an integration, NaN without data;
    ``output`` (row,) is the amplifier of each row. The strength of the pattern in each frame is found after the level
    of every line in every amplifier is subtracted, which removes 1/f noise between lines. The levels of lines that vary
    with this strength are then reduced by their share of noise, and added to the pattern.
    """
    frames, rows, columns = blocks.shape
    _, band = np.unique(output, return_inverse=True)
    is_there = np.isfinite(blocks).all(0)
    values = np.where(is_there, blocks, 0).astype(np.float64)
    levels = np.zeros((frames, band.max() + 1, columns))
    for k in range(band.max() + 1):
        counts = np.maximum(is_there[band == k].sum(0), 1)
        levels[:, k] = values[:, band == k].sum(1) / counts
    inner = np.where(is_there, values - levels[:, band], 0)
    levels -= levels.mean(-1, keepdims=True)  # amplifiers have pedestals
    model = np.zeros_like(inner)
    for _ in range(4):
        rest = inner - model  # residuals are clipped, not the pattern itself, which stands out at the edges
        scatter = _MAD * np.median(np.abs(rest[:, is_there])) if is_there.any() else 0.0
        clean = model + np.clip(rest, -limit * scatter, limit * scatter)
        # there are few frames, so the matrix of products between frames is small
        _, vectors = np.linalg.eigh(np.einsum("arc,brc->ab", clean, clean, optimize=True))
        times = vectors[:, -1]
        pattern = np.einsum("a,arc->rc", times, clean)
        model = times[:, None, None] * pattern
    lines = np.einsum("a,akc->kc", times, levels)
    noise = ((levels - times[:, None, None] * lines) ** 2).sum(0) / max(frames - 1, 1)
    for k in range(band.max() + 1):
        total = (lines[k] ** 2).sum()
        kept = max(0.0, 1 - noise[k].sum() / total) if total > 0 else 0.0
        pattern[band == k] += kept * lines[k]
    pattern = np.where(is_there, pattern, np.nan)
    rms = np.sqrt(np.nanmean(pattern**2)) if is_there.any() else np.nan
    if not rms > 0:
        return np.full((rows, columns), np.nan)
    largest = np.nanargmax(np.abs(pattern))
    return np.asarray(pattern / rms * np.sign(pattern.ravel()[largest]))
