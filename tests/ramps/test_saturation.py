import numpy as np
import pytest
from scipy import ndimage

from nsxr.errors import ParameterError
from nsxr.model.readout import irs2_layout
from nsxr.ramps.saturation import flag_saturation
from nsxr.testing import assert_lazy_and_chunk_invariant

DNU, SAT, FLOOR = 1, 2, 64


def twin(sci, threshold, grow):
    """Plain version for single-frame groups."""
    flags = np.zeros(sci.shape, np.uint8)
    box = np.ones((2 * grow + 1, 2 * grow + 1), bool)
    for i in range(sci.shape[0]):
        full = np.zeros(sci.shape[2:], bool)
        for g in range(sci.shape[1]):
            full |= sci[i, g] >= threshold
            flags[i, g] |= np.where(ndimage.binary_dilation(full, box), SAT, 0).astype(np.uint8)
            flags[i, g] |= np.where(sci[i, g] <= 0, FLOOR | DNU, 0).astype(np.uint8)
    return flags


@pytest.mark.parametrize("grow", [0, 1, 2])
def test_equals_plain_version(make_exposure, make_reference, chunkings, rng, grow):
    sci = np.cumsum(rng.exponential(1500, (3, 6, 16, 40)), axis=1) - 200
    exposure = make_exposure(sci)
    threshold = rng.normal(12000, 500, (16, 40)).astype(np.float32)
    reference = make_reference("saturation", exposure, sci=threshold)
    result = assert_lazy_and_chunk_invariant(
        flag_saturation, exposure, reference, chunkings=chunkings, n_pix_grow_sat=grow
    )
    expected = twin(sci.astype(np.float32), threshold, grow)
    assert 0.01 < (expected & SAT > 0).mean() < 0.9
    assert (expected & FLOOR > 0).any()
    np.testing.assert_array_equal(result["groupdq"], expected)


def test_pixels_without_threshold_are_never_saturated(make_exposure, make_reference):
    exposure = make_exposure(np.full((1, 3, 4, 5), 70000.0))
    threshold = np.full((4, 5), 60000.0)
    threshold[1, 1] = np.nan
    dq = np.zeros((4, 5), np.uint32)
    dq[2, 3] = 1 << 21
    result = flag_saturation(exposure, make_reference("saturation", exposure, sci=threshold, dq=dq), n_pix_grow_sat=0)
    saturated = (result["groupdq"].values & SAT) > 0
    assert not saturated[:, :, 1, 1].any()
    assert not saturated[:, :, 2, 3].any()
    assert saturated.sum() == 3 * 18
    assert result["pixeldq"][1, 1] == result["pixeldq"][2, 3] == 1 << 21


def ramp_with_saturated_frames(threshold, frames, level, rate, start):
    """Mean of frames that are cut at the converter's limit, groups of ``frames``."""
    reads = np.minimum(start + rate * np.arange(1, frames * 4 + 1), level)
    return reads.reshape(4, frames).mean(1)


@pytest.mark.parametrize("rule", ["predicted", "scaled"])
def test_partly_saturated_average_is_not_used(make_exposure, make_reference, chunkings, rule):
    # frames rise by 1000 and stop at 10100, the threshold is 10000: group 2 holds frames 9 to 12,
    # saturated from the second on, and lies above threshold * 10.5 / 12
    values = ramp_with_saturated_frames(10000, 4, 10100, 1000, 0)
    assert 10000 * 10.5 / 12 < values[2] < 10000 < values[3]
    sci = np.full((1, 4, 7, 9), 100.0)
    sci[0, :, 3, 4] = values
    exposure = make_exposure(sci, NFRAMES=4, FRMDIVSR=4)
    reference = make_reference("saturation", exposure, sci=10000)
    result = assert_lazy_and_chunk_invariant(
        flag_saturation, exposure, reference, chunkings=chunkings, partial_saturation=rule
    )
    flags = result["groupdq"].values[0]
    np.testing.assert_array_equal(flags[2, 2:5, 3:6], DNU)
    np.testing.assert_array_equal(flags[3, 2:5, 3:6], SAT)
    assert flags.astype(int).sum() == 9 * DNU + 9 * SAT
    off = flag_saturation(exposure, reference, use_readpatt=False)["groupdq"].values[0]
    assert off.astype(int).sum() == 9 * SAT


@pytest.mark.parametrize(("rule", "pixels"), [("predicted", 9), ("scaled", 1)])
def test_second_group_with_one_saturating_hit(make_exposure, make_reference, rule, pixels):
    # flat ramp, then a hit in the last of four frames of group 1 takes the pixel over the threshold
    sci = np.full((1, 5, 5, 5), 1100.0)
    sci[0, :, 2, 2] = [1100, 1100 + 40000 / 4, 41100, 41100, 41100]
    exposure = make_exposure(sci, NFRAMES=4, FRMDIVSR=4)
    saturation = make_reference("saturation", exposure, sci=40000)
    superbias = make_reference("superbias", exposure, sci=1000)
    flags = flag_saturation(exposure, saturation, superbias, partial_saturation=rule)["groupdq"].values[0]
    assert flags[1, 2, 2] == DNU
    assert flags[1].astype(int).sum() == pixels * DNU  # "scaled" does not grow these
    assert (flags[2:, 1:4, 1:4] == SAT).all()


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_irs2_neighbours_are_those_of_the_image(make_exposure, make_reference, detector):
    layout = irs2_layout(detector)
    row = layout.science_rows_raw[[7, 8]]  # an interleaved block lies between
    assert abs(row[1] - row[0]) == 5
    sci = np.full((1, 3, 3200, 4), 500.0)
    sci[0, 1:, row[0], 1] = 50000
    sci[0, 2, ~layout.is_science] = 60000  # references are never tested
    sci[0, 0, ~layout.is_science] = 0
    changes = {"SUBARRAY": "FULL", "READPATT": "NRSIRS2RAPID", "DETECTOR": detector, "SUBSTRT1": 1, "SUBSTRT2": 1}
    exposure = make_exposure(sci, NOUTPUTS=5, **changes)
    small = make_exposure(np.zeros((1, 1, 2048, 4)), NOUTPUTS=5, **changes)
    reference = make_reference("saturation", small, sci=40000)
    result = assert_lazy_and_chunk_invariant(
        flag_saturation, exposure, reference, chunkings=({"row": 640}, {"row": 1000, "group": 1})
    )
    flags = result["groupdq"].values[0]
    assert (flags[:, ~layout.is_science] == 0).all()
    stripped = flags[:, layout.science_rows_raw]
    expected = np.zeros_like(stripped)
    expected[1:, 6:9, 0:3] = SAT
    np.testing.assert_array_equal(stripped, expected)


def test_irs2_second_group_is_saturated_and_grown(make_exposure, make_reference):
    layout = irs2_layout("NRS1")
    row = layout.science_rows_raw[100]
    sci = np.full((1, 4, 3200, 5), 1100.0)
    sci[0, :, row, 2] = [1100, 1100 + 40000 / 5, 41100, 41100]
    changes = {"SUBARRAY": "FULL", "READPATT": "NRSIRS2", "SUBSTRT1": 1, "SUBSTRT2": 1, "NOUTPUTS": 5}
    exposure = make_exposure(sci, NFRAMES=5, FRMDIVSR=8, **changes)
    small = make_exposure(np.zeros((1, 1, 2048, 5)), **changes)
    reference = make_reference("saturation", small, sci=40000)
    result = flag_saturation(exposure, reference, partial_saturation="scaled")
    stripped = result["groupdq"].values[0][:, layout.science_rows_raw]
    assert (stripped[0] == 0).all()
    assert (stripped[1:, 99:102, 1:4] == SAT).all()
    assert (stripped > 0).sum() == 27


def test_negative_growth_is_refused(make_exposure, make_reference):
    exposure = make_exposure(np.zeros((1, 1, 2, 2)))
    with pytest.raises(ParameterError, match="n_pix_grow_sat is -1"):
        flag_saturation(exposure, make_reference("saturation", exposure, sci=1), n_pix_grow_sat=-1)


def test_unknown_rules_are_refused(make_exposure, make_reference):
    exposure = make_exposure(np.zeros((1, 1, 2, 2)))
    with pytest.raises(ParameterError, match="'best', expected one of predicted, scaled"):
        flag_saturation(exposure, make_reference("saturation", exposure, sci=1), partial_saturation="best")
