"""The covariance of noise along the order of reading, for pairs of samples with the same distance in time.

Samples are (output, time), as in :mod:`nsxr.kernels.ramps.flicker`. A lag is a number of lines and a number of slots.
"""

import numpy as np
import scipy.fft

from nsxr.model.time_order import TimeOrder

__all__ = ["LAGS", "add_lags", "correlations"]

_LINES, _SLOTS, _BESIDE = 32, 64, 32  # lags, and slots to both sides in other lines
_BLOCK, _MOST = 96, 11  # lines that are transformed together, with zeros behind them, and blocks that are enough
_FEW = 1000.0
"""Pairs that a covariance needs; it is reduced where there are few."""


def _lags() -> np.ndarray:
    within = [(0, slot) for slot in range(_SLOTS)]
    between = [(line, slot) for line in range(1, _LINES) for slot in range(1 - _BESIDE, _BESIDE)]
    lags = np.array(within + between)
    lags.flags.writeable = False
    return lags


LAGS = _lags()
"""(lag, 2) int64, lines and slots from one sample to a later one. The first lag is zero."""


def add_lags(values: np.ndarray, order: TimeOrder) -> np.ndarray:
    """Return the sum of the products of pairs of samples at each of :data:`LAGS`, (lag,) float64.

    Lines are taken in blocks of 96. Of many blocks, some are left out, for all series of a length the same ones.

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
    starts = np.arange(0, lines, _BLOCK)
    for start in starts[:: max(1, -(-starts.size // _MOST))]:
        block = values[:, start * slots : min(start + _BLOCK, lines) * slots]
        spectrum = scipy.fft.rfft(block, length, axis=1)
        power += (spectrum.real**2 + spectrum.imag**2).sum(0)
    of_lag = scipy.fft.irfft(power, length)
    found: np.ndarray = of_lag[LAGS @ np.array([slots, 1])]
    return found


def correlations(sums: np.ndarray, counts: np.ndarray, white: float) -> np.ndarray:
    """Return the covariance of the noise of cleaned pixels, over the root of the product of their variances.

    Parameters
    ----------
    sums, counts : ndarray
        (kind, lag) float64, sum of the products of the noise without what the white noise of a pixel has by itself, and
        number of pairs: both pixels were used for the estimate, neither was, one was.
    white : float
        Variance of white noise.

    Returns
    -------
    ndarray
        (kind, lag) float64.
    """
    covariance = sums / (counts + _FEW)
    used, unused = np.maximum(white + covariance[:2, 0], 0.1 * white)
    found: np.ndarray = covariance / np.array([used, unused, np.sqrt(used * unused)])[:, None]
    return found
