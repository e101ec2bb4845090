r"""The conditional mean of correlated noise, given the pixels without light.

The pixels of an amplifier in the order of reading are a time series. The amplifiers of a frame together are a
*series* (output, time) float32. Its length suits Fourier transforms, and it is zero beyond the frame. The noise of
amplifier *k* is

.. math:: y_k = c + p_k + w_k

where *c* is common to all amplifiers and :math:`p_k` is the part of its own. Both are stationary, with the spectral
densities *C* and *P*. *w* is white with variance :math:`\sigma^2 / q`. The *weight* *q* of a sample is 1 in dark
pixels, smaller where light adds to the noise, and 0 where the sample cannot be used. With *K* the covariance of
:math:`m_k = c + p_k`, the mean of *m* given *y* is :math:`K^{1/2} \xi`, where

.. math:: (1 + K^{1/2} \sigma^{-2} q K^{1/2})\, \xi = K^{1/2} \sigma^{-2} q\, y

*K* is diagonal in frequency. It has one value for the sum of the amplifiers and one for their differences. The equation
is solved by conjugate gradients in frequency, with the solution for a constant weight as preconditioner. It is solved
first for coarse series, whose samples are means of several samples, and last for the whole series. The spectrum of a
series is its real Fourier transform, (output, frequency) complex64.

References
----------
Rauscher 2015, PASP 127, 1144 (the noise). Rybicki & Press 1992, ApJ 398, 169 (the estimate).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.fft

from nsxr.kernels.compilation import kernel
from nsxr.model.time_order import TimeOrder

__all__ = ["Densities", "Solver", "draw_noise", "series_length", "to_image", "to_series"]

_BINS = (64, 8, 1)
"""Number of samples that are averaged into one, from the coarsest series to the whole series."""

_ITERATIONS = (40, 30, 10)
_TOLERANCE = 1e-4
"""Iterations end when the square of the residual, relative to the square for unit noise, falls below this. With a third
of this value, the noise that is left changes by less than 0.1 %."""


class Densities(NamedTuple):
    """Spectral densities of the noise, two-sided, variance for each frequency 1/length.

    Attributes
    ----------
    white : float
        Variance of white noise in a sample of weight 1.
    own, common : (length / 2 + 1,) float64
        Correlated noise that is independent in each amplifier, and common to all amplifiers.
    """

    white: float
    own: np.ndarray
    common: np.ndarray


def series_length(order: TimeOrder) -> int:
    """Return the length of the series of a frame: 1 % longer, so that its end and its beginning may differ."""
    samples = order.slots * order.lines
    coarse = _BINS[0]
    shortest = -(-(samples + max(samples // 100, order.slots)) // coarse)
    return coarse * int(scipy.fft.next_fast_len(shortest, real=True))


def to_series(image: np.ndarray, order: TimeOrder, length: int) -> np.ndarray:
    """Arrange an image (row, column) as a series (output, length) float32, zero where nothing is read."""
    series = np.zeros((len(order.rows), length), dtype=np.float32)
    for values, rows, slot in zip(series, order.rows, order.slot, strict=True):
        lines = values[: order.lines * order.slots].reshape(order.lines, order.slots)
        band = image[rows].T
        lines[:, slot] = band[::-1] if order.is_reversed else band
    return series


def to_image(series: np.ndarray, order: TimeOrder) -> np.ndarray:
    """Undo :func:`to_series`: (row, column) float32."""
    return order.image(list(series), sum(rows.size for rows in order.rows))


@kernel
def _colour(xi: np.ndarray, own: np.ndarray, mean: np.ndarray, out: np.ndarray) -> None:  # pragma: no cover
    """Multiply a spectrum by a matrix: ``own`` for the differences between amplifiers, ``mean`` for their sum."""
    n_outputs = xi.shape[0]
    for f in range(xi.shape[1]):
        total = np.complex64(0)
        for k in range(n_outputs):
            total += xi[k, f]
        total *= (mean[f] - own[f]) / np.float32(n_outputs)
        for k in range(n_outputs):
            out[k, f] = own[f] * xi[k, f] + total


@kernel
def _curvature(seen: np.ndarray, direction: np.ndarray, own: np.ndarray, mean: np.ndarray) -> float:  # pragma: no cover
    """Apply the equation's left side to a direction p, given its weighted spectrum, in place; return p A p."""
    n_outputs, n = seen.shape
    found = 0.0
    for f in range(n):
        total = np.complex64(0)
        for k in range(n_outputs):
            total += seen[k, f]
        total *= (mean[f] - own[f]) / np.float32(n_outputs)
        count = 1.0 if f == 0 or f == n - 1 else 2.0
        for k in range(n_outputs):
            seen[k, f] = direction[k, f] + own[f] * seen[k, f] + total
            found += count * (seen[k, f] * np.conj(direction[k, f])).real
    return found


@kernel
def _descend(
    xi: np.ndarray,
    residual: np.ndarray,
    direction: np.ndarray,
    changed: np.ndarray,
    step: float,
    own: np.ndarray,
    mean: np.ndarray,
) -> float:  # pragma: no cover
    """Go a step along the direction, in place; return the preconditioned square of the residual."""
    n_outputs, n = xi.shape
    length = np.float32(step)
    found = 0.0
    for f in range(n):
        total = np.complex64(0)
        for k in range(n_outputs):
            xi[k, f] += length * direction[k, f]
            residual[k, f] -= length * changed[k, f]
            total += residual[k, f]
        total *= (mean[f] - own[f]) / np.float32(n_outputs)
        count = 1.0 if f == 0 or f == n - 1 else 2.0
        for k in range(n_outputs):
            preconditioned = own[f] * residual[k, f] + total
            found += count * (preconditioned * np.conj(residual[k, f])).real
    return found


@kernel
def _turn(
    residual: np.ndarray,
    direction: np.ndarray,
    keep: float,
    own: np.ndarray,
    mean: np.ndarray,
    root_own: np.ndarray,
    root_mean: np.ndarray,
    out: np.ndarray,
) -> None:  # pragma: no cover
    """Make the next direction, in place, and write the spectrum of its noise to ``out``."""
    n_outputs, n = residual.shape
    share = np.float32(keep)
    for f in range(n):
        total = np.complex64(0)
        for k in range(n_outputs):
            total += residual[k, f]
        total *= (mean[f] - own[f]) / np.float32(n_outputs)
        along = np.complex64(0)
        for k in range(n_outputs):
            direction[k, f] = own[f] * residual[k, f] + total + share * direction[k, f]
            along += direction[k, f]
        along *= (root_mean[f] - root_own[f]) / np.float32(n_outputs)
        for k in range(n_outputs):
            out[k, f] = root_own[f] * direction[k, f] + along


@kernel
def _mean_of_bins(
    values: np.ndarray, weight: np.ndarray, size: int, mean: np.ndarray, total: np.ndarray
) -> None:  # pragma: no cover
    for k in range(values.shape[0]):
        for b in range(mean.shape[1]):
            weights = sums = np.float32(0)
            for t in range(b * size, (b + 1) * size):
                weights += weight[k, t]
                sums += weight[k, t] * values[k, t]
            total[k, b] = weights
            mean[k, b] = sums / weights if weights > 0 else np.float32(0)


class _Level:
    """The equation for series of one length."""

    def __init__(self, densities: Densities, n_outputs: int, size: int) -> None:
        n = densities.own.size - 1
        kept = slice(0, n // size + 1)
        own = densities.own[kept] / size
        self.size, self.length = size, 2 * n // size
        self.white = np.float32(densities.white)
        self.powers = own, own + n_outputs * densities.common[kept] / size
        self.root_own, self.root_mean = (np.sqrt(v).astype(np.float32) for v in self.powers)
        # transforms are written to arrays that are used again: new arrays of 18 MB took a quarter of the time
        self.noise, self._spectrum, self._residual = (np.empty((n_outputs, own.size), np.complex64) for _ in range(3))
        self._time = np.empty((n_outputs, self.length), np.float32)

    def series(self, xi: np.ndarray) -> np.ndarray:
        """Return the noise that belongs to a solution, (output, time) float32, valid until the next call."""
        _colour(xi, self.root_own, self.root_mean, self.noise)
        return self._in_time()

    def _in_time(self) -> np.ndarray:
        for row, spectrum in zip(self._time, self.noise, strict=True):
            row[:] = scipy.fft.irfft(spectrum, self.length)
        return self._time

    def _transform(self, out: np.ndarray) -> np.ndarray:
        for row, series in zip(out, self._time, strict=True):
            row[:] = scipy.fft.rfft(series)
        return out

    def solve(
        self,
        values: np.ndarray,
        weight: np.ndarray,
        xi: np.ndarray,
        iterations: int,
        limit: float = np.inf,
        tolerance: float = _TOLERANCE,
    ) -> np.ndarray:
        """Improve a solution of the equation, in place; values far from the first solution do not count."""
        weight = weight / self.white
        data = self.series(xi)
        np.subtract(values, data, out=data)
        if limit < np.inf:
            weight[weight * data**2 > limit**2] = 0
        data *= weight
        residual = self._transform(self._residual)
        _colour(residual, self.root_own, self.root_mean, residual)
        residual -= xi
        typical = float(weight.mean(dtype=np.float64))
        own, mean = ((1 / (1 + v * typical)).astype(np.float32) for v in self.powers)
        direction = np.zeros_like(residual)
        enough = tolerance / self.size * residual.shape[0] * float(self.length) ** 2
        square = _descend(xi, residual, direction, direction, 0.0, own, mean)
        _turn(residual, direction, 0.0, own, mean, self.root_own, self.root_mean, self.noise)
        for _ in range(iterations):
            if square <= enough:
                break
            along = self._in_time()
            along *= weight
            changed = self._transform(self._spectrum)
            curvature = _curvature(changed, direction, self.root_own, self.root_mean)
            if curvature <= 0:
                break
            step = square / curvature
            before, square = square, _descend(xi, residual, direction, changed, step, own, mean)
            _turn(residual, direction, square / before, own, mean, self.root_own, self.root_mean, self.noise)
        return xi


class Solver:
    """Estimate the correlated noise of frames that share a spectrum.

    Parameters
    ----------
    densities : Densities
        Spectral densities of the noise.
    n_outputs : int
        Number of amplifiers that read a frame at the same time.
    iterations : sequence of int
        Largest number of iterations of conjugate gradients, for means of 64 samples, for means of 8 samples, and for
        samples.
    tolerance : float
        Iterations end when the square of the residual, relative to the square for unit noise, falls below this. The
        limit is smaller for means.
    """

    def __init__(
        self,
        densities: Densities,
        n_outputs: int,
        iterations: Sequence[int] = _ITERATIONS,
        tolerance: float = _TOLERANCE,
    ) -> None:
        self._tolerance = tolerance
        self._levels = [_Level(densities, n_outputs, size) for size in _BINS]
        self._iterations = tuple(iterations)
        scatter = densities.white + float((densities.own[1:] + densities.common[1:]).mean())
        self._wide = np.sqrt(scatter / densities.white)

    def noise(self, values: np.ndarray, weight: np.ndarray, limit: float = np.inf) -> np.ndarray:
        """Return the conditional mean of the correlated noise, given a series.

        Parameters
        ----------
        values, weight : ndarray
            (output, time) float32, the series and its weight.
        limit : float
            Samples that deviate by more do not count [standard deviations]. They are compared twice: first with the
            coarsest solution, where the limit is wider by the noise that this solution cannot follow; then with the
            solution before the last.

        Returns
        -------
        ndarray
            (output, time) float32.
        """
        xi = np.zeros_like(self._levels[0].noise)
        for number, (level, iterations) in enumerate(zip(self._levels, self._iterations, strict=True)):
            if number:
                xi = _refine(xi, self._levels[number - 1].size, level.size, values.shape[1])
            if level.size == 1:
                xi = level.solve(values, weight, xi, iterations, limit, self._tolerance)
                continue
            mean, total = (np.empty((values.shape[0], level.length), dtype=np.float32) for _ in range(2))
            _mean_of_bins(values, weight, level.size, mean, total)
            if number == 0 and limit < np.inf:  # reject outliers from levels and drifts before the first solution
                level.solve(mean, total, xi, iterations // 2)
                rough = np.repeat(level.series(xi), level.size, axis=1)
                far = weight * (values - rough) ** 2 > (limit * self._wide) ** 2 * level.white
                weight = np.where(far, np.float32(0), weight)
                _mean_of_bins(values, weight, level.size, mean, total)
            xi = level.solve(mean, total, xi, iterations, tolerance=self._tolerance)
        return self._levels[-1].series(xi).copy()


def _refine(xi: np.ndarray, coarse: int, fine: int, length: int) -> np.ndarray:
    """Return the solution for means of ``coarse`` samples as a first guess for means of ``fine`` samples."""
    guess = np.zeros((xi.shape[0], length // fine // 2 + 1), dtype=np.complex64)
    ratio = coarse // fine
    known = xi.shape[1] - 1  # the highest frequency of the coarse series is left out
    shift = np.exp(-1j * np.pi * np.arange(known) * (ratio - 1) * fine / length) * np.sqrt(ratio)
    guess[:, :known] = xi[:, :known] * shift.astype(np.complex64)
    return guess


def draw_noise(densities: Densities, n_outputs: int, length: int, random: np.random.Generator) -> np.ndarray:
    """Draw correlated noise of the given spectrum, (output, time) float32."""
    size = densities.own.size

    def drawn(density: np.ndarray, n: int) -> np.ndarray:
        normal = random.standard_normal((n, size, 2), dtype=np.float32).view(np.complex64)[..., 0]
        normal[:, [0, -1]] = normal[:, [0, -1]].real * np.float32(np.sqrt(2))
        normal *= np.sqrt(density * length / 2).astype(np.float32)
        series: np.ndarray = scipy.fft.irfft(normal, length, axis=1, overwrite_x=True)
        return series

    noise: np.ndarray = drawn(densities.own, n_outputs) + drawn(densities.common, 1)
    return noise
