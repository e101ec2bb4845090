r"""Light that may hide in dark pixels, and noise that is told from it.

Noise differs from frame to frame. Light is the same in all of them, so it is in their mean, together with the mean of
the noise. In the mean image *y* of an amplifier,

.. math:: y_k = c + p_k + l_k + w_k

with the noise of :mod:`nsxr.kernels.ramps.flicker` and with light *l*. Light too is described as a stationary process.
Its density *L* depends on the frequencies :math:`(k_x, k_y)` along and across the dispersion [cycles per pixel]. In the
order of reading, one line is a column with *s* slots. So a frequency *f* of the series [cycles per sample] belongs to
the nearest multiple of the frequency of lines, :math:`n/s`: :math:`k_y = n/s` and :math:`k_x = f s - n`. The
noise is smooth in *f*. Smooth light has all its power close to the multiples. This tells one from the other.

With :math:`q^2 = k_x^2 + (\epsilon k_y)^2`, light of which nothing is known has the density

.. math:: L_0 = a\, \sigma^2 \left(1 + \frac{1}{(2\pi q)^2} + \frac{q_0^2}{(2\pi)^2 q^4}\right)

For *a* = 1 this is light that is about as bright as the white noise :math:`\sigma` of a pixel, from pixel to pixel and
on all scales up to :math:`1/q_0`, and brighter on larger scales. Where the image has more power than the noise, all of
the excess is light.

The estimate of the noise is the conditional mean of :math:`c + p_k`, given the dark pixels. Where light can be as
strong as the noise or stronger, little or nothing is subtracted.
"""

import numpy as np
import scipy.fft
from scipy import ndimage

from nsxr.kernels.ramps.flicker import TOLERANCE, Densities, Solver
from nsxr.model.time_order import TimeOrder

__all__ = ["SolverBesideLight", "light_density", "without_smooth"]

_LARGE = 0.05
"""Frequency below which light is expected to be brighter [cycles per pixel]."""

_ACROSS = 0.3
"""Light changes by less along the dispersion than across it."""

_SURE = 4.0
"""Excess of power that counts as light [standard deviations], beyond what the spectrum can be wrong by."""

_WRONG = 1.2
"""Factor by which the power of noise may be larger than its spectrum says."""

_SINGLE = 12.0
"""Power of a single frequency that counts as light, relative to that of noise; noise exceeds it in 6 of a million."""

_PIXELS = 0.1
"""Excess of white noise that counts as light, relative to the noise."""

_SAFETY = 10.0
"""Where light shows, so many times its power is assumed."""

_SMOOTHED = 15
"""Pixels along the dispersion over which the light of a single frame is taken to be smooth."""


def light_density(
    series: np.ndarray, weight: np.ndarray, noise: Densities, order: TimeOrder, strength: float
) -> np.ndarray:
    """Return the spectral density of light in a mean image, for the frequencies of its series, float64.

    Parameters
    ----------
    series : ndarray
        (output, time) float32, the mean image less its level; 0 where it is unknown.
    weight : ndarray
        (output, time) float32, 1 in dark pixels whose values are known, and 0 in others.
    noise : Densities
        Densities of the noise of the mean image.
    order : TimeOrder
        The order of reading.
    strength : float
        Strength *a* of the light that may be hidden.
    """
    length = series.shape[1]
    frequency = np.arange(length // 2 + 1) / length * order.slots
    line = np.round(frequency)
    along, across = np.abs(frequency - line), line / order.slots
    square = np.maximum(along**2 + (_ACROSS * across) ** 2, (0.5 / order.lines) ** 2)
    density: np.ndarray = strength * noise.white * (1 + (1 + _LARGE**2 / square) / ((2 * np.pi) ** 2 * square))
    filled = float(weight.mean(dtype=np.float64))
    if not filled > 0:
        return density
    seen = (np.abs(scipy.fft.rfft(series * weight, axis=1)) ** 2).mean(0, dtype=np.float64)
    lag = scipy.fft.irfft((np.abs(scipy.fft.rfft(weight, axis=1)) ** 2).mean(0, dtype=np.float64), length)
    covariance = scipy.fft.irfft(noise.own + noise.common, length)
    expected = scipy.fft.rfft(covariance * lag).real + noise.white * filled * length
    place = np.floor(np.log2(np.maximum(along * 2 * order.lines, 1))) * 32 + np.ceil(np.log2(line + 1))
    _, place = np.unique(place, return_inverse=True)
    count = np.bincount(place)
    power, of_noise = (np.bincount(place, values) / count for values in (seen, expected))
    limit = of_noise * (_WRONG + _SURE / np.sqrt(np.maximum(count * filled, 1)))
    excess = np.where(power > limit, power - of_noise, 0)[place]
    excess = np.maximum(excess, np.where(seen > _SINGLE * expected, seen - expected, 0))
    fast = noise.own + noise.common < noise.white
    if fast.any():  # differences between pixels hide below the noise at low frequencies, but are there too
        of_pixels = float((seen[fast] - expected[fast]).mean())
        if of_pixels > _PIXELS * float(expected[fast].mean()):
            excess = np.maximum(excess, of_pixels)
    found: np.ndarray = np.maximum(density, _SAFETY / (filled * length) * excess)
    return found


class SolverBesideLight:
    """Estimate the noise of images that share a spectrum and have light in dark pixels.

    Parameters
    ----------
    noise : Densities
        Densities of the noise.
    light : ndarray
        Density of the light, see :func:`light_density`.
    n_outputs : int
        Number of amplifiers that read a frame at the same time.
    tolerance : float
        See :class:`Solver`.
    """

    def __init__(self, noise: Densities, light: np.ndarray, n_outputs: int, tolerance: float = TOLERANCE) -> None:
        self._solver = Solver(noise._replace(own=noise.own + light), n_outputs, tolerance=tolerance)
        mean = noise.own + n_outputs * noise.common
        with np.errstate(invalid="ignore"):
            own, mean = noise.own / (noise.own + light), mean / (mean + light)
        self._own, self._mean = (np.nan_to_num(share).astype(np.float32) for share in (own, mean))

    def noise(self, values: np.ndarray, weight: np.ndarray, limit: float = np.inf) -> np.ndarray:
        """Return the conditional mean of the noise without the light; see :meth:`Solver.noise`."""
        spectrum = scipy.fft.rfft(self._solver.noise(values, weight, limit), axis=1)
        mean = spectrum.mean(0)
        spectrum = self._own * (spectrum - mean) + self._mean * mean
        found: np.ndarray = scipy.fft.irfft(spectrum, values.shape[1], axis=1)
        return found


def without_smooth(image: np.ndarray, is_dark: np.ndarray) -> np.ndarray:
    """Return an image less its running means along the dispersion over dark pixels, (row, column) float32.

    Light that is smooth along the dispersion does not appear in the result, nor do levels and drifts of the noise.
    """
    known = (is_dark & np.isfinite(image)).astype(np.float32)
    total = ndimage.uniform_filter1d(np.where(known, image, np.float32(0)), _SMOOTHED, axis=1, mode="nearest")
    count = np.maximum(_SMOOTHED * ndimage.uniform_filter1d(known, _SMOOTHED, axis=1, mode="nearest"), 1)
    rest = (image - total * _SMOOTHED / count) * np.sqrt(count / np.maximum(count - 1, 1))  # white noise keeps its size
    found: np.ndarray = np.where(count > 2, rest, np.nan).astype(np.float32)
    return found
