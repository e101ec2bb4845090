"""Bands of noise: constant noise, and 1/f noise octave by octave, seen through the gaps of a time series.

A band is a tent in the logarithm of frequency, one for each octave, times 1/f. One set of bands goes up from frequency
zero. Another goes down from the highest frequency, because noise that changes sign from sample to sample, such as that
of alternating columns, is at the upper end.
"""

from functools import lru_cache

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.kernels.ramps.long_transform import long_transform

__all__ = ["band_count", "binned_power", "density_of_bands", "folded_bands", "octaves", "power_bins"]

_PER_OCTAVE = 4
_AT_ONCE = 4  # bands that are transformed together


@lru_cache(maxsize=4)
def power_bins(length: int) -> np.ndarray:
    """Return the number of the first frequency of each bin, int64. Bins are fine at both ends."""
    half = length // 2 + 1
    found = np.log2(length / 4)
    low = np.round(2 ** (np.arange(int(found * _PER_OCTAVE) + 1) / _PER_OCTAVE)).astype(np.int64)
    low = np.unique(np.concatenate([[0], low]))
    starts = np.unique(np.concatenate([low, half - low[2:]]))
    return starts[starts < half]


def octaves(length: int) -> int:
    """Return the number of bands from below."""
    return int(np.log2(length / 2)) + 1


def band_count(length: int) -> int:
    """Return the number of bands: one, those from below, and those from above, which begin where the former end."""
    return 2 * octaves(length) - 1


class _Bins:
    """The transform of series of one length, and the bin of each frequency."""

    def __init__(self, length: int) -> None:
        self.transform = long_transform(length)
        starts = power_bins(length)
        place = np.abs(self.transform.frequency)
        self.of_frequency = (np.searchsorted(starts, place, side="right") - 1).astype(np.int32)
        alone = (place == 0) | (2 * place == length)
        share = self.transform.counts * np.where(alone, np.float32(1), np.float32(0.5))
        self.share = share / np.diff(np.append(starts, length // 2 + 1)).astype(np.float32)[self.of_frequency]
        self.size = starts.size


@lru_cache(maxsize=2)
def _bins(length: int) -> _Bins:
    return _Bins(length)


@kernel
def _add_powers(
    spectra: np.ndarray, of_frequency: np.ndarray, share: np.ndarray, out: np.ndarray
) -> None:  # pragma: no cover
    """Add the power of all outputs, and that of their sum, to the bins of ``out``, (2, bin) float64."""
    for f in range(spectra.shape[1]):
        total = np.complex64(0)
        power = np.float32(0)
        for k in range(spectra.shape[0]):
            value = spectra[k, f]
            total += value
            power += value.real * value.real + value.imag * value.imag
        out[0, of_frequency[f]] += share[f] * power
        out[1, of_frequency[f]] += share[f] * (total.real * total.real + total.imag * total.imag)


@kernel
def _real_in_bins(
    spectrum: np.ndarray, of_frequency: np.ndarray, share: np.ndarray, out: np.ndarray
) -> None:  # pragma: no cover
    """Add the real part of a spectrum to the bins of ``out``, (bin,) float64."""
    for f in range(spectrum.size):
        out[of_frequency[f]] += share[f] * spectrum[f].real


def binned_power(series: np.ndarray) -> np.ndarray:
    """Return the mean power in bins of frequency, of amplifiers and of pairs of amplifiers, (2, bin) float64.

    ``series`` (output, time) float32 is a series times its weight. The second row is 0 for a single amplifier.
    """
    bins = _bins(series.shape[1])
    spectra = np.empty((len(series), bins.transform.size), np.complex64)
    bins.transform.forward(series, spectra)
    found = np.zeros((2, bins.size))
    _add_powers(spectra, bins.of_frequency, bins.share, found)
    return _of_pairs(found, len(series))


def _of_pairs(power: np.ndarray, n_outputs: int) -> np.ndarray:
    """Return the mean power of outputs and of pairs, from the power of all outputs and that of their sum."""
    pairs = n_outputs * (n_outputs - 1)
    return np.stack([power[0] / n_outputs, (power[1] - power[0]) / pairs if pairs else 0 * power[0]])


@lru_cache(maxsize=2)
def _octave_places(length: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Return the octave of each frequency, and the inverse of the frequency, from below and from above."""
    f = np.arange(length // 2 + 1) / length
    found = []
    for distance in (f, 0.5 - f):
        distance = np.maximum(distance, 0.5 / length)
        place = np.log2(distance * length).clip(0, octaves(length) - 1)
        found.append((place.astype(np.float32), (1 / distance).astype(np.float32)))
    return tuple(found)


@kernel
def _add_tents(heights: np.ndarray, place: np.ndarray, scale: np.ndarray, out: np.ndarray) -> None:  # pragma: no cover
    """Add what tents of these heights have at each place, times a scale."""
    last = heights.size - 1
    for f in range(place.size):
        k = min(int(place[f]), last - 1)
        part = place[f] - k
        out[f] += scale[f] * (heights[k] * (1 - part) + heights[k + 1] * part)


def density_of_bands(amplitudes: np.ndarray, length: int) -> np.ndarray:
    """Return the density of bands with these amplitudes, (length / 2 + 1,) float64."""
    n_low = octaves(length)
    found = np.zeros(length // 2 + 1)
    of_bands = amplitudes[1 : 1 + n_low], np.concatenate([amplitudes[1 + n_low :], np.zeros(2)])
    for heights, (place, scale) in zip(of_bands, _octave_places(length), strict=True):
        if heights.any():
            _add_tents(heights, place, scale, found)
    found[0] = amplitudes[0] * length
    return found


def folded_bands(weight: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return the power of unit noise of some bands in a weighted series, (2, number of band, bin) float64.

    The first index is 0 for amplifiers and 1 for pairs of amplifiers. ``weight`` is (output, time) float32.
    """
    n_outputs, length = weight.shape
    bins = _bins(length)
    transform = bins.transform
    spectra = np.empty((max(n_outputs, _AT_ONCE), transform.size), np.complex64)
    transform.forward(weight, spectra[:n_outputs])
    own = (np.abs(spectra[:n_outputs]) ** 2).sum(0)
    total = np.abs(spectra[:n_outputs].sum(0)) ** 2
    powers = np.stack(list(_of_pairs(np.stack([own, total]), n_outputs))).astype(np.complex64)
    lags = np.empty((2, length), np.float32)
    transform.backward(powers, lags)
    place = np.abs(transform.frequency)
    found = np.zeros((2, numbers.size, bins.size))
    covariance = np.empty((_AT_ONCE, length), np.float32)
    for first in range(0, numbers.size, _AT_ONCE):
        some = numbers[first : first + _AT_ONCE]
        for row, number in zip(spectra, some, strict=False):
            unit = np.zeros(band_count(length))
            unit[number] = 1
            row[:] = density_of_bands(unit, length).astype(np.float32)[place]
        transform.backward(spectra[: some.size], covariance[: some.size])
        for kind, lag in enumerate(lags[: 1 + (n_outputs > 1)]):
            transform.forward(covariance[: some.size] * lag, spectra[: some.size])
            for spectrum, out in zip(spectra, found[kind, first : first + some.size], strict=False):
                _real_in_bins(spectrum, bins.of_frequency, bins.share, out)
    return found
