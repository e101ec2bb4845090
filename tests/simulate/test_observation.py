import json
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

import nsxr
from nsxr.errors import DegradedResultWarning, OutputExistsError, ParameterError
from nsxr.formats.msa_metafile import read_metafile
from nsxr.model.dq import PixelFlag
from nsxr.simulate import Artifacts, simulate_exposure
from nsxr.simulate.compact_optics import write_compact_optics
from nsxr.simulate.configuration import configure
from nsxr.simulate.flux_references import write_flux_references
from nsxr.simulate.instrument import SimulatedInstrument
from nsxr.simulate.observation import observe
from nsxr.simulate.ramps import Ramps
from nsxr.simulate.scene import make_scene
from nsxr.simulate.shutters import FAILED_OPEN, place_of, shutter_slit
from nsxr.simulate.sky import Sky, SkySource
from nsxr.simulate.spectra import Line, PowerLaw, Spectrum
from tests.optics.exposures import make_rates

FILTERS = {"PRISM": "CLEAR", "G395H": "F290LP"}
LINES = {"PRISM": (1.2, 2.5, 4.1), "G395H": (3.0, 3.3, 3.6)}


@pytest.fixture(scope="module")
def compact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("optics")
    return {g: write_compact_optics(folder, grating=g, filter=f) for g, f in FILTERS.items()}


def configured(mode, grating, subarray="FULL", **others):
    values = {"readout": "NRSRAPID", "groups": 2, "integrations": 1, "detector": "NRS1"} | others
    return configure(subarray=subarray, scene=mode, grating=grating, **values)


def observed(configuration, sky, compact, folder, **others):
    return observe(configuration, sky, compact[configuration.grating], folder, seed=1, peak_rate=100.0, **others)


def lines(grating, flux=1e-18):
    return Spectrum(None, tuple(Line(wavelength, flux) for wavelength in LINES[grating]))


def empty(configuration, compact, folder):
    """Return the optics of an exposure."""
    somewhere = SkySource("corner", Spectrum(), offset=(-60.0, 20.0))
    return observed(configuration, Sky((somewhere,)), compact, folder).optics


@pytest.mark.parametrize(
    ("mode", "grating", "slit"), [("FS", "G395H", "S200A1"), ("FS", "PRISM", "S400A1"), ("IFU", "G395H", "7")]
)
def test_lines_land_at_their_wavelength(mode, grating, slit, compact, tmp_path):
    """Centroids of unresolved lines, seen through the optics, are within 0.02 pixel of their wavelength."""
    configuration = configured(mode, grating)
    optics = empty(configuration, compact, tmp_path)
    ra, dec = (float(v) for v in optics.slit_to_sky(0.0, 0.13, LINES[grating][1], slit))
    seen = observed(configuration, Sky((SkySource("star", lines(grating), ra, dec),)), compact, tmp_path)
    one = next(each for each in seen.light.slits if each.grid.slit.name == slit)
    assert "star" in [source.source for source in one.sources]
    grid, instrument = one.grid, seen.instrument
    flat = instrument.flat(grid.slit, grid.wavelength, grid.rows, grid.columns)
    response = instrument.sensitivity(grid.slit, grid.wavelength) * flat
    y, x = np.meshgrid(grid.rows, grid.columns, indexing="ij")
    for line in lines(grating).lines:
        near = np.abs(grid.wavelength - line.wavelength) < 6 * grid.pixel_wavelength
        light = np.where(near, one.rate, 0)
        column, row = (light * x).sum() / light.sum(), (light * y).sum() / light.sum()
        wavelength = float(optics.forward(column, row, slit, sky=False).wavelength)
        assert abs(wavelength - line.wavelength) < 0.02 * grid.dispersion(line.wavelength)
        # all light that passes the slit is on the detector; columns are not at a right angle to the trace
        tilted = np.gradient(grid.wavelength, axis=0) / np.gradient(grid.wavelength, axis=1)
        tilted *= np.gradient(grid.centre_slit_y, axis=1) / np.gradient(grid.centre_slit_y, axis=0)
        integral = (light / np.maximum(response, 1e-30) * grid.pixel_wavelength * (1 - tilted))[near].sum()
        fraction = next(source.fraction for source in one.sources)
        expected = Spectrum.line_integral(line) * _passes(optics, slit, line.wavelength, ra, dec)
        assert integral == pytest.approx(expected, rel=1e-4)
        assert 0 < fraction < 1


def _passes(optics, slit, wavelength, ra, dec):
    """Twin: the part of a point's light that an opening passes."""
    instrument, slit = SimulatedInstrument.of(optics), optics.slit(slit)
    x, y = (float(v) for v in optics.sky_to_slit(ra, dec, wavelength, slit))
    path = optics.for_slit(slit)
    corner = np.array([path.slit_to_v2v3(a, b, wavelength) for a, b in ((-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))])
    width, height = (float(np.hypot(*(corner[k + 1] - corner[k]))) for k in (0, 2))
    across = [float(instrument.cumulative(np.array((e - x) * width), np.array(wavelength))) for e in (-0.5, 0.5)]
    along = [float(instrument.cumulative(np.array((e - y) * height), np.array(wavelength))) for e in (-0.5, 0.5)]
    return (across[1] - across[0]) * (along[1] - along[0])


def test_shutters_open_around_sources_and_are_read_back(compact, tmp_path):
    configuration = configured("MOS", "PRISM", dithers=3)
    optics = empty(configuration, compact, tmp_path)
    slit = shutter_slit(optics, 4, 100, 50)
    places = {"a": (0.2, -0.3), "b": (-0.1, 1.2), "near": (0.0, 2.9)}  # open units; a shutter is 1.15 high
    sources = [SkySource(n, lines("PRISM"), *map(float, optics.slit_to_sky(*p, 2.95, slit))) for n, p in places.items()]
    seen = observed(configuration, Sky(tuple(sources)), compact, tmp_path)
    read = read_metafile(seen.metafile)
    assert {row.ycen for row in read.shutters} == {49, 50, 51}
    assert {(row.quadrant, row.xcen, row.slitlet_id) for row in read.shutters} == {(4, 100, 1)}
    (primary,) = [row for row in read.shutters if row.is_primary and row.dither == 1]
    x_pitch, y_pitch = 104.98 / 77, 203.5 / 177
    assert (primary.source_id, primary.ycen) == (1, 50)
    assert primary.source_x - 0.5 == pytest.approx(0.2 / x_pitch, abs=1e-3)
    assert primary.source_y - 0.5 == pytest.approx(-0.3 / y_pitch, abs=1e-3)
    (second,) = [row for row in read.shutters if row.source_id == 2 and row.dither == 1]
    assert (second.ycen, second.is_primary) == (51, False)
    nodded = {row.dither: row.ycen for row in read.shutters if row.is_primary}
    assert sorted(nodded.values()) == [49, 50, 51]
    assert nodded[1] == 50
    assert read.sources[1].alias == "a"
    image = fits.getdata(seen.metafile, "SHUTTER_IMAGE")
    assert image.shape == (730, 342)
    assert (image == 1).sum() == 3
    # the light of the source is in the shutters of the slitlet
    (one,) = seen.light.slits
    assert (one.grid.slit.state, one.grid.slit.ycen) == ("1x1", 50)
    assert {source.source for source in one.sources} == {"a", "b", "near"}


def test_nods_move_the_light_by_a_shutter(compact, tmp_path):
    rows = []
    for dither in (1, 2, 3):
        configuration = configured("MOS", "PRISM", dither=dither, dithers=3)
        optics = empty(configured("MOS", "PRISM", dithers=3), compact, tmp_path)
        place = optics.slit_to_sky(0.0, 0.0, 2.95, shutter_slit(optics, 3, 250, 80))
        star = SkySource("star", Spectrum(PowerLaw(1e-6)), *map(float, place))
        light = observed(configuration, Sky((star,)), compact, tmp_path).light.rate
        rows.append((light.sum(axis=1) * np.arange(2048)).sum() / light.sum())
        assert place_of(optics, star.ra, star.dec, 2.95)[:3] == (3, 250, 80)
    steps = np.abs(np.diff(np.sort(rows)))
    np.testing.assert_allclose(steps, 5.1, atol=0.3)  # 0.53 arcsec
    assert sorted(rows)[1] == rows[0]


def test_the_target_is_in_the_middle_of_its_slit(compact, tmp_path):
    star = SkySource("star", Spectrum(PowerLaw(1e-5)), offset=(0.0, 0.0))
    for dither, y in ((1, 0.0), (2, 0.8), (3, 0.8)):
        configuration = configured("FS", "PRISM", dither=dither, dithers=3)
        seen = observed(configuration, Sky((star,)), compact, tmp_path)
        (sighting,) = [one for slit in seen.light.slits for one in slit.sources if one.slit == "S200A1"]
        assert sighting.x == pytest.approx(0, abs=0.2 if y else 0.01)
        assert abs(sighting.y) == pytest.approx(y / 3.3, abs=0.02)
        assert seen.configuration.pointing.aperture.name == "NRS_S200A1_SLIT"


def test_failed_shutters_let_the_sky_in(compact, tmp_path):
    configuration = configured("MOS", "PRISM")
    sky = Sky((SkySource("corner", Spectrum(), offset=(-60.0, 20.0)),), Spectrum(PowerLaw(0.3)))
    seen = observed(configuration, sky, compact, tmp_path, failed_open=[(3, 200, 60)])
    (one,) = (slit for slit in seen.light.slits if slit.grid.slit.name == "3_200_60")
    expected = seen.optics.inverse(0.0, 2.0, one.grid.slit)
    row, column = (round(float(v)) for v in expected[::-1])
    assert seen.light.rate[row, column] > 0
    assert seen.light.rate[row + 12, column] == 0


@pytest.mark.parametrize(("mode", "grating"), [("MOS", "PRISM"), ("IFU", "G395H"), ("BOTS", "PRISM")])
def test_default_skies_shine(mode, grating, compact, tmp_path):
    subarray = "SUB512S" if mode == "BOTS" else "FULL"
    configuration = configured(mode, grating, subarray, integrations=6)
    configuration = replace(configuration, columns=configuration.columns[:: 1 if mode == "BOTS" else 16])
    seen = observed(configuration, "default", compact, tmp_path)
    assert len(seen.light.slits) == {"IFU": 30, "BOTS": 1}.get(mode, len(seen.light.slits)) >= 1
    assert seen.light.rate.max() > 1
    assert np.isfinite(seen.light.rate).all()
    assert (seen.light.rate >= -1e-6).all()
    assert seen.scene.light_curve.min() == pytest.approx(0.98 if mode == "BOTS" else 1.0)


@pytest.mark.parametrize("mode", ["MOS", "FS"])
def test_both_detectors_and_all_dithers_look_at_one_sky(mode, compact, tmp_path):
    skies, files = [], []
    for detector, dither in (("NRS1", 1), ("NRS2", 1), ("NRS1", 3)):
        configuration = configured(mode, "PRISM", detector=detector, dither=dither, dithers=3)
        first = 1200 if detector == "NRS1" else 600
        configuration = replace(configuration, columns=np.arange(first, first + 2))
        seen = observed(configuration, "default", compact, tmp_path)
        skies.append(seen.sky)
        files.append(seen.metafile.read_bytes() if mode == "MOS" else b"")
    assert skies[0] == skies[1] == skies[2]
    assert files[0] == files[1] == files[2]


def test_shutters_of_another_sky_are_kept(compact, tmp_path):
    """Nods share one metafile. That of another sky is refused before any file is written."""
    configuration = configured("MOS", "PRISM", dithers=2)
    configuration = replace(configuration, columns=np.arange(1200, 1202))
    seen = observed(configuration, "default", compact, tmp_path)
    kept = seen.metafile.read_bytes()
    nod = replace(configuration, exposure=2, pointing=replace(configuration.pointing, dither=2))
    assert observed(nod, "default", compact, tmp_path, overwrite=False).metafile.read_bytes() == kept
    (optics,) = {path.parent for path in compact["PRISM"].values()}
    words = {"mode": "MOS", "sky": "default", "groups": 2, "dither": 2, "dithers": 2, "exposure": 2, "optics": optics}
    with pytest.raises(OutputExistsError, match=r"_msa\.fits already there, .* nods share it"):
        simulate_exposure(tmp_path, **words, grating="PRISM", seed=2, columns=64, overwrite=False)
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == kept
    observed(nod, replace(seen.sky, sources=seen.sky.sources[:-1]), compact, tmp_path, overwrite=True)
    assert path.read_bytes() != kept


def test_exposures_and_dithers_have_noise_of_their_own(compact, tmp_path):
    noise = []
    for exposure, dither in ((1, 1), (1, 2), (2, 1), (2, 1)):
        configuration = configured("FS", "PRISM", "SUBS200A1", exposure=exposure, dither=dither, dithers=3)
        noise.append(next(Ramps(configuration, Artifacts(), 1, make_scene(configuration, 5e4, 1)).groups()))
    assert not np.array_equal(noise[0], noise[1])
    assert not np.array_equal(noise[1], noise[2])
    np.testing.assert_array_equal(noise[2], noise[3])


def test_files_of_an_exposure_of_the_sky(tmp_path):
    made = simulate_exposure(
        tmp_path, mode="BOTS", sky="default", subarray="SUB512S", readout="NRSRAPID", groups=2,
        integrations=2, references=False, flux_references=True,
    )  # fmt: skip
    assert {"fflat", "sflat", "dflat", "photom", "area", "extract1d", "apcorr", "wavecorr"} == set(made.flux_references)
    assert all(path.exists() for path in made.flux_references.values())
    with fits.open(made.truth) as truth:
        assert {"WAVELENGTH", "SLIT_Y", "SLIT", "SLITS", "SOURCES", "LINES", "SIGHTINGS", "SPECTRA"} <= {
            hdu.name for hdu in truth
        }
        wavelength, lit = truth["WAVELENGTH"].data, truth["SLIT"].data
        np.testing.assert_array_equal(np.isfinite(wavelength), lit > 0)
        assert truth["SPECTRA"].data["source"].tolist() == ["star", "sky"]
        assert truth["SLITS"].data["name"].tolist() == ["S1600A1"]
        assert truth["RATE"].data[lit > 0].sum() > 0.99 * truth["RATE"].data.sum()
    header = fits.getheader(made.uncal[0])
    assert (header["EXP_TYPE"], header["GRATING"], header["FXD_SLIT"]) == ("NRS_BRIGHTOBJ", "PRISM", "S1600A1")
    assert made.shutters is None


@pytest.mark.parametrize(("mode", "kind"), [("MOS", "MSASPEC"), ("IFU", "IFU")])
def test_light_of_shutters_that_never_close_falls_where_their_reference_says(mode, kind, compact, tmp_path):
    sky = Sky((SkySource("corner", Spectrum(), offset=(-60.0, 20.0)),), Spectrum(PowerLaw(0.3)))
    seen = observed(configured(mode, "PRISM"), sky, compact, tmp_path, failed_open=FAILED_OPEN)
    stuck = [one for one in seen.light.slits if one.grid.slit.name in {f"{q}_{i}_{j}" for q, i, j in FAILED_OPEN}]
    assert len(stuck) == 2  # the spectra of two quadrants fall on the other detector
    lit = np.zeros((2048, 2048), bool)
    for one in stuck:
        lit[np.ix_(one.grid.rows, one.grid.columns)] |= one.rate > 0.5 * one.rate.max(axis=0)
    places = [{"Q": q, "x": i, "y": j, "state": "open"} for q, i, j in FAILED_OPEN]
    (tmp_path / "msaoper.json").write_text(json.dumps({"msaoper": places}))
    rates = make_rates(kind, "PRISM")
    flags = nsxr.flag_stuck_shutters(rates, nsxr.open_operability(tmp_path / "msaoper.json"), optics=seen.optics)
    flagged = (flags["dq"].to_numpy() & PixelFlag.MSA_FAILED_OPEN) > 0
    assert flagged.sum() > 1000
    assert (seen.light.rate[flagged] > 0).all()
    assert (lit != flagged).sum() < 0.1 * lit.sum()  # edges, and light beyond the nominal wavelengths


def test_modes_without_a_sky(tmp_path):
    with pytest.raises(ParameterError, match="mode dark with MIRROR does not disperse"):
        simulate_exposure(tmp_path, mode="dark", sky="default", readout="NRSRAPID", references=False, optics=tmp_path)
    with pytest.raises(ParameterError, match="mode is 'MOS' and scene, its older spelling, is 'FS'"):
        simulate_exposure(tmp_path, mode="MOS", scene="FS")
    for name, value in {"flux_references": True, "optics": tmp_path, "shutters": tmp_path / "x_msa.fits"}.items():
        with pytest.raises(ParameterError, match=f"{name} is for exposures of a sky"):
            simulate_exposure(tmp_path, mode="MOS", **{name: value})
    with pytest.raises(ParameterError, match="mode FS has no MSA metafile; leave out shutters"):
        simulate_exposure(tmp_path, mode="FS", sky="default", shutters=tmp_path / "x_msa.fits")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("place", [(1, 400, 10), (1, 400, 200), (1, 4), (9, 1, 1)])
def test_shutters_that_cannot_fail(place, tmp_path):
    with pytest.raises(ParameterError, match=r"expected quadrant|does not exist"):
        simulate_exposure(tmp_path, mode="MOS", sky="default", failed_open=[place])
    with pytest.raises(ParameterError, match=r"expected quadrant|does not exist"):
        write_flux_references(tmp_path, None, mode="MOS", failed_open=[place])
    assert not [*tmp_path.iterdir()]


def test_light_that_cannot_be(compact, tmp_path):
    configuration = configured("FS", "PRISM", "SUBS200A1")
    configuration = replace(configuration, columns=np.arange(1080, 1520))
    deep = Sky((SkySource("a", Spectrum(PowerLaw(1e-6), (Line(1.2, -1e-15),)), offset=(0.0, 0.0)),))
    with pytest.warns(DegradedResultWarning, match="absorption lines of the sky are deeper than its continuum"):
        rate = observed(configuration, deep, compact, tmp_path).light.rate
    assert rate.min() == 0
    assert rate.max() > 0
    bright = Sky((SkySource("a", Spectrum(PowerLaw(1e30)), offset=(0.0, 0.0)),))
    with pytest.raises(ParameterError, match=r"electrons per second in a pixel, expected less than 1e\+12"):
        observed(configuration, bright, compact, tmp_path)


def test_an_exposure_that_sees_no_slit(compact, tmp_path):
    configuration = replace(configured("FS", "PRISM", "SUBS200A1"), columns=np.arange(0, 5))
    sky = Sky((SkySource("a", Spectrum(PowerLaw(1e-6)), offset=(0.0, 0.0)),))
    with pytest.warns(DegradedResultWarning, match="no slit falls on NRS1 with PRISM"):
        assert not observed(configuration, sky, compact, tmp_path).light.rate.any()
