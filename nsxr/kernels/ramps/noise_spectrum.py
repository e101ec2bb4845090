r"""The spectrum of correlated noise, from time series with gaps.

The power of a series times its weight is, on average, the spectrum of the noise convolved with the power of the weight.
The effect of the gaps on each band of the spectrum is computed. Bands with amplitudes that are not negative are fitted
to the power in bins of frequency. A band is a tent in the logarithm of frequency, one for each octave, times 1/f. One
set of bands goes up from frequency zero. Another goes down from the highest frequency, because noise that changes sign
from sample to sample, such as that of alternating columns, is at the upper end.
"""

from functools import lru_cache

import numpy as np
import scipy.fft
import scipy.optimize

from nsxr.kernels.ramps.flicker import Densities

__all__ = ["alike_frames", "binned_power", "fit_densities", "power_bins"]

_PER_OCTAVE = 4
_ROUNDS = 6
_HARDLY = 0.05
"""Expected size of the correlated noise of an amplifier at high frequencies, relative to white noise."""

_ALIKE = 1.5
_LEAST_WHITE = 0.05  # least white noise, relative to the median power

_CHANGE = 0.5
"""Expected change of the noise from one octave to the next, relative to 1/f."""


@lru_cache(maxsize=4)
def power_bins(length: int) -> np.ndarray:
    """Return the number of the first frequency of each bin, int64. Bins are fine at both ends."""
    half = length // 2 + 1
    octaves = np.log2(length / 4)
    low = np.round(2 ** (np.arange(int(octaves * _PER_OCTAVE) + 1) / _PER_OCTAVE)).astype(np.int64)
    low = np.unique(np.concatenate([[0], low]))
    starts = np.unique(np.concatenate([low, half - low[2:]]))
    return starts[starts < half]


def binned_power(series: np.ndarray) -> np.ndarray:
    """Return the mean power in bins of frequency, of amplifiers and of pairs of amplifiers, (2, bin) float64.

    ``series`` (output, time) float32 is a series times its weight; it is overwritten. The second row is 0 for a single
    amplifier.
    """
    spectrum = scipy.fft.rfft(series, axis=1, overwrite_x=True)
    return _binned(*_powers(spectrum), series.shape[1])


def _powers(spectrum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n_outputs = spectrum.shape[0]
    own = (spectrum.real.astype(np.float64) ** 2 + spectrum.imag.astype(np.float64) ** 2).sum(0)
    if n_outputs == 1:
        return own, np.zeros_like(own)
    total = spectrum.sum(0)
    both = total.real.astype(np.float64) ** 2 + total.imag.astype(np.float64) ** 2
    return own / n_outputs, (both - own) / (n_outputs * (n_outputs - 1))


def _binned(own: np.ndarray, pair: np.ndarray, length: int) -> np.ndarray:
    starts = power_bins(length)
    counts = np.diff(np.append(starts, own.size))
    return np.stack([np.add.reduceat(power, starts) / counts for power in (own, pair)])


def alike_frames(power: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return which frames have the noise that integrations share, (integration, group) bool.

    ``power`` (integration, group, 2, bin) is from :func:`binned_power`, and ``count`` (integration, group) is 0 for
    frames without pixels. White noise is the median over bins. An integration is left out if its median white noise is
    not within a factor of 1.5 of that of the others. If two integrations disagree, the quieter one is used.
    """
    seen: np.ndarray = (count > 0) & np.isfinite(power).all((2, 3))
    white = np.median(np.where(seen[..., None], power[:, :, 0], 0), axis=-1)
    of_integration = np.array([np.median(w[s]) if s.any() else np.nan for w, s in zip(white, seen, strict=True)])
    known = np.sort(of_integration[np.isfinite(of_integration)])
    if not known.size:
        return seen
    middle = known[(known.size - 1) // 2]
    alike = (of_integration <= _ALIKE * middle) & (of_integration >= middle / _ALIKE)
    found: np.ndarray = seen & alike[:, None]
    return found


@lru_cache(maxsize=2)
def _bands(length: int) -> np.ndarray:
    """Return the bands, (band, frequency) float32: constant noise, then 1/f bands from below, then from above."""
    f = np.arange(length // 2 + 1) / length
    bands = [np.where(f == 0, np.float64(length), 0)]
    octaves = int(np.log2(length / 2)) + 1
    for from_end in (f, 0.5 - f):
        distance = np.maximum(from_end, 0.5 / length)
        place = np.log2(distance * length)
        for k in range(octaves):
            if from_end is not f and k >= octaves - 2:
                continue  # the bands from above begin where the bands from below end
            tent = np.clip(1 - np.abs(place - k), 0, None)
            if k == 0:
                tent = np.where(place < 0, 1, tent)
            if k == octaves - 1:
                tent = np.where(place > k, 1, tent)
            density = tent / distance
            if from_end is f:
                density[0] = 0
            bands.append(density)
    found = np.array(bands, dtype=np.float32)
    found.flags.writeable = False
    return found


def fit_densities(power: np.ndarray, n_frames: int, weight: np.ndarray) -> Densities:
    """Return the spectrum of the noise from the power of weighted frames.

    Parameters
    ----------
    power : ndarray
        (2, bin) float64, mean over frames of :func:`binned_power` of ``series * weight``.
    n_frames : int
        Number of these frames.
    weight : ndarray
        (output, time) float32, variance of white noise of a sample of weight 1 over the variance of this sample.

    Returns
    -------
    Densities
        The spectral densities. Their constant part, the level of an amplifier, may be as large as the largest that was
        measured.
    """
    n_outputs, length = weight.shape
    bands = _bands(length)
    if not (power[0].any() and weight.any()):
        nothing = np.zeros(length // 2 + 1)
        return Densities(1.0, nothing, nothing)
    own_folded, pair_folded = _folded(weight, bands)
    white = np.full(power.shape[1], float(weight.sum(dtype=np.float64)) / n_outputs)
    n_bands, n_bins = own_folded.shape
    nothing = np.zeros_like(white)
    if n_outputs == 1:
        model = np.vstack([white, own_folded]).T
        seen = power[0]
    else:
        of_outputs = np.vstack([white, own_folded, own_folded])
        of_pairs = np.vstack([nothing, 0 * own_folded, pair_folded])
        model = np.hstack([of_outputs, of_pairs]).T
        seen = np.concatenate([power[0], power[1]])
    counts = np.diff(np.append(power_bins(length), length // 2 + 1)) * float(n_frames)
    filled = float((weight > 0).mean())  # a gap leaves fewer independent frequencies
    freedom = np.maximum(counts * filled, 1.0)
    expected = _smooth(power[0])
    found = np.zeros(model.shape[1])
    for _ in range(_ROUNDS):
        error = expected / np.sqrt(freedom * n_outputs)
        if n_outputs > 1:
            error = np.concatenate([error, expected / np.sqrt(freedom * n_outputs * (n_outputs - 1) / 2)])
        rows, values = [model / error[:, None]], [seen / error]
        for first in range(1, model.shape[1], n_bands):
            rows.append(_ties(found, first, n_bands, length, model.shape[1]))
            values.append(np.zeros(len(rows[-1])))
        rows.append(_modesty(model.shape[1], n_bands, length, float(np.median(expected)) / white[0]))
        values.append(np.zeros(len(rows[-1])))
        scale = np.maximum(np.abs(rows[0]).max(0), 1e-300)
        found = scipy.optimize.nnls(np.vstack(rows) / scale, np.concatenate(values), maxiter=50 * scale.size)[0] / scale
        expected = np.maximum((model @ found)[:n_bins], 1e-3 * expected)
    own, common = found[1 : 1 + n_bands], found[1 + n_bands :] if n_outputs > 1 else np.zeros(n_bands)
    # with few dark pixels, bands may take all of the white noise, but every detector has white noise
    least = _LEAST_WHITE * float(np.median(expected)) / white[0]
    return Densities(max(float(found[0]), least), own @ bands, common @ bands)


def _folded(weight: np.ndarray, bands: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the power of unit noise of each band in a weighted series, for amplifiers and for pairs: (band, bin)."""
    length = weight.shape[1]
    own, pair = _powers(scipy.fft.rfft(weight, axis=1))
    lags = [scipy.fft.irfft(values, length) for values in (own, pair)]
    folded = []
    for band in bands:
        covariance = scipy.fft.irfft(band.astype(np.float64), length)
        powers = [scipy.fft.rfft(covariance * lag).real for lag in lags]
        folded.append(_binned(powers[0], powers[1], length))
    both = np.array(folded)
    return both[:, 0], both[:, 1]


def _modesty(n_all: int, n_bands: int, length: int, white: float) -> np.ndarray:
    """Return equations that keep correlated noise small at high frequencies, where it looks like white noise."""
    n_low = int(np.log2(length / 2)) + 1
    bands = [k for k in (n_low - 2, n_low - 1, n_low, n_bands - 2, n_bands - 1) if 0 < k < n_bands]
    rows = np.zeros((len(bands), n_all))
    for row, k in zip(rows, bands, strict=True):
        row[1 + k] = 4 / (_HARDLY * white)  # bands are 1/f, and here f is about 1/4
    return rows


def _smooth(power: np.ndarray) -> np.ndarray:
    padded = np.pad(power, 2, mode="edge")
    smooth: np.ndarray = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)
    return smooth.clip(1e-30)


def _ties(found: np.ndarray, first: int, n_bands: int, length: int, n_all: int) -> np.ndarray:
    """Return equations that tie each band to the next, relative to the size of both in the fit before."""
    rows = []
    n_low = int(np.log2(length / 2)) + 1
    for begin, end in ((1, 1 + n_low), (1 + n_low, n_bands)):
        for k in range(first + begin, first + end - 1):
            size = found[k : k + 2].mean()
            if size > 0:
                row = np.zeros(n_all)
                row[k : k + 2] = np.array([1, -1]) / (_CHANGE * size)
                rows.append(row)
    return np.array(rows).reshape(-1, n_all)
