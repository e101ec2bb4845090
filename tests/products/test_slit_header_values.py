"""Whatever the header of a slit says: one line that names keyword, value and file, or a label that says nothing."""

import numpy as np
import pytest
from astropy.io import fits
from slit_files import simulated_slits, write_cal

import nsxr
from nsxr.errors import InputFileError
from nsxr.model.slit_header import SlitHeader
from nsxr.products.padding import SLIT_COORDINATES, pad_slits
from nsxr.slits.collection import iterate_slits

ODD = ["N/A", "", "x", True, -1, 0, 1.5, 1e30, 10**18, None]
LABELS = {keyword: name for name, (keyword, _) in SLIT_COORDINATES.items()}


@pytest.fixture(scope="module")
def cal(tmp_path_factory):
    return write_cal(tmp_path_factory.mktemp("cal") / "a_cal.fits", simulated_slits(2))


@pytest.fixture
def changed(cal, tmp_path):
    """Return a function that copies a file and sets a keyword of the first slit, or of the primary header."""

    def change(key, value, extension=("SCI", 1)):
        path = tmp_path / "b_cal.fits"
        path.write_bytes(cal.read_bytes())
        with fits.open(path, mode="update") as hdus:
            header = hdus[extension].header
            if value is not None:
                header[key] = value
            elif key in header:
                del header[key]
        return path

    return change


@pytest.mark.parametrize("key", [*LABELS, "SLTNAME"])
def test_labels_that_cannot_be_say_nothing_and_leave_the_others(cal, changed, key):
    known = nsxr.open_slits(cal)
    for value in ODD:
        slits = nsxr.open_slits(changed(key, value))
        padded, usual = pad_slits(slits), pad_slits(known)
        for name in {*LABELS.values()} - {LABELS.get(key)}:
            np.testing.assert_array_equal(padded[name], usual[name])
        if key in LABELS:
            assert padded[LABELS[key]].dtype.kind in ("f", "i", "O")
        for (_, slit), (_, other) in zip(iterate_slits(slits), iterate_slits(known), strict=True):
            np.testing.assert_array_equal(slit["column"], other["column"])
            SlitHeader.of(slit)


@pytest.mark.parametrize("key", ["SLTSTRT1", "SLTSTRT2"])
def test_the_place_of_a_slit_matters(changed, key):
    for value in ("N/A", "", "x", True, 1.5, 1e30, 10**18):
        path = changed(key, value)
        with pytest.raises(InputFileError, match=rf"b_cal\.fits: .*{key}"):
            nsxr.open_slits(path)


@pytest.mark.parametrize("key", ["SUBSTRT1", "SUBSTRT2"])
def test_the_place_of_the_subarray_matters_where_it_is_given(cal, changed, key):
    for value in ("N/A", "", None, "1.0"):
        slits, known = nsxr.open_slits(changed(key, value, 0)), nsxr.open_slits(cal)
        np.testing.assert_array_equal(slits["1"]["row"], known["1"]["row"])
    for value in ("x", 0, -1, True, 1e30):
        path = changed(key, value, 0)
        with pytest.raises(InputFileError, match=rf"b_cal\.fits: keyword {key} is .*, expected a whole number from 1"):
            nsxr.open_slits(path)
