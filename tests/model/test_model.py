"""Variables, flags, units, history and chunk layouts."""

import json

import numpy as np
import pytest
import xarray as xr

from nsxr.compute import layouts as chunking
from nsxr.compute.layouts import block_chunks, chunk_like, one_chunk, ramp_chunks, raw_chunks, to_blocks, to_ramps
from nsxr.errors import ModelError
from nsxr.model.dq import GroupFlag, PixelFlag, flag_attributes, recode
from nsxr.model.history import record, record_skip, steps
from nsxr.model.units import require
from nsxr.model.variables import check
from nsxr.testing import forbid_computes


@pytest.fixture
def exposure(make_exposure):
    return make_exposure(np.ones((2, 3, 4, 5)))


def test_all_problems_are_reported_at_once(exposure):
    broken = exposure.assign(sci=exposure["sci"].astype(np.float64).transpose()).drop_vars("groupdq")
    with pytest.raises(ModelError) as caught:
        check(broken, "sci", "pixeldq", "groupdq", units={"sci": "DN/s"})
    for words in ("'sci' has dims ('column'", "dtype float64, expected float32", "'groupdq' is missing", "'DN'"):
        assert words in str(caught.value)
    check(exposure, "sci", "pixeldq", "groupdq", units={"sci": "DN"})


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        ({"row": slice(None, None, 2)}, "labels of 'row' go from 964 to 966, expected labels increasing by 1"),
        ({"row": slice(None, None, -1)}, "labels of 'row' go from 967 to 966"),
        ({"column": [0, 2, 2, 4]}, "labels of 'column' go from 1026 to 1026, expected labels increasing;"),
        ({"column": [3, 1, 4]}, r"from 1027 to 1025.*\.isel\(column=slice\(start, stop\)\)"),
        ({"row": slice(0, 0)}, "dim 'row' is empty"),
        ({"column": slice(0, 0)}, "dim 'column' is empty"),
        ({"group": slice(0, 0)}, "dim 'group' is empty"),
        ({"integration": slice(0, 0)}, "dim 'integration' is empty"),
    ],
)
def test_pixels_must_be_beside_each_other(exposure, cut, words):
    with pytest.raises(ModelError, match=words):
        check(exposure.isel(cut), "sci")


@pytest.mark.parametrize("dim", ["cross_dispersion", "dispersion"])
@pytest.mark.parametrize("which", [[0, 2, 3], [0, 2, 1], [0, 0, 1], [3, 2, 1], []])
def test_pixels_of_a_slit_must_be_beside_each_other(exposure, dim, which):
    slit = exposure.isel(integration=0, group=0, drop=True).rename(row="cross_dispersion", column="dispersion")
    check(slit.isel({dim: [1, 2, 3]}), "sci")
    with pytest.raises(ModelError, match=f"'{dim}'"):
        check(slit.isel({dim: which}), "sci")
    spectrum = slit[["sci"]].isel(cross_dispersion=0, drop=True).rename(sci="dq").astype(np.uint32)
    check(spectrum.isel(dispersion=[0, 2, 3]), "dq")  # without columns that have no wavelength


def test_columns_of_a_frame_may_have_gaps_and_labels_must_be_whole(exposure):
    check(exposure.isel(column=[0, 3], row=slice(1, 3)), "sci")
    with pytest.raises(ModelError, match=r"labels of 'row' are float64 964\.5, expected whole numbers"):
        check(exposure.assign_coords(row=exposure["row"] + 0.5), "sci")


def test_units_are_compared_by_meaning():
    require("sci", "DN / s", "DN/s")
    with pytest.raises(ModelError, match="no units"):
        require("sci", None, "DN")
    with pytest.raises(ModelError, match="cannot be read"):
        require("sci", "furlong per", "DN")


def test_flags_have_the_published_values():
    published = {"DO_NOT_USE": 0, "SATURATED": 1, "JUMP_DET": 2, "AD_FLOOR": 6, "HOT": 11, "BAD_REF_PIXEL": 17}
    published |= {"NO_GAIN_VALUE": 19, "NO_LIN_CORR": 20, "NO_SAT_CHECK": 21, "REFERENCE_PIXEL": 31}
    for name, bit in published.items():
        assert PixelFlag[name].value == 1 << bit
    for flag in GroupFlag:
        assert PixelFlag[flag.name].value == flag.value
    attributes = flag_attributes(PixelFlag, np.uint32)
    assert len(attributes["flag_masks"]) == len(attributes["flag_meanings"].split()) == 32


def test_reference_flags_are_recoded_by_name():
    definitions = [
        {"NAME": "HOT", "VALUE": 1},
        {"NAME": "DO_NOT_USE", "VALUE": 4},
        {"NAME": "BAD_LIN_CORR", "VALUE": 2},
        {"NAME": "  ", "VALUE": 8},
    ]
    dq, unknown = recode(np.array([0, 1, 2, 5, 15]), definitions)
    np.testing.assert_array_equal(dq, [0, 1 << 11, 0, 1 | 1 << 11, 1 | 1 << 11])
    assert dq.dtype == np.uint32
    assert unknown == ["BAD_LIN_CORR"]


def test_record_keeps_attributes_and_adds_provenance(exposure):
    reference = xr.Dataset(attrs={"reference_type": "dark", "filename": "d.fits"})
    result = record(exposure, "dark_current", [reference], {"value": 3}, sci=exposure["sci"] * 2.0)
    assert result["sci"].attrs["units"] == "DN"
    assert result["sci"].dtype == np.float32
    assert steps(result) == [
        {"step": "dark_current", "status": "COMPLETE", "parameters": {"value": 3}, "references": {"dark": "d.fits"}}
    ]
    skipped = record_skip(result, "jump", "two groups")
    assert [s["status"] for s in steps(skipped)] == ["COMPLETE", "SKIPPED"]
    assert steps(skipped)[1]["reason"] == "two groups"
    assert steps(exposure) == []
    assert isinstance(json.loads(skipped.attrs["nsxr_steps"]), list)
    assert {k: v for k, v in skipped.attrs.items() if not k.startswith("nsxr_")} == exposure.attrs


RAMP = ("integration", "group", "row", "column")


@pytest.mark.parametrize(
    ("sizes", "raw", "block", "ramp"),
    [
        ((1, 20, 3200, 2048), (1, 4, 640, 2048), None, None),
        ((1, 20, 2048, 2048), (1, 20, 128, 2048), (1, 20, 128, 2048), (1, 20, 128, 2048)),
        ((8, 20, 2048, 2048), (1, 20, 16, 2048), (1, 20, 128, 2048), (8, 20, 16, 2048)),
        ((200, 10, 32, 2048), (9, 10, 32, 2048), (9, 10, 32, 2048), (200, 10, 1, 2048)),  # may wait in memory
        ((155, 70, 32, 2048), (1, 70, 1, 2048), (1, 70, 32, 2048), (155, 70, 1, 2048)),
        ((10000, 5, 32, 512), (76, 5, 1, 512), (76, 5, 32, 512), (10000, 5, 1, 512)),
        ((2, 10, 256, 2048), (1, 10, 256, 2048), (1, 10, 256, 2048), (2, 10, 128, 2048)),
        ((1, 3, 13, 5), (1, 3, 13, 5), (1, 3, 13, 5), (1, 3, 13, 5)),
    ],
)
def test_layouts(sizes, raw, block, ramp):
    lengths = dict(zip(RAMP, sizes, strict=True))
    assert tuple(raw_chunks(lengths).values()) == raw
    if block is not None:
        assert tuple(block_chunks(lengths).values()) == block
        assert tuple(ramp_chunks(lengths).values()) == ramp


def test_files_that_are_slow_in_pieces_are_not_cut_by_rows():
    lengths = dict(zip(RAMP, (155, 70, 32, 2048), strict=True))
    assert raw_chunks(lengths, in_pieces=False)["row"] == 32
    assert raw_chunks({**lengths, "row": 2048}, in_pieces=False)["row"] == 512


def test_layouts_turn_lazy_exposures_and_leave_others(make_exposure, monkeypatch):
    monkeypatch.setattr(chunking, "CHUNK_BYTES", 4 * 6 * 3 * 5 * 3)
    series = make_exposure(np.zeros((6, 3, 8, 5))).chunk({"integration": 2})
    with forbid_computes():
        ramps, blocks = to_ramps(series), to_blocks(series)
    assert ramps["sci"].chunks == ((6,), (3,), (2, 2, 2, 2), (5,))
    assert blocks["sci"].chunks == ((2, 2, 2), (3,), (8,), (5,))
    plain = make_exposure(np.zeros((2, 3, 8, 5)))
    assert to_ramps(plain) is plain


def test_chunk_helpers_leave_numpy_alone(exposure):
    assert one_chunk(exposure["sci"], "row").chunks is None
    assert chunk_like(exposure["pixeldq"], exposure["sci"]).chunks is None
    lazy = exposure.chunk({"row": 2})
    assert one_chunk(lazy["sci"], "row").chunks[2] == (4,)
    assert chunk_like(exposure["pixeldq"], lazy["sci"]).chunks == ((2, 2), (5,))
