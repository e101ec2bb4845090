"""References of the bar shadow are read with places in pitch and wavelengths in um; other files are refused."""

import numpy as np
import pytest
from astropy.io import fits

import nsxr
from nsxr.errors import ReferenceFileError

ROWS, COLUMNS = 41, 11
FIRST, STEP = 0.5e-6, 0.05e-6


def images():
    y = np.linspace(-1, 1, ROWS)[:, None]
    one = np.exp(-(y**2)) * np.linspace(1, 0.9, COLUMNS)
    made = []
    for name, data in (("DATA1X1", one), ("VAR1X1", 0 * one + 1e-4), ("DATA1X3", 0 * one + 1), ("VAR1X3", 0 * one)):
        hdu = fits.ImageHDU(data.astype(np.float32), name=name)
        hdu.header["CRVAL1"], hdu.header["CDELT1"] = FIRST, STEP
        hdu.header["CRVAL2"], hdu.header["CDELT2"] = -1.0, 2 / (ROWS - 1)
        made.append(hdu)
    return made


@pytest.fixture
def write(tmp_path):
    def make(*hdus, reftype="BARSHADOW"):
        primary = fits.PrimaryHDU()
        primary.header["REFTYPE"], primary.header["INSTRUME"] = reftype, "NIRSPEC"
        fits.HDUList([primary, *hdus]).writeto(tmp_path / "barshadow.fits", overwrite=True)
        return tmp_path / "barshadow.fits"

    return make


def test_values_and_axes(write):
    hdus = images()
    reference = nsxr.open_bar_shadow(write(*hdus))
    for name, hdu in zip(("shadow_1x1", "variance_1x1", "shadow_1x3", "variance_1x3"), hdus, strict=True):
        assert reference[name].dims == ("y", "wavelength")
        np.testing.assert_array_equal(reference[name], hdu.data)
    np.testing.assert_allclose(reference["y"][[0, 20, -1]], [-1, 0, 1])
    np.testing.assert_allclose(reference["wavelength"][[0, -1]], [0.5, 1.0], rtol=1e-14)
    assert reference.attrs["reference_type"] == "barshadow"


def test_variances_that_are_zero_are_not_known(write):
    hdus = images()
    hdus[1].data[:] = 0
    assert "variance_1x1" not in nsxr.open_bar_shadow(write(*hdus))
    assert set(nsxr.open_bar_shadow(write(hdus[0], hdus[2]))) == {"shadow_1x1", "shadow_1x3"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda hdus: hdus.pop(2), "image DATA1X3 1 is missing"),
        (lambda hdus: hdus[0].header.set("CDELT2", 0.1), r"has 41 rows from -1 to 3 along the slit"),
        (lambda hdus: setattr(hdus[0], "data", hdus[0].data[:-1]), "has 40 rows"),
        (lambda hdus: hdus[2].header.set("CRVAL1", 0.6e-6), "different axes"),
        (lambda hdus: hdus[0].data.__setitem__((0, 0), np.nan), "1 of 451 values of DATA1X1"),
        (lambda hdus: hdus[1].data.__setitem__((0, 0), -1), "VAR1X1 has shape"),
        (lambda hdus: hdus[0].header.set("CRVAL1", 0.5), "expected metres"),
        (lambda hdus: hdus[0].header.remove("CRVAL2"), "CRVAL2 of DATA1X1 are missing"),
        (lambda hdus: setattr(hdus[0], "data", hdus[0].data[None]), "DATA1X1 1 has 3 axes, expected 2"),
    ],
)
def test_files_that_make_no_sense(write, change, message):
    hdus = images()
    change(hdus)
    with pytest.raises(ReferenceFileError, match=message):
        nsxr.open_bar_shadow(write(*hdus))


def test_other_types_are_refused(write):
    with pytest.raises(ReferenceFileError, match="REFTYPE is 'PATHLOSS'"):
        nsxr.open_bar_shadow(write(*images(), reftype="PATHLOSS"))
