"""Kernels of the IRS2 correction, which convert between image rows, readout time and its spectrum.

A *sector* is the part of the image that one amplifier reads: 640 raw rows of an image in science orientation, all
columns. In time, its 640 rows follow each other within one detector line, which is an image column. A line has 32
blocks of 22 slots, of which two are gaps, and 8 slots at its end. A *series* is (slot, line) float32. It has one row
for each of the 712 slots of a line, so that successive samples stand below each other, and an image row is a row of the
series. ``row_of_slot`` (712,) gives the row of the sector that is read in each slot, -1 in gaps. ``sources`` (640, 2)
gives the two rows whose mean replaces a row: the row itself twice if it is good, negative numbers if it is not used at
all.

With the time ``t = 712 line + slot``, the spectrum at the frequency ``k = k1 + lines k2`` is ::

    X[k2, k1] = sum_slot exp(-2 pi i k2 slot / 712)  exp(-2 pi i k1 slot / (712 lines))
                sum_line exp(-2 pi i k1 line / lines)  x[slot, line]

This is a real transform of every row, a rotation of phases, and a complex transform of every column. No samples are
moved. Only rows with samples need the first transform. As x is real, ``k1 <= lines / 2`` is enough. The order of a
*spectrum* is (k2, k1). :func:`in_order` brings other functions of frequency into this order.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft

from nsxr.kernels.compilation import kernel

__all__ = [
    "SLOTS",
    "across_slots",
    "along_lines",
    "fill_by_prediction",
    "fill_gaps",
    "fit_line",
    "gather",
    "in_order",
    "in_time",
    "spread",
    "subtract",
    "weigh",
]

SLOTS = 712


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
    """Fit a line in time to the samples of the first and last ``border`` columns, or of all columns if there are fewer.

    Returns (intercept, slope), with time in slots from the middle of the frame.
    """
    n_columns = frame.shape[1]
    middle = 0.5 * (SLOTS * n_columns - 1)
    n = 0
    sum_t = sum_y = sum_tt = sum_ty = 0.0
    for line in range(n_columns):
        if border <= line < n_columns - border:
            continue
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
    slots: np.ndarray,
    is_reversed: bool,
    line: tuple[float, float],
    series: np.ndarray,
) -> None:  # pragma: no cover
    """Write (frame - mean - line) of the given slots to a series with a row for each slot; 0 without a sample."""
    n_columns = frame.shape[1]
    intercept, slope = line
    middle = 0.5 * (SLOTS * n_columns - 1)
    for k in range(slots.size):
        slot = slots[k]
        row = row_of_slot[slot]
        if row < 0 or sources[row, 0] < 0:
            series[k] = 0
            continue
        a, b = sources[row, 0], sources[row, 1]
        for column in range(n_columns):
            y = n_columns - 1 - column if is_reversed else column
            trend = np.float32(intercept + slope * (y * SLOTS + slot - middle))
            value = np.float32(0.5) * ((frame[a, column] - mean[a, column]) + (frame[b, column] - mean[b, column]))
            series[k, y] = value - trend


@kernel
def fill_gaps(series: np.ndarray, is_known: np.ndarray, weights: np.ndarray) -> None:  # pragma: no cover
    """Fill unknown slots of a whole series with the weighted mean of nearby known slots, in place, circular in time.

    ``is_known`` (712,) bool, ``weights`` (odd length) float32.
    """
    lines, half = series.shape[1], weights.size // 2
    for slot in range(SLOTS):
        if is_known[slot]:
            continue
        norm = np.float32(0)
        series[slot] = 0
        for k in range(-half, half + 1):
            other = (slot + k) % SLOTS
            if not is_known[other]:
                continue
            norm += weights[k + half]
            turn = (slot + k) // SLOTS  # the line before or after
            for y in range(lines):
                at = y + turn
                at = at - lines if at >= lines else (at + lines if at < 0 else at)
                series[slot, y] += weights[k + half] * series[other, at]
        for y in range(lines):
            series[slot, y] = series[slot, y] / norm if norm > 0 else np.float32(0)


def across_slots(spectrum: np.ndarray, inverse: bool = False) -> np.ndarray:
    """Transform the columns of a spectrum (712, k1) complex64, which is overwritten."""
    transform = scipy.fft.ifft if inverse else scipy.fft.fft
    turned: np.ndarray = transform(spectrum, axis=0, overwrite_x=True)
    return turned


@lru_cache(maxsize=2)
def _rotation(n_columns: int) -> np.ndarray:
    """Return exp(-2 pi i k1 slot / (712 lines)), (slot, k1) complex64."""
    phase = np.outer(np.arange(SLOTS), np.arange(n_columns // 2 + 1)) * (-2j * np.pi / (SLOTS * n_columns))
    rotation: np.ndarray = np.exp(phase).astype(np.complex64)
    rotation.flags.writeable = False
    return rotation


def along_lines(series: np.ndarray) -> np.ndarray:
    """Transform the rows of a whole series: (slot, line) float32 to (slot, k1) complex64, phases rotated."""
    spectrum: np.ndarray = scipy.fft.rfft(series, axis=1)
    spectrum *= _rotation(series.shape[1])
    return spectrum


def in_order(values: np.ndarray) -> np.ndarray:
    """Return values at all ``712 lines`` frequencies in the order (k2, k1), complex64 or float32."""
    n_columns = values.size // SLOTS
    ordered = values.reshape(SLOTS, n_columns)[:, : n_columns // 2 + 1]
    return np.ascontiguousarray(ordered, np.complex64 if np.iscomplexobj(values) else np.float32)


def in_time(spectrum: np.ndarray, slots: np.ndarray, n_columns: int) -> np.ndarray:
    """Undo :func:`along_lines` for the given slots: (slot, k1) complex64 to (given slot, line) float32."""
    rows = spectrum[slots]
    rows *= _rotation(n_columns).conj()[slots]
    series: np.ndarray = scipy.fft.irfft(rows, n_columns, axis=1, overwrite_x=True)
    return series


@kernel
def _spread(rows: np.ndarray, copies: np.ndarray, rotation: np.ndarray, out: np.ndarray) -> None:  # pragma: no cover
    for slot in range(SLOTS):
        if copies[slot] < 0:
            out[slot] = 0
        else:
            for k in range(rows.shape[1]):
                out[slot, k] = rows[copies[slot], k] * rotation[slot, k]


def spread(series: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Transform the rows of a short series, and copy them to slots by ``copies`` (712,), -1 for none: (slot, k1)."""
    rows = scipy.fft.rfft(series, axis=1)
    rotation = _rotation(series.shape[1])
    out = np.empty((SLOTS, rows.shape[1]), np.complex64)
    _spread(rows, copies, rotation, out)
    return out


@kernel
def weigh(spectrum: np.ndarray, beta: np.ndarray, reference: np.ndarray, alpha: np.ndarray) -> None:  # pragma: no cover
    """Replace a spectrum by beta * spectrum + alpha * reference, in place."""
    for k2 in range(spectrum.shape[0]):
        for k1 in range(spectrum.shape[1]):
            spectrum[k2, k1] = beta[k2, k1] * spectrum[k2, k1] + alpha[k2, k1] * reference[k2, k1]


@kernel
def _at_slots(spectrum: np.ndarray, turns: np.ndarray, out: np.ndarray) -> None:  # pragma: no cover
    for k2 in range(spectrum.shape[0]):
        for s in range(turns.shape[0]):
            turn = turns[s, k2]
            for k1 in range(spectrum.shape[1]):
                out[s, k1] += turn * spectrum[k2, k1]


@kernel
def _add_slots(spectrum: np.ndarray, rows: np.ndarray, turns: np.ndarray, beta: np.ndarray) -> None:  # pragma: no cover
    total = np.empty(rows.shape[1], rows.dtype)
    for k2 in range(spectrum.shape[0]):
        total[:] = 0
        for s in range(turns.shape[0]):
            turn = turns[s, k2].conjugate()
            for k1 in range(rows.shape[1]):
                total[k1] += turn * rows[s, k1]
        for k1 in range(rows.shape[1]):
            spectrum[k2, k1] += beta[k2, k1] * total[k1]


def fill_by_prediction(
    spectrum: np.ndarray, beta: np.ndarray, series: np.ndarray, copies: np.ndarray, filled: np.ndarray
) -> None:
    """Replace rows of a short series by the prediction of its weighted spectrum, in place in the spectrum.

    A row that stands in several slots gets the mean of the predictions for these slots. Only the few rows concerned are
    transformed, which is far cheaper than to transform everything twice.

    Parameters
    ----------
    spectrum : (712, k1) complex64
        From :func:`weigh`, of a series with a first guess in the rows ``filled``. It is changed in place.
    beta : (712, k1) complex64
        Weights of the series.
    series : (row, line) float32
        The short series.
    copies : (712,) int
        Row that stands in each slot, -1 for none, as in :func:`spread`.
    filled : (n,) int
        Rows to be replaced.
    """
    n_columns = series.shape[1]
    slots = np.flatnonzero(np.isin(copies, filled))
    turns = np.exp(np.outer(slots, np.arange(SLOTS)) % SLOTS * (2j * np.pi / SLOTS)).astype(np.complex64)
    rotation = _rotation(n_columns)[slots]
    predicted = np.zeros((slots.size, spectrum.shape[1]), np.complex64)
    _at_slots(spectrum, turns, predicted)
    predicted *= rotation.conj() / np.float32(SLOTS)
    rows = scipy.fft.irfft(predicted, n_columns, axis=1, overwrite_x=True)
    change = np.stack([rows[copies[slots] == row].mean(0) - series[row] for row in filled])
    rows = scipy.fft.rfft(change, axis=1)[np.searchsorted(filled, copies[slots])]
    _add_slots(spectrum, (rows * rotation).astype(np.complex64), turns, beta)


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
    """Write the frame less line and correction, for the wanted rows of a sector.

    ``slot_of_output`` (rows of ``out``,) gives the slot in which each row of the result was read, and ``correction``
    (rows of ``out``, line) the values to subtract.
    """
    n_columns = frame.shape[1]
    intercept, slope = line
    middle = 0.5 * (SLOTS * n_columns - 1)
    for r in range(out.shape[0]):
        slot = slot_of_output[r]
        row = row_of_slot[slot]
        for column in range(n_columns):
            y = n_columns - 1 - column if is_reversed else column
            trend = np.float32(intercept + slope * (y * SLOTS + slot - middle))
            out[r, column] = frame[row, column] - (trend + correction[r, y])
