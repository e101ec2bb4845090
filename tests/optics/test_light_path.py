"""The optics as a whole: back and forth, all shapes of input, and the same result as plain NumPy formulas."""

import dataclasses
import pickle

import numpy as np
import pytest
from astropy.modeling import models

import nsxr
from nsxr.errors import ParameterError
from nsxr.kernels.optics.stages import distort, emerging_angle, spherical, wavelength_at
from nsxr.optics.parts import Disperser, Distortion, FocalPlane
from nsxr.optics.pointing import Pointing
from nsxr.optics.slit import Slit
from nsxr.references.optics import open_optics
from tests.optics.exposures import FILTERS, make_rates, optics_of, references
from tests.optics.flight_references import write_flight_references

SETTINGS = [
    ("FIXEDSLIT", "G140M", "NRS1", "S200A1"),
    ("FIXEDSLIT", "G395H", "NRS2", "S1600A1"),
    ("BRIGHTOBJ", "PRISM", "NRS1", "S1600A1"),
    ("FIXEDSLIT", "PRISM", "NRS1", "S400A1"),
    ("MSASPEC", "PRISM", "NRS2", 1),
    ("MSASPEC", "G235H", "NRS1", 4),
    ("IFU", "G235H", "NRS1", "17"),
    ("IFU", "G395H", "NRS2", "0"),
    ("IFU", "PRISM", "NRS1", "29"),
]


def a_slit(optics, slit):
    """Return a slit by name; for a number, a slitlet of three shutters in this quadrant."""
    if isinstance(slit, str):
        return optics.slits[slit]
    place, number = optics.quadrant(slit), 182 + 365 * 70
    size = (place.x[number], place.y[number], place.width[number], place.height[number])
    return Slit("1", slit, *map(float, size), -1.7, 1.7, optics.wavelength_range, optics.order)


def points_of(optics, slit, n=1200):
    """Return random pixels of the detector that see a slit."""
    random = np.random.default_rng(7)
    slit = a_slit(optics, slit)
    low, high = optics.wavelength_range
    slit_y = random.uniform(slit.slit_y_low * 0.999, slit.slit_y_high * 0.999, 20 * n)
    column, row = optics.inverse(slit_y, random.uniform(low, high, 20 * n), slit)
    inside = (column > 0) & (column < 2047) & (row > 0) & (row < 2047)
    return slit, column[inside][:n], row[inside][:n]


@pytest.mark.parametrize(("mode", "grating", "detector", "slit"), SETTINGS)
def test_from_pixels_to_the_slit_and_back(mode, grating, detector, slit):
    optics = optics_of(make_rates(mode, grating, detector))
    slit, column, row = points_of(optics, slit)
    assert column.size > 1000
    seen = optics.forward(column, row, slit)
    found = np.isfinite(seen.slit_y)
    assert found.mean() > 0.97
    assert optics.detector == detector
    back = optics.inverse(seen.slit_y[found], seen.wavelength[found], slit, newton=True)
    np.testing.assert_allclose(back, [column[found], row[found]], rtol=0, atol=1e-6)
    roughly = optics.inverse(seen.slit_y[found], seen.wavelength[found], slit)
    assert np.abs(np.subtract(roughly, [column[found], row[found]])).max() < 1.0  # compact optics are fitted coarsely
    again = optics.forward(*back, slit)
    np.testing.assert_allclose(again.wavelength, seen.wavelength[found], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("mode", "grating", "detector", "slit"), SETTINGS[1:6:2] + SETTINGS[6:8])
def test_flight_optics_close(real_data, tmp_path, mode, grating, detector, slit):
    files = write_flight_references(real_data, tmp_path, grating=grating, filter_name=FILTERS[grating])
    optics = open_optics(files, make_rates(mode, grating, detector))
    slit, column, row = points_of(optics, slit, 10_000)
    seen = optics.forward(column, row, slit)
    found = np.isfinite(seen.slit_y)
    back = optics.inverse(seen.slit_y[found], seen.wavelength[found], slit, newton=True)
    np.testing.assert_allclose(back, [column[found], row[found]], rtol=0, atol=1e-6)
    # the slicer at the wavelength of the light, instead of the middle one, moves it by up to a tenth of a pixel
    roughly = optics.inverse(seen.slit_y[found], seen.wavelength[found], slit)
    assert np.abs(np.subtract(roughly, [column[found], row[found]])).max() < (0.2 if mode == "IFU" else 0.03)
    x, y = optics.sky_to_slit(seen.ra[found], seen.dec[found], seen.wavelength[found], slit)
    np.testing.assert_allclose(x, 0, atol=0.02)  # the backward polynomials of fore optics and telescope
    np.testing.assert_allclose(y, seen.slit_y[found], atol=0.02)


@pytest.mark.parametrize(("mode", "slit"), [("FIXEDSLIT", "S200A1"), ("IFU", "3")])
def test_planes_in_between_agree(mode, slit):
    optics = optics_of(make_rates(mode, "G235H"))
    slit_x, slit_y, wavelength = np.array([-0.3, 0.0, 0.4]), np.array([-0.5, 0.1, 0.5]), np.array([1.8, 2.2, 2.9])
    ra, dec = optics.slit_to_sky(slit_x, slit_y, wavelength, slit)
    x, y = optics.slit_to_msa(slit_x, slit_y, slit, wavelength)
    np.testing.assert_allclose(optics.msa_to_sky(x, y, wavelength), [ra, dec], rtol=1e-14)
    one = optics.for_slit(slit)
    v2, v3 = one.slit_to_v2v3(slit_x, slit_y, wavelength)
    np.testing.assert_allclose(optics.msa_to_v2v3(x, y, wavelength), [v2, v3], rtol=1e-14)
    np.testing.assert_allclose(optics.sky_to_msa(ra, dec, wavelength), [x, y], atol=2e-6)
    np.testing.assert_allclose(optics.v2v3_to_msa(v2, v3, wavelength), [x, y], atol=2e-6)
    np.testing.assert_allclose(one.v2v3_to_slit(v2, v3, wavelength), one.sky_to_slit(ra, dec, wavelength), atol=1e-8)
    np.testing.assert_allclose(one.msa_to_slit(x, y, wavelength), [slit_x, slit_y], atol=1e-2)
    if mode == "FIXEDSLIT":
        pixels = optics.inverse(slit_y, wavelength, slit, slit_x=slit_x, newton=True)
        np.testing.assert_allclose(optics.msa_to_detector(x, y, wavelength, newton=True), pixels, atol=1e-9)


def test_shapes_of_input():
    optics = optics_of(make_rates("FIXEDSLIT", "G235H"))
    column, row = np.arange(900, 904), np.arange(1000, 1120)[:, np.newaxis]
    seen = optics.forward(column, row, "S200A1")
    assert all(array.shape == (120, 4) and array.dtype == np.float64 for array in seen)
    inside = np.argwhere(np.isfinite(seen.wavelength))
    assert 4 < len(inside) < 480
    i, j = inside[0]
    for one in ((int(column[j]), int(row[i, 0])), (float(column[j]), np.float32(row[i, 0])), (column[j], row[i])):
        np.testing.assert_array_equal(
            [np.squeeze(array) for array in optics.forward(*one, "S200A1")], [a[i, j] for a in seen]
        )
    frozen = np.full(3, column[j])
    frozen.flags.writeable = False
    assert optics.forward(frozen, row[i, 0], "S200A1").wavelength.tolist() == [seen.wavelength[i, j]] * 3
    without = optics.forward(column, row, "S200A1", sky=False)
    assert without.ra is None
    assert without.dec is None
    np.testing.assert_array_equal(without.wavelength, seen.wavelength)
    assert optics.forward(np.zeros((0, 3)), np.zeros((0, 3)), "S200A1").ra.shape == (0, 3)
    assert np.isnan(optics.forward(np.nan, 1000, "S200A1").wavelength)
    far = optics.forward(1e6, -1e6, "S200A1")
    assert np.isnan(far.slit_y)


def test_ends_of_a_slit_and_offsets():
    optics = optics_of(make_rates("FIXEDSLIT", "G235H"))
    slit = optics.slits["S200A1"]
    column, row = optics.inverse(np.array([-0.56, -0.549, 0.0, 0.549, 0.56]), 2.4, slit, newton=True)
    seen = optics.forward(column, row, slit)
    assert np.isfinite(seen.slit_y).tolist() == [False, True, True, True, False]
    # a pixel depends on neither the subarray nor the integer type of its label
    assert optics.forward(np.int16(column[2]), np.uint16(row[2]), slit).wavelength == pytest.approx(2.4, abs=0.001)
    across = optics.inverse(0.0, 2.4, slit, slit_x=np.array([-0.5, 0.5]), newton=True)[0]
    assert 1.5 < abs(across[1] - across[0]) < 4  # a slit of 0.2 arcsec, and pixels of 0.1


def test_parts_travel_and_cannot_be_changed():
    optics = optics_of(make_rates("MSASPEC", "PRISM"))
    one = optics.for_slit("S400A1")
    seen = one.forward(np.arange(500, 900), 1020.0)
    sent = pickle.loads(pickle.dumps(one))
    assert sent == one
    assert hash(sent) == hash(one)
    assert sent != optics.for_slit("S200A1")
    np.testing.assert_array_equal(sent.forward(np.arange(500, 900), 1020.0), seen)
    assert len(pickle.dumps(sent)) < 20_000  # tables that were computed do not travel
    for optics_ in (optics, pickle.loads(pickle.dumps(optics))):
        for array in (optics_.path.camera.forward.coefficients, optics_.quadrant(1).x, optics_.path.focal_plane.affine):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1
        with pytest.raises(TypeError):
            optics_.slits["S"] = one.slit
        with pytest.raises(dataclasses.FrozenInstanceError):
            optics_.slits = {}


def test_unknown_slits_are_named():
    optics = optics_of(make_rates("FIXEDSLIT", "PRISM"))
    with pytest.raises(ParameterError, match="slit 'S200' is unknown; these optics have S200A1, S200A2"):
        optics.forward(0, 0, "S200")
    with pytest.raises(ParameterError, match="quadrant 7"):
        optics.for_slit(dataclasses.replace(optics.slits["S200A1"], quadrant=7))
    sliced = optics_of(make_rates("IFU", "PRISM"))
    with pytest.raises(ParameterError, match="slice '30' is unknown, expected 0 to 29"):
        sliced.for_slit(dataclasses.replace(sliced.slits["29"], name="30"))
    lamp = optics_of(make_rates("LAMP", "PRISM", FILTER="OPAQUE", LAMP="FLAT4", OPMODE="FIXEDSLIT"))
    with pytest.raises(ParameterError, match=r"exposure of a lamp \(NRS_LAMP, filter OPAQUE\) sees no sky"):
        lamp.msa_to_sky(0.0, 0.0, 2.0)


def test_other_wavelengths_are_looked_for():
    rates, folder = make_rates("FIXEDSLIT", "G235H"), references("G235H")
    nominal, extended = nsxr.open_optics(folder, rates), nsxr.open_optics(folder, rates, wavelength_range=(1.0, 5.5))
    assert extended.slits["S200A1"].wavelength_range == (1.0, 5.5)
    assert extended.wavelength_range == nominal.wavelength_range
    assert extended.path == nominal.path


# the formulas in plain NumPy and astropy, written independently of the kernels


def test_a_distortion_is_a_sum_of_powers():
    random = np.random.default_rng(3)
    before, coefficients = random.normal(size=(2, 3)), np.zeros((2, 2, 4, 4))
    for i in range(4):
        coefficients[:, :, i, : 4 - i] = random.normal(size=(2, 2, 4 - i))
    x, y, wavelength = random.normal(size=(3, 50))
    u, v = before[:, :2] @ [x, y] + before[:, 2:]
    powers = [wavelength**k * np.polynomial.polynomial.polyval2d(u, v, c) for k, c in enumerate(coefficients[0])]
    numbers = Distortion(before, coefficients).numbers
    found = np.array([distort(numbers, *point) for point in zip(x, y, wavelength, strict=True)]).T
    np.testing.assert_allclose(found[0], sum(powers), rtol=1e-12)
    assert distort(Distortion.nothing().numbers, 3.0, 4.0, 5.0) == (3.0, 4.0)
    np.testing.assert_allclose(
        distort(Distortion.affine(before).numbers, 1.0, 2.0, 0.0), before @ [1, 2, 1], rtol=1e-15
    )


def test_the_prism_follows_snell():
    """Refraction at the front, reflection at the back that is tilted by the prism angle, refraction at the front."""
    disperser = Disperser("PRISM", 0, 0, 0, 0, -1, 0.0, -16.5, (1.0329, 0.01233, 4.0934), (0.005456, 0.03882, 1264.0))
    wavelengths = np.array([0.6e-6, 1e-6, 2.5e-6, 5.3e-6])
    for wavelength, index in zip(wavelengths, disperser.refractive_index(wavelengths), strict=True):
        alpha, beta = -0.32, -0.27
        ray = np.array([alpha / index, beta / index, np.sqrt(1 - (alpha**2 + beta**2) / index**2)])
        cosine, sine = np.cos(np.deg2rad(-16.5)), np.sin(np.deg2rad(-16.5))
        turn = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
        ray = turn.T @ (turn @ ray * [-1, -1, 1])
        found = emerging_angle(disperser.numbers, alpha, beta, wavelength, index)
        assert found == pytest.approx(ray[0] * index, rel=1e-14)
        assert ray[1] * index == pytest.approx(-beta, rel=1e-14)
        back = wavelength_at(disperser.numbers, alpha, beta, found)
        assert back == pytest.approx(wavelength, abs=2e-11)  # the table has steps of 5 nm
    assert np.isnan(wavelength_at(disperser.numbers, -0.32, -0.27, 0.9))


def test_the_rotation_to_the_wheel():
    """Turn the axes about x, y, z and y, one after the other."""
    disperser = Disperser("G395H", 0.02, -0.04, -0.43, -8.8, -1, 89408.7)
    x, y, z = 0.1, -0.28, np.sqrt(1 - 0.1**2 - 0.28**2)
    for axis, angle in zip("xyzy", np.deg2rad([0.02, -0.04, -0.43, -8.8]), strict=True):
        cosine, sine = np.cos(angle), np.sin(angle)
        if axis == "x":
            y, z = y * cosine + z * sine, z * cosine - y * sine
        elif axis == "y":
            x, z = x * cosine - z * sine, z * cosine + x * sine
        else:
            x, y = x * cosine + y * sine, y * cosine - x * sine
    np.testing.assert_allclose(disperser.rotation @ [0.1, -0.28, np.sqrt(1 - 0.1**2 - 0.28**2)], [x, y, z], rtol=1e-14)


def test_the_attitude_is_that_of_astropy():
    pointing = Pointing(ra=359.999, dec=-27.8, v2=378.5, v3=-428.4, roll=123.0, aberration=1.0001)
    for v2, v3 in ((378.5, -428.4), (300.0, -500.0), (450.0, -350.0)):
        steps = models.RotationSequence3D([378.5 / 3600, 428.4 / 3600, 123.0, -27.8, -359.999], "zyxyz")
        lon, lat = np.deg2rad([v2 / 3600, v3 / 3600])
        vector = [np.cos(lon) * np.cos(lat), np.sin(lon) * np.cos(lat), np.sin(lat)]
        x, y, z = steps(*vector)
        expected = np.rad2deg(np.arctan2(y, x)) % 360, np.rad2deg(np.arcsin(z))
        np.testing.assert_allclose(spherical(pointing.attitude, v2 / 3600, v3 / 3600), expected, atol=1e-12)
    there, back = pointing.affine(), pointing.affine(inverse=True)
    np.testing.assert_allclose(there @ [378.5, -428.4, 1], [378.5, -428.4], rtol=1e-14)
    assert (there @ [388.5, -428.4, 1])[0] == pytest.approx(378.5 + 10.001, rel=1e-14)
    np.testing.assert_allclose(back @ [*(there @ [1.0, 2.0, 1]), 1], [1, 2], rtol=1e-10)


def test_images_of_the_second_detector_are_turned():
    affine = np.array([[18e-6, 0, 0.001], [0, 18e-6, 0.002]])
    inverse = np.array([[1 / 18e-6, 0, -0.001 / 18e-6], [0, 1 / 18e-6, -0.002 / 18e-6]])
    first, second = FocalPlane("NRS1", affine, inverse), FocalPlane("NRS2", affine, inverse)
    np.testing.assert_allclose(second.from_pixels @ [0, 0, 1], first.from_pixels @ [2047, 2047, 1])
    np.testing.assert_allclose(second.from_pixels @ [2047, 5, 1], first.from_pixels @ [0, 2042, 1])
    for plane in (first, second):
        np.testing.assert_allclose(plane.to_pixels @ [*(plane.from_pixels @ [12.5, 800, 1]), 1], [12.5, 800], atol=1e-9)
