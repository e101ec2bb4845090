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

.. math:: L_0 = a\, \sigma^2 \left( S(k_x, k_y)\, e^{-(2\pi s_0 k_x)^2}
          + b \sum_i s_i\, e^{-(2\pi s_i)^2 (k_x^2 + k_y^2)} \right),
          \quad S = \frac{1}{(2\pi q)^2} \left( 1 + \frac{q_0^2}{q^2} \right)

with the white noise :math:`\sigma` of a pixel. The first term is light that is smooth along the dispersion, and
brighter on larger scales. The second term is light in spots. Other light shows as an excess of power.
The likelihood of the power tells how much light of the density *S* there is: none in most images, but much where a
nebula fills the field. Bands and single frequencies that stand out are light too.

The estimate of the noise is the conditional mean of :math:`c + p_k`, given the dark pixels. Where light can be as
strong as the noise or stronger, little or nothing is subtracted.
"""

from functools import lru_cache

import numpy as np
import scipy.fft
from scipy import ndimage

from nsxr.kernels.ramps.flicker import TOLERANCE, Densities, Solver
from nsxr.kernels.ramps.long_transform import colour, long_transform
from nsxr.model.time_order import TimeOrder

__all__ = ["SolverBesideLight", "light_density", "without_smooth"]

_LARGE = 0.05
"""Frequency :math:`q_0` below which light is expected to be brighter [cycles per pixel]."""

_ACROSS = 0.3
"""Factor :math:`\\epsilon`: light changes by less along the dispersion than across it."""

_SMOOTH = 40.0
"""Scale :math:`s_0` of light that is smooth along the dispersion [pixel]."""

_SPOTS, _SPOT = (5.0, 10.0), 120.0
"""Scales :math:`s_i` of spots [pixel], and their factor *b*."""

_SINGLE_FRAME = 10.0
"""Strength of differences between pixels in a single frame, relative to that of other light."""

_WRONG = 1.2
"""Factor by which the power of noise may be larger than its spectrum says."""

_AMOUNTS = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 121)])
"""Amounts of light on all scales that are compared."""

_FOUND = 100.0
"""Where light on all scales is found, so many times its power is assumed."""

_SURE = 4.0
"""Excess of power that counts as light [standard deviations], beyond what the spectrum can be wrong by."""

_SINGLE = 12.0
"""Power of a single frequency that counts as light, relative to that of noise; noise exceeds it in 6 of a million."""

_PIXELS = 1.0
"""Differences between pixels that count as light, relative to the white noise."""

_SAFETY = 10.0
"""Where bands, single frequencies or differences between pixels are light, so many times their power is assumed."""

_SMOOTHED = 15
"""Pixels along the dispersion over which the light of a single frame is taken to be smooth."""


def light_density(
    series: np.ndarray, weight: np.ndarray, noise: Densities, order: TimeOrder, strength: float, single: bool = False
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
    single : bool
        Whether the image is a single frame. Its white noise then contains the differences between pixels.
    """
    length = series.shape[1]
    shape, hidden, place = _frequencies(length, order.slots, order.lines)
    shape = noise.white * shape
    density: np.ndarray = strength * noise.white * hidden
    if single:
        density = density + strength * _SINGLE_FRAME * noise.white
    filled = float(weight.mean(dtype=np.float64))
    if not filled > 0:
        return density
    transform = long_transform(length)
    seen = transform.power(series * weight)
    lag = scipy.fft.irfft(transform.power(weight), length)
    covariance = scipy.fft.irfft(noise.own + noise.common, length)
    expected = scipy.fft.rfft(covariance * lag).real + noise.white * filled * length
    fast = noise.own + noise.common < noise.white
    of_pixels = max(float((seen[fast] - expected[fast]).mean()), 0.0) if fast.any() else 0.0
    expected += of_pixels  # differences between pixels hide below the noise at low frequencies, but are there too
    count = np.bincount(place)
    power, of_noise, of_light = (np.bincount(place, values) / count for values in (seen, expected, shape))
    amount = _amount_of_light(power, of_noise, of_light * filled * length, count * filled)
    limit = of_noise * (_WRONG + _SURE / np.sqrt(np.maximum(count * filled, 1)))
    excess = np.where(power > limit, power - of_noise, 0)[place]
    excess = np.maximum(excess, np.where(seen > _SINGLE * expected, seen - expected, 0))
    if of_pixels > _PIXELS * noise.white * filled * length:
        excess += of_pixels
    found: np.ndarray = np.maximum(density, _FOUND * amount * shape)
    found = np.maximum(found, _SAFETY / (filled * length) * excess)
    return found


@lru_cache(maxsize=2)
def _frequencies(length: int, slots: int, lines: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return densities of light on all scales and of hidden light, over white noise, and the band of each frequency."""
    frequency = np.arange(length // 2 + 1) / length * slots
    line = np.round(frequency)
    along, across = np.abs(frequency - line), line / slots
    square = np.maximum(along**2 + (_ACROSS * across) ** 2, (0.5 / lines) ** 2)
    shape = (1 + _LARGE**2 / square) / ((2 * np.pi) ** 2 * square)
    wave = (2 * np.pi) ** 2 * (along**2 + across**2)
    spots = sum(_SPOT * scale * np.exp(-wave * scale**2) for scale in _SPOTS)
    hidden = shape * np.exp(-((2 * np.pi * _SMOOTH * along) ** 2)) + spots
    band = np.floor(np.log2(np.maximum(along * 2 * lines, 1))) * 32 + np.ceil(np.log2(line + 1))
    place = np.unique(band, return_inverse=True)[1]
    for array in (shape, hidden, place):
        array.flags.writeable = False
    return shape, hidden, place


def _amount_of_light(power: np.ndarray, noise: np.ndarray, light: np.ndarray, count: np.ndarray) -> float:
    """Return the most likely amount of light in bands, from their power; 0 if it is not significant.

    ``noise`` is the expected power of noise, ``light`` the power of light of amount 1, and ``count`` the number of
    frequencies.
    """
    expected = np.maximum(_WRONG * noise + _AMOUNTS[:, None] * light, 1e-300)
    misfit = (count * (np.log(expected) + power / expected)).sum(1)
    best = int(np.argmin(misfit))
    return float(_AMOUNTS[best]) if misfit[0] - misfit[best] > _SURE**2 / 2 else 0.0


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
        length = 2 * (light.size - 1)
        self._transform = long_transform(length)
        place = np.abs(self._transform.frequency)
        self._own, self._mean = (np.nan_to_num(share).astype(np.float32)[place] for share in (own, mean))

    def noise(self, values: np.ndarray, weight: np.ndarray, limit: float = np.inf) -> np.ndarray:
        """Return the conditional mean of the noise without the light; see :meth:`Solver.noise`."""
        both = self._solver.noise(values, weight, limit)
        spectrum = np.empty((len(both), self._transform.size), np.complex64)
        self._transform.forward(both, spectrum)
        colour(spectrum, self._own, self._mean, spectrum)
        found = np.empty_like(both)
        self._transform.backward(spectrum, found)
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
