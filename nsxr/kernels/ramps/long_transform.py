r"""The Fourier transform of long real series, in two steps that stay in the cache of the processor.

A series of N = L S samples is a table with L rows and S columns. The transform of the series is that of the columns,
times phases, then that of the rows (Bailey 1990, J. Supercomput. 4, 23). The frequencies come in the order
:math:`f = k_L + L k_S`. Nothing is sorted, because what is done to a spectrum is the same in any order. For N of a
million, this takes half of the time of one long transform.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import scipy.fft

from nsxr.kernels.compilation import kernel

__all__ = ["LongTransform", "colour", "long_transform", "split_columns"]


def split_columns(length: int, least: int) -> int:
    """Return a good number of columns for the table: ``least``, which divides the length, times a power of two."""
    columns = least
    while columns < 512 and length % (2 * columns) == 0 and 8 * columns * columns < length:
        columns *= 2
    return columns


@kernel
def _times(values: np.ndarray, phases: np.ndarray, out: np.ndarray) -> None:  # pragma: no cover
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] = values[i, j] * phases[i, j]


@kernel
def colour(xi: np.ndarray, own: np.ndarray, mean: np.ndarray, out: np.ndarray) -> None:  # pragma: no cover
    """Multiply a spectrum by a matrix: ``own`` for the differences between amplifiers, ``mean`` for their sum."""
    n_outputs = xi.shape[0]
    for f in range(xi.shape[1]):
        total = np.complex64(0)
        for k in range(n_outputs):
            total += xi[k, f]
        total *= (mean[f] - own[f]) / np.float32(n_outputs)
        for k in range(n_outputs):
            out[k, f] = own[f] * xi[k, f] + total


@lru_cache(maxsize=4)
def _phases(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the phases between both steps, and their conjugates, (rows / 2 + 1, columns) complex64."""
    angle = np.outer(np.arange(rows // 2 + 1), np.arange(columns)) * (-2 * np.pi / (rows * columns))
    forward = np.exp(1j * angle).astype(np.complex64)
    backward = forward.conj()
    for array in (forward, backward):
        array.flags.writeable = False
    return forward, backward


class LongTransform:
    """The transform of real series of one length.

    Parameters
    ----------
    length, columns : int
        Length of the series, and the number of columns of its table, which divides the length.

    Attributes
    ----------
    size : int
        Number of frequencies of a spectrum. It has some frequencies twice, as f and N - f.
    frequency : (size,) int32
        Frequency of each value, negative for those that stand for N - f.
    counts : (size,) float32
        How often each value counts in sums over all N frequencies: 2, or 1 where f and N - f are both there.
    """

    def __init__(self, length: int, columns: int) -> None:
        self._rows, self._columns = length // columns, columns
        half = self._rows // 2 + 1
        self._shape = half, columns
        self.length, self.size = length, half * columns
        frequency = np.arange(half, dtype=np.int32)[:, None] + self._rows * np.arange(columns, dtype=np.int32)
        self.frequency = np.where(frequency > length // 2, frequency - length, frequency).ravel()
        counts = np.full(self._shape, 2, np.float32)
        counts[0] = 1
        if self._rows % 2 == 0:
            counts[-1] = 1
        self.counts = counts.ravel()
        for array in (self.frequency, self.counts):
            array.flags.writeable = False

    def forward(self, series: np.ndarray, out: np.ndarray) -> None:
        """Write the spectra of series, (output, length) float32, to ``out``, (output, size) complex64."""
        phases = _phases(self._rows, self._columns)[0]
        for values, spectrum in zip(series, out, strict=True):
            table = scipy.fft.rfft(values.reshape(self._rows, self._columns), axis=0)
            place = spectrum.reshape(self._shape)
            _times(table, phases, place)
            _in_place(scipy.fft.fft, place)

    def backward(self, spectra: np.ndarray, out: np.ndarray) -> None:
        """Write the series of spectra, (output, size) complex64, to ``out``. The spectra are overwritten."""
        phases = _phases(self._rows, self._columns)[1]
        for spectrum, values in zip(spectra, out, strict=True):
            place = spectrum.reshape(self._shape)
            _in_place(scipy.fft.ifft, place)
            _times(place, phases, place)
            table = values.reshape(self._rows, self._columns)
            table[:] = scipy.fft.irfft(place, self._rows, axis=0)

    def power(self, series: np.ndarray) -> np.ndarray:
        """Return the mean power of series over outputs, (length / 2 + 1,) float64, for rising frequencies."""
        spectra = np.empty((len(series), self.size), np.complex64)
        self.forward(series, spectra)
        found = np.empty(self.length // 2 + 1)
        found[np.abs(self.frequency)] = (np.abs(spectra) ** 2).mean(axis=0, dtype=np.float64)
        return found

    def refined(self, coarse: "LongTransform", spectra: np.ndarray) -> np.ndarray:
        """Return spectra of shorter series with as many rows, (output, frequency), with zeros at other frequencies."""
        found = np.zeros((len(spectra), *self._shape), np.complex64)
        known = spectra.reshape(len(spectra), *coarse._shape)
        positive = -(-coarse._columns // 2)
        found[..., :positive] = known[..., :positive]
        if coarse._columns > 1:
            found[..., positive - coarse._columns :] = known[..., positive:]
        return found.reshape(len(spectra), -1)


def long_transform(length: int, columns: int | None = None) -> LongTransform:
    """Return the :class:`LongTransform` of a length, by default with a good number of columns of at least 64."""
    return _kept_transform(length, split_columns(length, 64) if columns is None else columns)


@lru_cache(maxsize=8)
def _kept_transform(length: int, columns: int) -> LongTransform:
    """Return a transform whose frequencies, which take long to make, are kept."""
    return LongTransform(length, columns)


def _in_place(transform: Callable[..., np.ndarray], table: np.ndarray) -> None:
    found = transform(table, axis=1, overwrite_x=True)
    if not np.may_share_memory(found, table):
        table[:] = found
