"""Simulate cut-outs of spectra with known truth: undersampled, tilted traces, bad pixels, nods, time series."""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import xarray as xr
from scipy.special import erf

from nsxr.errors import ParameterError
from nsxr.kernels.spectra.slit_geometry import SHUTTER_PITCH
from nsxr.model.dims import IMAGE
from nsxr.model.dq import PixelFlag
from nsxr.model.parameters import Range, Seed
from nsxr.model.variables import variable_attributes
from nsxr.simulate.configuration import check_seed

__all__ = ["SimulatedSlit", "simulate_trace"]

READ_NOISE = 8.0  # electrons, of a rate over the time of the exposure
ELECTRON = 1e-15  # MJy of one electron in a pixel
_ROWS_A_UNIT = 4.4  # detector rows in the open height of a shutter
_COLUMNS_A_ROW = 0.05  # tilt of lines of constant wavelength
_MARGIN = 1.05
_FIRST_ROW, _FIRST_COLUMN = 200, 600
_LINES = ((0.14, 4, 1.2), (0.36, 8, 0.9), (0.3636, 3, 0.9), (0.71, 15, 1.1), (0.88, 2, 3.0))
"""Emission lines: position as a part of the columns, height relative to the continuum, standard deviation [pixel]."""
_HEADER = {
    "TELESCOP": "JWST",
    "INSTRUME": "NIRSPEC",
    "DETECTOR": "NRS1",
    "EXP_TYPE": "NRS_MSASPEC",
    "FILTER": "CLEAR",
    "GRATING": "PRISM",
    "SLTNAME": "12",
    "SRCTYPE": "POINT",
    "SRCNAME": "simulated",
    "SOURCEID": 1,
    "SRCXPOS": 0.0,
    "SRCYPOS": 0.0,
    "SHUTSTA": "1x1",
    "PIXAR_SR": 4.8e-13,
    "SLTSTRT1": _FIRST_COLUMN + 1,
    "SLTSTRT2": _FIRST_ROW + 1,
    "DISPAXIS": 1,
    "SPORDER": 0,
}


class SimulatedSlit(NamedTuple):
    """Hold a simulated slit and its truth, see :func:`simulate_trace`."""

    slit: xr.Dataset
    truth: xr.Dataset


def simulate_trace(
    *,
    signal_to_noise: float = 45.0,
    bad_pixels: Literal["none", "isolated", "clusters"] = "isolated",
    lines: bool = False,
    fwhm: float = 1.8,
    tilt: float = 0.012,
    offset: float = 0.0,
    nod: int = 0,
    background: float = 0.0,
    negative_nods: bool = False,
    other_nods: int = 2,
    sky: float = 0.0,
    shutters: str = "111",
    source_type: Literal["POINT", "EXTENDED"] = "POINT",
    neighbour: float = 0.0,
    neighbour_distance: float = 7.0,
    rows: Annotated[int, Range(1, 2048)] = 30,
    columns: Annotated[int, Range(1, 2048)] = 420,
    integrations: Annotated[int, Range(0, 65535)] = 0,
    depth: float = 0.0,
    seed: Seed = 0,
) -> SimulatedSlit:
    """Simulate the cut-out of a slitlet of three shutters, in the form that the observatory's pipeline makes.

    The profile is not Gaussian: it has a core, and a broader skirt that is off centre. Its width grows along the
    dispersion. Variances of photon noise come from the noisy signal itself, as in real products.

    Parameters
    ----------
    signal_to_noise : float, default 45
        Signal to noise of the flux of a typical column.
    bad_pixels : {"isolated", "none", "clusters"}
        ``isolated``: 1.2 % of all pixels. ``clusters``: 2 to 3 rows by 2 columns, one cluster for every 8 columns.
    lines : bool, default False
        Add emission lines, up to 15 times the continuum.
    fwhm : float, default 1.8
        Width of the trace in the middle of the cut-out [pixel].
    tilt : float, default 0.012
        Slope of the trace [row per column].
    offset : float, default 0
        Distance of the source from its planned position [pixel].
    nod : int, default 0
        Shutter, -1, 0 or 1, that contains the source.
    background : float, default 0
        Electrons of background in every pixel.
    negative_nods : bool, default False
        Subtract the mean of other nods, with their noise.
    other_nods : {2, 1}
        Number of other nods that are subtracted.
    sky : float, default 0
        Electrons of sky in every pixel behind an open shutter.
    shutters : str, default "111"
        State of the shutters, lowest first; ``0`` is closed.
    source_type : {"POINT", "EXTENDED"}
        Shutters cut the light of an extended source. They cut the light of a point source only if a shutter is closed.
    neighbour : float, default 0
        Light of another point source in the slit, relative to the first one. It has a different spectrum.
    neighbour_distance : float, default 7
        Distance of the neighbour from the source [row].
    rows : int, default 30
        Rows of the cut-out.
    columns : int, default 420
        Columns of the cut-out.
    integrations : int, default 0
        Number of integrations of a time series; 0 for a single exposure.
    depth : float, default 0
        Relative depth of a transit in the middle third of a time series.
    seed : int, default 0
        Seed of the random numbers.

    Returns
    -------
    SimulatedSlit
        A named tuple. ``slit``: Dataset with ``sci`` [MJy], ``dq``, ``var_poisson``, ``var_rnoise``, ``wavelength``
        [um] and the attributes of a slit. ``truth``: Dataset with ``flux`` [Jy] of each column (and integration),
        ``profile`` and ``variance`` [MJy2] of each pixel, ``trace`` [detector row], ``is_bad``. The flux is the light
        that shutters let through.
    """
    if bad_pixels not in ("none", "isolated", "clusters"):
        raise ParameterError(f"bad_pixels is {bad_pixels!r}, expected none, isolated or clusters")
    check_seed(seed)
    random = np.random.default_rng(seed)
    is_extended = source_type == "EXTENDED"
    place = _place(rows, columns, fwhm, tilt, shutters, is_cut=is_extended or "0" in shutters)
    trace = place.trace(nod) + offset
    profile = place.light_at(trace)
    relative = _relative_spectrum(place.x + _COLUMNS_A_ROW * (trace - place.middle), columns, lines)
    noisy = (READ_NOISE**2 + background + sky) / np.mean((profile**2).sum(0))
    electrons = (signal_to_noise**2 + np.sqrt(signal_to_noise**4 + 4 * signal_to_noise**2 * noisy)) / 2 * relative
    light = np.ones(max(integrations, 1))
    light[integrations // 3 : 2 * integrations // 3] -= depth
    beside = neighbour * (0.9 - 0.4 * place.along) * np.mean(electrons)
    width = 1.8 / fwhm * place.width if is_extended else place.width

    def others_at(centre: np.ndarray) -> np.ndarray:
        """Return the electrons of the neighbour and of the sky, for a source at these rows."""
        distance = place.y - centre - neighbour_distance
        return np.asarray(place.passed * (beside * _profile(distance, width) + sky))

    has_others = bool(neighbour or sky)
    mean = light[:, None, None] * electrons * profile + (others_at(trace) if has_others else 0.0) + background
    images = _observe(random, mean)
    if negative_nods:
        for other in list({-1, 0, 1} - {nod})[:other_nods]:
            centre = place.trace(other) + offset
            there = electrons * place.light_at(centre)
            there = there + others_at(centre) if has_others else there
            images = _subtract(random, images, there + background, other_nods)
    is_bad = _choose_bad_pixels(random, bad_pixels, rows, columns)
    wild = images.signal + random.normal(size=is_bad.shape) * 300 * np.sqrt(images.variance[0])
    images = images._replace(signal=np.where(is_bad, wild, images.signal))
    attributes = {
        "EXP_TYPE": "NRS_BRIGHTOBJ" if integrations else "NRS_MSASPEC",
        "SRCTYPE": source_type,
        "SHUTSTA": shutters[: nod + 1] + "x" + shutters[nod + 2 :],
    }
    if negative_nods or not (background or sky):
        attributes["S_BKDSUB"] = "COMPLETE"
    slit = _slit(images, place, is_bad, integrations, attributes)
    kept = profile.sum(0) if place.is_cut else np.ones(columns)
    flux = light[:, None] * electrons * kept * ELECTRON * 1e6
    truth = xr.Dataset(
        {
            "flux": (("integration", "column"), flux, {"units": "Jy"})
            if integrations
            else ("column", flux[0], {"units": "Jy"}),
            "profile": (IMAGE, profile / kept),
            "variance": (IMAGE, images.variance[0] * ELECTRON**2),
            "trace": ("column", trace + _FIRST_ROW),
            "is_bad": (IMAGE, is_bad),
        },
        coords=slit[list(IMAGE)].coords,
    )
    return SimulatedSlit(slit, truth)


class _Images(NamedTuple):
    """Hold electrons of pixels (integration, row, column): the signal, its variances, and the true variance."""

    signal: np.ndarray
    poisson: np.ndarray
    read: np.ndarray
    variance: np.ndarray


@dataclass(frozen=True)
class _Place:
    """Describe where the light of a source falls.

    Attributes
    ----------
    x, y : ndarray
        Columns, and rows (row, 1), of the cut-out.
    along : ndarray
        Columns from -1 to 1.
    middle : ndarray
        Row of the middle of the slit in each column.
    width : ndarray
        Standard deviation of the trace in each column [pixel].
    passed : ndarray
        Part of a uniform sky that the shutters let through (row, column).
    is_cut : bool
        Whether the shutters also cut the light of the source.
    """

    x: np.ndarray
    y: np.ndarray
    along: np.ndarray
    middle: np.ndarray
    width: np.ndarray
    passed: np.ndarray
    is_cut: bool

    def trace(self, nod: int) -> np.ndarray:
        """Return the planned row of a source in shutter -1, 0 or 1; rows and shutters count in opposite directions."""
        return self.middle - nod * SHUTTER_PITCH * _ROWS_A_UNIT

    def light_at(self, centre: np.ndarray) -> np.ndarray:
        """Return the part of the light in each pixel, for a source at these rows."""
        return _profile(self.y - centre, self.width) * (self.passed if self.is_cut else 1.0)


def _place(rows: int, columns: int, fwhm: float, tilt: float, shutters: str, is_cut: bool) -> _Place:
    x, y = np.arange(columns), np.arange(rows)[:, None]
    along = 2 * x / max(columns - 1, 1) - 1
    middle = rows / 2 - 0.3 + tilt * (x - columns / 2) + 0.4 * (along**2 - 1 / 3)
    width = fwhm / 2.3548 * (1 + 0.25 * along)
    return _Place(x, y, along, middle, width, _open_part(y - middle, shutters), is_cut)


def _relative_spectrum(at_trace: np.ndarray, columns: int, lines: bool) -> np.ndarray:
    """Return the spectrum of the source, about 1, at wavelengths given as columns of the middle of the slit."""
    spectrum = 0.7 + 0.3 * np.cos(6 * at_trace / max(columns - 1, 1) - 2.5)
    for at, height, size in _LINES if lines else ():
        spectrum = spectrum + height * np.exp(-0.5 * ((at_trace - at * columns) / size) ** 2)
    return np.asarray(spectrum)


def _observe(random: np.random.Generator, mean: np.ndarray) -> _Images:
    """Return images with the noise of photons and of the readout."""
    photons = random.poisson(mean).astype(float)
    signal = photons + READ_NOISE * random.normal(size=mean.shape)
    read = np.full(mean.shape, READ_NOISE**2)
    return _Images(signal, np.maximum(signal, 0.0), read, mean + read)


def _subtract(random: np.random.Generator, images: _Images, mean: np.ndarray, count: int) -> _Images:
    """Subtract the signal of one of ``count`` other nods, divided by their number."""
    there = random.poisson(mean) + READ_NOISE * random.normal(size=images.signal.shape)
    return _Images(
        images.signal - there / count,
        images.poisson + np.maximum(there, 0) / count**2,
        images.read + READ_NOISE**2 / count**2,
        images.variance + (mean + READ_NOISE**2) / count**2,
    )


def _choose_bad_pixels(random: np.random.Generator, kind: str, rows: int, columns: int) -> np.ndarray:
    """Return which pixels are bad (row, column)."""
    is_bad = np.zeros((rows, columns), dtype=bool)
    if kind == "isolated":
        is_bad = random.random(is_bad.shape) < 0.012
    elif kind == "clusters":
        for _ in range(columns // 8):
            height = int(random.integers(2, 4))
            row, column = int(random.integers(0, rows - height)), int(random.integers(0, columns - 2))
            is_bad[row : row + height, column : column + 2] = True
    return is_bad


def _slit(
    images: _Images, place: _Place, is_bad: np.ndarray, integrations: int, attributes: dict[str, str]
) -> xr.Dataset:
    """Return the cut-out in the form that the observatory's pipeline makes."""
    from_middle = place.y - place.middle
    inside = np.abs(from_middle) < (_MARGIN + SHUTTER_PITCH) * _ROWS_A_UNIT
    wavelength = np.where(inside, 0.6 + 4.6 * (place.x + _COLUMNS_A_ROW * from_middle) / place.x.size, np.nan)
    flags = np.where(is_bad, PixelFlag.DO_NOT_USE | PixelFlag.OTHER_BAD_PIXEL, 0)
    flags = np.where(inside, flags, PixelFlag.DO_NOT_USE | PixelFlag.NON_SCIENCE)
    is_hidden = (flags > 0) & ~is_bad
    dims = ("integration", *IMAGE) if integrations else IMAGE
    part = slice(None) if integrations else 0

    def variable(name: str, values: np.ndarray, units: str) -> xr.Variable:
        shown = np.where(is_hidden, np.nan, values)[part].astype(np.float32)
        return xr.Variable(dims, shown, {**variable_attributes(name), "units": units})

    all_flags = np.broadcast_to(flags, images.signal.shape)[part].astype(np.uint32)
    slit = xr.Dataset(
        {
            "sci": variable("sci", images.signal * ELECTRON, "MJy"),
            "dq": (dims, all_flags, variable_attributes("dq")),
            "var_poisson": variable("var_poisson", images.poisson * ELECTRON**2, "(MJy)2"),
            "var_rnoise": variable("var_rnoise", images.read * ELECTRON**2, "(MJy)2"),
            "wavelength": (IMAGE, wavelength.astype(np.float32), {**variable_attributes("wavelength"), "units": "um"}),
        },
        coords={"row": _FIRST_ROW + place.y[:, 0], "column": _FIRST_COLUMN + place.x},
        attrs={**_HEADER, **attributes},
    )
    if integrations:
        days = 60000.0 + np.arange(integrations) * 0.001
        slit = slit.assign_coords(integration=1 + np.arange(integrations))
        slit = slit.assign_coords(int_mid_MJD_UTC=("integration", days, {"units": "d"}))
    return slit


def _profile(distance: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Return the part of the light in each pixel."""

    def gaussian(centre: float, sigma: np.ndarray) -> np.ndarray:
        edges = [(distance - centre + side) / (sigma * np.sqrt(2)) for side in (-0.5, 0.5)]
        return np.asarray(0.5 * (erf(edges[1]) - erf(edges[0])))

    return 0.86 * gaussian(0.0, width) + 0.10 * gaussian(0.25, 1.9 * width) + 0.04 * gaussian(-0.4, 3.0 * width)


def _open_part(distance: np.ndarray, shutters: str) -> np.ndarray:
    """Return the part of a uniform sky in each pixel; ``distance`` is rows from the middle of three shutters."""
    place = -distance / _ROWS_A_UNIT
    found = np.zeros(distance.shape)
    for number, state in enumerate(shutters):
        if state != "0":  # bars between shutters are not simulated
            edges = [(number - 1 + side) * SHUTTER_PITCH for side in (-0.5, 0.5)]
            if shutters[number - 1 : number] in ("", "0"):
                edges[0] = (number - 1) * SHUTTER_PITCH - 0.5
            if shutters[number + 1 : number + 2] in ("", "0"):
                edges[1] = (number - 1) * SHUTTER_PITCH + 0.5
            blur = 0.6 * np.sqrt(2) / _ROWS_A_UNIT
            found += 0.5 * (erf((place - edges[0]) / blur) - erf((place - edges[1]) / blur))
    return found
