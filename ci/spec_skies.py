"""Skies of known spectra, and their count rates through the optics without ramps: the scenes of ``spec_scenes.py``."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.ndimage import binary_dilation
from spec_sources import GRADIENT, in_shutters, open_shutters, spectrum, stuck_shutters

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
from nsxr.simulate.configuration import Configuration, configure
from nsxr.simulate.detectors import detector_pixels
from nsxr.simulate.headers import Segment, integration_times, primary_header, science_header
from nsxr.simulate.instrument import SimulatedInstrument
from nsxr.simulate.observation import Observation, observe
from nsxr.simulate.shutters import shutter_slit
from nsxr.simulate.sky import Shape, Sky, SkySource, Transit, zodiacal_light
from nsxr.simulate.spectra import PowerLaw, Spectrum

__all__ = ["SCENES", "SHORT", "Scene", "Seen", "count_rates", "in_the_dark", "look"]

PEAK = 20.0  # electron/s in the brightest pixel of a point
EXPOSURE_TIME, READ_NOISE = 1000.0, 0.01  # s, electron/s; noise is scaled to a signal to noise
INTEGRATIONS = 40
SPEED_OF_LIGHT, VELOCITY = 299792458.0, 30e3  # m/s
HITS, CLUSTERS = 0.003, 0.002  # part of all pixels that are hit, or the corner of a cluster
LEAK = (4, 350, 86)


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
    has_sky, has_gradient : bool
        Whether zodiacal light is there, too, and whether it changes over the field.
    where : str
        Where in the quadrants shutters are, see :func:`spec_sources.in_shutters`.
    faults : tuple of str
        ``hits`` that nobody flagged, ``clusters`` of bad pixels, half of them NaN, ``references`` that depart from the
        truth by their stated errors, ``velocity`` of 30 km/s that the light has and headers tell, and for slices
        ``leak``, a star in a shutter that does not close.
    segments : int
        Number of files of a time series.
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
    has_gradient: bool = False
    where: str = "anywhere"
    faults: tuple[str, ...] = ()
    segments: int = 1


POINTS = ("centred", "at an edge", "between shutters", "anywhere")
TWO = ("two, 3 rows apart", "two, 2 rows apart")
SHUTTER_KINDS = (*POINTS, "fills the slitlet", *TWO)
LENGTHS = ("in 1 shutter", "centred", "in 5 shutters")
STARS = ("under a star", "beside a star")
EXTENDED = ("fills the slitlet", "extended, clumpy", "small")
NEIGHBOURS = ("beside a planned source", "beside an unknown source")
SERIES = {"SUB1024A": "G395H", "SUB1024B": "G395M", "SUB512S": "PRISM", "FULL": "G235H"}
SHORT = (
    Scene("mos-prism-short", "MOS", "PRISM", kinds=("centred", "at an edge", "fills the slitlet"), slitlets=1),
    Scene("bots-prism", "BOTS", "PRISM", subarray="SUB512"),
)
SCENES = (
    Scene("mos-prism", "MOS", "PRISM", kinds=SHUTTER_KINDS),
    Scene("mos-prism-sky", "MOS", "PRISM", kinds=SHUTTER_KINDS, has_sky=True),
    Scene("mos-prism-nrs2", "MOS", "PRISM", "NRS2", kinds=SHUTTER_KINDS),
    Scene("mos-g395h", "MOS", "G395H", kinds=SHUTTER_KINDS),
    Scene("mos-g395h-nrs2", "MOS", "G395H", "NRS2", kinds=POINTS),
    Scene("mos-g140m", "MOS", "G140M", "NRS2", kinds=SHUTTER_KINDS),
    Scene("mos-lengths", "MOS", "PRISM", kinds=LENGTHS, slitlets=2),
    Scene("mos-corners", "MOS", "PRISM", kinds=("centred",), slitlets=8, where="corners"),
    Scene("mos-corners-nrs2", "MOS", "PRISM", "NRS2", kinds=("centred",), slitlets=8, where="corners"),
    Scene("mos-cut", "MOS", "PRISM", kinds=("centred",), slitlets=4, where="cut"),
    Scene("mos-extended", "MOS", "PRISM", kinds=EXTENDED, slitlets=2),
    Scene("mos-star", "MOS", "PRISM", kinds=STARS),
    Scene("mos-star-nods", "MOS", "PRISM", kinds=STARS, dithers=3),
    Scene("mos-fixed", "MOS", "PRISM", kinds=("in a fixed slit", "centred"), slitlets=1),
    Scene("mos-prism-nods", "MOS", "PRISM", kinds=(*POINTS, *TWO), dithers=3, has_sky=True),
    Scene("mos-neighbours", "MOS", "PRISM", kinds=NEIGHBOURS, dithers=3, has_sky=True),
    Scene("mos-gradient", "MOS", "PRISM", kinds=("centred",), dithers=3, has_sky=True, has_gradient=True),
    Scene("mos-hits", "MOS", "PRISM", kinds=("centred",), faults=("hits",)),
    Scene("mos-hits-nods", "MOS", "PRISM", kinds=("centred",), dithers=3, has_sky=True, faults=("hits",)),
    Scene("mos-clusters", "MOS", "PRISM", kinds=("centred",), faults=("clusters",)),
    Scene("mos-departed", "MOS", "PRISM", kinds=("centred",), faults=("references",)),
    Scene("fs-prism", "FS", "PRISM", slit="S200A1"),
    Scene("fs-g395h", "FS", "G395H", slit="S200A1"),
    Scene("fs-g395h-nrs2", "FS", "G395H", "NRS2", slit="S200A1"),
    Scene("fs-g235h-nods", "FS", "G235H", slit="S200A1", dithers=3, has_sky=True),
    Scene("fs-g235h-nrs2-5-nods", "FS", "G235H", "NRS2", slit="S200A1", dithers=5, has_sky=True),
    Scene("fs-velocity", "FS", "G395H", "NRS2", slit="S200A1", faults=("velocity",)),
    Scene("fs-extended", "FS", "G395H", slit="S200A1", kinds=("extended",)),
    Scene("ifu-prism", "IFU", "PRISM"),
    Scene("ifu-extended", "IFU", "PRISM", kinds=("extended",)),
    Scene("ifu-leak", "IFU", "PRISM", kinds=("extended",), faults=("leak",)),
    Scene("ifu-g395h", "IFU", "G395H", "NRS2"),
    Scene("bots-g395h", "BOTS", "G395H", subarray="SUB2048"),
    Scene("bots-segments", "BOTS", "PRISM", subarray="SUB512", segments=2),
    *(Scene(f"bots-{name.lower()}", "BOTS", grating, subarray=name) for name, grating in SERIES.items()),
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
    fixed : mapping of str to Path
        Those of fixed slits in exposures of shutters.
    """

    scene: Scene
    sky: Sky
    observations: tuple[Observation, ...]
    references: Mapping[str, Path]
    fixed: Mapping[str, Path]

    def rates(self, noise: float, seed: int | None) -> list[xr.Dataset]:
        """Return the count rates of the exposures, with variances for a factor on the noise; a seed draws noise."""
        kind = "" if self.scene.mode == "MOS" else "EXTENDED" if self.scene.kinds == ("extended",) else "POINT"
        rates = [
            count_rates(one, noise, None if seed is None else np.random.default_rng([seed, number]), kind)
            for number, one in enumerate(self.observations)
        ]
        return [_spoiled(one, self.scene.faults) for one in rates]

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
        if self.scene.mode != "MOS" or not found or found[0].quadrant == 5:
            return np.ones(wavelength.shape)
        if source.shape.is_extended:
            return self.solid_angle(slit, source, wavelength)
        middle, own = (geometry_of(one.optics, s) for s in (shutter_slit(one.optics, 3, 183, 86), found[0]))
        x, y = one.optics.sky_to_slit(*source.position(*one.pointing), 0.5 * sum(one.optics.wavelength_range), found[0])
        at = np.asarray(x) / own.x_pitch, np.asarray(y) / own.y_pitch
        mine, table = (point_loss(one.instrument, g, 3, *at, wavelength) for g in (own, middle))
        return np.asarray(mine / table)

    def brightness(self, slit: str, source: SkySource) -> tuple[np.ndarray, np.ndarray]:
        """Return places along a slit [open heights], and the brightness there relative to that of a source.

        It is the source's own and that of the clumps on it: an image on the MSA without bars, mean over the width.
        """
        one = self.observations[0]
        own = next(lit.grid.slit for lit in one.light.slits if lit.grid.slit.name == slit)
        size, middle = geometry_of(one.optics, own), 0.5 * sum(one.instrument.wavelengths(own))
        x, y, at = np.linspace(-2, 2, 41)[:, None], np.linspace(-4, 4, 801), np.array(middle)
        ra, dec = one.optics.slit_to_sky(x, y, middle, own)
        passes = np.diff(one.instrument.cumulative((np.array([-0.5, 0.5]) - x) * size.width, at), axis=1)
        edges = np.append(y - 0.005, y[-1] + 0.005) * size.height
        spread = np.diff(one.instrument.cumulative(edges - y[:, None] * size.height, at), axis=1)
        total = np.zeros(y.size)
        for clump in (each for each in self.sky.sources if each.name.startswith(source.name)):
            there = clump.position(*one.pointing)
            east, north = (ra - there[0]) * np.cos(np.deg2rad(dec)) * 3600, (dec - there[1]) * 3600
            factor = float(clump.spectrum.continuum.at(at) / source.spectrum.continuum.at(at))
            total += factor * (clump.shape.brightness(east, north) * passes).sum(0) / passes.sum() @ spread
        return y, total

    def solid_angle(self, slit: str, source: SkySource, wavelength: np.ndarray) -> np.ndarray:
        """Return flux density [Jy] over the brightness [MJy/sr] of a source that is smaller than its slit."""
        one = self.observations[0]
        grid = next(lit.grid for lit in one.light.slits if lit.grid.slit.name == slit)
        height, place = np.abs(np.diff(grid.slit_y, axis=0)).mean(0), np.nanmean(grid.wavelength, axis=0)
        y, relative = self.brightness(slit, source)
        order = np.argsort(place)
        pixels = relative.sum() * (y[1] - y[0]) / np.interp(wavelength, place[order], height[order])
        return np.asarray(1e6 * one.instrument.pixel_area(grid.slit) * pixels)

    def calibrated(self, noise: float = 0.05, seed: int | None = None, **options: Any) -> xr.DataTree:
        """Return what spec2 makes of the first exposure, the others being its backgrounds."""
        rate, *backgrounds = self.rates(noise, seed)
        paths = {kind: str(path) for kind, path in self.references.items()}
        optics = nsxr.open_optics(paths, rate)
        references = nsxr.open_spec2_references(paths, rate)
        if "references" in self.scene.faults:
            references = departed(references)
        options |= {"shutters": self.observations[0].metafile, "backgrounds": backgrounds}
        if self.fixed:
            fixed = rate.assign_attrs(EXP_TYPE="NRS_FIXEDSLIT")
            found = {kind: str(path) for kind, path in self.fixed.items()}
            options["fixed_references"] = nsxr.open_spec2_references(found, fixed)
        parts = np.array_split(np.arange(INTEGRATIONS), self.scene.segments)
        rates = [rate.isel(integration=part) for part in parts] if len(parts) > 1 else [rate]
        made = [spec2(one, references, optics, **options).compute() for one in rates]
        return made[0] if len(made) == 1 else xr.map_over_datasets(_joined, *made)


def _joined(*parts: xr.Dataset) -> xr.Dataset:
    """Return the integrations of all segments, and what else the first one has."""
    if "integration" not in parts[0].dims:
        return parts[0]
    kinds: dict[str, Any] = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "override"}
    return xr.concat(parts, "integration", combine_attrs="override", **kinds)


def departed(references: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """Return references that depart from the truth by errors of the stated size."""
    random, found = np.random.default_rng(23), dict(references)
    flat, table = references["dflat"].compute(), references["photom"].compute()
    noise = random.standard_normal(flat["err"].shape[-2:])
    found["dflat"] = flat.assign(sci=flat["sci"] + flat["err"] * xr.DataArray(noise, dims=flat["sci"].dims[-2:]))
    found["photom"] = table.assign(photmj=table["photmj"] + random.standard_normal() * table["uncertainty"])
    return found


def in_the_dark(
    folder: Path,
    *,
    mode: str,
    grating: str,
    detector: str,
    dithers: int,
    subarray: str = "FULL",
    integrations: int = 1,
) -> tuple[list[Configuration], dict[str, Path], list[Observation]]:
    """Return exposures that are dithers of each other, their optics by type, and how they see sources without light.

    All of them have the shutters of one list. The optics are written to ``folder``.
    """
    settings: dict[str, Any] = {"readout": "NRSRAPID", "subarray": subarray, "groups": 20, "detector": detector}
    settings |= {"scene": mode, "grating": grating, "dithers": dithers, "integrations": integrations}
    exposures = [replace(configure(**settings, dither=n, exposure=n), exposure=n) for n in range(1, dithers + 1)]
    paths = dict(write_compact_optics(folder, grating=grating, filter=exposures[0].filter, ifu=mode == "IFU"))
    dark = Sky(tuple(SkySource(f"{x}", Spectrum(), offset=(x, 0.0)) for x in (-60.0, 0.0, 60.0)))
    return exposures, paths, [observe(one, dark, paths, folder, seed=1, peak_rate=1) for one in exposures]


def look(scene: Scene, folder: Path) -> Seen:
    """Let the sky of a scene shine through the optics, and write its references.

    Parameters
    ----------
    scene : Scene
        The scene.
    folder : Path
        Where references and lists of shutters go.
    """
    configurations, paths, empty = in_the_dark(
        folder,
        mode=scene.mode,
        grating=scene.grating,
        detector=scene.detector,
        dithers=scene.dithers,
        subarray=scene.subarray,
        integrations=INTEGRATIONS if scene.mode == "BOTS" else 1,
    )
    first, optics, pointing = configurations[0], empty[0].optics, empty[0].pointing
    sky = sky_of(scene, optics)
    options: dict[str, Any] = {"seed": 1, "peak_rate": 1, "failed_open": stuck_shutters(optics, sky, pointing)}
    if scene.mode == "MOS":
        dithered = {n: one.optics for n, one in enumerate(empty, start=1)}
        options["shutters"] = open_shutters(folder, first, sky, pointing, dithered)
    shone = sky
    if "velocity" in scene.faults:  # the light has the velocity, the exposure of the simulator has none
        configurations = [_at(one, 0.0) for one in configurations]
        shone = replace(sky, sources=tuple(_moved(one, VELOCITY) for one in sky.sources))
    seen = [observe(one, shone, paths, folder, **options) for one in configurations]
    if "velocity" in scene.faults:
        seen = [replace(one, configuration=_at(one.configuration, VELOCITY)) for one in seen]
    failed = options["failed_open"]
    paths |= write_flux_references(folder, seen[0].optics, mode=scene.mode, failed_open=failed)
    fixed = {}
    if any("fixed slit" in kind for kind in scene.kinds):
        fixed = write_flux_references(folder / "fixed", seen[0].optics, mode="FS")
    return Seen(scene, sky, tuple(seen), paths, fixed)


def _at(configuration: Configuration, velocity: float) -> Configuration:
    """Return a configuration with a barycentric velocity [m/s]."""
    return replace(configuration, pointing=replace(configuration.pointing, velocity=velocity))


def _moved(source: SkySource, velocity: float) -> SkySource:
    """Return a source as a telescope with a velocity sees its lines."""
    factor = 1 + velocity / SPEED_OF_LIGHT
    lines = tuple(replace(one, wavelength=one.wavelength * factor) for one in source.spectrum.lines)
    return replace(source, spectrum=replace(source.spectrum, lines=lines))


def _spoiled(rate: xr.Dataset, faults: tuple[str, ...]) -> xr.Dataset:
    """Return count rates with hits that nobody flagged, or with clusters of bad pixels, half of them NaN."""
    random = np.random.default_rng(29)
    sci, dq = rate["sci"], rate["dq"]
    if "hits" in faults:
        is_hit = random.uniform(size=sci.shape) < HITS
        sci = sci + np.where(is_hit, random.uniform(0.2, 5.0, sci.shape) * PEAK, 0.0).astype(np.float32)
    if "clusters" in faults:
        is_bad = binary_dilation(random.uniform(size=sci.shape) < CLUSTERS, np.ones((2, 3), bool))
        is_nan = is_bad & (np.arange(sci.sizes["column"]) % 2 == 0)
        sci = sci.where(~is_nan)
        dq = dq | np.where(is_bad, np.uint32(PixelFlag.DO_NOT_USE), np.uint32(0))
    return rate.assign(sci=sci.assign_attrs(rate["sci"].attrs), dq=dq.assign_attrs(rate["dq"].attrs))


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
    flux = PEAK / SimulatedInstrument.of(optics).peak_rate()
    if scene.mode == "BOTS":
        star = SkySource("point", Spectrum(PowerLaw(50 * flux, 2.0, -1.0)), offset=(0.0, 0.0))
        return Sky((star,), None, Transit())
    sky = zodiacal_light() if scene.has_sky else None
    more = (GRADIENT,) if scene.has_gradient else ()
    if scene.mode == "MOS":
        return Sky((*in_shutters(optics, scene.kinds, scene.slitlets, scene.where, flux, random), *more), sky)
    if "leak" in scene.faults:
        ra, dec = optics.slit_to_sky(0.0, 0.0, 0.5 * sum(optics.wavelength_range), shutter_slit(optics, *LEAK))
        more = (SkySource("star unseen", spectrum(optics, 10 * flux), float(ra), float(dec)),)
    kind, place = scene.kinds[0], (0.0, 0.0)
    if kind == "extended":
        source = SkySource(kind, spectrum(optics, 1e6 * flux, 1e6), offset=place, shape=Shape("uniform", 20.0))
    else:
        level = 1e-6 if kind == "lines alone" else 1.0
        source = SkySource(kind, spectrum(optics, flux, continuum=level), offset=place)
    return Sky((source, *more), sky)
