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
from nsxr.kernels.ramps.long_transform import colour, long_transform, split_columns
from nsxr.model.time_order import TimeOrder

__all__ = ["TOLERANCE", "Densities", "Solver", "draw_noise", "known_samples", "series_length", "to_image", "to_series"]

_BINS = (64, 8, 1)
"""Number of samples that are averaged into one, from the coarsest series to the whole series."""

_ITERATIONS = (40, 30, 10)
TOLERANCE = 1e-4
"""Iterations end when the square of the residual, relative to the square for unit noise, is expected to be below this.
With a third of this value, the noise that is left changes by less than 0.1 %."""

_DOUBT = 30
"""How many times larger than expected the square of the residual may be after a step that is not the first."""

_FIRST = 30
"""The first step over samples is the last one if the bound on the square of the residual is below this many tolerances.
The error of the estimate then has a variance of at most 0.0007 times that of white noise. Strong noise takes longer."""


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
    shortest = -(-(samples + max(samples // 100, order.slots)) // (2 * coarse))
    return 2 * coarse * int(scipy.fft.next_fast_len(shortest, real=True))


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
def _turn(
    seen: np.ndarray,
    xi: np.ndarray,
    residual: np.ndarray,
    direction: np.ndarray,
    step: float,
    before: float,
    root: np.ndarray,
    inverse: np.ndarray,
    counts: np.ndarray,
) -> tuple[float, float]:  # pragma: no cover
    """Make the next direction, in place, and write the spectrum of its noise to ``seen``.

    ``seen`` is the spectrum of the weighted noise of the last direction, along which the solution went a ``step``. At
    the start, where ``before`` is 0, it is that of the weighted rest of the data. Returns the preconditioned square of
    the residual, and the square of the direction. ``before`` is that of the residual before the step.
    """
    n_outputs, n = seen.shape
    share, length = np.float32(1 / n_outputs), np.float32(step)
    square = 0.0
    for f in range(n):
        own, mean = root[0, f], root[1, f]
        total = np.complex64(0)
        for k in range(n_outputs):
            total += seen[k, f]
        total *= (mean - own) * share
        both = np.complex64(0)
        for k in range(n_outputs):
            coloured = own * seen[k, f] + total
            if before == 0:
                residual[k, f] = coloured - xi[k, f]
            else:
                residual[k, f] -= length * (direction[k, f] + coloured)
            both += residual[k, f]
        both *= (inverse[1, f] - inverse[0, f]) * share
        found = np.float32(0)
        for k in range(n_outputs):
            left = residual[k, f]
            preconditioned = inverse[0, f] * left + both
            seen[k, f] = preconditioned
            found += preconditioned.real * left.real + preconditioned.imag * left.imag
        square += counts[f] * found
    keep = np.float32(square / before) if before > 0 else np.float32(0)
    size = 0.0
    for f in range(n):
        own, mean = root[0, f], root[1, f]
        total = np.complex64(0)
        found = np.float32(0)
        for k in range(n_outputs):
            towards = seen[k, f]
            if keep > 0:
                towards += keep * direction[k, f]
            direction[k, f] = towards
            total += towards
            found += towards.real * towards.real + towards.imag * towards.imag
        size += counts[f] * found
        total *= (mean - own) * share
        for k in range(n_outputs):
            seen[k, f] = own * direction[k, f] + total
    return square, size


@kernel
def known_samples(series: np.ndarray, weight: np.ndarray) -> np.ndarray:  # pragma: no cover
    """Replace values that are not finite by 0, in place. Return the weight, (output, time) float32, 0 for these."""
    found = np.empty_like(weight)
    for k in range(series.shape[0]):
        for t in range(series.shape[1]):
            is_known = np.isfinite(series[k, t])
            found[k, t] = weight[k, t] if is_known else np.float32(0)
            if not is_known:
                series[k, t] = 0
    return found


@kernel
def _without_far(
    values: np.ndarray, weight: np.ndarray, rough: np.ndarray, size: int, limit: float
) -> np.ndarray:  # pragma: no cover
    """Return the weight, 0 where the weighted square of values less the means of bins is above the limit."""
    found = np.empty_like(weight)
    most = np.float32(limit)
    for k in range(values.shape[0]):
        for b in range(rough.shape[1]):
            for t in range(b * size, (b + 1) * size):
                left = values[k, t] - rough[k, b]
                found[k, t] = weight[k, t] if weight[k, t] * left * left <= most else np.float32(0)
    return found


@kernel
def _rest(
    values: np.ndarray, weight: np.ndarray, noise: np.ndarray, white: float, limit: float, out: np.ndarray
) -> float:  # pragma: no cover
    """Write the weighted difference of values and noise, and return the sum of the weights.

    What deviates by more than the limit gets weight 0, in place.
    """
    most, share = np.float32(limit * limit * white), np.float32(1 / white)
    total = 0.0
    for k in range(values.shape[0]):
        for t in range(values.shape[1]):
            left = values[k, t] - noise[k, t]
            if weight[k, t] * left * left > most:
                weight[k, t] = 0
            out[k, t] = share * weight[k, t] * left
            total += weight[k, t]
    return total


@kernel
def _weighted_square(values: np.ndarray, weight: np.ndarray) -> float:  # pragma: no cover
    square = 0.0
    for k in range(values.shape[0]):
        for t in range(values.shape[1]):
            square += weight[k, t] * values[k, t] * values[k, t]
    return square


@kernel
def _advance(
    noise: np.ndarray, along: np.ndarray, weight: np.ndarray, white: float, step: float
) -> None:  # pragma: no cover
    """Add a step along a direction to the noise, and multiply the direction by the weight, both in place."""
    length, share = np.float32(step), np.float32(1 / white)
    for k in range(noise.shape[0]):
        for t in range(noise.shape[1]):
            noise[k, t] += length * along[k, t]
            along[k, t] *= share * weight[k, t]


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
        length = 2 * (densities.own.size - 1)
        self.size, self.length = size, length // size
        self.transform = long_transform(self.length, split_columns(length, _BINS[0]) // size)
        own = densities.own / size
        powers = np.stack([own, own + n_outputs * densities.common / size]).astype(np.float32)
        powers = powers.take(np.abs(self.transform.frequency), axis=1)
        self.white, self.powers, self.root = densities.white, powers, np.sqrt(powers)
        # the arrays are used again: new arrays of 18 MB took a quarter of the time
        self._direction, self._spectrum = (np.empty((n_outputs, self.transform.size), np.complex64) for _ in range(2))
        self._noise, self._along = (np.empty((n_outputs, self.length), np.float32) for _ in range(2))

    def nothing(self) -> np.ndarray:
        """Return the solution without noise, (output, frequency) complex64."""
        return np.zeros_like(self._spectrum)

    def refined(self, coarse: "_Level", xi: np.ndarray) -> np.ndarray:
        """Return the solution for means of more samples as a first guess for this level."""
        ratio = coarse.size // self.size
        frequency = coarse.transform.frequency
        shift = np.exp(-1j * np.pi * frequency * (ratio - 1) / self.length) * np.sqrt(ratio)
        shift[2 * np.abs(frequency) == coarse.length] = 0  # the highest frequency has no sign
        return self.transform.refined(coarse.transform, xi * shift.astype(np.complex64))

    def series(self, xi: np.ndarray) -> np.ndarray:
        """Return the noise that belongs to a solution, (output, time) float32, valid until the next call."""
        colour(xi, self.root[0], self.root[1], self._spectrum)
        self.transform.backward(self._spectrum, self._noise)
        return self._noise

    def solve(
        self,
        values: np.ndarray,
        weight: np.ndarray,
        xi: np.ndarray,
        iterations: int,
        limit: float = np.inf,
        tolerance: float = TOLERANCE,
    ) -> np.ndarray:
        """Return the noise of a better solution of the equation, (output, time) float32, valid until the next call.

        Values far from the first solution do not count, and get weight 0 in place. The solution of means of samples is
        improved in place. That of samples is overwritten.
        """
        noise, along, seen = self.series(xi), self._along, self._spectrum
        total = _rest(values, weight, noise, self.white, limit, along)
        inverse = 1 / (1 + self.powers * np.float32(total / (weight.size * self.white)))
        residual = xi if self.size == 1 else np.empty_like(xi)
        enough = tolerance / self.size * len(xi) * float(self.length) ** 2
        step = before = 0.0
        for _ in range(iterations):
            self.transform.forward(along, seen)
            square, size = _turn(
                seen, xi, residual, self._direction, step, before, self.root, inverse, self.transform.counts
            )
            if square <= enough:
                break
            self.transform.backward(seen, along)
            curvature = size + self.length / self.white * _weighted_square(along, weight)
            if curvature <= 0:
                break
            step = square / curvature
            _advance(noise, along, weight, self.white, step)
            if self.size > 1:
                xi += np.float32(step) * self._direction
            # Another transform would tell the new residual. After the first step, its square is a few times smaller
            # than the first bound. After other steps, it falls about as much as it fell before.
            if before == 0 and square * (1 - size / square) ** 2 <= _FIRST * enough:
                break
            if before > 0 and _DOUBT * square**2 <= before * enough:
                break
            before = square
        return noise


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
        Iterations end when the square of the residual, relative to the square for unit noise, is expected to be below
        this. The limit is smaller for means.
    """

    def __init__(
        self,
        densities: Densities,
        n_outputs: int,
        iterations: Sequence[int] = _ITERATIONS,
        tolerance: float = TOLERANCE,
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
            (output, time) float32, valid until the next call.
        """
        *coarse, finest = zip(self._levels, self._iterations, strict=True)
        before, xi = coarse[0][0], coarse[0][0].nothing()
        for level, iterations in coarse:
            xi = level.refined(before, xi)
            mean, total = (np.empty((values.shape[0], level.length), dtype=np.float32) for _ in range(2))
            _mean_of_bins(values, weight, level.size, mean, total)
            if level is before and limit < np.inf:  # leave outliers from levels and drifts out of the first solution
                rough = level.solve(mean, total, xi, iterations // 2)
                weight = _without_far(values, weight, rough, level.size, (limit * self._wide) ** 2 * level.white)
                _mean_of_bins(values, weight, level.size, mean, total)
            level.solve(mean, total, xi, iterations, tolerance=self._tolerance)
            before = level
        level, iterations = finest
        return level.solve(values, weight, level.refined(before, xi), iterations, limit, self._tolerance)


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
