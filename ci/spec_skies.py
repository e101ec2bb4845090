"""Skies of known spectra, and their count rates through the optics without ramps: the scenes of ``spec_scenes.py``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import nsxr
from nsxr.formats.fits_headers import keywords
from nsxr.model.dq import PixelFlag
from nsxr.model.variables import variable_attributes
from nsxr.optics.instrument import Optics
from nsxr.pipelines.spec2 import spec2
from nsxr.simulate import write_flux_references
from nsxr.simulate.aperture_references import geometry_of, point_loss
from nsxr.simulate.artifacts import Artifacts
from nsxr.simulate.compact_optics import write_compact_optics
from nsxr.simulate.configuration import configure
from nsxr.simulate.detectors import detector_pixels
from nsxr.simulate.headers import Segment, integration_times, primary_header, science_header
from nsxr.simulate.instrument import SimulatedInstrument
from nsxr.simulate.observation import Observation, observe
from nsxr.simulate.shutters import shutter_slit
from nsxr.simulate.sky import Shape, Sky, SkySource, Transit, zodiacal_light
from nsxr.simulate.spectra import Line, PowerLaw, Spectrum

__all__ = ["SCENES", "SHORT", "Scene", "Seen", "look"]

PEAK = 20.0  # electron/s in the brightest pixel of a point
EXPOSURE_TIME, READ_NOISE = 1000.0, 0.01  # s, electron/s; noise is scaled to a signal to noise
N_LINES, LINE_PIXELS = 5, 12.0  # lines have the light of that many columns of the continuum
PITCH = 1.15
INTEGRATIONS = 40
_LEAST_SHARE = 0.4  # of a spectrum on the detector


@dataclass(frozen=True)
class Scene:
    """An exposure, or several that are nods of each other, of one sky.

    Attributes
    ----------
    name : str
        Name on the command line.
    mode, grating, detector, subarray : str
        As for :func:`nsxr.simulate.simulate_exposure`.
    kinds : tuple of str
        Kinds of sources of shutters, see :data:`KINDS`; for other modes, ``point`` or ``extended``.
    dithers : int
        Number of nods. All others are the backgrounds of the first one.
    slit : str
        The fixed slit that is measured.
    slitlets : int
        Number of slitlets of each kind of source.
    has_sky : bool
        Whether zodiacal light is there, too.
    """

    name: str
    mode: str
    grating: str
    detector: str = "NRS1"
    subarray: str = "FULL"
    kinds: tuple[str, ...] = ("point",)
    dithers: int = 1
    slit: str = ""
    slitlets: int = 3
    has_sky: bool = False


POINTS = ("centred", "at an edge", "between shutters", "anywhere")
TWO = ("two, 3 rows apart", "two, 2 rows apart")
SHUTTER_KINDS = (*POINTS, "fills the slitlet", *TWO)
SHORT = (
    Scene("mos-prism-short", "MOS", "PRISM", kinds=("centred", "at an edge", "fills the slitlet"), slitlets=1),
    Scene("bots-prism", "BOTS", "PRISM", subarray="SUB512"),
)
SCENES = (
    Scene("mos-prism", "MOS", "PRISM", kinds=SHUTTER_KINDS),
    Scene("mos-prism-sky", "MOS", "PRISM", kinds=SHUTTER_KINDS, has_sky=True),
    Scene("mos-prism-nrs2", "MOS", "PRISM", "NRS2", kinds=SHUTTER_KINDS),
    Scene("mos-g395h", "MOS", "G395H", kinds=SHUTTER_KINDS),
    Scene("mos-g140m", "MOS", "G140M", "NRS2", kinds=SHUTTER_KINDS),
    Scene("mos-prism-nods", "MOS", "PRISM", kinds=(*POINTS, *TWO), dithers=3, has_sky=True),
    Scene("fs-prism", "FS", "PRISM", slit="S200A1"),
    Scene("fs-g395h", "FS", "G395H", slit="S200A1"),
    Scene("fs-g395h-nrs2", "FS", "G395H", "NRS2", slit="S200A1"),
    Scene("fs-g235h-nods", "FS", "G235H", slit="S200A1", dithers=3, has_sky=True),
    Scene("fs-extended", "FS", "G395H", slit="S200A1", kinds=("extended",)),
    Scene("ifu-prism", "IFU", "PRISM"),
    Scene("ifu-extended", "IFU", "PRISM", kinds=("extended",)),
    Scene("ifu-g395h", "IFU", "G395H", "NRS2"),
    Scene("bots-g395h", "BOTS", "G395H", subarray="SUB2048"),
    *SHORT,
)


@dataclass(frozen=True)
class Seen:
    """What a scene looks like.

    Attributes
    ----------
    scene : Scene
        The scene.
    sky : Sky
        The sky; the names of sources begin with their kind.
    observations : tuple of Observation
        Its exposures.
    references : mapping of str to Path
        Paths by type, of optics and of stage 2.
    """

    scene: Scene
    sky: Sky
    observations: tuple[Observation, ...]
    references: Mapping[str, Path]

    def rates(self, noise: float, seed: int | None) -> list[xr.Dataset]:
        """Return the count rates of the exposures, with variances for a factor on the noise; a seed draws noise."""
        kind = "" if self.scene.mode == "MOS" else self.scene.kinds[0].upper()
        return [
            count_rates(one, noise, None if seed is None else np.random.default_rng([seed, number]), kind)
            for number, one in enumerate(self.observations)
        ]

    def quiet(self) -> xr.DataArray | None:
        """Return where all exposures see the same light within its noise; None for a single exposure."""
        if len(self.observations) == 1:
            return None
        light = np.stack([one.light.rate for one in self.observations])
        spread = light.max(0) - light.min(0)
        one = self.observations[0].configuration
        return xr.DataArray(spread < 0.01 * READ_NOISE, coords=[("row", one.rows), ("column", one.columns)])

    def passed(self, slit: str, source: SkySource, wavelength: np.ndarray) -> np.ndarray:
        """Return the part of the light of a point that passes, over what the reference has for a slit like that.

        The reference holds for the middle shutter. Others have another size on the sky. Both numbers are integrals of
        the image over the openings, without the simulator's cells and the reference's grid.
        """
        one = self.observations[0]
        found = [lit.grid.slit for lit in one.light.slits if lit.grid.slit.name == slit]
        if self.scene.mode != "MOS" or not found:
            return np.ones(wavelength.shape)
        middle, own = (geometry_of(one.optics, s) for s in (shutter_slit(one.optics, 3, 183, 86), found[0]))
        x, y = one.optics.sky_to_slit(*source.position(*one.pointing), 0.5 * sum(one.optics.wavelength_range), found[0])
        at = np.asarray(x) / own.x_pitch, np.asarray(y) / own.y_pitch
        mine, table = (point_loss(one.instrument, g, 3, *at, wavelength) for g in (own, middle))
        return np.asarray(mine / table)

    def calibrated(self, noise: float = 0.05, seed: int | None = None, **options: Any) -> xr.DataTree:
        """Return what spec2 makes of the first exposure, the others being its backgrounds."""
        rate, *backgrounds = self.rates(noise, seed)
        paths = {kind: str(path) for kind, path in self.references.items()}
        optics = nsxr.open_optics(paths, rate)
        references = nsxr.open_spec2_references(paths, rate)
        shutters = self.observations[0].metafile
        return spec2(rate, references, optics, shutters=shutters, backgrounds=backgrounds, **options).compute()


def look(scene: Scene, folder: Path) -> Seen:
    """Let the sky of a scene shine through the optics, and write its references.

    Parameters
    ----------
    scene : Scene
        The scene.
    folder : Path
        Where references and lists of shutters go.
    """
    settings: dict[str, Any] = {"readout": "NRSRAPID", "subarray": scene.subarray, "groups": 20}
    settings |= {"detector": scene.detector, "scene": scene.mode, "grating": scene.grating, "dithers": scene.dithers}
    settings["integrations"] = INTEGRATIONS if scene.mode == "BOTS" else 1
    configurations = [configure(**settings, dither=n, exposure=n) for n in range(1, scene.dithers + 1)]
    # all dithers have the shutters of one list
    configurations = [replace(one, exposure=n) for n, one in enumerate(configurations, start=1)]
    first = configurations[0]
    paths = dict(write_compact_optics(folder, grating=scene.grating, filter=first.filter, ifu=scene.mode == "IFU"))
    dark = tuple(SkySource(f"{x}", Spectrum(), offset=(x, 0.0)) for x in (-60.0, 0.0, 60.0))
    sky = sky_of(scene, observe(first, Sky(dark), paths, folder, seed=1, peak_rate=1).optics)
    seen = [observe(one, sky, paths, folder, seed=1, peak_rate=1) for one in configurations]
    paths |= write_flux_references(folder, seen[0].optics, mode=scene.mode, failed_open=())
    return Seen(scene, sky, tuple(seen), paths)


def count_rates(
    observation: Observation, noise: float, random: np.random.Generator | None, source_type: str = ""
) -> xr.Dataset:
    """Return count rates as stage 1 would make them, without its errors.

    Parameters
    ----------
    observation : Observation
        Light on the detector.
    noise : float
        Factor on the standard deviation of all pixels.
    random : Generator, optional
        Draws the noise. Without it, pixels have none, and the same variances.
    source_type : str
        What the observer said of the source (SRCTYAPT).
    """
    configuration = observation.configuration
    pixels = detector_pixels(configuration, Artifacts())
    to_dn = (pixels.gain_factor / pixels.gain).astype(np.float64)
    light = observation.light.rate * pixels.response
    if configuration.scene == "BOTS":
        light = light * observation.scene.light_curve[:, None, None]
    poisson = noise**2 * light / EXPOSURE_TIME * to_dn**2
    read = np.broadcast_to(noise**2 * READ_NOISE**2 * to_dn**2, light.shape)
    sci = light * to_dn
    if random is not None:
        sci = sci + np.sqrt(poisson + read) * random.standard_normal(light.shape)
    flags = pixels.flags | np.where(configuration.is_border, np.uint32(PixelFlag.REFERENCE_PIXEL), np.uint32(0))
    bad = np.broadcast_to((flags & PixelFlag.DO_NOT_USE) > 0, light.shape)
    dims: tuple[str, ...] = ("row", "column")
    coordinates: dict[str, Any] = {"row": configuration.rows, "column": configuration.columns}
    if light.ndim == 3:
        dims = ("integration", *dims)
        times = integration_times(configuration)
        coordinates["integration"] = times.pop("integration_number").astype(np.int64)
        coordinates |= {name: ("integration", values) for name, values in times.items()}
    segment = Segment(1, 1, 1, configuration.integrations)
    header = primary_header(configuration, segment)
    attributes = {**keywords(header), "fits_header": header.tostring(sep="\n"), "nsxr_steps": "[]"}
    attributes |= {"sci_header": science_header(configuration).tostring(sep="\n")}
    attributes |= {"SRCTYAPT": source_type} if source_type else {}
    attributes["filename"] = segment.file_name(configuration).replace("uncal", "rate")
    values = {
        "sci": np.where(bad, np.nan, sci).astype(np.float32),
        "dq": np.broadcast_to(flags, light.shape).astype(np.uint32),
        "var_poisson": np.where(bad, np.nan, poisson).astype(np.float32),
        "var_rnoise": np.where(bad, np.nan, read).astype(np.float32),
    }
    units = {"sci": "DN/s", "var_poisson": "(DN/s)2", "var_rnoise": "(DN/s)2"}
    variables = {
        name: (dims, array, variable_attributes(name) | ({"units": units[name]} if name in units else {}))
        for name, array in values.items()
    }
    return xr.Dataset(variables, coords=coordinates, attrs=attributes)


def sky_of(scene: Scene, optics: Optics) -> Sky:
    """Return the sky of a scene."""
    random = np.random.default_rng(17)
    instrument = SimulatedInstrument.of(optics)
    flux = PEAK / instrument.peak_rate()
    if scene.mode == "BOTS":
        star = SkySource("point", Spectrum(PowerLaw(50 * flux, 2.0, -1.0)), offset=(0.0, 0.0))
        return Sky((star,), None, Transit())
    sky = zodiacal_light() if scene.has_sky else None
    if scene.mode == "MOS":
        return Sky(tuple(_in_shutters(scene, optics, flux, random)), sky)
    if scene.kinds == ("extended",):
        shape = Shape("uniform", 20.0)
        extended = SkySource("extended", spectrum(optics, 1e6 * flux, 1e6), offset=(0.0, 0.0), shape=shape)
        return Sky((extended,), sky)
    return Sky((SkySource("point", spectrum(optics, flux), offset=(0.0, 0.0)),), sky)


def spectrum(optics: Optics, flux: float, per_area: float = 1.0, shift: float = 0.0) -> Spectrum:
    """Return a continuum with unresolved lines.

    Parameters
    ----------
    optics : Optics
        They say how wide pixels are.
    flux : float
        Flux density at 2 um [Jy, or MJy/sr].
    per_area : float
        1 for points; 1e6 for MJy/sr.
    shift : float
        Shift of all lines [pixel].
    """
    continuum = PowerLaw(flux, 2.0, -0.5)
    instrument = SimulatedInstrument.of(optics)
    low, high = optics.wavelength_range
    lines = []
    for place in np.linspace(low, high, N_LINES + 2)[1:-1]:
        pixel = float(np.interp(place, instrument.nodes, instrument.dispersion))
        at = float(place + shift * pixel)
        light = LINE_PIXELS * pixel * float(continuum.at(np.array(at))) * per_area
        lines.append(Line(at, light / Spectrum.line_integral(Line(at, 1.0))))
    return Spectrum(continuum, tuple(lines))


def _in_shutters(scene: Scene, optics: Optics, flux: float, random: np.random.Generator) -> list[SkySource]:
    """Return sources in shutters of their own, in all quadrants whose spectra reach the detector."""
    sources: list[SkySource] = []
    wanted = [(kind, number) for number in range(scene.slitlets) for kind in scene.kinds]
    # fewer slitlets if the spectra of a grating leave no room
    for place, (kind, number) in zip(_shutters(optics), wanted, strict=False):
        sources += KINDS[kind](optics, shutter_slit(optics, *place), flux, random, f"{kind} / {number}")
    return sources


def _shutters(optics: Optics) -> list[tuple[int, int, int]]:
    """Return shutters whose spectra reach the detector, far enough from each other."""
    found = []
    wavelength = np.linspace(*optics.wavelength_range, 60)
    for j in range(6, 166, 7):
        for quadrant in ((1, 2), (3, 4))[j % 2]:
            shares = {}
            for i in range(20 + j % 11, 350, 30):
                column, _ = optics.inverse(0.0, wavelength, shutter_slit(optics, quadrant, i, j))
                shares[i] = float(np.mean((column > 8) & (column < 2039)))
            best = max(shares, key=lambda i: shares[i])
            if shares[best] > _LEAST_SHARE:
                found.append((quadrant, best, j))
    order = np.random.default_rng(3).permutation(len(found))
    return [found[n] for n in order]


Maker = Callable[[Optics, Any, float, np.random.Generator, str], Sequence[SkySource]]


def _point(x: float | None, y: float | None) -> Maker:
    def make(optics: Optics, slit: Any, flux: float, random: np.random.Generator, name: str) -> list[SkySource]:
        sign = float(random.choice([-1.0, 1.0]))
        dx, dy = random.uniform(-0.4, 0.4, 2)
        place = (dx if x is None else sign * x) * PITCH, (dy if y is None else sign * y) * PITCH
        return [SkySource(name, spectrum(optics, flux, shift=float(random.uniform())), *_at(optics, slit, *place))]

    return make


def _extended(shape: Shape) -> Maker:
    def make(optics: Optics, slit: Any, flux: float, random: np.random.Generator, name: str) -> list[SkySource]:
        light = spectrum(optics, 1e6 * flux, 1e6, shift=float(random.uniform()))
        return [SkySource(name, light, *_at(optics, slit, 0.0, 0.0), shape=shape)]

    return make


def _two(low: float, high: float) -> Maker:
    """Return two points of equal brightness at places along a slit [open heights]."""

    def make(optics: Optics, slit: Any, flux: float, random: np.random.Generator, name: str) -> list[SkySource]:
        return [
            SkySource(name, spectrum(optics, flux), *_at(optics, slit, 0.0, low)),
            SkySource(f"{name} b", spectrum(optics, flux, shift=6.0), *_at(optics, slit, 0.1, high)),
        ]

    return make


def _at(optics: Optics, slit: Any, x: float, y: float) -> tuple[float, float]:
    ra, dec = optics.slit_to_sky(x, y, 0.5 * sum(optics.wavelength_range), slit)
    return float(ra), float(dec)


KINDS: Mapping[str, Maker] = {
    "centred": _point(0.0, 0.0),
    "at an edge": _point(0.35, 0.1),
    "between shutters": _point(0.05, 0.5),
    "anywhere": _point(None, None),
    "fills the slitlet": _extended(Shape("uniform", 5.0)),
    "two, 3 rows apart": _two(0.1, 0.8),
    "two, 2 rows apart": _two(-0.3, 0.16),
}
"""Sources in shutters, by kind."""
