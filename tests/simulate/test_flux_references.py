import json

import asdf
import numpy as np
import pytest
from astropy.io import fits

import nsxr
from nsxr.errors import ParameterError
from nsxr.simulate import write_flux_references
from nsxr.simulate.aperture_references import Geometry, bar_shadow, geometry_of, point_loss
from nsxr.simulate.compact_optics import write_compact_optics
from nsxr.simulate.configuration import configure
from nsxr.simulate.cube_references import enclosed_in_circle
from nsxr.simulate.instrument import SimulatedInstrument
from nsxr.simulate.observation import observe
from nsxr.simulate.response import (
    PLANES,
    detector_fast,
    detector_plane,
    fore_fast,
    fore_shutters,
    smooth_flat,
    spectrograph_image,
)
from nsxr.simulate.shutters import shutter_slit
from nsxr.simulate.sky import Sky, SkySource
from nsxr.simulate.spectra import PowerLaw, Spectrum
from nsxr.testing import make_slit

FILTERS = {"PRISM": "CLEAR", "G395H": "F290LP"}
GRATINGS = {"FS": "G395H", "MOS": "PRISM", "IFU": "PRISM"}
SHUTTER = Geometry(0.2, 0.46, 1.363, 1.15, 0.22)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return for each mode what a sky looks like, and the references. Large flats are made for MOS only."""
    made = {}

    def make(mode):
        if mode not in made:
            folder, grating = tmp_path_factory.mktemp(mode), GRATINGS[mode]
            paths = write_compact_optics(folder / "optics", grating=grating, filter=FILTERS[grating])
            configuration = configure(
                readout="NRSRAPID",
                subarray="FULL",
                groups=2,
                integrations=1,
                detector="NRS1",
                scene=mode,
                grating=grating,
            )
            corner = Sky((SkySource("corner", Spectrum(), offset=(-60.0, 20.0)),))
            optics = observe(configuration, corner, paths, folder, seed=1, peak_rate=1.0).optics
            slit = shutter_slit(optics, 3, 183, 86) if mode == "MOS" else optics.slit("S200A1")
            ra, dec = (float(part) for part in optics.slit_to_sky(0.2, -0.1, 3.0, slit))
            star = SkySource("star", Spectrum(PowerLaw(1e-3, 3.0, 0.0)), ra, dec)
            background = Spectrum(PowerLaw(0.4, 3.0, 0.5))
            seen = {
                name: observe(configuration, sky, paths, folder, seed=1, peak_rate=1.0)
                for name, sky in {"star": Sky((star,)), "background": Sky((star,), background)}.items()
            }
            made[mode] = seen, write_flux_references(folder, seen["star"].optics, mode=mode)
        return made[mode]

    return make


def read(paths, kind, name, version=1):
    with fits.open(paths[kind]) as hdus:
        return hdus[name, version].data.copy(), hdus[name, version].header


def fast(paths, kind, wavelength, slit="ANY", version=1):
    table, _ = read(paths, kind, "FAST_VARIATION", version)
    row = table[[str(name).strip() for name in table["slit_name"]].index(slit)]
    return np.interp(wavelength, row["wavelength"], row["data"])


def planes(cube, wavelength):
    part = (wavelength - PLANES[0]) / (PLANES[1] - PLANES[0])
    return cube[0] + part * (cube[1] - cube[0])


def test_flats_hold_the_functions_that_light_is_multiplied_by(written):
    seen, paths = written("MOS")
    optics, wavelength = seen["star"].optics, np.array([0.8, 2.2, 4.9])
    for quadrant in (1, 4):
        cube, _ = read(paths, "fflat", "SCI", quadrant)
        slit = shutter_slit(optics, quadrant, 300, 20)
        expected = fore_shutters(quadrant, np.array(slit.x), np.array(slit.y), wavelength)
        np.testing.assert_allclose(planes(cube[:, 19, 299], wavelength), expected, rtol=1e-6)
        found = fast(paths, "fflat", wavelength, version=quadrant)
        np.testing.assert_allclose(found, fore_fast("ANY", wavelength), rtol=1e-5)
    cube, _ = read(paths, "sflat", "SCI")
    expected = spectrograph_image(np.array([1500]), np.array([300]), wavelength[None])[0]
    np.testing.assert_allclose(planes(cube[:, 1500, 300], wavelength), expected, rtol=1e-6)
    cube, _ = read(paths, "dflat", "SCI")
    dq, _ = read(paths, "dflat", "DQ")
    good = dq[1000, 500:600] == 0
    assert 0 < (dq != 0).mean() < 0.01
    structure = planes(cube[:, 1000, 500:600], 2.2)[good] / detector_plane(2.2)
    assert 0.003 < structure.std() < 0.03
    np.testing.assert_allclose(fast(paths, "dflat", wavelength), detector_fast(wavelength), rtol=1e-5)


@pytest.mark.parametrize("mode", ["FS", "MOS"])
def test_flat_field_is_what_light_was_multiplied_by(mode, written):
    """The flat field is the smooth response of the instrument times the structure of single pixels."""
    seen, paths = written(mode)
    grid = max(seen["star"].light.slits, key=lambda slit: slit.rate.sum()).grid
    slit = grid.slit
    attrs = {"SLTNAME": slit.name, "MSAQUAD": slit.quadrant, "SRCTYPE": "EXTENDED", "EXP_TYPE": "NRS_FIXEDSLIT"}
    if mode == "MOS":
        attrs |= {"XCEN": slit.xcen, "YCEN": slit.ycen, "EXP_TYPE": "NRS_MSASPEC"}
    one = make_slit(
        np.ones(grid.wavelength.shape),
        wavelength=grid.wavelength,
        row_start=int(grid.rows[0]),
        column_start=int(grid.columns[0]),
        **attrs,
    )
    flats = [nsxr.open_flat(paths[kind]) for kind in ("fflat", "sflat", "dflat")]
    found = nsxr.correct_flat_field(one, *flats)["flatfield_uniform"]
    planes, _ = read(paths, "dflat", "SCI")
    structure = planes[0][np.ix_(grid.rows, grid.columns)] / detector_plane(PLANES[0])
    expected = smooth_flat(slit, grid.wavelength, grid.rows, grid.columns) * structure
    has_flat = np.isfinite(found.to_numpy())
    assert has_flat.sum() > 0.95 * np.isfinite(grid.wavelength).sum()
    np.testing.assert_allclose(found.to_numpy()[has_flat], expected[has_flat], rtol=1e-4)


def calibrated(one, seen, paths, mode):
    """Return what calibration makes of light in a slit, without the structure of single pixels [MJy]."""
    grid, name = one.grid, one.grid.slit.name if mode == "FS" else "ANY"
    wavelength = np.nan_to_num(grid.wavelength, nan=3.0)
    quadrant = grid.slit.quadrant if mode == "MOS" else 1
    flat = fast(paths, "fflat", wavelength, name, quadrant) * fast(paths, "sflat", wavelength, name)
    image, _ = read(paths, "sflat", "SCI")
    image = image[..., grid.rows[0] : grid.rows[-1] + 1, grid.columns[0] : grid.columns[-1] + 1]
    flat = flat * (planes(image, wavelength) if mode == "MOS" else image)
    if mode == "MOS":
        cube, _ = read(paths, "fflat", "SCI", quadrant)
        flat = flat * planes(cube[:, grid.slit.ycen - 1, grid.slit.xcen - 1], wavelength)
    flat = flat * detector_plane(wavelength) * fast(paths, "dflat", wavelength)
    photom, _ = read(paths, "photom", "PHOTOM")
    row = photom[[str(n).strip() for n in photom["slit"]].index(name) if mode == "FS" else 0]
    gain = 0.996  # of NRS1 [electron/DN]
    return one.rate / gain / flat * row["photmj"] * np.interp(wavelength, row["wavelength"], row["relresponse"])


def on_grid(header, axis, n):
    return header[f"CRVAL{axis}"] + header[f"CDELT{axis}"] * np.arange(n)


def as_slit(one, star, paths, mode, optics):
    """Return what the detector saw of a star in a slit: count rates with the structure of single pixels."""
    grid, slit = one.grid, one.grid.slit
    cube, _ = read(paths, "dflat", "SCI")
    structure = cube[0][np.ix_(grid.rows, grid.columns)] / detector_plane(PLANES[0])
    geometry = geometry_of(optics, slit)
    pitch = (geometry.x_pitch, geometry.y_pitch) if mode == "MOS" else (1, 1)
    header = {
        "EXP_TYPE": "NRS_MSASPEC" if mode == "MOS" else "NRS_FIXEDSLIT",
        "FILTER": optics.filter,
        "GRATING": optics.grating,
        "DETECTOR": optics.detector,
        "DATE-OBS": "2024-01-01",
        "SLTNAME": slit.name,
        "MSAQUAD": slit.quadrant,
        "SRCXPOS": star.x / pitch[0],
        "SRCYPOS": star.y / pitch[1],
    }
    if mode == "MOS":
        header |= {"XCEN": slit.xcen, "YCEN": slit.ycen, "SHUTSTA": slit.state, "SLTYSCL": slit.slit_yscale}
    rates = make_slit(
        one.rate / 0.996 * structure,
        wavelength=grid.wavelength,
        row_start=grid.rows[0],
        column_start=grid.columns[0],
        **header,
    )
    return rates.assign_coords(slit_y=(("row", "column"), grid.centre_slit_y.astype(np.float32)))


@pytest.mark.parametrize(("mode", "rtol"), [("FS", 2e-5), ("MOS", 2e-3)])
def test_flux_of_a_star_comes_back(mode, rtol, written):
    """Light of a star beside the middle of a slit is what the star sent, 1 mJy, after all corrections of flux."""
    seen, paths = written(mode)
    optics = seen["star"].optics
    one = max(seen["star"].light.slits, key=lambda slit: slit.rate.sum())
    (star,) = [source for source in one.sources if source.source == "star"]
    assert star.x == pytest.approx(0.2, abs=0.01)
    slit = as_slit(one, star, paths, mode, optics)
    references = nsxr.open_spec2_references(paths["photom"].parent, slit)
    slit = nsxr.correct_wavelength_zero_point(slit, references["wavecorr"])
    slit = nsxr.correct_flat_field(slit, *(references[kind] for kind in ("fflat", "sflat", "dflat")))
    slit = nsxr.correct_path_loss(slit, references["pathloss"])
    slit = nsxr.calibrate_flux(slit, references["photom"], references["area"]).compute()
    wavelength = np.nanmean(slit["wavelength"], axis=0)
    low, high = optics.wavelength_range
    lost = slit["sci"].isnull().sum("row").to_numpy()
    complete = (wavelength > low + 0.05) & (wavelength < high - 0.05) & (lost == np.median(lost))
    assert complete.sum() > 200
    np.testing.assert_allclose(1e6 * slit["sci"].sum("row")[complete], 1e-3, rtol=rtol)


def test_brightness_of_the_sky_comes_back(written):
    seen, paths = written("MOS")
    one = seen["background"].light.slits[0]
    without = seen["star"].light.slits[0]
    sky = calibrated(one, seen["background"], paths, "MOS") - calibrated(without, seen["star"], paths, "MOS")
    shadow, header = read(paths, "barshadow", "DATA1X3")
    wavelength = one.grid.wavelength
    area, _ = read(paths, "area", "AREA")
    uniform, axes = read(paths, "pathloss", "UNI", 2)
    loss = np.interp(wavelength, on_grid(axes, 1, uniform.size) * 1e6, uniform)
    brightness = sky / loss / (area["pixarea"][0] / 206264.806**2)
    y = 0.5 * (one.grid.slit_y[1:] + one.grid.slit_y[:-1]) / one.grid.slit.slit_yscale
    middle = 0.5 * (one.grid.slit.slit_y_low + one.grid.slit.slit_y_high) / one.grid.slit.slit_yscale
    step = on_grid(header, 2, len(shadow)), on_grid(header, 1, shadow.shape[1]) * 1e6
    column = np.nanargmin(np.abs(wavelength[wavelength.shape[0] // 2] - 2.5))
    near = np.abs(y[:, column] - middle) < 0.8
    bars = [
        np.interp(w, step[1], [np.interp(place, step[0], nodes) for nodes in shadow.T])
        for place, w in zip(y[near, column] - middle, wavelength[near, column], strict=True)
    ]
    expected = 0.4 * (wavelength[near, column] / 3.0) ** 0.5
    assert near.sum() >= 6
    assert min(bars) < 0.9
    np.testing.assert_allclose(brightness[near, column] / bars, expected, rtol=5e-3)


def test_point_loss_is_the_integral_of_the_image_over_the_openings():
    instrument = SimulatedInstrument("PRISM", (0.6, 5.3), (0.01, 0.02))
    wavelength, x, y = np.array(3.3), 0.31, -0.42
    fine = np.linspace(-2.0, 2.0, 4001)

    def density(axis):
        return np.gradient(instrument.cumulative(axis, wavelength), axis)

    inside_x = np.abs(fine) < 0.5 * SHUTTER.width
    pitch = SHUTTER.y_pitch * SHUTTER.height
    inside_y = np.abs((fine + 0.5 * pitch) % pitch - 0.5 * pitch) < 0.5 * SHUTTER.height
    inside_y &= np.abs(fine) < 1.5 * pitch
    part_x = density(fine - x * SHUTTER.x_pitch * SHUTTER.width)[inside_x].sum() * 1e-3
    part_y = density(fine - y * pitch)[inside_y].sum() * 1e-3
    found = point_loss(instrument, SHUTTER, 3, np.array(x), np.array(y), wavelength)
    assert found == pytest.approx(part_x * part_y, rel=0.01)
    assert point_loss(instrument, SHUTTER, 1, np.array(x), np.array(y), wavelength) < found


def test_bar_shadow_is_the_mean_over_a_pixel_of_the_widened_opening():
    instrument = SimulatedInstrument("PRISM", (0.6, 5.3), (0.01, 0.02))
    pitch, pixel, wavelength = SHUTTER.y_pitch * SHUTTER.height, SHUTTER.pixel * SHUTTER.height, np.array(2.0)
    step = 1e-3
    fine = np.arange(-3000, 3001) * step
    opened = (np.abs((fine + 0.5 * pitch) % pitch - 0.5 * pitch) < 0.5 * SHUTTER.height) & (np.abs(fine) < 1.5 * pitch)
    kernel = np.exp(-0.5 * (fine[2500:3501] / instrument.smear(wavelength)) ** 2)
    wide = np.convolve(opened, kernel / kernel.sum(), "same")
    y = np.array([-1.0, -0.5, -0.2, 0.0, 0.5, 0.9])
    twin = [wide[np.abs(fine - place * pitch) < 0.5 * pixel].mean() for place in y]
    found = bar_shadow(instrument, SHUTTER, 3, y, wavelength)
    np.testing.assert_allclose(found, twin, atol=5e-3)
    assert found[1] < 0.85 < 0.99 < found[3]


def test_circles_enclose_more_light_the_larger_they_are():
    instrument = SimulatedInstrument("PRISM", (0.6, 5.3), (0.01, 0.02))
    wavelength = np.array([1.0, 5.0])
    parts = np.array([enclosed_in_circle(instrument, radius, wavelength) for radius in (0.1, 0.45, 3.0)])
    assert (np.diff(parts, axis=0) > 0).all()
    assert (parts[1, 0] > parts[1, 1]).all()
    np.testing.assert_allclose(parts[2], 1, atol=1e-3)


def test_other_references_have_their_tables(written):
    _, paths = written("MOS")
    area, _ = read(paths, "area", "AREA")
    assert len(area) == 4 * 365 * 171
    assert tuple(area[365 * 171 + 365])[:3] == (2, 1, 2)
    table, header = read(paths, "apcorr", "APCORR")
    assert table["apcorr"].shape == (1, 8, 31, 3)
    assert (np.diff(table["apcorr"][0, :, :, 1], axis=0) <= 1e-6).all()
    assert table["apcorr"].min() > 0.99
    assert header["SIZEUNIT"] == "pixels"
    assert json.loads(paths["extract1d"].read_text())["apertures"][0]["id"] == "ANY"
    assert {entry["Q"] for entry in json.loads(paths["msaoper"].read_text())["msaoper"]} == {1, 2, 3, 4}
    with asdf.open(paths["wavecorr"]) as file:
        (aperture,) = file["apertures"]
        model = aperture["zero_point_offset"]
        centre, side = float(model(2.5e-6, 0.0)), float(model(2.5e-6, 0.3))
        assert abs(centre) < 1e-9
        assert 0.05 < abs(side) < 1.0
        assert float(model(2.5e-6, -0.3)) == pytest.approx(-side, rel=0.05)
    with fits.open(paths["pathloss"]) as hdus:
        assert hdus[0].header["EXP_TYPE"] == "NRS_MSASPEC"


def test_a_mode_without_spectra_is_refused(written, tmp_path):
    optics = written("FS")[0]["star"].optics
    with pytest.raises(ParameterError, match="mode 'dark' has no references of flux"):
        write_flux_references(tmp_path, optics, mode="dark")
