"""Flats of telescope, spectrograph and detector: tables in memory, images read when used, standard flags."""

import pickle

import numpy as np
import pytest
from astropy.io import fits
from xarray.core.indexing import LazilyIndexedArray

import nsxr
from nsxr.errors import ReferenceFileError
from nsxr.model.dq import PixelFlag
from tests.flux.flat_files import COLUMN_START, NODES, PLANES, ROW_START, curve, images, random_images, table, write


def test_tables_of_fixed_slits(tmp_path):
    fast = table(("S200A1", "S1600A1"))
    fast.data["data"][0, 5] = np.nan
    fast.data["data"][0, 7] = 0
    flat = nsxr.open_flat(write(tmp_path / "f.fits", "fflat", fast, EXP_TYPE="NRS_FIXEDSLIT"))
    assert [*flat] == ["fast_S200A1", "fast_error_S200A1", "fast_S1600A1", "fast_error_S1600A1"]
    np.testing.assert_allclose(flat["fast_S200A1"], np.delete(curve(1), [5, 7]), rtol=1e-6)
    np.testing.assert_allclose(flat["fast_wavelength_S200A1"], np.delete(NODES, [5, 7]), rtol=1e-6)
    np.testing.assert_allclose(flat["fast_S1600A1"], curve(2), rtol=1e-6)
    assert flat.attrs["reference_type"] == "fflat"
    assert flat.attrs["exposure_types"] == "NRS_BRIGHTOBJ NRS_FIXEDSLIT"
    assert {"size", "fingerprint", "filename", "detector", "filter", "grating"} <= set(flat.attrs)


def test_a_table_of_single_values_is_one_variation(tmp_path):
    columns = [fits.Column(name, "E", array=array) for name, array in (("wavelength", NODES), ("data", curve(1)))]
    columns.append(fits.Column("error", "E", array=np.full(NODES.size, 0.01)))
    hdu = fits.BinTableHDU.from_columns(columns, name="FAST_VARIATION")
    flat = nsxr.open_flat(write(tmp_path / "f.fits", "fflat", hdu))
    np.testing.assert_allclose(flat["fast_ANY"], curve(1), rtol=1e-6)


def test_a_cube_is_read_when_it_is_used_and_has_standard_flags(tmp_path):
    cube = random_images(np.random.default_rng(1), 4)
    dq = np.zeros(cube.shape[1:], np.uint32)
    dq[3, 4], dq[5, 6] = 1, 2 | 4  # bits of the file
    flat = nsxr.open_flat(write(tmp_path / "d.fits", "dflat", *images(cube, dq=dq), table()))
    assert isinstance(flat["sci"].variable._data, LazilyIndexedArray)
    assert flat["sci"].dims == ("wavelength", "row", "column")
    assert flat["err"].dims == flat["dq"].dims == ("row", "column")
    cut = pickle.loads(pickle.dumps(flat)).sel(row=slice(ROW_START + 3, ROW_START + 5), wavelength=slice(1, 4))
    np.testing.assert_array_equal(cut["sci"], cube[1:3, 3:6].astype(np.float32))
    assert int(cut["dq"].sel(row=ROW_START + 3, column=COLUMN_START + 4)) == PixelFlag.NO_FLAT_FIELD
    flags = PixelFlag.DO_NOT_USE | PixelFlag.UNRELIABLE_FLAT
    assert int(cut["dq"].sel(row=ROW_START + 5, column=COLUMN_START + 6)) == flags
    np.testing.assert_allclose(flat["wavelength"], PLANES, rtol=1e-6)


def test_planes_without_a_wavelength_are_left_out(tmp_path):
    cube = random_images(np.random.default_rng(1), 4)
    hdus = images(cube, planes=[0.6, 2.0, 3.5, np.nan])
    flat = nsxr.open_flat(write(tmp_path / "s.fits", "sflat", *hdus, table()))
    assert flat["sci"].sizes["wavelength"] == flat["dq"].sizes["wavelength"] == 3


def test_quadrants_of_shutters(tmp_path):
    cube = np.ones((4, 171, 365)) * np.arange(1, 172)[:, np.newaxis]
    hdus = [hdu for n in (1, 2, 3, 4) for hdu in (*images(n * cube, version=n), table(version=n))]
    flat = nsxr.open_flat(write(tmp_path / "f.fits", "fflat", *hdus))
    assert flat["sci_3"].dims == ("wavelength_3", "ycen", "xcen")
    np.testing.assert_array_equal(flat["sci_3"].sel(ycen=86, xcen=300), np.full(4, 3 * 86))
    np.testing.assert_allclose(flat["fast_3"], curve(3), rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "hdus", "message"),
    [
        ("dark", [table()], "REFTYPE is 'DARK'"),
        ("fflat", [], "FAST_VARIATION is missing"),
        ("sflat", [table()], "SCI is missing"),
        ("dflat", [*images(np.ones((3, 4))), table()], "2 dimensions, expected 3"),
        ("dflat", [*images(np.ones((4, 3, 4)), planes=[0.6, 2.0, 2.0, 5.3]), table()], "do not increase"),
        ("dflat", [*images(np.ones((4, 3, 4)), planes=PLANES * 1e-6), table()], "metres"),
        ("dflat", [*images(np.ones((3, 3, 4))), table()], "4 wavelengths for 3 planes"),
        ("sflat", [*images(np.ones((3, 4)), dq=np.zeros((3, 5), np.uint32)), table()], "shapes do not match"),
    ],
)
def test_what_is_wrong_is_said(kind, hdus, message, tmp_path):
    with pytest.raises(ReferenceFileError, match=message) as caught:
        nsxr.open_flat(write(tmp_path / "wrong.fits", kind, *hdus))
    assert "wrong.fits" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ReferenceFileError, match="no such file"):
        nsxr.open_flat(tmp_path / "none.fits")
