"""References of the path loss are read with positions and wavelengths; files that make no sense are refused."""

import numpy as np
import pytest
from astropy.io import fits

import nsxr
from nsxr.errors import ReferenceFileError

WAVELENGTH, X, Y = 0.6e-6 + 0.1e-6 * np.arange(4), np.linspace(-0.5, 0.5, 5), np.linspace(-1.5, 1.5, 7)


def images(name="MOS1x3", shutters=3, version=1):
    rng = np.random.default_rng(version)
    loss = rng.uniform(0.2, 0.9, (4, 7, 5))
    uniform = rng.uniform(1.5, 2.5, 4)
    made = []
    for kind, data in (("PS", loss), ("PSVAR", 1e-4 * loss), ("UNI", uniform), ("UNIVAR", 0 * uniform)):
        hdu = fits.ImageHDU(data, name=kind, ver=version)
        for axis, nodes in enumerate((X, Y, WAVELENGTH) if data.ndim == 3 else (WAVELENGTH,), 1):
            hdu.header[f"CRVAL{axis}"], hdu.header[f"CDELT{axis}"] = nodes[0], nodes[1] - nodes[0]
            hdu.header[f"CRPIX{axis}"] = 1.0
        hdu.header["APERTURE"], hdu.header["SHUTTERS"] = name, shutters
        made.append(hdu)
    return made


@pytest.fixture
def write(tmp_path):
    def make(*hdus, **keywords):
        primary = fits.PrimaryHDU()
        for key, value in ({"REFTYPE": "PATHLOSS", "INSTRUME": "NIRSPEC"} | keywords).items():
            primary.header[key] = value
        fits.HDUList([primary, *hdus]).writeto(tmp_path / "pathloss.fits", overwrite=True)
        return tmp_path / "pathloss.fits"

    return make


def test_values_and_axes(write):
    hdus = images() + images("S200A1", 1, 2)
    reference = nsxr.open_path_loss(write(*hdus))
    for name, (loss, variance, uniform, _) in {"MOS1X3": hdus[:4], "S200A1": hdus[4:]}.items():
        point = reference[f"point_{name}"]
        assert point.dims == (f"wavelength_{name}", f"y_{name}", f"x_{name}")
        np.testing.assert_array_equal(point, loss.data)
        np.testing.assert_allclose(point[f"wavelength_{name}"], WAVELENGTH * 1e6, rtol=1e-14)
        np.testing.assert_allclose(point[f"y_{name}"], Y, atol=1e-14)
        np.testing.assert_allclose(point[f"x_{name}"], X, atol=1e-14)
        np.testing.assert_array_equal(reference[f"point_variance_{name}"], variance.data)
        np.testing.assert_array_equal(reference[f"uniform_{name}"], uniform.data)
        assert f"uniform_variance_{name}" not in reference  # it is 0 everywhere
    assert reference["point_MOS1X3"].attrs["shutters"] == 3
    assert reference.attrs["reference_type"] == "pathloss"
    assert reference.attrs["filename"] == "pathloss.fits"
    assert reference.attrs["fingerprint"]


def test_a_reference_pixel_in_the_middle(write):
    hdus = images()
    for hdu in hdus[:2]:
        hdu.header["CRPIX1"], hdu.header["CRVAL1"] = 3.0, 0.0
    np.testing.assert_allclose(nsxr.open_path_loss(write(*hdus))["x_MOS1X3"], X, atol=1e-14)


def test_flight_files(real_data):
    reference = nsxr.open_path_loss(real_data / "flight/nirspec_pathloss/jwst_nirspec_pathloss_erf.fits")
    assert reference["point_MOS1X1"].shape == (21, 31, 31)
    assert reference["point_MOS1X3"].shape == (21, 91, 31)
    np.testing.assert_allclose(reference["wavelength_MOS1X3"][[0, -1]], [0.6, 6.0], rtol=1e-6)
    middle = reference["point_variance_MOS1X3"].sel(x_MOS1X3=0, y_MOS1X3=0, method="nearest") ** 0.5
    assert 0.009 < float(middle.min()) < float(middle.max()) < 0.027
    dummy = nsxr.open_path_loss(real_data / "crds_refs/jwst_nirspec_pathloss_0002.fits")
    assert dummy["point_MOS1X1"].shape == (21, 63, 21)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda hdus: hdus[0].header.remove("CDELT3"), "CDELT3 of PS are missing"),
        (lambda hdus: hdus[2].header.set("CRVAL1", 0.6), r"wavelengths of UNI go from 0\.6 .* expected metres"),
        (lambda hdus: hdus[0].header.set("CDELT1", -0.25), "in steps of -0.25"),
        (lambda hdus: hdus[0].data.__setitem__((0, 0, 0), np.nan), "for point light: 1 of 140 values"),
        (lambda hdus: hdus[2].data.__setitem__(1, 0.0), "for uniform light: 1 of 4 values"),
        (lambda hdus: hdus[1].data.__setitem__((0, 0, 0), -1.0), "PSVAR 1 has shape"),
        (lambda hdus: hdus.pop(2), "image UNI 1 is missing"),
        (lambda hdus: hdus.extend(images(version=2)), "aperture MOS1X3 comes twice"),
        (lambda hdus: hdus.clear(), "has no path loss of a point source"),
    ],
)
def test_files_that_make_no_sense(write, change, message):
    hdus = images()
    change(hdus)
    with pytest.raises(ReferenceFileError, match=message):
        nsxr.open_path_loss(write(*hdus))


def test_other_files_are_refused(write, tmp_path):
    with pytest.raises(ReferenceFileError, match="REFTYPE is 'FLAT', expected 'PATHLOSS'"):
        nsxr.open_path_loss(write(*images(), REFTYPE="FLAT"))
    with pytest.raises(ReferenceFileError, match="INSTRUME is 'MIRI'"):
        nsxr.open_path_loss(write(*images(), INSTRUME="MIRI"))
    with pytest.raises(ReferenceFileError, match="no such file"):
        nsxr.open_path_loss(tmp_path / "absent.fits")
    (tmp_path / "text.fits").write_text("nothing")
    with pytest.raises(ReferenceFileError):
        nsxr.open_path_loss(tmp_path / "text.fits")
