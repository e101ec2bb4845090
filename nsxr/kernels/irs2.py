"""Loops of the IRS2 correction: between image rows and readout time.

A *sector* is what one output reads: 640 raw rows of an image in science orientation, all columns.
In time, its 640 rows follow each other within one detector line, an image column: 32 blocks of 22
slots, of which two are gaps, and 8 slots between lines. A *series* is (column, 712) float32 in
readout order; ``row_of_slot`` (712,) gives the row of the sector read in each slot, -1 in gaps;
``sources`` (640, 2) the two rows whose mean replaces a row, itself twice where it is good, -1 where
nothing can replace it.
"""

from typing import Any

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = ["fill_gaps", "fit_line", "gather", "restore", "subtract", "weigh"]

SLOTS = 712
_TILE = 32  # columns handled together, so that both reads and writes stay within cached lines


@kernel
def _sample(frame: np.ndarray, mean: np.ndarray, sources: np.ndarray, row: int, column: int) -> Any:  # pragma: no cover
    a, b = sources[row, 0], sources[row, 1]
    if a < 0:
        return np.float32(0)
    return np.float32(0.5) * ((frame[a, column] - mean[a, column]) + (frame[b, column] - mean[b, column]))


@kernel
def fit_line(
    frame: np.ndarray,
    mean: np.ndarray,
    sources: np.ndarray,
    row_of_slot: np.ndarray,
    is_reversed: bool,
    border: int,
) -> tuple[float, float]:  # pragma: no cover
    """Fit a line in time to the samples of the first and last ``border`` columns.

    Returns (intercept, slope) with time in slots from the middle of the frame.
    """
    n_columns = frame.shape[1]
    middle = 0.5 * (SLOTS * n_columns - 1)
    n = 0
    sum_t = sum_y = sum_tt = sum_ty = 0.0
    for k in range(2 * border):
        line = k if k < border else n_columns - 2 * border + k
        column = n_columns - 1 - line if is_reversed else line
        for slot in range(SLOTS):
            row = row_of_slot[slot]
            if row < 0 or sources[row, 0] < 0:
                continue
            y = float(_sample(frame, mean, sources, row, column))
            t = line * SLOTS + slot - middle
            n += 1
            sum_t += t
            sum_y += y
            sum_tt += t * t
            sum_ty += t * y
    if n < 2:
        return 0.0, 0.0
    slope = (sum_ty - sum_t * sum_y / n) / (sum_tt - sum_t * sum_t / n)
    return sum_y / n - slope * sum_t / n, slope


@kernel
def gather(
    frame: np.ndarray,
    mean: np.ndarray,
    sources: np.ndarray,
    row_of_slot: np.ndarray,
    from_slot: np.ndarray,
    is_reversed: bool,
    line: tuple[float, float],
    series: np.ndarray,
) -> None:  # pragma: no cover
    """Write (frame - mean - line) of a sector into a series.

    ``from_slot`` (712,) gives for each slot the one whose sample is put there, -1 for none: itself for
    the reference output, or the interleaved reference pixel that stands for it. The line is taken at
    the time of the sample. Slots without sample become 0.
    """
    n_columns = frame.shape[1]
    intercept, slope = line
    middle = 0.5 * (SLOTS * n_columns - 1)
    for tile in range(0, n_columns, _TILE):
        stop = min(tile + _TILE, n_columns)
        for slot in range(SLOTS):
            read = from_slot[slot]
            row = row_of_slot[read] if read >= 0 else -1
            for y in range(tile, stop):
                column = n_columns - 1 - y if is_reversed else y
                if row < 0 or sources[row, 0] < 0:
                    series[y, slot] = 0
                else:
                    trend = np.float32(intercept + slope * (y * SLOTS + read - middle))
                    series[y, slot] = _sample(frame, mean, sources, row, column) - trend


@kernel
def fill_gaps(series: np.ndarray, is_known: np.ndarray, weights: np.ndarray) -> None:  # pragma: no cover
    """Fill unknown slots with the weighted mean of known ones nearby, in place, circular in time.

    ``is_known`` (712,) bool, ``weights`` (odd length) float32.
    """
    flat = series.reshape(-1)
    n, half = flat.size, weights.size // 2
    for slot in range(SLOTS):
        if is_known[slot]:
            continue
        for position in range(slot, n, SLOTS):
            total = norm = np.float32(0)
            for k in range(-half, half + 1):
                other = (position + k) % n
                if is_known[other % SLOTS]:
                    total += weights[k + half] * flat[other]
                    norm += weights[k + half]
            flat[position] = total / norm if norm > 0 else np.float32(0)


@kernel
def restore(series: np.ndarray, known: np.ndarray, is_kept: np.ndarray) -> None:  # pragma: no cover
    """Put the values of ``known`` back at the slots that are kept, in place."""
    for y in range(series.shape[0]):
        for slot in range(SLOTS):
            if is_kept[slot]:
                series[y, slot] = known[y, slot]


@kernel
def weigh(spectrum: np.ndarray, beta: np.ndarray, reference: np.ndarray, alpha: np.ndarray) -> None:  # pragma: no cover
    """Replace a spectrum by beta * spectrum + alpha * reference, in place."""
    for k in range(spectrum.size):
        spectrum[k] = beta[k] * spectrum[k] + alpha[k] * reference[k]


@kernel
def subtract(
    frame: np.ndarray,
    correction: np.ndarray,
    line: tuple[float, float],
    slot_of_output: np.ndarray,
    row_of_slot: np.ndarray,
    is_reversed: bool,
    out: np.ndarray,
) -> None:  # pragma: no cover
    """Write frame less line and correction for the wanted rows of a sector.

    ``slot_of_output`` (rows of ``out``,) gives the slot in which each row of the result was read.
    """
    n_columns = frame.shape[1]
    intercept, slope = line
    middle = 0.5 * (SLOTS * n_columns - 1)
    for tile in range(0, n_columns, _TILE):
        stop = min(tile + _TILE, n_columns)
        for r in range(out.shape[0]):
            slot = slot_of_output[r]
            row = row_of_slot[slot]
            for column in range(tile, stop):
                y = n_columns - 1 - column if is_reversed else column
                trend = np.float32(intercept + slope * (y * SLOTS + slot - middle))
                out[r, column] = frame[row, column] - (trend + correction[y, slot])
