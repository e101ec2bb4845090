"""Noise of the electronics: white noise, 1/f noise, alternating columns, levels, picture frame."""

import numpy as np
import scipy.fft

from nsxr.model.readout import DETECTOR_SIZE, IRS2_ROWS
from nsxr.simulate.artifacts import Artifacts
from nsxr.simulate.configuration import Configuration
from nsxr.simulate.detectors import bad_interleaved, expand_rows

__all__ = ["FrameNoise", "picture_frame", "pink_amplitudes"]

_NOISY = 60.0  # extra white noise of noisy reference pixels [electron]
_LOW = 2000.0  # by how much the level of low reference pixels is too low [electron]
_TELEGRAPH = 80.0  # step of telegraph noise [electron]
_TELEGRAPH_LINES = 40.0  # mean time in one state [lines]


class FrameNoise:
    r"""Draw the noise of the electronics, frame by frame.

    Parameters
    ----------
    configuration : Configuration
        The settings of the exposure.
    artifacts : Artifacts
        Amplitudes of the noise.
    white_noise : ndarray
        (raw row, column) float32, rms of the white noise of one read [electron].
    seed : numpy.random.SeedSequence
        Each kind of noise has its own random stream, so if one kind is switched off, the others do not change.

    Notes
    -----
    1/f noise is drawn as a periodic sequence, twice as long as a frame. It is the inverse Fourier transform of complex
    normal numbers with variance :math:`\propto 1/f`. Only its first half is used, so the noise is not periodic in
    the frame. The nominal rms holds for the whole sequence. Pedestals stand for slower drifts. Frames are
    independent of each other. So the mean of *n* frames can be drawn at once as one frame with :math:`1/\sqrt n`
    times the amplitude, which is exact.

    References
    ----------
    Rauscher 2015, PASP 127, 1144. Moseley et al. 2010, Proc. SPIE 7742.
    """

    def __init__(
        self,
        configuration: Configuration,
        artifacts: Artifacts,
        white_noise: np.ndarray,
        seed: np.random.SeedSequence,
    ) -> None:
        streams = [np.random.Generator(np.random.SFC64(s)) for s in seed.spawn(5)]
        self._white, self._pink, self._pedestal, self._frame, self._bad = streams
        self._configuration = configuration
        self._artifacts = artifacts
        self._white_noise = white_noise
        self._order = order = configuration.time_order
        self._length = 2 * scipy.fft.next_fast_len(order.slots * order.lines, real=True)
        self._common = pink_amplitudes(self._length, artifacts.correlated("common_pink"), 0.0)
        self._own = pink_amplitudes(
            self._length, artifacts.correlated("output_pink"), artifacts.correlated("alternating_columns")
        )
        self._picture_frame = picture_frame(configuration)
        self._pairs = _pair_rows(configuration) if configuration.is_irs2 else []

    def draw(self, n_frames: int = 1) -> np.ndarray:
        """Return the noise of the mean of ``n_frames`` frames, (raw row, column) float32 [electron]."""
        scale = np.float32(1 / np.sqrt(n_frames))
        noise = self._correlated()
        white = np.empty_like(noise)
        self._white.standard_normal(out=white, dtype=np.float32)
        white *= self._white_noise
        noise += white
        noise *= scale
        self._disturb_bad(noise, scale)
        return noise

    def _correlated(self) -> np.ndarray:
        order, artifacts = self._order, self._artifacts
        common = self._series(self._common)
        pedestals = self._pedestal.standard_normal(len(order.rows)) * artifacts.correlated("pedestal")
        own = []
        for pedestal in pedestals:
            series = self._series(self._own)
            series += common
            series += np.float32(pedestal)
            own.append(series)
        noise = order.image(own, self._configuration.raw_rows)
        amplitude = self._frame.standard_normal() * artifacts.correlated("picture_frame")
        if amplitude:
            noise += np.float32(amplitude) * self._picture_frame
        return noise

    def _series(self, amplitudes: np.ndarray) -> np.ndarray:
        if not amplitudes.any():
            return np.zeros(self._length, dtype=np.float32)
        drawn = self._pink.standard_normal(2 * amplitudes.size, dtype=np.float32).view(np.complex64)
        drawn *= amplitudes
        series: np.ndarray = scipy.fft.irfft(drawn, self._length, overwrite_x=True)
        return series

    def _disturb_bad(self, noise: np.ndarray, scale: np.float32) -> None:
        """Add the deviations of bad interleaved reference pixels to a frame, in place."""
        strength = np.float32(self._artifacts.bad_reference_pixels)
        if not strength:
            return
        for rows, kind in self._pairs:
            shape = (2, noise.shape[1])
            if kind == "low":
                noise[rows] = -np.float32(_LOW) * strength
            elif kind == "noisy":
                noise[rows] += np.float32(_NOISY) * strength * scale * self._bad.standard_normal(shape, np.float32)
            else:
                flips = self._bad.random(shape) < 1 / _TELEGRAPH_LINES
                state = (np.cumsum(flips, axis=1) + self._bad.integers(0, 2, (2, 1))) % 2
                noise[rows] += (np.float32(_TELEGRAPH) * strength) * state.astype(np.float32)


def pink_amplitudes(length: int, pink: float, alternating: float) -> np.ndarray:
    """Return the Fourier amplitudes of 1/f noise plus 1/f noise with alternating sign.

    Parameters
    ----------
    length : int
        Number of samples, even.
    pink, alternating : float
        rms of the two kinds of noise over all samples.

    Returns
    -------
    (length / 2 + 1,) float32
        To draw noise, multiply by complex normal numbers (real and imaginary part of variance 1) and transform back.
        The mean and the Nyquist frequency are 0.
    """
    half = length // 2
    power = np.zeros(half + 1)
    inverse = 1 / np.arange(1, half)
    inverse *= length**2 / (4 * inverse.sum())
    power[1:half] = pink**2 * inverse + alternating**2 * inverse[::-1]
    return np.sqrt(power).astype(np.float32)


def picture_frame(configuration: Configuration) -> np.ndarray:
    """Return the picture-frame pattern, (raw row, column) float32, rms 1 and mean 0 over the detector."""
    position = np.arange(DETECTOR_SIZE)
    profile = np.exp(-np.minimum(position, DETECTOR_SIZE - 1 - position) / 80.0)
    profile = (profile - profile.mean()) / (profile.std() * np.sqrt(2))
    image = profile[configuration.rows, None] + profile[configuration.columns]
    return expand_rows(configuration, image.astype(np.float32))


def _pair_rows(configuration: Configuration) -> list[tuple[np.ndarray, str]]:
    """Return the raw rows and the kind of each bad pair of interleaved reference pixels."""
    pairs = []
    for output, block, kind, _ in bad_interleaved(configuration):
        columns = 640 * output + 8 + 20 * block + 2 * (block % 2) + np.arange(2)
        rows = columns if configuration.detector == "NRS1" else IRS2_ROWS - 1 - columns
        pairs.append((rows, kind))
    return pairs
