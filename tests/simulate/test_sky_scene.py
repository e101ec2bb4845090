import numpy as np
import pytest
from affine_optics import AffineOptics
from scipy.special import ndtr

from nsxr.optics.slit import Slit, Slitlet
from nsxr.simulate.profiles import aperture_of, extended_profile, point_profile
from nsxr.simulate.sky import Shape, Sky, SkySource
from nsxr.simulate.sky_scene import LINE_SPREAD, render_sky
from nsxr.simulate.slit_grid import slit_grid
from nsxr.simulate.spectra import Line, PowerLaw, Spectrum

OPTICS = AffineOptics()
SLIT = Slit("S200A1", 5, 0.0, 0.0, 7.7e-5, 1.77e-4, -0.55, 0.55, (1.0, 3.0), -1)
ROWS, COLUMNS = np.arange(80, 130), np.arange(80, 560)
POINTING = (OPTICS.ra, OPTICS.dec)


class Ideal:
    """An instrument of which all is known: a Gaussian spread of 0.05 arcsec a um, 1e6 electrons a Jy."""

    def cumulative(self, distance, wavelength):
        return ndtr(distance / (0.03 * wavelength))

    def smear(self, wavelength):
        return np.full(np.shape(wavelength), 0.03)

    def sensitivity(self, slit, wavelength):
        return np.full(np.shape(wavelength), 1e6)

    def flat(self, slit, wavelength, rows, columns):
        return np.ones(np.shape(wavelength))

    def wavelengths(self, slit):
        return (1.0, 3.0)

    def uniform(self, slit, wavelength):
        return np.ones(np.shape(wavelength))

    def pixel_area(self, slit):
        return 4.8e-13


def point(spectrum, slit=SLIT, x=0.0, y=0.0, name="star"):
    ra, dec = (float(v) for v in OPTICS.slit_to_sky(x, y, 2.0, slit))
    return SkySource(name, spectrum, ra, dec)


def rendered(*sources, slits=(SLIT,), **others):
    return render_sky(Sky(sources, **others), OPTICS, slits, Ideal(), POINTING, ROWS, COLUMNS)


def slitlet(state, low, high):
    return Slitlet(
        "7", 3, 0.0, 0.0, 7.7e-5, 1.77e-4, low, high, (1.0, 3.0), -1,
        7, 1, 50, 60, state, (), None, False, 1.36, 1.15,
    )  # fmt: skip


def test_grid_between_nodes_is_that_of_the_optics():
    grid = slit_grid(OPTICS, SLIT, (1.0, 3.0), ROWS, COLUMNS, 0.75)
    wide = Slit(*[*SLIT.__dict__.values()][:6], -9, 9, (1.0, 3.0), -1)
    seen = OPTICS.forward(grid.columns[None, :] - 0.5, grid.rows[:, None].astype(float), wide)
    np.testing.assert_allclose(grid.left, seen.wavelength, atol=1e-5 * OPTICS.dispersion)
    seen = OPTICS.forward(grid.columns[None, :].astype(float), grid.rows[0] - 0.5, wide)
    np.testing.assert_allclose(grid.slit_y[0], seen.slit_y[0], atol=1e-6)
    few = slit_grid(OPTICS, SLIT, (1.0, 3.0), ROWS, COLUMNS[::7], 0.75)
    at = np.searchsorted(grid.columns, few.columns)
    np.testing.assert_allclose(few.right, grid.right[:, at], atol=1e-6 * OPTICS.dispersion)


@pytest.mark.parametrize("fwhm", [0.0, 900.0])
def test_lines_keep_their_flux_and_place(fwhm):
    line = Line(2.21337, 3e-19, fwhm)
    light = rendered(point(Spectrum(None, (line,)), y=0.07))
    one = light.slits[0]
    integral = (one.rate / 1e6 * one.grid.pixel_wavelength).sum()
    truth = Spectrum.line_integral(line)
    assert truth == pytest.approx(3e-19 * 1e26 / 2.99792458e14 * 2.21337**2, rel=1e-9)
    sigma = 0.03 * line.wavelength
    passed = (2 * ndtr(0.1 / sigma) - 1) * (ndtr(0.43 * 0.46 / sigma) - ndtr(-0.57 * 0.46 / sigma))
    assert integral == pytest.approx(truth * passed, rel=1.5e-3)
    # columns are summed, and they are not at a right angle to the trace
    tilted = 1 + OPTICS.slant * OPTICS.slope / OPTICS.height
    assert integral == pytest.approx(truth * passed * tilted, rel=1e-4)
    rows, columns = np.meshgrid(one.grid.rows, one.grid.columns, indexing="ij")
    expected = OPTICS.inverse(0.07, line.wavelength, SLIT)
    # light-weighted: the dispersion changes a little over the line
    assert (one.rate * columns).sum() / one.rate.sum() == pytest.approx(expected[0], abs=0.02)
    assert (one.rate * rows).sum() / one.rate.sum() == pytest.approx(expected[1], abs=0.02)


def test_an_unresolved_line_has_the_line_spread():
    light = rendered(point(Spectrum(None, (Line(2.0, 1e-19),))))
    row = light.slits[0].rate[light.slits[0].rate.sum(axis=1).argmax()]
    x = light.slits[0].grid.columns
    mean = (row * x).sum() / row.sum()
    variance = (row * (x - mean) ** 2).sum() / row.sum()
    assert variance == pytest.approx(LINE_SPREAD**2 + 1 / 12, rel=0.01)


def test_columns_sum_to_the_spectrum():
    light = rendered(point(Spectrum(PowerLaw(2e-5, 2.0, -1.3))))
    one = light.slits[0]
    inside = slice(30, -30)
    (source,) = one.sources
    at = OPTICS.forward(one.grid.columns[inside].astype(float), *_trace(one), SLIT).wavelength
    truth = 2e-5 * (at / 2.0) ** -1.3 * 1e6
    across = ndtr(0.1 / (0.03 * at)) - ndtr(-0.1 / (0.03 * at))
    along = ndtr(0.23 / (0.03 * at)) - ndtr(-0.23 / (0.03 * at))
    np.testing.assert_allclose(one.rate.sum(axis=0)[inside], truth * across * along, rtol=1e-3)
    assert source.fraction == pytest.approx(float(ndtr(0.1 / 0.06) * 2 - 1) * 1.0, rel=1e-3)


def _trace(one):
    inside = slice(30, -30)
    return (OPTICS.base + OPTICS.slope * (one.grid.columns[inside] - OPTICS.middle),)


def test_the_sky_has_its_brightness_and_bars():
    three = slitlet("1x1", -1.65, 1.65)
    light = rendered(slits=(three,), background=Spectrum(PowerLaw(0.5, 2.0, 0.0)))
    one = light.slits[0]
    per_pixel = 0.5 * 1e6 * 4.8e-13 * 1e6
    y = one.grid.slit_y[:-1] * 0.5 + one.grid.slit_y[1:] * 0.5
    middle = np.abs(y) < 0.1
    np.testing.assert_allclose(one.rate[middle], per_pixel, rtol=2e-3)
    bar = np.abs(np.abs(y) - 0.575) < 0.02
    assert 0.35 < (one.rate[bar] / per_pixel).min() < 0.5
    np.testing.assert_allclose(one.rate[np.abs(y) > 2.0], 0, atol=1e-3 * per_pixel)
    # all light is that of three shutters
    total = (one.rate * np.abs(np.diff(one.grid.slit_y, axis=0))).sum(axis=0)[60:-60]
    np.testing.assert_allclose(total, 3 * per_pixel, rtol=1e-3)


def test_closed_shutters_send_no_light():
    gap = aperture_of(slitlet("1x01", -1.65, 2.8), 0.2, 0.46)
    assert gap.open_y == pytest.approx(np.array([(-1.65, -0.65), (-0.5, 0.5), (1.8, 2.8)]))
    profile = extended_profile(gap, Ideal(), np.array([1.0, 3.0]), 1.0)
    assert profile.below[:, -1] == pytest.approx(3.0)


@pytest.mark.parametrize("place", [0.57, 0.575, 0.6])
def test_a_point_behind_a_bar_sends_the_light_that_its_openings_let_through(place):
    opening = aperture_of(slitlet("1x1", -1.65, 1.65), 0.2, 0.46)
    one, at = np.array([0.6]), np.array([0.0])
    profile = point_profile(opening, Ideal(), one, at, np.array([place]))

    def passes(low, high, centre, size):
        return np.diff(ndtr((np.array([low, high]) - centre) * size / (0.03 * 0.6)))[0]

    along = sum(passes(k * 1.15 - 0.5, k * 1.15 + 0.5, place, 0.46) for k in (-1, 0, 1))
    np.testing.assert_allclose(profile.below[0, -1], along * passes(-0.5, 0.5, 0.0, 0.2), rtol=1e-9)


def test_a_point_beside_the_middle_loses_light_and_moves():
    central, beside = (rendered(point(Spectrum(None, (Line(2.0, 1e-19),)), x=x)) for x in (0.0, 0.4))
    (a,), (b,) = central.slits[0].sources, beside.slits[0].sources
    assert (b.x, b.y) == pytest.approx((0.4, 0.0), abs=1e-4)
    across = float(ndtr((0.1 - 0.08) / 0.06) - ndtr((-0.1 - 0.08) / 0.06))
    assert b.fraction / a.fraction == pytest.approx(across / float(2 * ndtr(0.1 / 0.06) - 1), rel=1e-3)
    x = COLUMNS
    (first, second) = ((each.rate.sum(axis=0) * x).sum() / each.rate.sum() for each in (central, beside))
    # the centre of what passes, 2 pixels for an open width
    passed = np.linspace(-0.5, 0.5, 2001)
    weight = np.exp(-0.5 * ((passed - 0.4) * 0.2 / 0.06) ** 2)
    assert second - first == pytest.approx(2.0 * (weight * passed).sum() / weight.sum(), abs=0.01)


def test_an_extended_source_has_its_surface_brightness():
    shape = Shape("sersic", 0.3, 0.5, 30.0, 1.0)  # along the slit
    ra, dec = (float(v) for v in OPTICS.slit_to_sky(0.0, 0.0, 2.0, SLIT))
    source = SkySource("galaxy", Spectrum(PowerLaw(2.0, 2.0, 0.0)), ra, dec, None, shape)
    uniform = SkySource("glow", source.spectrum, ra, dec, None, Shape("uniform", 30.0))
    one, all_over = rendered(source).slits[0], rendered(uniform).slits[0]
    flat = rendered(background=source.spectrum).slits[0]
    np.testing.assert_allclose(all_over.rate, flat.rate, rtol=1e-3, atol=1e-3)
    ratio = one.rate / np.maximum(flat.rate, 1e-9)
    column = ratio[:, 240][np.abs(one.grid.centre_slit_y[:, 240]) < 0.4]
    assert column.argmax() in (column.size // 2 - 1, column.size // 2)
    assert 1.5 < column.max() < np.exp(1.678)
