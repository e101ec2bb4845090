"""References with keywords, flags and values that cannot be: left out with the reason, or flagged, never believed."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import nsxr
from nsxr.errors import DegradedResultWarning, MissingReferenceError, ReferenceFileError
from nsxr.model.dq import PixelFlag, recode
from nsxr.references.limits import LIMITS, flag_unphysical
from nsxr.simulate import simulate_exposure
from nsxr.testing import forbid_computes

DNU = PixelFlag.DO_NOT_USE
PLACE = (slice(10, 12), slice(5, 9))  # pixels that are made odd


def open_one(kind, path, exposure):
    return nsxr.open_references({kind: path}, exposure, types=[kind])[kind]


@pytest.fixture
def folder(tmp_path, sub32):
    """A directory with the references of the exposure."""
    made = tmp_path / "references"
    made.mkdir()
    for path in sub32.references.values():
        shutil.copy(path, made)
    return made


def the(kind, folder):
    return next(folder.glob(f"*_{kind}_*"))


# keywords


@pytest.mark.parametrize(
    ("kind", "values", "reason"),
    [
        ("gain", {"SUBSTRT1": "N/A"}, "missing header keywords SUBSTRT1 ('N/A'); they give the place of its 32 x 32"),
        ("saturation", {"SUBSTRT2": "one"}, "keyword SUBSTRT2 is 'one', expected a whole number from 1 to 2048"),
        ("superbias", {"SUBSTRT1": 2040}, "SUBSTRT1 and SUBSTRT2 are 2040 and"),
        ("dark", {"NFRAMES": "N/A"}, "missing header keywords NFRAMES ('N/A'); they say how the dark was sampled"),
        ("dark", {"GROUPGAP": -1}, "keyword GROUPGAP is -1, expected a whole number from 0"),
        ("linearity", {"USEAFTER": "tomorrow"}, "keyword USEAFTER is 'tomorrow', expected a date"),
        (
            "mask",
            {"USEAFTER": "Feb 01 2040"},
            "USEAFTER is 2040-02-01T00:00:00, the exposure started 2026-01-15",
        ),
        ("readnoise", {"SUBSTRT2": 5}, "covers rows 4 to 35, columns"),
        ("superbias", {"READPATT": "NRS"}, "READPATT is 'NRS', that of the exposure is 'NRSRAPID'"),
    ],
)
def test_one_odd_file_of_a_directory_is_left_out_with_its_reason(folder, exposure, kind, values, reason):
    for key, value in values.items():
        fits.setval(the(kind, folder), key, value=value)
    references = nsxr.open_references(folder, exposure)
    assert kind not in references
    assert len(references) == 6
    with pytest.raises(MissingReferenceError) as error:
        nsxr.detector1(exposure, references)
    message = str(error.value)
    assert f"left out as {kind}: {the(kind, folder).name}: " in message
    assert reason in message
    assert "\n" not in message


def test_many_that_were_left_out_are_counted(folder, exposure):
    for number in range(6):
        shutil.copy(the("gain", folder), folder / f"{number}.fits")
        fits.setval(folder / f"{number}.fits", "DETECTOR", value="NRS2")
    the("gain", folder).unlink()
    (folder / "garbage.fits").write_bytes(b"no fits file")
    with pytest.raises(MissingReferenceError, match=r"0\.fits: DETECTOR is 'NRS2'.*3\.fits.*; and 3 more files$"):
        nsxr.detector1(exposure, nsxr.open_references(folder, exposure))


@pytest.mark.parametrize("date", ["Jan 15 2026 05:59:00", "2026/01/15", "15 January 2026", "20260115"])
def test_dates_are_compared_as_dates(folder, exposure, date):
    late = folder / "late.fits"
    shutil.copy(the("gain", folder), late)
    fits.setval(late, "USEAFTER", value=date)
    assert nsxr.open_references(folder, exposure)["gain"].attrs["filename"] == "late.fits"


@pytest.mark.parametrize("date", ["someday", None, 2022])
def test_without_a_date_the_latest_is_taken_with_a_warning(folder, exposure, date):
    shutil.copy(the("gain", folder), folder / "late.fits")
    fits.setval(folder / "late.fits", "USEAFTER", value="2030-01-01")
    undated = exposure.assign_attrs({"DATE-OBS": date})
    with pytest.warns(DegradedResultWarning, match="DATE-OBS is .* so the latest gain reference is taken, late.fits"):
        assert nsxr.open_references(folder, undated)["gain"].attrs["filename"] == "late.fits"


@pytest.mark.parametrize("factor", ["N/A", "", 0.0, -1.0, 1e30, "two", True])
def test_rates_without_a_usable_gain_factor_are_a_warning(folder, exposure, factor):
    fits.setval(the("gain", folder), "GAINFACT", value=factor)
    references = nsxr.open_references(folder, exposure)
    with pytest.warns(DegradedResultWarning, match=r"uncal.fits: the gain reference .* has no usable GAINFACT"):
        nsxr.detector1(exposure, references)
    nsxr.detector1(exposure, references, skip=["gain_scale"])  # on request


@pytest.mark.parametrize(
    ("value", "expected"), [("N/A", None), ("0.02", 0.02), (-1.0, None), ("dark", None), (1e30, None)]
)
def test_average_dark_current(sub32, exposure, changed, value, expected):
    dark = open_one("dark", changed(sub32.references["dark"], AVDRKCUR=value), exposure)
    assert dark.attrs.get("average_dark_current") == expected


# flags


@pytest.mark.parametrize("dtype", [">i4", ">i8", "S12", ">f8"])
def test_values_of_flags_may_have_a_sign_and_names_any_case(sub32, exposure, changed, dtype):
    rows = [(-(2**31), "unreliable_bias"), (1, " do not use "), (2, "Hot"), (4, ""), (8, "low-qe")]
    if dtype == "S12":
        rows = [(str(value).encode(), name) for value, name in rows]
    definitions = np.array(rows, dtype=[("VALUE", dtype), ("NAME", "S40")])

    def edit(hdus):
        hdus["DQ"].data = np.tile(np.array([2**31, 1, 2, 4, 8, 0, 3, 9], np.uint32), (32, 4))
        hdus["DQ_DEF"] = fits.BinTableHDU(definitions, name="DQ_DEF")

    found = open_one("superbias", changed(sub32.references["superbias"], edit), exposure)["dq"].values[0, :8]
    hot, low = PixelFlag.HOT, PixelFlag.LOW_QE
    assert found.tolist() == [PixelFlag.UNRELIABLE_BIAS, DNU, hot, 0, low, 0, DNU | hot, DNU | low]


@pytest.mark.parametrize("value", [b"bad", b"", b"1.5", b"99999999999"])
def test_values_of_flags_that_are_none(sub32, exposure, changed, value):
    definitions = np.array([(value, "HOT")], dtype=[("VALUE", "S12"), ("NAME", "S40")])

    def edit(hdus):
        hdus["DQ_DEF"] = fits.BinTableHDU(definitions, name="DQ_DEF")

    path = changed(sub32.references["superbias"], edit)
    with pytest.raises(ReferenceFileError, match=r"DQ_DEF gives HOT the value .* expected a whole number of 32 bits"):
        open_one("superbias", path, exposure)


def test_flags_of_unknown_names_are_told_if_pixels_of_the_exposure_have_them(sub32, exposure, changed):
    definitions = np.array([(1, "GHOST"), (2, "ELSEWHERE")], dtype=[("VALUE", ">i4"), ("NAME", "S40")])
    flags = np.zeros((32, 32), np.uint32)
    flags[PLACE] = 1

    def edit(hdus):
        hdus["DQ"].data = flags
        hdus["DQ_DEF"] = fits.BinTableHDU(definitions, name="DQ_DEF")

    path = changed(sub32.references["superbias"], edit)
    with pytest.warns(DegradedResultWarning, match=rf"{path.name}: flags GHOST \(8 pixels\) are lost") as caught:
        open_one("superbias", path, exposure)
    assert len(caught) == 1
    flags[PLACE] = 0
    open_one("superbias", changed(sub32.references["superbias"], edit), exposure)


def test_recoding_takes_bytes_and_signs():
    definitions = [{"NAME": b"hot\0", "VALUE": np.int32(-(2**31))}, {"NAME": "Bad Ref Pixel", "VALUE": 1}]
    dq, unknown = recode(np.array([2**31, 1, 2], np.uint32), definitions)
    assert dq.tolist() == [PixelFlag.HOT, PixelFlag.BAD_REF_PIXEL, 0]
    assert unknown == []


# compressed images


def test_compressed_images_are_told(tmp_path, folder, sub32, exposure):
    path = the("gain", folder)
    image, header = fits.getdata(path, "SCI"), fits.getheader(path)
    fits.HDUList([fits.PrimaryHDU(header=header), fits.CompImageHDU(image, name="SCI")]).writeto(path, overwrite=True)
    reason = (
        r"extension SCI is a compressed image \(RICE_1\), which nsxr does not read; decompress the file first: funpack"
    )
    with pytest.raises(ReferenceFileError, match=reason):
        open_one("gain", path, exposure)
    with pytest.raises(MissingReferenceError, match=f"left out as gain: {path.name}: {reason}"):
        nsxr.detector1(exposure, nsxr.open_references(folder, exposure))
    raw = tmp_path / "a_uncal.fits"
    with fits.open(sub32.uncal[0]) as hdus:
        images = [fits.PrimaryHDU(header=hdus[0].header), fits.CompImageHDU(hdus["SCI"].data[0], name="SCI")]
        fits.HDUList(images).writeto(raw)
    with pytest.raises(nsxr.errors.InputFileError, match=r"a_uncal\.fits: extension SCI is a compressed image"):
        nsxr.open_exposure(raw)


# values


FLAGS = {
    "superbias": PixelFlag.UNRELIABLE_BIAS | DNU,
    "dark": PixelFlag.UNRELIABLE_DARK,
    "linearity": PixelFlag.NO_LIN_CORR,
    "saturation": PixelFlag.NO_SAT_CHECK,
    "gain": PixelFlag.NO_GAIN_VALUE | DNU,
    "readnoise": DNU,
}


SHARED = ["refpix", "jump", "clean_flicker_noise"]
"""Steps in which a pixel changes others."""


@pytest.fixture(scope="module")
def good(sub32):
    """Rates with the references as they are."""
    exposure = nsxr.open_exposure(sub32.uncal)
    tree = nsxr.detector1(exposure, nsxr.open_references(sub32.references, exposure), skip=SHARED)
    return tree["rate"].to_dataset().compute(scheduler="synchronous")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("superbias", (1e30, -1e30, np.nan, np.inf)),
        ("dark", (1e30, np.nan, -np.inf, -1e6)),
        ("linearity", (1e30, -1e30, np.nan, np.inf)),
        ("saturation", (np.nan, -5.0, 0.0, 1e30)),
        ("gain", (1e-30, -1.0, np.nan, 1e30)),
        ("readnoise", (1e30, -5.0, np.nan, 0.0)),
    ],
)
def test_values_that_cannot_be_are_flagged_and_reach_no_other_pixel(good, sub32, exposure, changed, kind, values):
    """Nothing usable is far off, and other pixels do not change."""

    def edit(hdus):
        hdus["COEFFS" if kind == "linearity" else "SCI"].data[(..., *PLACE)] = values  # each in a column of its own

    path = changed(sub32.references[kind], edit)
    with forbid_computes():
        references = nsxr.open_references(sub32.references, exposure, {kind: path})
        tree = nsxr.detector1(exposure, references, skip=SHARED)
    found = tree["rate"].to_dataset().compute(scheduler="synchronous")
    inside = xr.zeros_like(good["dq"], dtype=bool)
    inside.values[PLACE] = True
    flags = np.uint32(FLAGS[kind].value)
    assert ((found["dq"].values[PLACE] & flags) == flags).all()
    grown = inside
    if kind == "saturation":  # a pixel that saturates takes its neighbours along
        grown = inside.rolling(row=3, column=3, center=True, min_periods=1).max().astype(bool)
    for name in ("sci", "var_poisson", "var_rnoise", "dq"):
        np.testing.assert_array_equal(found[name].where(~grown), good[name].where(~grown))
    usable = ((found["dq"] | good["dq"]) & np.uint32(DNU.value)) == 0
    np.testing.assert_allclose(found["sci"].values[usable], good["sci"].values[usable], rtol=0.1, atol=500)


def test_good_references_pass_as_they_are(sub32, irs2, exposure):
    for made in (sub32, irs2):
        plain = nsxr.open_exposure(made.uncal)
        for kind, reference in nsxr.open_references(made.references, plain).items():
            for name, limit in ((n, v) for (k, n), v in LIMITS.items() if k == kind and n in reference):
                if limit.becomes_nan and name == "sci":
                    stored = fits.getdata(made.references[kind], "SCI")[..., : reference[name].shape[-2], :]
                    np.testing.assert_array_equal(reference[name], stored[: len(reference[name])])


def test_limits_of_polynomials_are_those_of_each_power():
    coefficients = np.zeros((4, 1, 3), np.float32)
    coefficients[1] = 1
    coefficients[2, 0, 1] = 100 / 65535 * 0.99
    coefficients[2, 0, 2] = 100 / 65535 * 1.01
    reference = xr.Dataset(
        {"coefficients": (("order", "row", "column"), coefficients), "dq": (("row", "column"), np.zeros((1, 3), "u4"))}
    )
    assert flag_unphysical("linearity", reference)["dq"].values.tolist() == [[0, 0, PixelFlag.NO_LIN_CORR]]


def test_reference_pixels_of_raw_irs2_frames_need_no_bias(irs2, changed):
    exposure = nsxr.open_exposure(irs2.uncal)
    is_science = exposure["science_row"].values >= 0

    def edit(hdus):
        hdus["SCI"].data[~is_science] = np.nan

    before = open_one("superbias", irs2.references["superbias"], exposure)["dq"].values
    after = open_one("superbias", changed(irs2.references["superbias"], edit), exposure)["dq"].values
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("value", [np.nan, 1e30])
def test_weights_of_irs2_that_cannot_be_leave_nothing_to_believe(irs2, changed, value):
    exposure = nsxr.open_exposure(irs2.uncal)

    def edit(hdus):
        hdus["IRS2"].data["alpha_1"][100] = value

    path = changed(irs2.references["refpix"], edit)
    weights = open_one("refpix", path, exposure)
    assert np.isnan(weights["alpha"].values).sum() == 1
    good = open_one("refpix", irs2.references["refpix"], exposure)
    assert weights["alpha"].chunks == good["alpha"].chunks
    np.testing.assert_array_equal(weights["beta"], good["beta"])
    references = nsxr.open_references(irs2.references, exposure, {"refpix": path})
    rate = nsxr.detector1(exposure, references)["rate"].to_dataset().compute(scheduler="synchronous")
    output = slice(512, 1024)
    assert ((rate["dq"].values[output] & DNU.value) != 0).all()
    usable = (rate["dq"].values & DNU.value) == 0
    assert usable[:512].mean() > 0.9
    assert np.abs(rate["sci"].values[usable]).max() < 1e5


def test_real_references_get_no_new_flags(tmp_path):
    if "NSXR_REAL_DATA" not in os.environ:
        pytest.skip("NSXR_REAL_DATA does not name the folder of real files")
    real_references = Path(os.environ["NSXR_REAL_DATA"]) / "crds_refs"
    made = simulate_exposure(tmp_path, readout="NRSRAPID", subarray="SUB512", groups=4)
    exposure = nsxr.open_exposure(made.uncal)
    for kind, number in (("dark", "0046"), ("superbias", "0075")):
        path = real_references / f"jwst_nirspec_{kind}_{number}.fits"
        with fits.open(path) as hdus:
            stored = hdus["DQ"].data
            names = {row["NAME"].strip(): int(row["VALUE"]) for row in hdus["DQ_DEF"].data}
        found = open_one(kind, path, exposure)["dq"].values
        bit = {"dark": "UNRELIABLE_DARK", "superbias": "UNRELIABLE_BIAS"}[kind]
        new = (found & PixelFlag[bit].value) != 0
        np.testing.assert_array_equal(new, (stored & names[bit]) != 0)
