import numpy as np
import pytest
import xarray as xr

import nsxr
from nsxr.errors import ReferenceFileError
from nsxr.model.readout import DETECTOR_SIZE, irs2_layout
from nsxr.references.match import match
from nsxr.simulate import small_exposure
from nsxr.testing import FULL_FRAME, forbid_computes, make_exposure

IMAGE = ("row", "column")


def image(rows, columns, **extra):
    """Reference whose values tell rows and columns: 2500 row + column."""
    rows, columns = np.asarray(rows), np.asarray(columns)
    values = (2500.0 * rows[:, None] + columns).astype(np.float32)
    contents = {"sci": (IMAGE, values), "dq": (IMAGE, (rows[:, None] * 3 + columns + 1).astype(np.uint32))}
    contents["coefficients"] = (("order", *IMAGE), np.stack([values, -values]))
    coordinates = {"row": rows, "column": columns, **extra}
    return xr.Dataset(contents, coordinates, {"reference_type": "superbias", "filename": "x.fits"})


def raw(detector, rows=3200, columns=6, chunks=None, **changes):
    keywords = {"READPATT": "NRSIRS2RAPID", **FULL_FRAME, "TFRAME": 1.0, "DETECTOR": detector, **changes}
    dataset = make_exposure(np.zeros((1, 1, rows, columns)), **keywords)[["sci"]]
    return dataset if chunks is None else dataset.chunk(chunks).assign_coords(dataset.coords)


@pytest.fixture(params=["numpy", "dask"])
def lazily(request):
    """Return a function that makes exposure and reference lazy, or leaves them as they are."""

    def make(exposure, reference, rows=640):
        if request.param == "numpy":
            return exposure, reference
        lazy = exposure.chunk({"row": rows}).assign_coords(exposure.coords)
        return lazy, reference.chunk({"row": 512}).assign_coords(reference.coords)

    return make


def matched(reference, exposure):
    before = reference.copy(deep=True)
    with forbid_computes():
        result = match(reference, exposure)
    xr.testing.assert_identical(reference.compute(), before.compute())
    if exposure["sci"].chunks is not None and reference["sci"].chunks is not None:
        for array in result.data_vars.values():
            assert array.chunks[-2:] == exposure["sci"].chunks[-2:]
    for label in ("row", "column"):
        np.testing.assert_array_equal(result[label], exposure[label])
    assert result["amplifier"].values.tolist() == exposure["amplifier"].values.tolist()
    assert result.attrs == reference.attrs
    return result.compute()


def test_cut_to_a_subarray_by_label(lazily):
    exposure = raw("NRS1", rows=32, columns=10, SUBARRAY="SUB512", READPATT="NRSRAPID", SUBSTRT1=1025, SUBSTRT2=957)
    exposure, reference = lazily(exposure, image(np.arange(2048), np.arange(1000, 1100)), rows=8)
    result = matched(reference, exposure)
    expected = 2500.0 * np.arange(956, 988)[:, None] + np.arange(1024, 1034)
    np.testing.assert_array_equal(result["sci"], expected)
    np.testing.assert_array_equal(result["coefficients"], [expected, -expected])
    assert result["dq"].dtype == np.uint32
    assert result["coefficients"].dims == ("order", *IMAGE)


def test_labels_that_are_not_consecutive(lazily):
    exposure = raw("NRS1", rows=32, columns=6, SUBARRAY="SUB512", READPATT="NRSRAPID", SUBSTRT2=957)
    exposure = exposure.isel(column=[0, 1, 4, 5], row=slice(None, None, 3))
    exposure, reference = lazily(exposure, image(np.arange(900, 1000), np.arange(2048)), rows=4)
    result = matched(reference, exposure)
    np.testing.assert_array_equal(result["sci"], 2500.0 * np.arange(956, 988, 3)[:, None] + [0, 1, 4, 5])


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_expanded_to_raw_irs2_frames(lazily, detector):
    exposure, reference = lazily(raw(detector), image(np.arange(2048), np.arange(6)))
    result = matched(reference, exposure)
    science_row = irs2_layout(detector).science_row.astype(float)
    expected = np.where(science_row >= 0, 2500 * science_row, np.nan)[:, None] + np.arange(6)
    np.testing.assert_array_equal(result["sci"], expected)
    np.testing.assert_array_equal(result["coefficients"], [expected, -expected])
    flags = np.where(science_row[:, None] >= 0, science_row[:, None] * 3 + np.arange(6) + 1, 0)
    np.testing.assert_array_equal(result["dq"], flags)
    assert result["dq"].dtype == np.uint32
    assert result["sci"].dtype == np.float32
    np.testing.assert_array_equal(result["science_row"], exposure["science_row"])


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_expanded_to_some_rows_of_raw_irs2_frames(lazily, detector):
    exposure = raw(detector).isel(row=slice(1000, 1500), column=slice(2, 5))
    exposure, reference = lazily(exposure, image(np.arange(2048), np.arange(6)), rows=100)
    result = matched(reference, exposure)
    science_row = irs2_layout(detector).science_row[1000:1500].astype(float)
    expected = np.where(science_row >= 0, 2500 * science_row, np.nan)[:, None] + np.arange(2, 5)
    np.testing.assert_array_equal(result["sci"], expected)


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_stripped_of_interleaved_rows(lazily, detector):
    science_row = irs2_layout(detector).science_row
    reference = image(np.arange(3200), np.arange(6), science_row=("row", science_row))
    exposure, reference = lazily(raw(detector, rows=2048), reference, rows=512)
    result = matched(reference, exposure)
    raw_rows = np.flatnonzero(science_row >= 0)
    np.testing.assert_array_equal(result["sci"], 2500.0 * raw_rows[:, None] + np.arange(6))
    assert "science_row" not in result.coords


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_raw_references_stay_raw(lazily, detector):
    reference = image(np.arange(3200), np.arange(6), science_row=("row", irs2_layout(detector).science_row))
    exposure, reference = lazily(raw(detector), reference)
    xr.testing.assert_equal(matched(reference, exposure)["sci"].drop_vars("amplifier"), reference["sci"].compute())


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_expanding_and_stripping_gives_back_the_reference(detector):
    reference = image(np.arange(DETECTOR_SIZE), np.arange(6))
    expanded = match(reference, raw(detector))
    back = match(expanded, raw(detector, rows=2048))
    np.testing.assert_array_equal(back["sci"], reference["sci"])
    np.testing.assert_array_equal(back["dq"], reference["dq"])


def test_what_is_not_covered_is_named():
    exposure = raw("NRS1", rows=32, columns=10, SUBARRAY="SUB512", READPATT="NRSRAPID", SUBSTRT1=1025, SUBSTRT2=957)
    for rows, columns, words in (
        (np.arange(900, 980), np.arange(2048), ("rows 900 to 979", "956 to 987")),
        (np.arange(2048), np.arange(1030, 1100), ("columns 1030 to 1099", "1024 to 1033")),
    ):
        with pytest.raises(ReferenceFileError) as error:
            match(image(rows, columns), exposure)
        for word in ("superbias x.fits", *words):
            assert word in str(error.value)


def test_subarray_from_a_full_frame_file(irs2, sub32, tmp_path):
    """A file of a whole detector serves a subarray: gain, read noise, linearity, saturation, mask."""
    full = small_exposure(readout="NRSRAPID", subarray="FULL", groups=1, columns=8).exposure
    part = full.isel(row=slice(100, 132), column=slice(2, 6))
    exposure = nsxr.open_exposure(irs2.uncal)
    references = nsxr.open_references(irs2.references, exposure)
    for kind in ("gain", "readnoise", "linearity", "saturation"):
        reference = references[kind].isel(row=slice(None), column=slice(None))
        labels = {"row": part["row"], "column": [2, 3]}
        cut = match(reference, part.isel(column=slice(0, 2)))
        for name, array in reference.data_vars.items():
            np.testing.assert_array_equal(cut[name].values, array.sel(labels).values)
