"""Filters from side reference pixels to the 1/f noise of each amplifier: kernels, their estimate, their use."""

import numpy as np
from scipy.ndimage import convolve1d

from nsxr.kernels.compilation import kernel

__all__ = ["estimate_kernels", "filter_sides", "kernels_from_reference", "line_medians", "side_lines"]

_MAD_TO_RMS = 1.48
_SEGMENTS = 8
_SIGNIFICANT = 4.0
_WILD = 9.0
"""Frames whose lines have more than this many times the median variance are not used for the filter."""


@kernel
def line_medians(sci: np.ndarray, good: np.ndarray) -> np.ndarray:  # pragma: no cover
    """Return the median over rows of the deviations of groups from each pixel's straight ramp.

    ``sci`` (integration, group, row, column) float32, ``good`` (row, column) bool. Returns (integration, group, column)
    float32; 0 where no pixel is good.
    """
    n_integrations, n_groups, n_rows, n_columns = sci.shape
    out = np.zeros((n_integrations, n_groups, n_columns), dtype=np.float32)
    values = np.empty((n_groups, n_rows), dtype=np.float32)
    middle = (n_groups - 1) / 2
    spread = 0.0
    for g in range(n_groups):
        spread += (g - middle) ** 2
    for i in range(n_integrations):
        for c in range(n_columns):
            n = 0
            for r in range(n_rows):
                if not good[r, c]:
                    continue
                mean = 0.0
                slope = 0.0
                for g in range(n_groups):
                    mean += sci[i, g, r, c]
                    slope += sci[i, g, r, c] * (g - middle)
                mean /= n_groups
                slope /= spread
                if not np.isfinite(mean + slope):
                    continue
                for g in range(n_groups):
                    values[g, n] = sci[i, g, r, c] - mean - slope * (g - middle)
                n += 1
            if n:
                for g in range(n_groups):
                    out[i, g, c] = np.median(values[g, :n])
    return out


def side_lines(sci: np.ndarray, good: np.ndarray, sigreject: float) -> np.ndarray:
    """Return the mean of the reference rows of one side in each column, outliers left out.

    Parameters
    ----------
    sci : (integration, group, row, column) float32
        The rows of one side.
    good : (row, column) bool
        Pixels to use.
    sigreject : float
        Pixels further than this from the median of their side and frame are left out, in standard deviations
        as 1.48 times the median absolute deviation gives them.

    Returns
    -------
    (integration, group, column) float32
        The mean of the frame's other columns where a column has no pixel.
    """
    values = np.where(good & np.isfinite(sci), sci, np.nan).astype(np.float64)
    if not good.any():
        return np.zeros((*sci.shape[:2], sci.shape[3]), np.float32)
    values[~np.isfinite(values).any((2, 3))] = 0  # a frame without values has no side signal
    middle = np.nanmedian(values, axis=(2, 3), keepdims=True)
    away = np.abs(values - middle)
    limit = sigreject * _MAD_TO_RMS * np.nanmedian(away, axis=(2, 3), keepdims=True)
    kept = away <= limit
    count = kept.sum(2)
    total = np.where(kept, values, 0).sum(2)
    mean = total.sum(-1, keepdims=True) / count.sum(-1, keepdims=True)
    lines: np.ndarray = np.where(count > 0, total / np.maximum(count, 1), mean).astype(np.float32)
    return lines


def kernels_from_reference(gamma: np.ndarray, zeta: np.ndarray, gaussmooth: float, halfwidth: int) -> np.ndarray:
    """Return the convolution kernels with the given Fourier coefficients.

    Parameters
    ----------
    gamma, zeta : (output, frequency) complex
        Filters of the left and of the right side, for the frequencies of a real transform.
    gaussmooth : float
        Standard deviation of a Gaussian with which kernels are smoothed [lines].
    halfwidth : int
        Lines to each side of the centre that are kept.

    Returns
    -------
    (output, side, tap) float64
        With 2 ``halfwidth`` + 1 taps.
    """
    shift = np.arange(-halfwidth, halfwidth + 1)
    window = np.exp(-(shift**2) / (2 * gaussmooth**2))
    impulse = np.fft.irfft(np.stack([gamma, zeta], 1))[..., shift]
    smoothed: np.ndarray = convolve1d(impulse, window / window.sum(), mode="constant")
    return smoothed


def filter_sides(left: np.ndarray, right: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    """Return the signal of the side reference pixels, filtered for the lines of each amplifier.

    Parameters
    ----------
    left, right : (integration, group, column) float32
        From :func:`side_lines`, in the order of reading. They are mirrored beyond the first and the last line.
    kernels : (output, side, tap) float
        Convolution kernels.

    Returns
    -------
    (integration, group, output, column) float32
    """
    sides = [side.astype(np.float64) for side in (left, right)]
    filtered = [
        sum(convolve1d(side, taps, mode="mirror") for side, taps in zip(sides, pair, strict=True)) for pair in kernels
    ]
    return np.stack(filtered, axis=2).astype(np.float32)


def estimate_kernels(left: np.ndarray, right: np.ndarray, lines: np.ndarray, halfwidth: int) -> np.ndarray:
    """Return the kernels that predict the lines of each amplifier best.

    Parameters
    ----------
    left, right : (integration, group, column) float32
        Side reference pixels, in the order of reading.
    lines : (integration, group, output, column) float32
        Deviations of the lines of each amplifier from straight ramps, as from :func:`line_medians`.
    halfwidth : int
        Lines to each side of the centre that a kernel may use.

    Returns
    -------
    (output, side, tap) float64
        0 if the side signal does not predict the lines.

    Notes
    -----
    Kernels are symmetric, since both sides are read within a line. They are constant in steps, each twice as wide as
    the one before: 14 numbers for two sides and 30 lines, found by least squares. They are then multiplied by a factor
    between 0 and 1. With this factor, kernels from one half of the lines of an amplifier predict the other half best.
    The factor is 0 if the factor of all amplifiers together is less than 4 standard errors, so nothing is subtracted if
    there is no signal.
    """
    straight = [_straightened(side.astype(np.float64)) for side in (left, right)]
    ordinary = _ordinary_frames(straight[0], straight[1], lines)
    lines = np.where(ordinary[:, :, None, None], lines, 0)
    straight = [np.where(ordinary[:, :, None], side, 0) for side in straight]
    boxes = _boxes(halfwidth)
    regressors = np.stack([convolve1d(side, box, mode="mirror") for side in straight for box in boxes])
    n_columns, n_outputs = left.shape[2], lines.shape[2]
    places = np.arange(n_columns) * _SEGMENTS // n_columns
    halves = [np.flatnonzero(places < _SEGMENTS // 2), np.flatnonzero(places >= _SEGMENTS // 2)]
    matrix = [np.einsum("aigc,bigc->ab", regressors[..., h], regressors[..., h]) for h in halves]
    kernels = np.zeros((n_outputs, 2, 2 * halfwidth + 1))
    products, squares = np.zeros((2, n_outputs, _SEGMENTS, *left.shape[:2]))
    for output in range(n_outputs):
        wanted = lines[:, :, output].astype(np.float64)
        vector = [np.einsum("aigc,igc->a", regressors[..., h], wanted[..., h]) for h in halves]
        predicted = np.zeros_like(wanted)
        for half, other in zip(halves, (1, 0), strict=True):
            weights = np.linalg.lstsq(matrix[other], vector[other], rcond=1e-10)[0]
            predicted[..., half] = np.einsum("a,aigc->igc", weights, regressors[..., half])
        for segment in range(_SEGMENTS):
            there = predicted[..., places == segment]
            products[output, segment] = (there * wanted[..., places == segment]).sum(-1)
            squares[output, segment] = (there**2).sum(-1)
        weights = np.linalg.lstsq(matrix[0] + matrix[1], vector[0] + vector[1], rcond=1e-10)[0]
        kernels[output] = np.einsum("sb,bt->st", weights.reshape(2, len(boxes)), boxes)
    kernels *= _factors(products, squares)[:, None, None]
    return kernels


def _ordinary_frames(left: np.ndarray, right: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Return which frames have lines of ordinary size, (integration, group) bool; others would dominate the fit."""
    ordinary = np.ones(lines.shape[:2], np.bool_)
    for values in (left, right, *np.moveaxis(lines, 2, 0)):
        square = (values.astype(np.float64) ** 2).mean(-1)
        known = square[np.isfinite(square) & (square > 0)]
        ordinary &= square <= (_WILD * np.median(known) if known.size else 0.0)
    return ordinary


def _factors(products: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return the best factor on the prediction of each amplifier, between 0 and 1; 0 if it is not significant.

    ``products`` of prediction and lines and ``squares`` of the prediction, (output, segment, integration, group).
    """
    total = squares.sum()
    if not total > 0:
        return np.zeros(len(squares))
    slope = products.sum() / total
    n_groups = products.shape[-1]
    # in each integration, two of the straightened groups follow from the others
    error = np.sqrt(((products - slope * squares).sum(0) ** 2).sum() * n_groups / (n_groups - 2)) / total
    if slope <= _SIGNIFICANT * error:
        return np.zeros(len(squares))
    factors: np.ndarray = np.clip(products.sum((1, 2, 3)) / np.maximum(squares.sum((1, 2, 3)), 1e-30), 0, 1)
    return factors


def _boxes(halfwidth: int) -> np.ndarray:
    """Return symmetric kernels of sum 1 that cover 0, 1, 2, 3-4, 5-8 ... lines, (kernel, tap) float64."""
    away = np.abs(np.arange(-halfwidth, halfwidth + 1))
    number = np.ceil(np.log2(np.maximum(away, 0.5))).astype(int)
    boxes = np.stack([number == k for k in range(-1, number.max() + 1)]).astype(np.float64)
    normalized: np.ndarray = boxes / boxes.sum(1, keepdims=True)
    return normalized


def _straightened(lines: np.ndarray) -> np.ndarray:
    """Return lines (integration, group, column) less a straight line over groups."""
    time = np.arange(lines.shape[1]) - (lines.shape[1] - 1) / 2
    slope = np.einsum("igc,g->ic", lines, time) / (time**2).sum()
    straight: np.ndarray = lines - lines.mean(1, keepdims=True) - slope[:, None] * time[:, None]
    return straight
