"""Raw ramps, group by group: charge, response, bias and noise together."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nsxr.simulate.artifacts import Artifacts
from nsxr.simulate.configuration import Configuration, check_seed
from nsxr.simulate.detectors import CUBIC_SHARE, DetectorPixels, detector_pixels, expand_rows, measure
from nsxr.simulate.events import Events, draw_events
from nsxr.simulate.noise import FrameNoise
from nsxr.simulate.scene import Scene, make_scene

__all__ = ["Ramps", "digitize", "response_terms"]

_BLOCK = 128  # rows that are computed together, so that intermediate arrays stay in the cache


@dataclass(frozen=True)
class _Charge:
    """Arrays that do not change during an exposure, in the form that the inner loop needs."""

    expected: np.ndarray
    full_well: np.ndarray
    gain: np.ndarray
    quadratic: np.ndarray
    cubic: np.ndarray


class Ramps:
    """One simulated exposure; :meth:`groups` yields one group after the other.

    Parameters
    ----------
    configuration : Configuration
        The settings of the exposure.
    artifacts : Artifacts
        Amplitudes of the effects.
    seed : int
        The same seed gives the same exposure.
    scene : Scene, optional
        Light on the detector. By default, the bands that :func:`nsxr.simulate.scene.make_scene` draws.
    pixels : DetectorPixels, optional
        Properties of the pixels, if the caller has them already.

    Attributes
    ----------
    pixels : DetectorPixels
        Properties of the pixels.
    scene : Scene
        Light on the detector.
    events : list of Events
        Cosmic rays and snowballs of each integration; complete before the first group is drawn.
    saturated : list of ndarray
        Pixels that reached full well, (row, column) bool, for each integration that has been drawn.
    """

    def __init__(
        self,
        configuration: Configuration,
        artifacts: Artifacts,
        seed: int,
        scene: Scene | None = None,
        pixels: DetectorPixels | None = None,
    ) -> None:
        self.configuration = configuration
        self.artifacts = artifacts
        self.pixels: DetectorPixels = pixels or detector_pixels(configuration, artifacts)
        check_seed(seed)
        self.scene: Scene = scene or make_scene(configuration, artifacts.full_well, seed)
        which = 1 if configuration.detector == "NRS1" else 2
        place = (configuration.exposure, configuration.pointing.dither)
        words = [seed, which, *(place if place != (1, 1) else ())]  # other exposures have noise of their own
        events, photons, reset, noise = np.random.SeedSequence(words).spawn(4)
        self._photons, self._reset = (np.random.Generator(np.random.SFC64(s)) for s in (photons, reset))
        self._noise = FrameNoise(configuration, artifacts, self.pixels.white_noise, noise)
        draw = np.random.default_rng(events)
        self.events: list[Events] = [
            draw_events(configuration, artifacts, draw, artifacts.full_well) for _ in range(configuration.integrations)
        ]
        self.saturated: list[np.ndarray] = []

    @property
    def rate(self) -> np.ndarray:
        """True rate of detected light, (row, column) float32 [electron/s], where the light curve is 1."""
        rate: np.ndarray = self.scene.rate * self.pixels.response
        return rate

    def groups(self) -> Iterator[np.ndarray]:
        """Yield every group, one integration after the other, (raw row, column) float32 [DN].

        Signals are means over the frames of a group. They are neither rounded nor divided as on board.
        """
        configuration, pixels = self.configuration, self.pixels
        quadratic, cubic = response_terms(pixels)
        rate, dark = self.rate.astype(np.float64), pixels.dark_current
        kept = np.float32(1 / pixels.nominal_gain)
        for events, brightness in zip(self.events, self.scene.light_curve, strict=True):
            expected = (rate * brightness + dark) * configuration.frame_time
            fixed = _Charge(expected, pixels.full_well, pixels.gain, quadratic, cubic)
            bias = pixels.bias + kept * self._reset_noise()
            charge = np.zeros(rate.shape, dtype=np.float32)
            for group in range(configuration.groups):
                signal = np.zeros(rate.shape, dtype=np.float32)
                for k in range(configuration.n_frames):
                    self._expose(charge, signal, fixed, events, group * configuration.n_frames + k)
                signal /= np.float32(configuration.n_frames)
                frame = self._noise.draw(configuration.n_frames)
                frame *= kept
                frame += bias
                if configuration.is_irs2:
                    frame[configuration.raw_row_of_row] += signal
                else:
                    frame += signal
                if group == configuration.groups - 1:
                    self.saturated.append(charge >= pixels.full_well)
                yield frame

    def _expose(self, charge: np.ndarray, signal: np.ndarray, fixed: _Charge, events: Events, frame: int) -> None:
        """Collect the charge of one frame time, and add the measured signal. Both arrays change in place."""
        arrived = events.in_frame(frame)
        np.add.at(charge.reshape(-1), events.pixel[arrived], events.charge[arrived])
        for start in range(0, charge.shape[0], _BLOCK):
            rows = slice(start, start + _BLOCK)
            expected = fixed.expected[rows]
            charge[rows] += self._photons.poisson(expected) if self.artifacts.photon_noise else expected
            linear = np.minimum(charge[rows], fixed.full_well[rows]) / fixed.gain[rows]
            signal[rows] += measure(linear, fixed.quadratic[rows], fixed.cubic[rows])

    def _reset_noise(self) -> np.ndarray:
        """Return the kTC noise of an integration, (raw row, column) [electron]. Interleaved pixels have none."""
        drawn = self._reset.standard_normal(self.pixels.gain.shape, dtype=np.float32)
        drawn *= np.float32(self.artifacts.reset_noise)
        return expand_rows(self.configuration, drawn)


def response_terms(pixels: DetectorPixels) -> tuple[np.ndarray, np.ndarray]:
    """Return the quadratic [1/DN] and cubic [1/DN2] terms of the polynomial from measured to linear signal."""
    scale = pixels.full_well / pixels.gain
    return pixels.curvature / scale, np.float32(CUBIC_SHARE) * pixels.curvature / scale**2


def digitize(group: np.ndarray, configuration: Configuration) -> np.ndarray:
    """Return a group as stored on board, uint16: divided, rounded, and clipped to 0 ... 65535.

    On board, the sum of frames is divided by FRMDIVSR. In NRSIRS2 this is not the number of frames.
    """
    stored = group * np.float32(configuration.n_frames / configuration.frame_divisor)
    return np.clip(np.rint(stored), 0, 65535).astype(np.uint16)
