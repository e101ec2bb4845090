import json

import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from nsxr.errors import ParameterError
from nsxr.simulate.sky import Shape, Sky, SkySource, Transit, read_sky, zodiacal_light
from nsxr.simulate.spectra import Line, PowerLaw, Spectrum, Table

SPECTRUM = {"continuum": {"flux": 1e-5, "slope": -1}}
SKY = {
    "sources": [
        {"name": "star", "offset": [0.5, -1.0], "spectrum": SPECTRUM},
        {
            "name": "galaxy",
            "ra": 83.82,
            "dec": -69.27,
            "shape": {"kind": "sersic", "radius": 0.3, "index": 1.5, "axis_ratio": 0.6, "position_angle": 30},
            "spectrum": {
                "continuum": {"wavelength": [0.5, 6.0], "flux": [0.2, 0.4]},
                "lines": [{"wavelength": 2.5, "flux": 1e-8, "fwhm": 300}],
            },
        },
    ],
    "background": {"continuum": {"flux": 0.2}},
    "transit": {"depth": 0.01},
}


def written(folder, tree):
    path = folder / "sky.json"
    path.write_text(json.dumps(tree))
    return path


def test_a_sky_is_read_whole(tmp_path):
    sky = read_sky(written(tmp_path, SKY))
    star, galaxy = sky.sources
    assert star == SkySource("star", Spectrum(PowerLaw(1e-5, 2.0, -1.0)), offset=(0.5, -1.0))
    assert galaxy.shape == Shape("sersic", 0.3, 0.6, 30.0, 1.5)
    assert galaxy.spectrum == Spectrum(Table((0.5, 6.0), (0.2, 0.4)), (Line(2.5, 1e-8, 300.0),))
    assert sky.background == Spectrum(PowerLaw(0.2))
    assert sky.transit == Transit(0.01)
    hash(sky)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sourcs": []}, "sourcs"),
        ({"sources": [{"name": "a", "spectrum": SPECTRUM}]}, "'a' needs either ra and dec, or an offset"),
        ({"sources": [{"name": "a", "ra": "x", "dec": 1, "spectrum": SPECTRUM}]}, "source 1: ra is 'x'"),
        ({"sources": [{"name": "a", "offset": [1], "spectrum": SPECTRUM}]}, "expected two numbers"),
        ({"sources": [{"name": "a", "offset": [1, 1]}]}, "needs a name and a spectrum"),
        ({"sources": [{"name": "a", "offset": [1, 1], "spectrum": SPECTRUM}] * 2}, "several sources"),
        ({"background": {"continuum": {"wavelength": [2, 1], "flux": [1, 1]}}}, "must increase from above 0"),
        ({"background": {"lines": [{"wavelength": -1, "flux": 1}]}}, "above 0"),
        ({"background": {"lines": [{"flux": 1}]}}, "background: line"),
        ({"transit": {"depth": 2}}, "depth must be 0 to 1"),
        ({"sources": [SKY["sources"][1] | {"shape": {"kind": "ring"}}]}, "shape is 'ring'"),
        ({"sources": [SKY["sources"][1] | {"shape": {"kind": "gaussian"}}]}, "radius above 0"),
        ({"sources": [SKY["sources"][1] | {"ra": 1e9}]}, "expected degrees: -360 to 360 and -90 to 90"),
        ({"sources": [SKY["sources"][1] | {"dec": 500}]}, "expected degrees: -360 to 360 and -90 to 90"),
        ({"sources": [SKY["sources"][1] | {"name": "Å"}]}, "expected printable ASCII characters"),
        ({"sources": [SKY["sources"][1] | {"name": "a\nb"}]}, "expected printable ASCII characters"),
        ({"background": {"continuum": {"flux": 10**400}}}, "flux is 10000000000000000000, expected a finite number"),
        ({"background": {"continuum": {"wavelength": [1, 2], "flux": [1, -1]}}}, "fluxes must be 0 or more"),
        ({"background": {"continuum": {"wavelength": [-1, 2], "flux": [1, 1]}}}, "must increase from above 0"),
    ],
)
def test_wrong_skies_are_named(tmp_path, change, words):
    with pytest.raises(ParameterError, match=words):
        read_sky(written(tmp_path, change))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PowerLaw("a"), "PowerLaw: flux is 'a', expected a number"),
        (lambda: PowerLaw(True), "PowerLaw: flux is True, expected a number"),
        (lambda: PowerLaw(1.0, slope=np.inf), "PowerLaw: slope is inf, expected a finite number"),
        (lambda: Table((1, 2), "ab"), "Table: flux is 'ab', expected a list of numbers"),
        (lambda: Table(((1, 2), (3, 4)), (1, 2)), r"Table: wavelength\[0\] is a tuple, expected a number"),
        (lambda: Line(2.0, None), "Line: flux is None, expected a number"),
        (lambda: Spectrum("a"), "Spectrum: continuum is 'a', expected a PowerLaw or a Table or none"),
        (lambda: Spectrum(None, 5), "Spectrum: lines is 5, expected a list of Lines"),
        (lambda: Shape("gaussian", "a"), "Shape: radius is 'a', expected a number"),
        (lambda: Transit("a"), "Transit: depth is 'a', expected a number"),
        (lambda: SkySource("a", PowerLaw(1.0), 1, 1), "SkySource: spectrum is a PowerLaw, expected a Spectrum"),
        (lambda: SkySource("a", Spectrum(), offset=5), "SkySource: offset is 5, expected a list of numbers or none"),
        (lambda: SkySource("a", Spectrum(), offset=(1, 2, 3)), "expected two numbers"),
        (lambda: SkySource("a", Spectrum(), "1", 1), "SkySource: ra is '1', expected a number or none"),
        (lambda: SkySource(5, Spectrum(), 1, 1), "SkySource: name is 5, expected a text"),
        (lambda: Sky(None), "Sky: sources is None, expected a list of SkySources"),
        (lambda: Sky((5,)), r"Sky: sources\[0\] is 5, expected a SkySource"),
        (lambda: Sky(background=5), "Sky: background is 5, expected a Spectrum or none"),
    ],
)
def test_fields_of_other_types_are_named(make, message):
    with pytest.raises(ParameterError, match=message):
        make()


def test_lists_and_arrays_become_tuples_of_numbers():
    table = Table(np.array([1, 2]), [0.5, np.float32(1)])
    assert table == Table((1.0, 2.0), (0.5, 1.0))
    assert hash(Spectrum(table, [Line(2, 1)])) == hash(Spectrum(table, (Line(2.0, 1.0),)))


def test_files_that_are_no_sky(tmp_path):
    with pytest.raises(ParameterError, match="cannot be read"):
        read_sky(tmp_path)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ParameterError, match=r"x\.json is not JSON"):
        read_sky(tmp_path / "x.json")
    with pytest.raises(ParameterError, match="does not exist"):
        read_sky(tmp_path / "y.json")
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(ParameterError, match="expected an object"):
        read_sky(tmp_path / "x.json")


@pytest.mark.parametrize("dec", [-69.27, 0.0, 89.9])
def test_offsets_are_distances_on_the_sky(dec):
    source = SkySource("a", Spectrum(), offset=(30.0, -40.0))
    centre, there = SkyCoord(359.999, dec, unit="deg"), SkyCoord(*source.position(359.999, dec), unit="deg")
    assert centre.separation(there).arcsec == pytest.approx(50, abs=1e-4)
    assert centre.position_angle(there).deg == pytest.approx(180 - np.degrees(np.arctan2(30, 40)), abs=1e-4)


@pytest.mark.parametrize("shape", [Shape("gaussian", 0.4, 0.7, 20.0), Shape("sersic", 0.4, 0.7, 20.0, 1.0)])
def test_half_of_the_light_is_inside_the_half_light_radius(shape):
    axis = np.linspace(-8, 8, 1601)
    east, north = np.meshgrid(axis, axis)
    light = shape.brightness(east, north)
    angle = np.deg2rad(20)
    along, across = north * np.cos(angle) + east * np.sin(angle), east * np.cos(angle) - north * np.sin(angle)
    inside = np.hypot(along, across / 0.7) <= 0.4
    assert light[inside].sum() / light.sum() == pytest.approx(0.5, abs=0.005)


def test_transits_dim_the_middle():
    curve = Transit(0.02, 0.4, 0.1).factor(20)
    assert curve.min() == pytest.approx(0.98)
    np.testing.assert_array_equal(curve[[0, 1, -1]], 1)
    np.testing.assert_allclose(curve, curve[::-1])


def test_zodiacal_light_is_smooth_and_rises_in_the_red():
    sky = zodiacal_light().continuum
    at = sky.at(np.array([1.0, 2.5, 5.0]))
    assert 0.1 < at[0] < 0.4
    assert at[1] < at[0]
    assert 0.4 < at[2] < 1.5
