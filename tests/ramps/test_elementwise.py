"""group_scale, dq_init, superbias: corrections that look at one sample at a time."""

import numpy as np
import pytest

from nsxr.errors import DegradedResultWarning, InputFileError, ModelError, ReferenceFileError
from nsxr.model.history import steps
from nsxr.ramps.dq_init import initialize_dq
from nsxr.ramps.group_scale import scale_groups
from nsxr.ramps.superbias import subtract_superbias
from nsxr.testing import assert_lazy_and_chunk_invariant


@pytest.fixture
def exposure(make_exposure, rng):
    return make_exposure(rng.normal(1000, 30, (3, 6, 16, 40)))


def test_frame_sums_divided_by_eight_become_means(make_exposure, chunkings):
    frames = np.arange(5.0)  # on board: sum / 8
    exposure = make_exposure(np.full((1, 2, 3, 4), frames.sum() / 8), NFRAMES=5, FRMDIVSR=8)
    result = assert_lazy_and_chunk_invariant(scale_groups, exposure, chunkings=chunkings)
    np.testing.assert_allclose(result["sci"], frames.mean(), rtol=1e-7)


@pytest.mark.parametrize(("frames", "divisor"), [(4, 4), (1, 1), (4, None), (1, None), (1, 0), (4, "N/A")])
def test_no_scale_is_recorded_as_skip(make_exposure, frames, divisor):
    exposure = make_exposure(np.ones((1, 2, 3, 4)), NFRAMES=frames, FRMDIVSR=divisor)
    result = scale_groups(exposure)
    np.testing.assert_array_equal(result["sci"], 1)
    assert steps(result)[-1]["status"] == "SKIPPED"


@pytest.mark.parametrize(("frames", "factor"), [(5, 8 / 5), (3, 4 / 3), (9, 16 / 9)])
def test_without_a_divisor_the_next_power_of_two_counts(make_exposure, frames, factor):
    exposure = make_exposure(np.ones((1, 2, 3, 4)), NFRAMES=frames, FRMDIVSR=None)
    with pytest.warns(DegradedResultWarning, match=f"FRMDIVSR is missing; sums of {frames} frames"):
        np.testing.assert_allclose(scale_groups(exposure)["sci"], factor, rtol=1e-6)


@pytest.mark.parametrize("divisor", [0, -8, 4, 6, "eight", 8.5, True])
def test_a_divisor_that_cannot_be_is_an_error(make_exposure, divisor):
    exposure = make_exposure(np.ones((1, 2, 3, 4)), NFRAMES=5, FRMDIVSR=divisor)
    with pytest.raises(InputFileError, match=f"keyword FRMDIVSR is {divisor!r}, expected"):
        scale_groups(exposure)


def test_only_do_not_use_reaches_the_groups(exposure, make_reference, chunkings):
    dq = np.zeros((16, 40), np.uint32)
    dq[2, 3], dq[4, 5] = 1 | 1 << 10, 1 << 11
    exposure["pixeldq"][4, 5] = 1 << 17
    exposure["groupdq"][0, 1, 4, 5] = 64
    result = assert_lazy_and_chunk_invariant(
        initialize_dq, exposure, make_reference("mask", exposure, dq=dq), chunkings=chunkings
    )
    assert result["pixeldq"][2, 3] == 1 | 1 << 10
    assert result["pixeldq"][4, 5] == 1 << 11 | 1 << 17
    assert (result["groupdq"][:, :, 2, 3] == 1).all()
    assert result["groupdq"][0, 1, 4, 5] == 64
    assert result["groupdq"].values.sum() == 3 * 6 + 64


def test_dq_supplied_by_the_user_joins_the_mask(exposure, make_reference):
    mask = make_reference("mask", exposure)
    extra = exposure["pixeldq"].copy()
    extra[1, 1] = 1
    result = initialize_dq(exposure.drop_vars(["pixeldq", "groupdq"]), mask, user_supplied_dq=extra)
    assert result["pixeldq"].values.sum() == 1
    assert (result["groupdq"][:, :, 1, 1] == 1).all()


def test_superbias_is_subtracted_by_label(exposure, make_reference, chunkings, rng):
    bias = rng.normal(900, 50, (16, 40)).astype(np.float32)
    bias[3, 4] = np.nan
    dq = np.zeros((16, 40), np.uint32)
    dq[3, 4] = 1 << 22
    reference = make_reference("superbias", exposure, dq=dq, sci=bias)
    result = assert_lazy_and_chunk_invariant(subtract_superbias, exposure, reference, chunkings=chunkings)
    twin = exposure["sci"].values - np.nan_to_num(bias)
    np.testing.assert_array_equal(result["sci"], twin)
    assert result["pixeldq"][3, 4] == 1 << 22
    assert result["sci"].attrs["units"] == "DN"
    cut = exposure.isel(row=slice(4, 9), column=slice(10, 30))  # cutting commutes with correcting
    np.testing.assert_array_equal(
        subtract_superbias(cut, reference)["sci"], result["sci"].isel(row=slice(4, 9), column=slice(10, 30))
    )


def test_a_reference_that_does_not_cover_the_exposure_is_named(exposure, make_reference):
    reference = make_reference("superbias", exposure, sci=0).isel(row=slice(0, 10))
    with pytest.raises(ReferenceFileError, match=r"superbias superbias.fits covers rows 964 to 973, .* 964 to 979"):
        subtract_superbias(exposure, reference)


def test_wrong_units_are_refused(exposure, make_reference):
    exposure["sci"].attrs["units"] = "DN/s"
    with pytest.raises(ModelError, match="units 'DN/s', expected 'DN'"):
        subtract_superbias(exposure, make_reference("superbias", exposure, sci=0))
