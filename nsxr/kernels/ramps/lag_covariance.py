"""The covariance of noise along the order of reading, for pairs of samples with the same distance in time.

Samples are (output, time), as in :mod:`nsxr.kernels.ramps.flicker`. A lag is a number of lines and a number of slots.
"""

import numpy as np
import scipy.fft

from nsxr.model.time_order import TimeOrder

__all__ = ["LAGS", "add_lags", "correlations"]

_LINES, _SLOTS = 8, 64
_BLOCK = 56  # lines that are transformed together, with _LINES of zeros behind them
_FEW = 10_000.0
"""Pairs of one kind with which the covariance of both kinds counts: a kind with few pixels borrows it."""


def _lags() -> np.ndarray:
    within = [(0, slot) for slot in range(_SLOTS)]
    between = [(line, slot) for line in range(1, _LINES) for slot in range(1 - _SLOTS, _SLOTS)]
    lags = np.array(within + between)
    lags.flags.writeable = False
    return lags


LAGS = _lags()
"""(lag, 2) int64, lines and slots from one sample to a later one. The first lag is zero."""


def add_lags(values: np.ndarray, order: TimeOrder) -> np.ndarray:
    """Return the sum of the products of all pairs of samples at each of :data:`LAGS`, (lag,) float64.

    Parameters
    ----------
    values : ndarray
        (output, time) float32, zero where there is no sample.
    order : TimeOrder
        The order in which pixels are read.
    """
    slots, lines = order.slots, order.lines
    length = scipy.fft.next_fast_len((min(lines, _BLOCK) + _LINES) * slots, real=True)
    power = np.zeros(length // 2 + 1)
    for start in range(0, lines, _BLOCK):
        block = values[:, start * slots : min(start + _BLOCK, lines) * slots]
        spectrum = scipy.fft.rfft(block, length, axis=1)
        power += (spectrum.real**2 + spectrum.imag**2).sum(0)
    of_lag = scipy.fft.irfft(power, length)
    found: np.ndarray = of_lag[LAGS @ np.array([slots, 1])]
    return found


def correlations(sums: np.ndarray, counts: np.ndarray, white: float) -> np.ndarray:
    """Return the covariance of the noise of cleaned pixels, over the variance of a cleaned pixel, (kind, lag) float64.

    The error *e* of the estimate has one covariance P for all pixels. A cleaned pixel that the estimate did not use has
    its own white noise and e. In a pixel that was used, e follows the white noise: the sum of both has the covariance
    of the white noise less P.

    Parameters
    ----------
    sums, counts : ndarray
        (kind, lag) float64, sum of the products of e, and number of pairs. The first kind are pixels that were used.
    white : float
        Variance of white noise.
    """
    everywhere = sums.sum(0) / np.maximum(counts.sum(0), 1)
    covariance = (sums + _FEW * everywhere) / (counts + _FEW)
    signed = covariance * np.where(np.arange(len(sums)) == 0, -1.0, 1.0)[:, None]
    total = np.maximum(white + signed[:, :1], 0.1 * white)
    found: np.ndarray = signed / total
    return found
