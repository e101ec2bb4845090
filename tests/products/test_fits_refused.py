"""Files that are not what they should be: one error each that names file, found and expected."""

import gzip
import re
import shutil

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import nsxr
from nsxr.errors import InputFileError, ModelError
from nsxr.formats.fits_headers import scan
from nsxr.model.history import record
from nsxr.products.fits_read import read_dataset
from nsxr.products.write import write_products


def pixels(path, name="SCI"):
    with fits.open(path) as hdus:
        return np.array(hdus[name].data)


def fails(path, *words, opener=nsxr.open_exposure):
    with pytest.raises(InputFileError) as error:
        opener(path)
    message = str(error.value)
    for word in (str(path), *words):
        assert word in message, message


def test_what_is_no_fits_file(tmp_path, sub32):
    text, empty, packed = (tmp_path / name for name in ("a_uncal.fits", "b_uncal.fits", "c_uncal.fits.gz"))
    text.write_text("SIMPLE things only\n" * 1000)
    empty.write_bytes(b"")
    packed.write_bytes(b"no gzip file")
    fails(text, "not a FITS file")
    fails(empty, "empty")
    fails(packed, "gzip")
    fails(tmp_path, "directory")
    fails(tmp_path / "missing_uncal.fits", "no such file")


def test_cut_off_files(tmp_path, sub32):
    content = sub32.read_bytes()
    data = scan(sub32).extensions["SCI"].offset
    group = scan(sub32).extensions["GROUP"].offset
    path = tmp_path / "x_uncal.fits"
    for length in (data + 5000, group - 100, group + 10, len(content) - 1, group - 2880 - 100):
        path.write_bytes(content[:length])
        fails(path, "cut off")
    for length in (1000, 2880, data - 2880, data - 100):
        path.write_bytes(content[:length])
        fails(path)


def test_a_file_cut_at_the_end_of_an_extension_lacks_only_what_follows(tmp_path, sub32):
    content = sub32.read_bytes()
    group = scan(sub32).extensions["GROUP"].offset
    start = content.rindex(b"XTENSION= 'BINTABLE'", 0, group)
    path = tmp_path / "x_uncal.fits"
    path.write_bytes(content[:start])
    exposure = nsxr.open_exposure(path)
    assert "int_mid_MJD_UTC" not in exposure.coords
    np.testing.assert_array_equal(exposure["sci"].values, pixels(sub32))


def test_cut_off_gzip_files(tmp_path, sub32):
    packed = gzip.compress(sub32.read_bytes())
    path = tmp_path / "x_uncal.fits.gz"
    for length in (30, len(packed) // 2, len(packed) - 4):
        path.write_bytes(packed[:length])
        fails(path, "gzip")
    path.write_bytes(gzip.compress(sub32.read_bytes()[:50000]))
    fails(path, "cut off")


def test_files_that_are_damaged_after_opening(tmp_path, sub32):
    path = tmp_path / "x_uncal.fits"
    shutil.copy(sub32, path)
    exposure = nsxr.open_exposure(path)
    path.write_bytes(sub32.read_bytes()[:30000])
    with pytest.raises(InputFileError, match=r"x_uncal.fits: the file has changed since it was opened: 30000 bytes"):
        exposure["sci"].load(scheduler="synchronous")


def test_other_instruments_and_products(sub32, changed):
    fails(changed(sub32, INSTRUME="NIRCAM"), "INSTRUME", "'NIRCAM'", "'NIRSPEC'")
    fails(changed(sub32, INSTRUME=None), "INSTRUME")
    fails(changed(sub32, DETECTOR="NRS3"), "'NRS3'", "'NRS1' or 'NRS2'")
    fails(changed(sub32, SSTR_NST=4, SUBARRAY="SUB64M8_PRISM"), "superstripe", "SUB64M8_PRISM")
    fails(changed(sub32, SUBARRAY="SUB64M8_PRISM"), "superstripe", "SUB64M8_PRISM")


def test_missing_parts(sub32, changed):
    fails(changed(sub32, lambda hdus: hdus.__delitem__("SCI")), "SCI", "GROUP, INT_TIMES")
    fails(changed(sub32, READPATT=None, NGROUPS=None, TGROUP=None), "READPATT", "NGROUPS", "TGROUP")
    fails(changed(sub32, NGROUPS="many"), "many")


def test_shapes_against_the_header(sub32, irs2, changed):
    fails(changed(sub32, NGROUPS=7, SUBSIZE1=64, SUBSIZE2=16), "3 groups", "7", "32 columns", "64", "32 rows", "16")
    fails(changed(sub32, INTEND=9), "5 integrations", "9")

    def short(hdus):
        hdus["SCI"].data = hdus["SCI"].data[:, :, :2048]

    fails(changed(irs2, short), "2048 rows", "NRSIRS2RAPID", "3200")

    def flat(hdus):
        hdus["SCI"].data = hdus["SCI"].data[0, 0, 0]

    fails(changed(sub32, flat), "1 axes", "2 to 4")

    def fewer(hdus):
        hdus["INT_TIMES"].data = hdus["INT_TIMES"].data[:2]

    fails(changed(sub32, fewer), "INT_TIMES has 2 rows for 5 integrations")


def test_coding(sub32, changed):
    def wide(hdus):
        hdus["SCI"].data = hdus["SCI"].data.astype(np.int32)

    fails(changed(sub32, wide), "BITPIX 32", "16 and 32768", "-32")

    def signed(hdus):
        hdus["SCI"].data = (hdus["SCI"].data // 2).astype(np.int16)

    fails(changed(sub32, signed), "BZERO 0", "32768")


def test_compressed_images_are_refused(tmp_path, sub32):
    with fits.open(sub32) as hdus:
        image = fits.CompImageHDU(hdus["SCI"].data[0, 0].astype(np.float32), name="SCI")
        fits.HDUList([hdus[0].copy(), image]).writeto(tmp_path / "x_uncal.fits")
    fails(tmp_path / "x_uncal.fits")


def rates(exposure):
    """Rates made by hand, to be written as products."""
    slope = exposure["sci"].isel(group=0, drop=True)
    units = {"sci": "DN/s", "var_poisson": "(DN/s)2", "var_rnoise": "(DN/s)2"}
    empty = xr.Dataset(coords=slope.coords, attrs=exposure.attrs)
    new = {"sci": slope, "dq": slope.astype(np.uint32), "var_poisson": slope, "var_rnoise": slope}
    rateints = record(empty, "ramp_fit", units=units, **new)
    return xr.DataTree.from_dict({"rate": rateints.isel(integration=0, drop=True), "rateints": rateints})


def test_corrected_ramps_are_no_raw_exposures_but_count_rates_open(sub32, tmp_path):
    exposure = nsxr.open_exposure(sub32)
    scaled = record(exposure, "group_scale", sci=exposure["sci"] * np.float32(1))
    write_products(rates(exposure), tmp_path, "x", progress=False, steps={"group_scale": scaled})
    fails(tmp_path / "x_group_scale.fits", "group_scale", "raw")
    expected = rates(exposure)
    for kind in ("rate", "rateints"):
        found = nsxr.open_exposure(tmp_path / f"x_{kind}.fits")
        assert found["sci"].chunks is not None
        np.testing.assert_array_equal(found["sci"], expected[kind]["sci"])
        with pytest.raises(ModelError, match="'sci' has dims"):
            nsxr.detector1(found, {})


def test_rates_must_have_their_variances(sub32, tmp_path):
    write_products(rates(nsxr.open_exposure(sub32)), tmp_path, "x", progress=False)
    path = tmp_path / "x_rate.fits"
    with fits.open(path, mode="update", memmap=False) as hdus:
        hdus["VAR_RNOISE"].data = hdus["VAR_RNOISE"].data[:, :5]
    fails(path, "var_rnoise", "(32, 5)", "(32, 32)", opener=read_dataset)
    with fits.open(path, mode="update", memmap=False) as hdus:
        del hdus["VAR_RNOISE"]
    with pytest.raises(InputFileError, match=re.escape("extension VAR_RNOISE is missing")):
        read_dataset(path)
