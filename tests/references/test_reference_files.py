import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import nsxr
from nsxr.errors import DegradedResultWarning, ReferenceFileError
from nsxr.formats.pixels import PixelSource
from nsxr.model.dq import PixelFlag
from nsxr.ramps.dark_current import subtract_dark
from nsxr.ramps.dq_init import initialize_dq
from nsxr.ramps.superbias import subtract_superbias
from nsxr.references.files import TYPES, _WeightsArray
from nsxr.simulate import simulate_exposure, small_exposure
from nsxr.testing import forbid_computes

IMAGES = {"coefficients": "COEFFS", "inverse_coefficients": "INV_COEFFS", "sci": "SCI"}


def pixels(path, name="SCI"):
    with fits.open(path) as hdus:
        return np.array(hdus[name].data)


def open_one(kind, path, exposure):
    return nsxr.open_references({kind: path}, exposure, types=[kind])[kind]


def fails(kind, path, exposure, *words):
    with pytest.raises(ReferenceFileError) as error:
        open_one(kind, path, exposure)
    for word in (str(path), *words):
        assert word in str(error.value), str(error.value)


@pytest.fixture
def reads(monkeypatch):
    """List of (source, values) read."""
    found = []
    plain = PixelSource.read

    def read(self, key):
        values = plain(self, key)
        found.append((self, values))
        return values

    monkeypatch.setattr(PixelSource, "read", read)
    return found


@pytest.mark.parametrize("name", ["sub32", "irs2"])
def test_references_are_what_was_simulated(name, request):
    made = request.getfixturevalue(name)
    exposure = nsxr.open_exposure(made.uncal)
    with forbid_computes():
        references = nsxr.open_references(made.references, exposure)
    assert list(references) == [kind for kind in (*TYPES, "pictureframe") if kind in made.references]
    for kind, reference in references.items():
        attrs = reference.attrs
        assert attrs["reference_type"] == kind
        assert attrs["filename"] == made.references[kind].name
        assert (attrs["pedigree"], attrs["useafter"], attrs["detector"]) == ("DUMMY", "2022-01-01T00:00:00", "NRS1")
        for variable, extension in IMAGES.items():
            if variable in reference:
                expected = pixels(made.references[kind], extension)[: reference[variable].sizes.get("group")]
                assert reference[variable].dtype == np.float32
                np.testing.assert_array_equal(reference[variable].values, expected, err_msg=f"{kind} {variable}")
        if "row" in reference.dims:
            assert reference["column"].values.tolist() == exposure["column"].values.tolist()
        assert all(array.chunks is not None for array in reference.data_vars.values() if "bad" not in array.dims)
        pickle.dumps(reference)


def test_references_in_files_and_in_memory_are_the_same(tmp_path):
    options = {"readout": "NRSRAPID", "subarray": "SUB32", "groups": 2, "detector": "NRS2"}
    small = small_exposure(**options, columns=None)
    made = simulate_exposure(tmp_path, **options)
    references = nsxr.open_references(made.references, nsxr.open_exposure(made.uncal))
    assert references.keys() == small.references.keys()
    for kind, expected in small.references.items():
        for name, array in expected.data_vars.items():
            found = references[kind][name]
            planes = array.isel(group=slice(0, found.sizes["group"])) if "group" in array.dims else array
            assert found.dims == planes.dims
            assert found.dtype == planes.dtype
            np.testing.assert_array_equal(found.values, planes.values, err_msg=f"{kind} {name}")
            assert found.attrs.get("units") == planes.attrs.get("units")
        for label in ("row", "column"):
            np.testing.assert_array_equal(references[kind][label], expected[label])


def test_images_of_raw_irs2_frames_have_their_rows(irs2):
    exposure = nsxr.open_exposure(irs2.uncal)
    references = nsxr.open_references(irs2.references, exposure)
    for kind in ("mask", "superbias"):
        np.testing.assert_array_equal(references[kind]["row"], np.arange(3200))
        np.testing.assert_array_equal(references[kind]["science_row"], exposure["science_row"])
        assert references[kind]["dq"].chunks[0] == (640,) * 5
    assert references["gain"].sizes["row"] == 2048
    assert references["gain"]["sci"].chunks[0] == (512,) * 4


def test_gain_and_dark_carry_their_keywords(sub32, exposure):
    gain = open_one("gain", sub32.references["gain"], exposure)
    assert gain.attrs["gain_factor"] == fits.getheader(sub32.references["gain"])["GAINFACT"]
    dark = open_one("dark", sub32.references["dark"], exposure)
    assert [dark.attrs[key] for key in ("n_frames", "n_groups", "group_gap")] == [1, 8, 0]
    assert dark.attrs["average_dark_current"] == fits.getheader(sub32.references["dark"])["AVDRKCUR"]


def test_keywords_that_may_be_missing(sub32, exposure, changed):
    gain = open_one("gain", changed(sub32.references["gain"], GAINFACT=None), exposure)
    assert "gain_factor" not in gain.attrs
    dark = open_one("dark", changed(sub32.references["dark"], AVDRKCUR=None), exposure)
    assert "average_dark_current" not in dark.attrs
    fails("dark", changed(sub32.references["dark"], NFRAMES=None, GROUPGAP=None), exposure, "NFRAMES, GROUPGAP")


def test_image_of_the_average_dark_current(sub32, exposure, changed):
    image = np.arange(1024, dtype=np.float32).reshape(32, 32)
    path = changed(sub32.references["dark"], lambda hdus: hdus.append(fits.ImageHDU(image, name="AVDRKCUR")))
    np.testing.assert_array_equal(open_one("dark", path, exposure)["average_dark_current"], image)


def test_only_the_groups_needed_of_a_dark_are_read(sub32, exposure, changed, reads):
    def edit(hdus):
        hdus["SCI"].data = np.arange(200, dtype=np.float32)[:, None, None] + np.zeros((200, 32, 32), np.float32)

    dark = open_one("dark", changed(sub32.references["dark"], edit, NGROUPS=200), exposure)
    assert reads == []
    assert dark.sizes["group"] == exposure.sizes["group"] == 3
    assert dark.attrs["n_groups"] == 200
    np.testing.assert_array_equal(dark["sci"][:, 0, 0].compute(scheduler="synchronous"), [0, 1, 2])
    assert [values.shape[0] for _, values in reads] == [3]


def test_frames_of_a_dark_that_an_averaging_readout_needs(tmp_path, sub32, changed):
    made = simulate_exposure(tmp_path, readout="NRS", subarray="SUB32", groups=2, references=False)
    exposure = nsxr.open_exposure(made.uncal)
    dark = open_one("dark", sub32.references["dark"], exposure)
    assert dark.sizes["group"] == 8  # 2 groups of 4 frames


# flags


def test_flags_are_translated_by_name(sub32, exposure, changed):
    definitions = np.array(
        [(0, 1, "HOT"), (1, 2, "NO_SUCH_NAME"), (2, 4, "DO_NOT_USE"), (31, 2**31, "UNRELIABLE_BIAS")],
        dtype=[("BIT", ">i4"), ("VALUE", ">i8"), ("NAME", "S40")],
    )
    stored = np.arange(1024, dtype=np.uint32).reshape(32, 32) % 8
    stored[0, 0] = 2**31 + 4

    def edit(hdus):
        hdus["DQ"].data = stored
        hdus["DQ_DEF"] = fits.BinTableHDU(definitions, name="DQ_DEF")

    with pytest.warns(DegradedResultWarning, match=r"NO_SUCH_NAME \(512 pixels\) are lost"):
        dq = open_one("superbias", changed(sub32.references["superbias"], edit), exposure)["dq"]
    assert dq.dtype == np.uint32
    expected = np.where(stored & 1, PixelFlag.HOT.value, 0) | np.where(stored & 4, PixelFlag.DO_NOT_USE.value, 0)
    expected[0, 0] |= PixelFlag.UNRELIABLE_BIAS.value
    np.testing.assert_array_equal(dq.values, expected)


def test_definitions_may_be_spelled_in_lower_case(sub32, exposure, changed):
    def edit(hdus):
        for i in range(1, 5):
            header = hdus["DQ_DEF"].header
            header[f"TTYPE{i}"] = header[f"TTYPE{i}"].lower()

    path = sub32.references["dark"]
    flags = open_one("dark", changed(path, edit), exposure)["dq"]
    np.testing.assert_array_equal(flags, open_one("dark", path, exposure)["dq"])

    def nameless(hdus):
        hdus["DQ_DEF"].header["TTYPE3"] = "title"

    fails("dark", changed(path, nameless), exposure, "DQ_DEF lacks columns NAME")


def test_flags_with_an_empty_table_of_definitions_are_standard(sub32, exposure, changed):
    def edit(hdus):
        hdus["DQ_DEF"].data = hdus["DQ_DEF"].data[:0]

    path = changed(sub32.references["mask"], edit)
    np.testing.assert_array_equal(open_one("mask", path, exposure)["dq"], pixels(path, "DQ"))


def test_flags_or_their_definitions_that_got_lost(sub32, exposure, changed):
    def edit(hdus):
        del hdus["DQ_DEF"]

    fails("mask", changed(sub32.references["mask"], edit), exposure, "DQ_DEF is missing")

    def edit(hdus):
        del hdus["DQ"]

    for kind in ("superbias", "dark", "linearity", "saturation"):
        fails(kind, changed(sub32.references[kind], edit), exposure, "DQ is missing")
    fails("mask", changed(sub32.references["mask"], edit), exposure, "DQ is missing")


# errors


def test_files_that_do_not_belong_to_the_exposure(sub32, exposure, changed):
    path = sub32.references["gain"]
    fails("readnoise", path, exposure, "REFTYPE is 'GAIN'", "'READNOISE'")
    fails("dark", path, exposure, "REFTYPE is 'GAIN'", "'DARK'")
    fails("gain", changed(path, DETECTOR="NRS2"), exposure, "'NRS2'", "'NRS1'")
    fails("gain", changed(path, INSTRUME="NIRCAM"), exposure, "'NIRCAM'", "'NIRSPEC'")
    fails("gain", changed(path, SUBSTRT1=1), exposure, "columns 0 to 31", "columns 1398 to 1429")
    fails("dark", changed(sub32.references["dark"], SUBSTRT2=970), exposure, "rows 969 to 1000", "exactly")
    fails("gain", changed(path, SUBSTRT1=None), exposure, "SUBSTRT1", "32 x 32")
    fails("gain", path.with_name("none.fits"), exposure, "no such file")
    assert open_one("gain", changed(path, DETECTOR="ANY"), exposure).attrs["detector"] == "ANY"


def test_contents_that_are_not_as_they_must_be(sub32, exposure, changed):
    def without(name):
        return lambda hdus: hdus.__delitem__(name)

    fails("gain", changed(sub32.references["gain"], without("SCI")), exposure, "SCI")
    fails("linearity", changed(sub32.references["linearity"], without("COEFFS")), exposure, "COEFFS is missing")

    def flat(hdus):
        hdus["COEFFS"].data = hdus["COEFFS"].data[0]

    fails("linearity", changed(sub32.references["linearity"], flat), exposure, "coefficients (32, 32)")

    def narrow(hdus):
        hdus["DQ"].data = hdus["DQ"].data[:, :16]

    fails("superbias", changed(sub32.references["superbias"], narrow), exposure, "(32, 32)", "(32, 16)")


def test_cut_off_reference(sub32, exposure, tmp_path):
    path = tmp_path / "cut.fits"
    path.write_bytes(sub32.references["dark"].read_bytes()[:20000])
    fails("dark", path, exposure, "cut off")


def test_inverse_coefficients_are_optional(sub32, exposure, changed):
    path = sub32.references["linearity"]
    assert open_one("linearity", path, exposure)["inverse_coefficients"].dims == ("inverse_order", "row", "column")

    def edit(hdus):
        del hdus["INV_COEFFS"]

    assert "inverse_coefficients" not in open_one("linearity", changed(path, edit), exposure)


# weights of IRS2


def test_irs2_weights_are_those_of_the_table(irs2):
    exposure = nsxr.open_exposure(irs2.uncal)
    path = irs2.references["refpix"]
    table = pixels(path, "IRS2")
    with forbid_computes():
        weights = open_one("refpix", path, exposure)
    for name in ("alpha", "beta"):
        assert weights[name].dtype == np.complex64
        assert weights[name].chunks[0] == (1,) * 4
        for output in range(4):
            column = table[f"{name}_{output}"]
            np.testing.assert_array_equal(weights[name][output].values, column[::2] + 1j * column[1::2])
    some = weights["alpha"][[2, 0], 100:50:-7].values
    np.testing.assert_array_equal(some, weights["alpha"].values[[2, 0], 100:50:-7])
    with fits.open(path) as hdus:
        listed = hdus["DQ"].data
        for variable, column in (("bad_output", "OUTPUT"), ("bad_parity", "ODD_EVEN"), ("bad_mask", "MASK")):
            np.testing.assert_array_equal(weights[variable], listed[column])
    assert weights["output"].values.tolist() == [1, 2, 3, 4]


def test_irs2_weights_are_read_in_pieces(irs2, monkeypatch):
    monkeypatch.setattr(_WeightsArray._read, "__defaults__", (1000,))
    path = irs2.references["refpix"]
    column = pixels(path, "IRS2")["beta_3"]
    weights = open_one("refpix", path, nsxr.open_exposure(irs2.uncal))
    np.testing.assert_array_equal(weights["beta"].sel(output=4).values, column[::2] + 1j * column[1::2])


def test_irs2_weights_that_are_not_as_they_must_be(irs2, changed):
    exposure = nsxr.open_exposure(irs2.uncal)
    path = irs2.references["refpix"]

    def fewer(hdus):
        hdus["IRS2"].data = hdus["IRS2"].data[:-2]

    fails("refpix", changed(path, fewer), exposure, str(2 * 712 * 8 - 2), str(2 * 712 * 8))

    def renamed(hdus):
        hdus["IRS2"].header["TTYPE3"] = "gamma_2"

    fails("refpix", changed(path, renamed), exposure, "alpha_2")

    def double(hdus):
        data = np.array(hdus["IRS2"].data)
        hdus["IRS2"] = fits.BinTableHDU(data.astype([(n, ">f8") for n in data.dtype.names]), name="IRS2")

    fails("refpix", changed(path, double), exposure, "format D", "expected E")

    def without(hdus):
        del hdus["IRS2"]

    fails("refpix", changed(path, without), exposure, "IRS2 is missing")


def test_irs2_weights_without_bad_pixels(irs2, changed):
    def edit(hdus):
        del hdus["DQ"]

    weights = open_one("refpix", changed(irs2.references["refpix"], edit), nsxr.open_exposure(irs2.uncal))
    assert set(weights.data_vars) == {"alpha", "beta"}


# files of the real detector


def test_real_ground_references(tmp_path):
    """Superbias and dark measured on the ground for SUB512 (NRS1, NRSRAPID)."""
    folder = os.environ.get("NSXR_REAL_DATA")
    if not folder:
        pytest.skip("NSXR_REAL_DATA does not name the folder of real files")
    paths = {
        "superbias": Path(folder, "crds_refs", "jwst_nirspec_superbias_0075.fits"),
        "dark": Path(folder, "crds_refs", "jwst_nirspec_dark_0046.fits"),
    }
    made = simulate_exposure(tmp_path, readout="NRSRAPID", subarray="SUB512", groups=4)
    exposure = nsxr.open_exposure(made.uncal)
    assert (int(exposure["row"][0]), int(exposure["column"][0])) == (956, 1024)
    references = nsxr.open_references(made.references, exposure, overrides=paths)
    for kind, path in paths.items():
        assert references[kind].attrs["pedigree"] == "GROUND"
        assert references[kind].attrs["filename"] == path.name
        assert references[kind]["row"].values.tolist() == list(range(956, 988))
        assert references[kind]["column"].values.tolist() == list(range(1024, 1536))
        data = pixels(path)[: references[kind].sizes.get("group")]
        np.testing.assert_array_equal(references[kind]["sci"], data)
    bias, dark = references["superbias"], references["dark"]
    warm = pixels(paths["dark"], "DQ") & 2 != 0
    np.testing.assert_array_equal(dark["dq"].values & np.uint32(PixelFlag.WARM.value) != 0, warm)

    raw = initialize_dq(exposure, references["mask"])
    corrected = subtract_dark(subtract_superbias(raw, bias), dark)
    planes = np.nan_to_num(pixels(paths["dark"])[:4])
    expected = pixels(made.uncal[0]).astype(np.float32) - np.nan_to_num(pixels(paths["superbias"])) - planes
    np.testing.assert_allclose(corrected["sci"].values, expected, rtol=1e-6, atol=1e-2)
    flags = raw["pixeldq"].values | bias["dq"].values | dark["dq"].values
    np.testing.assert_array_equal(corrected["pixeldq"].values, flags)
    assert isinstance(corrected, xr.Dataset)
