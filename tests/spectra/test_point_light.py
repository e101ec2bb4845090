"""The light of a point anywhere along a slit follows from the light that apertures around its middle enclose."""

from functools import cache

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import gaussian_filter1d

import nsxr
from nsxr.kernels.spectra.point_light import point_light

PITCH, PIXEL = 1.15, 1 / 4.4  # open heights
WAVELENGTH = np.array([1.5, 2.5, 3.5, 4.5, 5.2])
SIZES = np.array([2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0, 24.0])
FINE = np.linspace(-3, 3, 6001)  # open heights


def openings(*shutters):
    return tuple((k * PITCH - 0.5, k * PITCH + 0.5) for k in shutters)


@cache
def truth(place, wavelength, opened):
    """Return the running sum of the light of a point that is no Gaussian: a core, and wings that fall as a power."""
    distance = (FINE - place) / PIXEL / wavelength
    core = np.exp(-0.5 * (distance / 0.13) ** 2) / 0.13 / 2.5066
    image = 0.85 * core + 0.3 * (1 + (distance / 0.4) ** 2) ** -2
    passes = sum(((low < FINE) & (high > FINE)).astype(float) for low, high in opened)
    light = gaussian_filter1d(image * passes, 0.43 * PIXEL / (FINE[1] - FINE[0]))
    return np.cumsum(light)


def enclosed(below, place, size):
    half = 0.5 * size * PIXEL
    return (np.interp(place + half, FINE, below) - np.interp(place - half, FINE, below)) / below[-1]


@cache
def fitted(opened):
    table = [[enclosed(truth(0.0, lam, opened), 0.0, size) for lam in WAVELENGTH] for size in SIZES]
    sizes = np.repeat(SIZES[:, None], WAVELENGTH.size, axis=1)
    return point_light(WAVELENGTH, sizes, np.array(table), opened, PIXEL)


def at_place(place):
    return lambda wavelength: truth(place, wavelength, openings(-1, 0, 1))


@pytest.mark.parametrize("place", [0.0, 0.2, 0.4, 0.575, -0.3])
def test_light_in_the_aperture_of_a_point_near_a_bar(place):
    opened = openings(-1, 0, 1)
    points = fitted(opened)
    slit_y = (place + PIXEL * np.arange(-14, 15))[:, None] * np.ones(WAVELENGTH.size)
    light = points.in_pixels(np.arange(WAVELENGTH.size), slit_y, place, place)
    within = np.clip(3.5 - np.abs(np.arange(-14, 15)), 0, 1)[:, None]
    edges = place + PIXEL * np.arange(-14.5, 15)
    true = np.array([np.diff(np.interp(edges, FINE, below)) / below[-1] for below in map(at_place(place), WAVELENGTH)])
    expected = (within * true.T).sum(0)
    centred = np.array([enclosed(below, 0.0, 6.0) for below in map(at_place(0.0), WAVELENGTH)])
    np.testing.assert_allclose((within * light).sum(0) / points.enclosed(6.0), expected / centred, atol=0.0015)
    if abs(place) > 0.5:  # the middle of the slit is no stand-in for a point behind a bar
        assert np.abs(expected / centred - 1).max() > 0.005


def test_closed_shutters_hide_light():
    points = fitted(openings(0, 1))
    slit_y = np.array([[-1.15], [0.0], [1.15]]) * np.ones(WAVELENGTH.size)
    dark, own, open_ = points.in_pixels(np.arange(WAVELENGTH.size), slit_y, 0.0, 0.0)
    assert (dark < 1e-6).all()
    assert (own > 0.2).all()
    assert (open_[-2:] > 1e-4).all()


def test_light_of_a_nod_is_relative_to_that_of_the_source():
    points = fitted(openings(-1, 0, 1))
    slit_y = (PIXEL * np.arange(-14, 15))[:, None] * np.ones(WAVELENGTH.size)
    nod = points.in_pixels(np.arange(WAVELENGTH.size), slit_y, 0.575, 0.0).sum(0)
    nodded, own = (np.array([truth(at, lam, openings(-1, 0, 1))[-1] for lam in WAVELENGTH]) for at in (0.575, 0.0))
    np.testing.assert_allclose(nod, nodded / own, atol=0.03)


def table():
    """Return the reference of the aperture correction for points in the middle of three shutters."""
    opened = openings(-1, 0, 1)
    values = [[1 / enclosed(truth(0.0, lam, opened), 0.0, size) for lam in WAVELENGTH] for size in SIZES]
    variables = {
        "filter": ("entry", ["CLEAR"]),
        "grating": ("entry", ["PRISM"]),
        "wavelength": (("entry", "node"), WAVELENGTH[None]),
        "size": (("entry", "step", "node"), np.repeat(SIZES[:, None], WAVELENGTH.size, axis=1)[None]),
        "correction": (("entry", "step", "node"), np.array(values)[None]),
    }
    return xr.Dataset(variables, attrs={"reference_type": "apcorr", "filename": "apcorr.fits"})


@pytest.mark.parametrize("bits", [3, 1, 2, 0])
def test_wings_in_subtracted_nods_are_added(bits):
    """A sum over 6 rows of a source, less its light in those of two nods that are part of a pixel's background."""
    own, nods = 0.1, [0.1 + PITCH, 0.1 - PITCH]
    rows = np.arange(-14, 15)
    edges = own + PIXEL * np.arange(-14.5, 15)
    within = np.clip(3.5 - np.abs(rows), 0, 1)[:, None]
    seen = []
    for lam in WAVELENGTH:
        light = [np.diff(np.interp(edges, FINE, at_place(at)(lam))) for at in (own, *nods)]
        share = [(bits >> k & 1) / max(bits.bit_count(), 1) for k in (0, 1)]
        passed = at_place(own)(lam)[-1]
        seen.append(((light[0] - share[0] * light[1] - share[1] * light[2]) / passed * within[:, 0]).sum())
    shape = (rows.size, WAVELENGTH.size)
    profile = np.exp(-0.5 * rows[:, None] ** 2) * np.ones(WAVELENGTH.size)
    header = {"EXP_TYPE": "NRS_MSASPEC", "FILTER": "CLEAR", "GRATING": "PRISM", "SRCTYPE": "POINT", "SLTNAME": "7"}
    header |= {"SHUTSTA": "1x1", "SLTYSCL": PITCH, "source_places": f"[{own}]", "nod_shifts": f"[{PITCH}, {-PITCH}]"}
    pixels = {
        "weight": within * np.ones(WAVELENGTH.size),
        "profile": profile / (within * profile).sum(0),
        "slit_y": np.broadcast_to((own + PIXEL * rows)[:, None], shape),
        "subtracted": np.full(shape, bits, np.uint8),
    }
    flux = np.array(seen)
    columns = {"flux": flux, "npixels": np.full(flux.size, 6.0), "aperture_size": np.full(flux.size, 6.0)}
    spectrum = xr.Dataset(
        {name: (("row", "dispersion"), values) for name, values in pixels.items()}
        | {name: ("dispersion", values) for name, values in columns.items()},
        coords={"wavelength": ("dispersion", WAVELENGTH)},
        attrs=header,
    )
    corrected = nsxr.apply_aperture_correction(spectrum, table())["flux"]
    np.testing.assert_allclose(corrected, 1, atol=0.002)
    centred = flux / np.array([enclosed(truth(0.0, lam, openings(-1, 0, 1)), 0.0, 6.0) for lam in WAVELENGTH])
    if bits == 3:
        assert centred.min() < 0.985
