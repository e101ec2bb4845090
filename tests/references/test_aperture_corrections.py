"""References of the aperture correction: order of axes, padding, refusals."""

import numpy as np
import pytest
from astropy.io import fits

import nsxr
from nsxr.errors import ReferenceFileError

WAVELENGTH = np.array([3.0, 1.0, 2.0, 0.0])
SIZE = np.array([2.0, 4.0, 0.0])
PHASE = np.array([0.0, 1.0])


def write(path, unit="pixels", order=(0, 1, 2), size=SIZE, wavelength=WAVELENGTH, values=None):
    """Write a table of one row. The correction is 1 + 1/size + wavelength/100 + phase/10."""
    grid = np.broadcast_to(size[:, None], (3, 4))
    with np.errstate(divide="ignore"):
        table = 1 + 1 / grid[..., None] + wavelength[:, None] / 100 + PHASE / 10
    table = np.where(np.isfinite(table), table, 0) if values is None else np.full(table.shape, values)
    table = table.transpose(order)
    shape = ",".join(map(str, table.shape[::-1]))
    columns = [
        fits.Column("filter", "12A", array=["CLEAR"]),
        fits.Column("grating", "15A", array=["PRISM"]),
        fits.Column("wavelength", "4E", array=[wavelength]),
        fits.Column("nelem_wl", "I", array=[3]),
        fits.Column("size", "12E", dim="(4,3)", array=[grid]),
        fits.Column("nelem_size", "I", array=[2]),
        fits.Column("pixphase", "2E", array=[PHASE]),
        fits.Column("apcorr", "24E", dim=f"({shape})", array=[table]),
        fits.Column("apcorr_err", "24E", dim=f"({shape})", array=[0 * table + 0.01]),
    ]
    primary, hdu = fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns, name="APCORR")
    primary.header["REFTYPE"], primary.header["INSTRUME"], hdu.header["SIZEUNIT"] = "APCORR", "NIRSPEC", unit
    fits.HDUList([primary, hdu]).writeto(path)
    return path


def test_axes_and_padding(tmp_path):
    found = nsxr.open_aperture_correction(write(tmp_path / "a.fits")).isel(entry=0)
    np.testing.assert_allclose(found["wavelength"], [1, 2, 3, np.nan])
    np.testing.assert_allclose(found["size"][:, 0], [2, 4, np.nan])
    expected = 1 + 1 / np.array([[2.0], [4.0]]) + np.array([1, 2, 3]) / 100 + 0.05  # in the middle of a pixel
    np.testing.assert_allclose(found["correction"][:2, :3], expected, rtol=1e-6)
    assert found["correction"].isnull().sum() == 12 - 6
    np.testing.assert_allclose(found["uncertainty"][:2, :3], 0.01, rtol=1e-6)
    assert str(found["filter"].values) == "CLEAR"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": "arcsec"}, "sizes of apertures are in 'arcsec', expected pixels"),
        ({"order": (2, 0, 1)}, r"apcorr has shape \(2, 3, 4\), expected \(3, 4, 2\): size, wavelength, phase"),
        ({"size": SIZE[[1, 0, 2]]}, "row 1 of APCORR: its sizes do not increase"),
        ({"wavelength": WAVELENGTH * 1e-6}, "its wavelengths are not different numbers"),
        ({"values": np.nan}, "corrections that are no numbers from 0 to 100"),
    ],
)
def test_damaged_tables_are_refused(changes, message, tmp_path):
    with pytest.raises(ReferenceFileError, match=message):
        nsxr.open_aperture_correction(write(tmp_path / "a.fits", **changes))


def test_the_order_of_a_dummy_made_before_launch_is_refused(real_data):
    with pytest.raises(ReferenceFileError, match=r"expected .*size, wavelength, phase"):
        nsxr.open_aperture_correction(real_data / "crds_refs/jwst_nirspec_apcorr_msa_dummy.fits.gz")
