"""Light on the detector: the spectra of each observing mode."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nsxr.model.readout import DETECTOR_SIZE
from nsxr.simulate.configuration import SUBARRAYS, Configuration

__all__ = ["Scene", "make_scene"]

_SLITS = ("SUBS200A1", "SUBS200A2", "SUBS400A1", "SUB2048", "SUBS200B1")
_MIDDLE = DETECTOR_SIZE / 2


@dataclass(frozen=True)
class Scene:
    """Light that reaches the detector.

    Attributes
    ----------
    rate : ndarray
        (row, column) float32 [electron/s], for a pixel with average sensitivity.
    light_curve : ndarray
        (integration,) float64, factor on the rate in each integration.
    """

    rate: np.ndarray
    light_curve: np.ndarray


@dataclass(frozen=True)
class _Spectrum:
    """The spectrum of one slit: its place on the detector and its light. Rates are electron/s for a pixel or column."""

    row: float
    height: float
    first: float
    last: float
    tilt: float
    sky: float
    source: float
    offset: float
    width: float
    slope: float
    lines: tuple[tuple[float, float, float], ...]

    def add_to(self, image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
        inside = (columns >= self.first) & (columns <= self.last)
        if not inside.any():
            return
        x = columns[inside].astype(np.float64)
        centre = self.row + self.tilt * ((x - _MIDDLE) / _MIDDLE) ** 2
        touched = (rows >= centre.min() - self.height) & (rows <= centre.max() + self.height)
        if not touched.any():
            return
        y = rows[touched, None] - centre
        ends = 0.5 + 0.5 * np.tanh(np.minimum(x - self.first, self.last - x) / 12)
        continuum = self.source * np.exp(self.slope * (x - 0.5 * (self.first + self.last)) / (self.last - self.first))
        for position, flux, sigma in self.lines:
            continuum = continuum + flux * np.exp(-0.5 * ((x - position) / sigma) ** 2)
        profile = np.exp(-0.5 * ((y - self.offset) / self.width) ** 2)
        slit = 0.5 - 0.5 * np.tanh((np.abs(y) - 0.5 * self.height) / 0.4)
        light = slit * ends * (self.sky + continuum * profile)
        image[np.ix_(touched, inside)] += light.astype(np.float32)


def make_scene(configuration: Configuration, full_well: float, seed: int) -> Scene:
    """Return the light of the scene of a configuration.

    - ``MOS``: 70 slitlets of three shutters, with prism spectra of 430 columns. Continua and emission lines are 0.01
      to 20 electron/s above the sky. One source is bright enough to saturate.
    - ``FS``: five slits across the detector, with one source each.
    - ``IFU``: 30 slices, 15 on each side of the fixed slits, with one extended source.
    - ``BOTS``: one bright trace that fills half of the full well. If the exposure has 5 or more integrations, there is
      a transit of 2 % in the middle.
    - ``flat``: uniform light. ``dark``: no light.

    In ``SUB32``, sources are images, not spectra.

    Parameters
    ----------
    configuration : Configuration
        The scene and the pixels.
    full_well : float
        Charge of a full pixel [electron]. It sets the brightness of ``BOTS``.
    seed : int
        Seed of the positions and brightnesses of the sources.
    """
    random = np.random.default_rng([seed, 101])
    image = np.zeros((configuration.rows.size, configuration.columns.size), dtype=np.float32)
    light_curve = np.ones(configuration.integrations)
    if configuration.scene == "flat":
        image += np.float32(5)
    elif configuration.scene != "dark":
        if configuration.grating == "MIRROR":
            _add_star(image, configuration, full_well)
        else:
            for spectrum in _SPECTRA[configuration.scene](configuration, full_well, random):
                spectrum.add_to(image, configuration.rows, configuration.columns)
        if configuration.scene == "BOTS":
            light_curve = _transit(configuration.integrations)
    return Scene(image, light_curve)


def _lines(
    random: np.random.Generator, first: float, last: float, flux: float, sigma: float, n: int
) -> tuple[tuple[float, float, float], ...]:
    places = random.uniform(first, last, n)
    fluxes = flux * 10 ** random.uniform(-1, 1, n)
    return tuple((float(x), float(f), sigma) for x, f in zip(places, fluxes, strict=True))


def _slitlets(configuration: Configuration, full_well: float, random: np.random.Generator) -> list[_Spectrum]:
    rows = np.concatenate([np.linspace(60, 880, 35), np.linspace(1160, 1990, 35)]) + random.uniform(-3, 3, 70)
    slitlets = []
    for number, row in enumerate(rows):
        first = float(random.uniform(0, DETECTOR_SIZE - 440))
        source = 10 ** float(random.uniform(-2.2, 0.9))
        if number == 20:
            source = 3 * full_well / (configuration.groups * configuration.group_time)
        slitlets.append(
            _Spectrum(
                row=float(row),
                height=16,
                first=first,
                last=first + 430,
                tilt=float(random.uniform(1, 4)),
                sky=0.15,
                source=source,
                offset=float(random.choice([-5.3, 0, 5.3])),
                width=1.1,
                slope=float(random.uniform(-1, 1)),
                lines=_lines(random, first, first + 430, source, 1.2, 6),
            )
        )
    return slitlets


def _slits(configuration: Configuration, full_well: float, random: np.random.Generator) -> list[_Spectrum]:
    second = configuration.detector == "NRS2"
    slits = []
    for name in _SLITS:
        subarray = SUBARRAYS[name]
        start = subarray.row_start.get(configuration.grating, subarray.row_start[""])[second] - 1
        source = 10 ** float(random.uniform(-0.7, 1))
        slits.append(
            _Spectrum(
                row=start + subarray.rows / 2,
                height=16 if name == "SUB2048" else 34,
                first=4,
                last=2043,
                tilt=2.5,
                sky=0.03,
                source=source,
                offset=float(random.uniform(-3, 3)),
                width=1.2,
                slope=float(random.uniform(-1, 1)),
                lines=_lines(random, 4, 2043, source, 1.3, 25),
            )
        )
    return slits


def _slices(configuration: Configuration, full_well: float, random: np.random.Generator) -> list[_Spectrum]:
    rows = np.concatenate([np.linspace(50, 890, 15), np.linspace(1150, 1995, 15)])
    lines = _lines(random, 4, 2043, 2.0, 1.3, 30)
    slices = []
    for number, row in enumerate(rows):
        # slices lie alternately to both sides, from the middle of the field outwards
        across = (number % 15) + 0.5 * (number // 15) - 7
        brightness = float(np.exp(-0.5 * (across / 2.5) ** 2))
        slices.append(
            _Spectrum(
                row=float(row),
                height=34,
                first=4,
                last=2043,
                tilt=3.0,
                sky=0.02,
                source=3.0 * brightness,
                offset=0.0,
                width=5.0,
                slope=0.6,
                lines=tuple((position, flux * brightness, sigma) for position, flux, sigma in lines),
            )
        )
    return slices


def _bright_trace(configuration: Configuration, full_well: float, random: np.random.Generator) -> list[_Spectrum]:
    subarray = SUBARRAYS["SUB2048"]
    second = configuration.detector == "NRS2"
    start = subarray.row_start.get(configuration.grating, subarray.row_start[""])[second] - 1
    inner = SUBARRAYS[configuration.subarray] if configuration.subarray.startswith("SUB") else subarray
    first = inner.column_start[second] - 1
    peak = 0.5 * full_well / (configuration.groups * configuration.group_time)
    lines = tuple((position, -0.3 * peak, 3.0) for position in random.uniform(first, first + inner.columns, 8))
    return [
        _Spectrum(
            row=start + subarray.rows / 2,
            height=16,
            first=max(4, first + 0.02 * inner.columns),
            last=min(2043, first + 0.98 * inner.columns),
            tilt=1.5,
            sky=0.5,
            source=peak,
            offset=0.0,
            width=1.0,
            slope=-0.6,
            lines=tuple((float(x), float(f), s) for x, f, s in lines),
        )
    ]


def _add_star(image: np.ndarray, configuration: Configuration, full_well: float) -> None:
    rows, columns = configuration.rows, configuration.columns
    y, x = rows[:, None] - rows.mean(), columns - columns.mean()
    peak = 0.5 * full_well / (configuration.groups * configuration.group_time)
    image += (peak * np.exp(-0.5 * (x**2 + y**2) / 1.2**2) + 1).astype(np.float32)


def _transit(integrations: int) -> np.ndarray:
    """Return a trapezoid of depth 2 % in the middle third of an exposure of 5 or more integrations."""
    if integrations < 5:
        return np.ones(integrations)
    phase = np.abs((np.arange(integrations) + 0.5) / integrations - 0.5)
    curve: np.ndarray = 1 - 0.02 * np.clip((0.18 - phase) / 0.04, 0, 1)
    return curve


_SPECTRA: dict[str, Callable[[Configuration, float, np.random.Generator], list[_Spectrum]]] = {
    "MOS": _slitlets,
    "FS": _slits,
    "IFU": _slices,
    "BOTS": _bright_trace,
}
