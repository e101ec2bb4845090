import errno
import json
import os
import pickle
from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from nsxr.errors import ModelError
from nsxr.formats.fits_layout import BlockFile
from nsxr.formats.fits_tables import GROUP_COLUMNS, TIME_COLUMNS, steps_from_table
from nsxr.formats.fits_write import create_fits
from nsxr.formats.keywords import _length, primary_header
from nsxr.model.history import record, record_skip
from nsxr.model.variables import variable_attributes

OWN_TABLES = ("NSXR_STEPS", "NSXR_PROVENANCE", "ASDF")


def raw_header():
    header = fits.Header([("SIMPLE", True), ("BITPIX", 8), ("NAXIS", 0), ("EXTEND", True)])
    header["TELESCOP"] = ("JWST", "Telescope used to acquire the data")
    header["NEXTEND"] = 4
    header["DATAMODL"] = ("Level1bModel", "Type of data model")
    header.add_blank("")
    header.add_blank("        Program information")
    header["TITLE"] = ("a long title " * 9, "Proposal title, over several cards")
    header["READPATT"] = ("NRSRAPID", "Readout pattern")
    header["TFRAME"] = (10.73677, "[s] frame time")
    header["EXPSTART"] = (59950.24343581088, "[d] exposure start time in MJD")
    header["CHECKSUM"] = "abcdefgh"
    header.add_comment("a comment of the archive")
    header.add_history("a history of the archive")
    header["HIERARCH LONG KEYWORD"] = (3, "a long name")
    return header


def image_header():
    header = fits.Header([("XTENSION", "IMAGE"), ("BITPIX", 16), ("NAXIS", 4)])
    header.extend([("NAXIS1", 2048), ("BZERO", 32768), ("EXTNAME", "SCI"), ("BUNIT", "DN"), ("CHECKSUM", "x")])
    header["CRVAL1"] = (53.16, "first axis value")
    header["S_REGION"] = ("POLYGON ICRS " + "53.161234567 -27.801234567 " * 4, "spatial extent")
    return header


def attributes():
    header = raw_header()
    flat = {k: v for k, v in header.items() if k not in ("COMMENT", "HISTORY", "", "SIMPLE", "BITPIX", "NAXIS")}
    return {**flat, "EXP_TYPE": "NRS_BRIGHTOBJ", "fits_header": header.tostring(sep="\n"), "filename": "x_uncal.fits"}


def times(integrations):
    names = dict.fromkeys(TIME_COLUMNS)
    return {n: ("integration", 6e4 + i + np.arange(integrations) / 3) for i, n in enumerate(names)}


def rate(integrations=None, rows=4, columns=6, seed=0):
    random = np.random.default_rng(seed)
    dims, shape = ("row", "column"), (rows, columns)
    if integrations:
        dims, shape = ("integration", *dims), (integrations, *shape)
    floats = {n: random.normal(1, 0.1, shape).astype("f4") ** 2 for n in ("sci", "var_poisson", "var_rnoise")}
    floats["sci"].view("u4")[..., 1, 1] = 0x7FC12345  # a NaN with a payload
    units = {"sci": "DN/s", "var_poisson": "(DN/s)2", "var_rnoise": "(DN/s)2"}
    data = {n: (dims, v, {**variable_attributes(n), "units": units[n]}) for n, v in floats.items()}
    flags = random.integers(0, 2**32, shape, dtype="u4")
    flags.flat[:2] = 0, 0xFFFFFFFF
    coords = {"row": np.arange(rows) + 100, "column": np.arange(columns)}
    if integrations:
        coords |= {"integration": np.arange(integrations) + 5, **times(integrations)}
    dataset = xr.Dataset({**data, "dq": (dims, flags, variable_attributes("dq"))}, coords, attributes())
    dataset["sci"].attrs["fits_header"] = image_header().tostring(sep="\n")
    reference = xr.Dataset(attrs={"reference_type": "superbias", "filename": "crds://jwst_nirspec_superbias_0075.fits"})
    dataset = record(dataset, "superbias", [reference])
    dataset = record_skip(dataset, "dark_current", "no dark given — on purpose")
    return record(dataset, "jump", parameters={"rejection_threshold": 4.0, "names": ["a", "é"]})


def ramp(integrations=2, groups=3, rows=4, columns=6):
    random = np.random.default_rng(1)
    shape = (integrations, groups, rows, columns)
    dims = ("integration", "group", "row", "column")
    return xr.Dataset(
        {
            "sci": (dims, random.normal(1e4, 10, shape).astype("f4"), {"units": "DN"}),
            "pixeldq": (dims[2:], random.integers(0, 2**32, shape[2:], dtype="u4")),
            "groupdq": (dims, random.integers(0, 256, shape, dtype="u1")),
        },
        {"integration": np.arange(integrations) + 1, "group": np.arange(groups) + 1, **times(integrations)},
        attributes(),
    )


def write(path, dataset, name="x_rate.fits"):
    for array, target in create_fits(path, dataset, name):
        target[...] = array.values
    return path


def bits(array):
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


@pytest.mark.parametrize("integrations", [None, 1, 3])
def test_rates_come_back_bit_for_bit(tmp_path, integrations):
    dataset = rate(integrations)
    with fits.open(write(tmp_path / "x.fits", dataset), memmap=False) as hdus:
        hdus.verify("exception")
        middle = ["INT_TIMES"] if integrations else []
        order = ["PRIMARY", "SCI", "ERR", "DQ", *middle, "VAR_POISSON", "VAR_RNOISE", *OWN_TABLES]
        assert [hdu.name for hdu in hdus] == order
        for name in ("sci", "var_poisson", "var_rnoise"):
            stored = hdus[name].data
            assert stored.dtype == ">f4"
            np.testing.assert_array_equal(bits(stored.astype("f4")), bits(dataset[name].values))
        assert hdus["DQ"].header["BITPIX"] == 32
        assert hdus["DQ"].header["BZERO"] == 2147483648
        assert hdus["DQ"].data.dtype == np.uint32
        np.testing.assert_array_equal(hdus["DQ"].data, dataset["dq"].values)
        expected = np.sqrt(dataset["var_poisson"].values + dataset["var_rnoise"].values)
        np.testing.assert_array_equal(hdus["ERR"].data, expected)
        assert hdus["SCI"].header["BUNIT"] == hdus["ERR"].header["BUNIT"] == "DN/s"
    assert os.path.getsize(tmp_path / "x.fits") % 2880 == 0


def test_ramp_layout(tmp_path):
    dataset = ramp()
    stamps = np.array([[f"2023-01-06T05:5{i}:0{g}.000000" for g in range(3)] for i in range(2)])
    dataset = dataset.assign_coords(group_end_time=(("integration", "group"), stamps))
    with fits.open(write(tmp_path / "x.fits", dataset)) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI", "PIXELDQ", "GROUPDQ", "GROUP", "INT_TIMES", "ASDF"]
        assert hdus[0].header["DATAMODL"] == "RampModel"
        for name in ("sci", "pixeldq", "groupdq"):
            np.testing.assert_array_equal(hdus[name].data, dataset[name].values)
        assert hdus["GROUPDQ"].header["BITPIX"] == 8
        table = hdus["GROUP"].data
        assert table.names == list(GROUP_COLUMNS)
        assert list(table["group_number"]) == [1, 2, 3, 1, 2, 3]
        assert list(table["integration_number"]) == [1, 1, 1, 2, 2, 2]
        assert list(table["group_end_time"]) == list(stamps.ravel())
        assert set(table["number_of_columns"]) == {6}
    bare = ramp().drop_vars(["pixeldq", "groupdq", *TIME_COLUMNS])
    with fits.open(write(tmp_path / "y.fits", bare)) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI", "ASDF"]


def test_integration_times_round_trip(tmp_path):
    dataset = rate(3)
    with fits.open(write(tmp_path / "x.fits", dataset)) as hdus:
        table = hdus["INT_TIMES"].data
        assert table.names == ["integration_number", *TIME_COLUMNS]
        assert table["integration_number"].dtype == ">i4"
        np.testing.assert_array_equal(table["integration_number"], [5, 6, 7])
        for name in TIME_COLUMNS:
            np.testing.assert_array_equal(table[name], dataset[name].values)


def test_header_is_carried_over(tmp_path):
    dataset = rate()
    dataset.attrs["READPATT"] = "NRSIRS2"  # flat attributes win
    dataset.attrs["PRIMECRS"] = np.float64(0.25)
    dataset.attrs["GAINFACT"] = 1.0
    with fits.open(write(tmp_path / "x.fits", dataset)) as hdus:
        header, science = hdus[0].header.copy(), hdus["SCI"].header.copy()
    before = raw_header()
    assert header["TITLE"] == before["TITLE"]
    assert header.comments["TITLE"] == before.comments["TITLE"]
    assert header["EXPSTART"] == before["EXPSTART"]
    assert header["LONG KEYWORD"] == 3
    assert (header["READPATT"], header.comments["READPATT"]) == ("NRSIRS2", "Readout pattern")
    assert (header["PRIMECRS"], header["GAINFACT"]) == (0.25, 1.0)
    assert list(header["COMMENT"]) == ["a comment of the archive"]
    assert header["HISTORY"][0] == "a history of the archive"
    assert "        Program information" in list(header[""])
    shared = [k for k in header if k in before and k not in ("", "COMMENT", "HISTORY")]
    assert shared == [k for k in before if k in shared]
    assert not {"CHECKSUM", "NEXTEND"} & set(header)
    assert science["S_REGION"] == image_header()["S_REGION"]
    assert (science["CRVAL1"], science["NAXIS"], science["BITPIX"]) == (53.16, 2, -32)
    assert not {"BZERO", "CHECKSUM", "NAXIS4"} & set(science)


def test_status_references_and_history():
    header = primary_header(rate(2), "x_rateints.fits")
    assert header["FILENAME"] == "x_rateints.fits"
    assert header["DATAMODL"] == "CubeModel"
    assert (header["S_SUPERB"], header["S_DARK"], header["S_JUMP"]) == ("COMPLETE", "SKIPPED", "COMPLETE")
    assert header["R_SUPERB"] == "crds://jwst_nirspec_superbias_0075.fits"
    assert "S_RAMP" not in header
    assert header["CAL_VER"].startswith("nsxr ")
    text = " ".join(str(header["HISTORY"]).split())
    assert "superbias: done, with superbias from crds://jwst_nirspec_superbias_0075.fits" in text
    assert "dark_current: skipped, no dark given" in text
    assert "rejection_threshold = 4.0" in text


@pytest.mark.parametrize(
    ("kind", "mode", "model"),
    [
        ("NRS_IFU", "", "IFUImageModel"),
        ("NRS_LAMP", "IFU", "IFUImageModel"),
        ("NRS_AUTOWAVE", "IFU", "IFUImageModel"),
        ("NRS_LAMP", "GRATING-ONLY", "ImageModel"),
        ("NRS_MSASPEC", "MSASPEC", "ImageModel"),
    ],
)
def test_model_type(kind, mode, model):
    dataset = rate().assign_attrs(EXP_TYPE=kind, OPMODE=mode)
    assert primary_header(dataset, "x_rate.fits")["DATAMODL"] == model


def test_provenance_table_is_lossless(tmp_path):
    dataset = rate()
    with fits.open(write(tmp_path / "x.fits", dataset)) as hdus:
        table = hdus["NSXR_STEPS"].data
        assert list(table["STEP"]) == ["superbias", "dark_current", "jump"]
        assert steps_from_table(table) == dataset.attrs["nsxr_steps"]
    assert json.loads(dataset.attrs["nsxr_steps"])[2]["parameters"]["names"] == ["a", "é"]


def test_input_is_unchanged(tmp_path):
    dataset = rate(2)
    before = dataset.copy(deep=True)
    write(tmp_path / "x.fits", dataset)
    xr.testing.assert_identical(dataset, before)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_blocks_make_the_whole(tmp_path_factory, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    dtype = data.draw(st.sampled_from(["float32", "uint32", "uint8", "int16"]))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    values = np.frombuffer(random.bytes(size), dtype=dtype).reshape(shape)
    path = tmp_path_factory.mktemp("blocks") / "image"
    path.write_bytes(b"\xaa" * (size + 14))
    target = pickle.loads(pickle.dumps(BlockFile(str(path), 7, shape, dtype)))
    cuts = [sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=2))}) for n in shape]
    tiles = [[slice(a, b) for a, b in pairwise(c)] for c in cuts]
    grids = np.meshgrid(*(np.arange(len(t)) for t in tiles), indexing="ij")
    corners = list(zip(*(g.ravel() for g in grids), strict=True))
    for corner in random.permutation(corners).tolist():
        index = tuple(t[i] for t, i in zip(tiles, corner, strict=True))
        target[index] = values[index]
    stored = path.read_bytes()
    assert stored[:7] == stored[-7:] == b"\xaa" * 7
    twin = values ^ np.uint32(2**31) if dtype == "uint32" else values
    assert stored[7:-7] == twin.astype(twin.dtype.newbyteorder(">")).tobytes()


def test_blocks_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(bytes(24))
    target = BlockFile(str(path), 0, (2, 3), "float32")
    with pytest.raises(ModelError, match="does not fit"):
        target[0:1] = np.zeros((2, 3), "f4")
    with pytest.raises(ModelError, match="dtype float64"):
        target[...] = np.zeros((2, 3))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        target[...] = np.zeros((2, 3), "f4")
    assert not path.exists()


def test_wrong_datasets_are_refused(tmp_path):
    with pytest.raises(ModelError, match="var_rnoise"):
        create_fits(tmp_path / "x.fits", rate().drop_vars("var_rnoise"), "x.fits")
    with pytest.raises(ModelError, match="float64"):
        create_fits(tmp_path / "x.fits", rate().astype("f8"), "x.fits")
    assert not (tmp_path / "x.fits").exists()


def test_space_is_reserved_or_the_file_at_least_sized(tmp_path, monkeypatch):
    def unsupported(descriptor, offset, length):
        raise OSError(errno.EOPNOTSUPP, "not on this file system")

    def full(descriptor, offset, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    dataset = rate(3)
    with fits.open(write(tmp_path / "x.fits", dataset)) as hdus:
        np.testing.assert_array_equal(hdus["DQ"].data, dataset["dq"].values)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        create_fits(tmp_path / "y.fits", dataset, "y.fits")


@pytest.mark.parametrize("value", ["", "O'Neil's", "x" * 67, "x" * 69, 1, -(10**19), 1e-300, 2.5, True, None])
def test_the_length_of_a_card_is_that_of_astropy(value):
    expected = len(fits.Card("KEY", value).image.rstrip())  # longer texts take several cards
    assert min(_length("KEY", value), 81) == min(expected, 81)
