"""Cut-outs of spectra on the detector with known truth: undersampled, tilted traces, bad pixels, nods, series."""

from typing import Annotated, Literal

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

__all__ = ["simulate_trace"]

READ_NOISE = 8.0  # electrons of a rate, in the time of the exposure
ELECTRON = 1e-15  # MJy of one electron in a pixel
_ROWS_A_UNIT = 4.4  # detector rows for the open height of a shutter
_COLUMNS_A_ROW = 0.05  # by which lines of one wavelength are tilted
_MARGIN = 1.05


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
) -> tuple[xr.Dataset, xr.Dataset]:
    """Simulate the cut-out of a slitlet of three shutters, as the observatory's pipeline would give it.

    The profile is no Gaussian: a core, and a skirt that is broader and off centre; its width grows along the
    dispersion. Variances of photon noise come from the noisy signal itself, as in real products.

    Parameters
    ----------
    signal_to_noise : float, default 45
        Of the flux of a typical column.
    bad_pixels : {"isolated", "none", "clusters"}
        1.2 % of all pixels; none; or clusters of 2 to 3 rows by 2 columns, one for 8 columns.
    lines : bool, default False
        Add emission lines, up to 15 times the continuum.
    fwhm : float, default 1.8
        Width of the trace in the middle [pixel].
    tilt : float, default 0.012
        Slope of the trace [row per column].
    offset : float, default 0
        Distance of the source from its planned position [pixel].
    nod : int, default 0
        Shutter, -1, 0 or 1, in which the source stands.
    background : float, default 0
        Electrons of background in every pixel.
    negative_nods : bool, default False
        Subtract what was seen in other nods, their mean, with their noise.
    other_nods : {2, 1}
        How many, if so.
    sky : float, default 0
        Electrons of sky in every pixel behind an open shutter, and in no other.
    shutters : str, default "111"
        Which of the shutters are open, lowest first.
    source_type : {"POINT", "EXTENDED"}
        Shutters cut the light of an extended source; that of a point only where one of them is closed.
    neighbour : float, default 0
        Light of another point source in the slit, relative to the first, with another spectrum.
    neighbour_distance : float, default 7
        Its distance [row].
    rows : int, default 30
        Rows of the cut-out.
    columns : int, default 420
        Columns of the cut-out.
    integrations : int, default 0
        Length of a series; 0 for a single exposure.
    depth : float, default 0
        Relative depth of a transit in the middle third of a series.
    seed : int, default 0
        Of the random numbers.

    Returns
    -------
    slit : Dataset
        ``sci`` [MJy], ``dq``, ``var_poisson``, ``var_rnoise``, ``wavelength`` [um]; attributes as of a slit.
    truth : Dataset
        ``flux`` [Jy] of each column (and integration), ``profile`` and ``variance`` [MJy2] of each pixel, ``trace``
        [detector row], ``is_bad``. The flux is what shutters let through.
    """
    if bad_pixels not in ("none", "isolated", "clusters"):
        raise ParameterError(f"bad_pixels is {bad_pixels!r}, expected none, isolated or clusters")
    check_seed(seed)
    random = np.random.default_rng(seed)
    x, y = np.arange(columns), np.arange(rows)[:, None]
    along = 2 * x / max(columns - 1, 1) - 1
    middle = rows / 2 - 0.3 + tilt * (x - columns / 2) + 0.4 * (along**2 - 1 / 3)
    place = nod * SHUTTER_PITCH  # in the slit; rows count the other way
    trace = middle - place * _ROWS_A_UNIT + offset
    width = fwhm / 2.3548 * (1 + 0.25 * along)
    passed = _open_part(y - middle, shutters)
    is_extended = source_type == "EXTENDED"
    is_cut = is_extended or "0" in shutters

    def light_at(centre: np.ndarray) -> np.ndarray:
        return _profile(y - centre, width) * (passed if is_cut else 1.0)

    profile = light_at(trace)
    at_trace = x + _COLUMNS_A_ROW * (trace - middle)  # wavelength, in columns of the middle of the slit
    continuum = 0.7 + 0.3 * np.cos(6 * at_trace / max(columns - 1, 1) - 2.5)
    if lines:
        for at, height, size in ((0.14, 4, 1.2), (0.36, 8, 0.9), (0.3636, 3, 0.9), (0.71, 15, 1.1), (0.88, 2, 3.0)):
            continuum = continuum + height * np.exp(-0.5 * ((at_trace - at * columns) / size) ** 2)
    noisy = (READ_NOISE**2 + background + sky) / np.mean((profile**2).sum(0))
    electrons = (signal_to_noise**2 + np.sqrt(signal_to_noise**4 + 4 * signal_to_noise**2 * noisy)) / 2 * continuum
    light = np.ones(max(integrations, 1))
    light[integrations // 3 : 2 * integrations // 3] -= depth
    beside = neighbour * (0.9 - 0.4 * along) * np.mean(electrons)
    point_width = 1.8 / fwhm * width if is_extended else width

    def others_at(centre: np.ndarray) -> np.ndarray:
        return np.asarray(passed * (beside * _profile(y - centre - neighbour_distance, point_width) + sky))

    others = others_at(trace) if neighbour or sky else 0.0
    mean = light[:, None, None] * electrons * profile + others + background
    photons = random.poisson(mean).astype(float)
    images = photons + READ_NOISE * random.normal(size=mean.shape)
    poisson = np.maximum(images, 0.0)
    read = np.full(mean.shape, READ_NOISE**2)
    variance = mean + read
    if negative_nods:
        for other in list({-1, 0, 1} - {nod})[:other_nods]:
            centre = middle - other * SHUTTER_PITCH * _ROWS_A_UNIT + offset
            light_there = electrons * light_at(centre)
            if neighbour or sky:
                light_there = light_there + others_at(centre)
            there = random.poisson(light_there + background) + READ_NOISE * random.normal(size=images.shape)
            images = images - there / other_nods
            poisson = poisson + np.maximum(there, 0) / other_nods**2
            read = read + READ_NOISE**2 / other_nods**2
            variance = variance + (light_there + background + READ_NOISE**2) / other_nods**2
    is_bad = np.zeros((rows, columns), dtype=bool)
    if bad_pixels == "isolated":
        is_bad = random.random(is_bad.shape) < 0.012
    elif bad_pixels == "clusters":
        for _ in range(columns // 8):
            height = int(random.integers(2, 4))
            row, column = int(random.integers(0, rows - height)), int(random.integers(0, columns - 2))
            is_bad[row : row + height, column : column + 2] = True
    unit_range = (-_MARGIN - SHUTTER_PITCH, _MARGIN + SHUTTER_PITCH)
    inside = np.abs(y - middle) < (unit_range[1] - unit_range[0]) / 2 * _ROWS_A_UNIT
    wavelength = np.where(inside, 0.6 + 4.6 * (x + _COLUMNS_A_ROW * (y - middle)) / columns, np.nan)
    flags = np.where(is_bad, PixelFlag.DO_NOT_USE | PixelFlag.OTHER_BAD_PIXEL, 0)
    flags = np.where(inside, flags, PixelFlag.DO_NOT_USE | PixelFlag.NON_SCIENCE)
    dims = ("integration", *IMAGE) if integrations else IMAGE
    shape = slice(None) if integrations else 0
    hidden = (flags > 0) & ~is_bad

    def variable(name: str, values: np.ndarray, units: str) -> tuple[tuple[str, ...], np.ndarray, dict[str, object]]:
        return (
            dims,
            np.where(hidden, np.nan, values)[shape].astype(np.float32),
            {
                **variable_attributes(name),
                "units": units,
            },
        )

    images = np.where(is_bad, images + random.normal(size=is_bad.shape) * 300 * np.sqrt(variance[0]), images)
    slit = xr.Dataset(
        {
            "sci": variable("sci", images * ELECTRON, "MJy"),
            "dq": (dims, np.broadcast_to(flags, images.shape)[shape].astype(np.uint32), variable_attributes("dq")),
            "var_poisson": variable("var_poisson", poisson * ELECTRON**2, "(MJy)2"),
            "var_rnoise": variable("var_rnoise", read * ELECTRON**2, "(MJy)2"),
            "wavelength": (IMAGE, wavelength.astype(np.float32), {**variable_attributes("wavelength"), "units": "um"}),
        },
        coords={"row": 200 + np.arange(rows), "column": 600 + x},
        attrs={
            "TELESCOP": "JWST",
            "INSTRUME": "NIRSPEC",
            "DETECTOR": "NRS1",
            "EXP_TYPE": "NRS_BRIGHTOBJ" if integrations else "NRS_MSASPEC",
            "FILTER": "CLEAR",
            "GRATING": "PRISM",
            "SLTNAME": "12",
            "SRCTYPE": source_type,
            "SRCNAME": "simulated",
            "SOURCEID": 1,
            "SRCXPOS": 0.0,
            "SRCYPOS": 0.0,
            "SHUTSTA": shutters[: nod + 1] + "x" + shutters[nod + 2 :],
            "PIXAR_SR": 4.8e-13,
            "SLTSTRT1": 601,
            "SLTSTRT2": 201,
            "DISPAXIS": 1,
            "SPORDER": 0,
        },
    )
    if integrations:
        slit = slit.assign_coords(integration=1 + np.arange(integrations))
        days = 60000.0 + np.arange(integrations) * 0.001
        slit = slit.assign_coords(int_mid_MJD_UTC=("integration", days, {"units": "d"}))
    if negative_nods or not (background or sky):
        slit.attrs["S_BKDSUB"] = "COMPLETE"
    kept = profile.sum(0) if is_cut else np.ones(columns)
    truth = xr.Dataset(
        {
            "flux": (
                ("integration", "column") if integrations else ("column",),
                (light[:, None] * electrons * kept)[shape] * ELECTRON * 1e6,
                {"units": "Jy"},
            ),
            "profile": (IMAGE, profile / kept),
            "variance": (IMAGE, variance[0] * ELECTRON**2),
            "trace": ("column", trace + 200),
            "is_bad": (IMAGE, is_bad),
        },
        coords=slit[list(IMAGE)].coords,
    )
    return slit, truth


def _profile(distance: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Return the part of the light in each pixel."""

    def gaussian(centre: float, sigma: np.ndarray) -> np.ndarray:
        edges = [(distance - centre + side) / (sigma * np.sqrt(2)) for side in (-0.5, 0.5)]
        return np.asarray(0.5 * (erf(edges[1]) - erf(edges[0])))

    return 0.86 * gaussian(0.0, width) + 0.10 * gaussian(0.25, 1.9 * width) + 0.04 * gaussian(-0.4, 3.0 * width)


def _open_part(distance: np.ndarray, shutters: str) -> np.ndarray:
    """Return the part of an even sky in each pixel, so many rows from the middle of three shutters."""
    place = -distance / _ROWS_A_UNIT
    found = np.zeros(distance.shape)
    for number, state in enumerate(shutters):
        if state != "0":  # bars are not seen
            edges = [(number - 1 + side) * SHUTTER_PITCH for side in (-0.5, 0.5)]
            if shutters[number - 1 : number] in ("", "0"):
                edges[0] = (number - 1) * SHUTTER_PITCH - 0.5
            if shutters[number + 1 : number + 2] in ("", "0"):
                edges[1] = (number - 1) * SHUTTER_PITCH + 0.5
            blur = 0.6 * np.sqrt(2) / _ROWS_A_UNIT
            found += 0.5 * (erf((place - edges[0]) / blur) - erf((place - edges[1]) / blur))
    return found
