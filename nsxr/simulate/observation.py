"""Observe a sky with one exposure: pointing, optics, open slits, and light on the detector."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from nsxr.errors import DegradedResultWarning, ParameterError
from nsxr.formats.fits_headers import keywords
from nsxr.formats.msa_metafile import read_metafile
from nsxr.model.optics_header import OpticsHeader
from nsxr.optics.instrument import Optics
from nsxr.optics.shutters import slitlets_of
from nsxr.optics.slit import Slit
from nsxr.references.optics import open_optics
from nsxr.simulate.configuration import Configuration
from nsxr.simulate.default_skies import default_sky
from nsxr.simulate.headers import Segment, primary_header, science_header
from nsxr.simulate.instrument import SimulatedInstrument
from nsxr.simulate.pointing import Aperture, pointed
from nsxr.simulate.scene import Scene
from nsxr.simulate.shutters import plan_shutters, shutter_slit, write_metafile
from nsxr.simulate.sky import Sky, read_sky
from nsxr.simulate.sky_scene import Light, render_sky

__all__ = ["MODES", "Observation", "checked_sky", "observe"]

MODES = ("MOS", "FS", "IFU", "BOTS")
"""Modes that look at a sky."""
_BRIGHTEST = 1e12  # electron/s; counts of photons beyond 1e18 cannot be drawn
_ROUNDING = 1e-3  # electron/s below 0 that come from rounding


@dataclass(frozen=True)
class Observation:
    """A sky as one exposure sees it.

    Attributes
    ----------
    configuration : Configuration
        The exposure, with the pointing that its headers tell.
    sky : Sky
        The sky.
    pointing : (float, float)
        Sky coordinates that offsets of sources count from [degree].
    optics : Optics
        The optics of the exposure.
    instrument : SimulatedInstrument
        Response to light.
    light : Light
        Light on the detector, and the slits that it came through.
    metafile : Path or None
        The list of shutters. None in other modes.
    """

    configuration: Configuration
    sky: Sky
    pointing: tuple[float, float]
    optics: Optics
    instrument: SimulatedInstrument
    light: Light
    metafile: Path | None

    @property
    def scene(self) -> Scene:
        """Light that reaches the detector, with the light curve."""
        n = self.configuration.integrations
        curve = np.ones(n) if self.sky.transit is None else self.sky.transit.factor(n)
        return Scene(self.light.rate, curve)


def observe(
    configuration: Configuration,
    sky: Sky | str | Path,
    references: str | Path | Mapping[str, str | Path],
    folder: Path,
    *,
    shutters: str | Path | None = None,
    seed: int,
    peak_rate: float,
    failed_open: Sequence[tuple[int, int, int]] = (),
    overwrite: bool = True,
) -> Observation:
    """Return the light of a sky on the detector of one exposure.

    Parameters
    ----------
    configuration : Configuration
        The exposure.
    sky : Sky, str or Path
        The sky, a JSON file with one (:func:`nsxr.simulate.sky.read_sky`), or ``default``.
    references : path, or mapping of str to path
        Optics, as :func:`nsxr.open_optics` takes them.
    folder : Path
        Where a list of shutters is written.
    shutters : str or Path, optional
        An MSA metafile of which the first configuration and this dither position are open, for ``MOS``. By default,
        shutters are opened around the sources of the sky, and a list of them is written.
    seed : int
        Seed of the default sky.
    peak_rate : float
        Rate in the brightest pixel of the default sky of ``MOS`` and ``BOTS`` [electron/s].
    failed_open : sequence of (int, int, int)
        Shutters that are always open: quadrant, and number along the dispersion and along the slit.
    overwrite : bool
        Whether to replace a list of shutters with other content.

    Raises
    ------
    ParameterError
        If the mode does not look at a sky, if the file is no sky, or if the sky is too bright.
    OutputExistsError
        If a list of other shutters exists and ``overwrite`` is False.

    Warns
    -----
    DegradedResultWarning
        If no slit falls on the detector, or if the sky has negative light.
    """
    sky, mode = checked_sky(configuration, sky), configuration.scene
    optics = open_optics(references, _header(configuration))
    instrument = SimulatedInstrument.of(optics)
    configuration = _in_aperture(configuration, optics)
    first = _pointed(optics, configuration, 1)
    optics = _pointed(optics, configuration, configuration.pointing.dither)
    pointing = configuration.pointing.target
    if not isinstance(sky, Sky):
        # rounded, because the dispersion differs a little between the detectors, and the sky must not
        sky = default_sky(mode, first, seed, float(f"{peak_rate / instrument.peak_rate():.1g}"))
    metafile = None if mode != "MOS" or shutters is None else Path(shutters)
    if mode == "MOS" and metafile is None:
        dithered = {n: _pointed(optics, configuration, n) for n in range(1, configuration.pointing.dithers + 1)}
        planned = plan_shutters(first, sky, pointing, failed_open)
        if not planned:
            raise ParameterError(
                "no source of the sky falls on a shutter with room for its spectrum; move sources, or give shutters"
            )
        metafile = write_metafile(folder, configuration, planned, sky, pointing, dithered, overwrite)
    slits: list[Slit] = list(optics.slits.values())
    if metafile is not None:
        dither, program = configuration.pointing.dither, str(configuration.programme)
        slits = list(slitlets_of(optics, read_metafile(metafile), 1, dither, program))
    open_always = [shutter_slit(optics, *place) for place in failed_open]
    light = render_sky(
        sky, optics, [*open_always, *slits], instrument, pointing, configuration.rows, configuration.columns
    )
    if not light.slits:
        warnings.warn(
            f"no slit falls on {configuration.detector} with {configuration.grating}: the exposure has no light",
            DegradedResultWarning,
            stacklevel=2,
        )
    light = replace(light, rate=_possible(light.rate))
    return Observation(configuration, sky, pointing, optics, instrument, light, metafile)


def _possible(rate: np.ndarray) -> np.ndarray:
    """Return rates of 0 or more. Deep absorption lines may ask for less."""
    if not (rate < _BRIGHTEST).all():
        raise ParameterError(
            f"the sky gives {rate.max():.3g} electrons per second in a pixel, expected less than {_BRIGHTEST:.0e}; "
            "make it fainter"
        )
    if (rate < -_ROUNDING).any():
        warnings.warn(
            f"absorption lines of the sky are deeper than its continuum: {int((rate < -_ROUNDING).sum())} pixels that "
            "would have negative light have none",
            DegradedResultWarning,
            stacklevel=3,
        )
    return np.asarray(np.maximum(rate, 0))


def checked_sky(configuration: Configuration, sky: Sky | str | Path) -> Sky | Literal["default"]:
    """Return a sky, read from its file, or the word ``default``.

    Raises
    ------
    ParameterError
        If the mode does not look at a sky, or the file is no sky.
    """
    mode = configuration.scene
    if mode not in MODES or configuration.grating == "MIRROR":
        raise ParameterError(
            f"mode {mode} with {configuration.grating} does not disperse light of the sky; expected one of "
            f"{', '.join(MODES)} with a grating or the prism"
        )
    if isinstance(sky, Sky):
        return sky
    return "default" if str(sky) == "default" else read_sky(sky)


def _header(configuration: Configuration) -> OpticsHeader:
    """Return what the headers of the exposure say about its optics."""
    header = primary_header(configuration, Segment(1, 1, 1, configuration.integrations), contiguous=False)
    sci = science_header(configuration).tostring(sep="\n")
    return OpticsHeader.from_attributes({**keywords(header), "sci_header": sci})


def _in_aperture(configuration: Configuration, optics: Optics) -> Configuration:
    """Put the reference point where these optics have the middle of the slit, the slices or the MSA."""
    wavelength = 0.5 * sum(optics.wavelength_range)
    if configuration.scene == "MOS":
        v2, v3 = optics.msa_to_v2v3(0.0, 0.0, wavelength)
    elif configuration.scene == "IFU":
        # slices 0 and 1 lie on both sides of the middle
        v2, v3 = np.mean([optics.for_slit(name).slit_to_v2v3(0.0, 0.0, wavelength) for name in ("0", "1")], axis=0)
    else:
        v2, v3 = optics.for_slit(configuration.fixed_slit).slit_to_v2v3(0.0, 0.0, wavelength)
    pointing = configuration.pointing
    aperture = Aperture(pointing.aperture.name, float(v2), float(v3), pointing.aperture.ideal_angle)
    return replace(configuration, pointing=replace(pointing, aperture=aperture))


def _pointed(optics: Optics, configuration: Configuration, dither: int) -> Optics:
    """Return the optics with the pointing of a dither position."""
    pointing = configuration.pointing
    there = pointed(configuration.scene, configuration.fixed_slit, dither, pointing.dithers)
    moved = replace(pointing, offset=there.offset, dither=dither)
    ra, dec = moved.reference
    old = optics.path.pointing
    assert old is not None
    new = replace(old, ra=ra, dec=dec, v2=moved.aperture.v2, v3=moved.aperture.v3)
    return replace(optics, path=replace(optics.path, pointing=new))
