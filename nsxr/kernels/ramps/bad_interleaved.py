"""Statistics that show bad pairs of interleaved reference pixels of IRS2, and the test on them.

*Rows* are the 128 interleaved rows of one amplifier, in image order; rows 2 k and 2 k + 1 are pair k, whose pixels are
read one after the other. Pairs of even and of odd number are read in slots of different parity.
"""

import numpy as np

from nsxr.kernels.medians import median_and_scatter

__all__ = ["MOMENTS", "REASONS", "judge", "pair_moments", "robust_scores"]

REASONS = {"MEAN": 1, "DIFFERENCE": 2, "SCATTER": 4, "TELEGRAPH": 8, "LISTED": 16}
"""Reasons why a pair is bad, and their bits."""

MOMENTS = 5
"""Numbers of each pair and frame: means of its two rows, sums of squares of single samples and of two block means."""

_LINES = 8  # lines in a block; larger blocks have 8 x 8 lines, to find telegraph noise on all scales up to frames
_ITERATIONS = 10
_CLIP = 3.0  # three of 64 values at 5 sigma are found bad in 99 % of cases; with 4.0 in 87 %, as they widen the scatter
_CLIPPED = 0.98658  # standard deviation of a normal variable within 3 sigma


def pair_moments(sci: np.ndarray) -> np.ndarray:
    """Return numbers of each pair, frame by frame.

    Noise that all pairs of a parity share at the same time, such as 1/f noise, is subtracted first. It is the median
    over pairs, line by line, of the deviations of each pair from its mean over the frame.

    Parameters
    ----------
    sci : (integration, group, 2 pairs, column) float32
        Interleaved rows of one amplifier.

    Returns
    -------
    (integration, group, MOMENTS, pair) float64
        Means of the first and the second row; then sums of squares over both rows: of samples, of sums of 8 columns
        divided by sqrt(8), and of sums of 64 columns divided by 8. Only whole blocks of columns are used. In white
        noise all these squares have the same mean.
    """
    out = np.empty((*sci.shape[:2], MOMENTS, sci.shape[2] // 2))
    for index in np.ndindex(sci.shape[:2]):
        frame = sci[index]
        means = frame.mean(-1, dtype=np.float64)
        left = frame - means[:, None].astype(np.float32)
        pairs = left[0::2] + left[1::2]
        for parity in range(2):
            common = np.median(np.ascontiguousarray(pairs[parity::2].T), axis=1) / 2
            left.reshape(-1, 2, 2, frame.shape[1])[:, parity] -= common
        out[index][:2] = means.reshape(-1, 2).T
        for number in range(2, MOMENTS):
            if number > 2:
                n = left.shape[1] // _LINES
                left = left[:, : n * _LINES].reshape(left.shape[0], n, _LINES).sum(-1) / np.float32(np.sqrt(_LINES))
            squares = np.einsum("rc,rc->r", left, left, dtype=np.float64)
            out[index][number] = squares.reshape(-1, 2).sum(-1)
    return out


def judge(moments: np.ndarray, listed: np.ndarray, n_sigma: float) -> np.ndarray:
    """Find the pairs that differ from the others of their amplifier.

    Parameters
    ----------
    moments : (integration, group, MOMENTS, pair) float64
        From :func:`pair_moments`.
    listed : (pair,) bool
        Pairs known to be bad, which are left out of the comparison.
    n_sigma : float
        Limit [standard deviations].

    Returns
    -------
    (integration, pair) uint8
        Bits of :data:`REASONS`.

    Notes
    -----
    Sums of squares are compared by their cube roots, which are nearly normal (Wilson & Hilferty 1931, PNAS 17, 684).
    The variances of means are divided by the variance of single samples, so that strong white noise is not taken for
    telegraph noise.
    """
    found = np.zeros((moments.shape[0], listed.size), dtype=np.uint8)
    if listed.all():
        return found
    for flags, numbers in zip(found, moments, strict=True):
        level = numbers[:, :2].mean(0)
        changes = _less_median(numbers[:, :2] - level, listed)
        white, *slow = numbers[:, 2:].sum(0)
        slow.append((changes**2).sum((0, 1)))
        ratios = [np.divide(power, white, out=np.zeros_like(white), where=white > 0) for power in slow]
        tests = [
            ("MEAN", np.abs(robust_scores(_less_median(level.mean(0), listed), listed))),
            ("DIFFERENCE", np.abs(robust_scores(level[1] - level[0], listed))),
            ("SCATTER", np.abs(robust_scores(np.cbrt(white), listed))),
            *(("TELEGRAPH", robust_scores(np.cbrt(ratio), listed)) for ratio in ratios),
        ]
        for reason, scores in tests:
            flags[~listed & (scores > n_sigma)] |= REASONS[reason]
    return found


def robust_scores(values: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """Return deviations from the centre in units of the scatter of good pairs.

    The first centre and scatter are the median and the median absolute deviation. Then the mean and the standard
    deviation of the values within 3 sigma are taken, which are more precise. The standard deviation is corrected for
    the clipped tails. This is repeated until nothing changes.

    Parameters
    ----------
    values : (pair,) float64
        One number of each pair.
    left_out : (pair,) bool
        Pairs that are not used for centre and scatter.

    Returns
    -------
    (pair,) float64
        0 for a value at the centre, infinite for other values if good pairs do not scatter at all.
    """
    trusted = values[~left_out]
    centre, scatter = median_and_scatter(trusted)
    for _ in range(_ITERATIONS):
        inside = trusted[np.abs(trusted - centre) <= _CLIP * scatter]
        if inside.size < 2:
            break
        before = scatter
        centre, scatter = inside.mean(), inside.std(ddof=1) / _CLIPPED
        if scatter == before:
            break
    away = values - centre
    if scatter > 0:
        scores: np.ndarray = away / scatter
        return scores
    return np.where(away == 0, 0.0, np.copysign(np.inf, away))


def _less_median(values: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """Subtract the median over pairs of the same parity from values (..., pair)."""
    result = values.copy()
    for parity in range(2):
        trusted = values[..., parity::2][..., ~left_out[parity::2]]
        if trusted.shape[-1]:
            result[..., parity::2] -= np.median(trusted, axis=-1, keepdims=True)
    return result
