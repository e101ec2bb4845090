from contextlib import nullcontext

import numpy as np
import pytest

from nsxr.errors import DegradedResultWarning, ReferenceFileError
from nsxr.model.history import steps
from nsxr.ramps.dark_current import average_dark_current, subtract_dark
from nsxr.testing import assert_lazy_and_chunk_invariant, forbid_computes


@pytest.fixture
def exposure(make_exposure, rng):
    return make_exposure(rng.normal(1000, 30, (3, 6, 16, 40)))


def dark_reference(make_reference, exposure, sci, frames=1, gap=0, **changes):
    return make_reference("dark", exposure, sci=sci, attrs={"n_frames": frames, "group_gap": gap}, **changes)


def test_same_sampling_is_subtracted_group_by_group(exposure, make_reference, chunkings, rng):
    ramp = np.cumsum(rng.normal(1, 0.1, (9, 16, 40)), axis=0)
    ramp[2, 3, 4] = np.nan
    dq = np.zeros((16, 40), np.uint32)
    dq[1, 1] = 1 << 11
    dark = dark_reference(make_reference, exposure, ramp, dq=dq)
    result = assert_lazy_and_chunk_invariant(subtract_dark, exposure, dark, chunkings=chunkings)
    twin = exposure["sci"].values - np.nan_to_num(ramp[:6]).astype(np.float32)
    np.testing.assert_array_equal(result["sci"], twin)
    assert result["pixeldq"][1, 1] == 1 << 11


def test_frames_are_averaged_and_gaps_left_out(make_exposure, make_reference, chunkings):
    exposure = make_exposure(np.zeros((1, 3, 4, 5)), NFRAMES=4, GROUPGAP=2, FRMDIVSR=4)
    frames = np.arange(18.0)[:, None, None] * np.ones((18, 4, 5))
    result = assert_lazy_and_chunk_invariant(
        subtract_dark, exposure, dark_reference(make_reference, exposure, frames), chunkings=({"row": 2},)
    )
    np.testing.assert_array_equal(result["sci"][0, :, 0, 0], [-1.5, -7.5, -13.5])


def test_short_dark_goes_on_along_its_last_step(exposure, make_reference, chunkings):
    ramp = np.array([1.0, 2.0, 4.0])[:, None, None] * np.ones((3, 16, 40))
    with pytest.warns(DegradedResultWarning, match="covers frames 1 to 3; for 3 of 6 groups, at frames 4 to 6"):
        result = assert_lazy_and_chunk_invariant(
            subtract_dark, exposure, dark_reference(make_reference, exposure, ramp), chunkings=chunkings
        )
    np.testing.assert_allclose((exposure["sci"] - result["sci"])[0, :, 2, 2], [1, 2, 4, 6, 8, 10], atol=1e-4)
    with pytest.raises(ReferenceFileError, match="one group"):
        subtract_dark(exposure, dark_reference(make_reference, exposure, ramp[:1]))


def dark_level(frame):
    """A dark current that settles: steep after the reset, then straight."""
    return 3.0 * frame + 20.0 * (1 - np.exp(-frame / 3.0))


@pytest.mark.parametrize(
    ("frames", "gap", "of_dark"), [(4, 0, (2, 0)), (4, 0, (4, 0)), (4, 0, (1, 0)), (5, 0, (1, 0)), (4, 4, (2, 0))]
)
def test_dark_of_fewer_frames_is_averaged(make_exposure, make_reference, frames, gap, of_dark):
    groups, stride = 5, frames + gap
    number = np.arange(1, groups * stride + 1)
    measured = [dark_level(number[g * stride : g * stride + frames]).mean() for g in range(groups)]
    sampled = [dark_level(number[k : k + of_dark[0]]).mean() for k in range(0, number.size, sum(of_dark))]
    exposure = make_exposure(np.full((2, groups, 4, 5), 100.0), NFRAMES=frames, GROUPGAP=gap, TGROUP=2.0 * stride)
    dark = dark_reference(make_reference, exposure, np.array(sampled)[:, None, None] * np.ones((4, 5)), *of_dark)
    result = assert_lazy_and_chunk_invariant(subtract_dark, exposure, dark, chunkings=({"row": 2},))
    np.testing.assert_allclose(100.0 - result["sci"][1, :, 2, 3], measured, rtol=2e-6)


@pytest.mark.parametrize(
    ("frames", "gap", "of_dark"), [(4, 0, (8, 0)), (4, 0, (4, 1)), (1, 0, (4, 0)), (4, 2, (3, 1)), (5, 0, (4, 0))]
)
def test_dark_that_was_sampled_otherwise_is_interpolated(make_exposure, make_reference, frames, gap, of_dark):
    groups = 6
    exposure = make_exposure(np.zeros((1, groups, 4, 5)), NFRAMES=frames, GROUPGAP=gap, TGROUP=2.0 * (frames + gap))
    mean = np.arange(groups) * (frames + gap) + (frames + 1) / 2
    of_group = np.arange(40) * sum(of_dark) + (of_dark[0] + 1) / 2
    dark = dark_reference(make_reference, exposure, (7.0 + 0.25 * of_group)[:, None, None] * np.ones((4, 5)), *of_dark)
    begins_late = mean[0] < of_group[0]
    with pytest.warns(DegradedResultWarning, match="straight line") if begins_late else nullcontext():
        result = assert_lazy_and_chunk_invariant(subtract_dark, exposure, dark, chunkings=({"row": 2},))
    np.testing.assert_allclose(-result["sci"][0, :, 2, 3], 7.0 + 0.25 * mean, rtol=1e-6)
    assert steps(result)[-1]["status"] == "COMPLETE"


def test_average_dark_current_by_precedence(exposure, make_reference, rng):
    image = rng.uniform(0, 0.02, (16, 40))
    image[2, 2] = np.nan
    dark = dark_reference(make_reference, exposure, np.ones((6, 16, 40)))
    assert (average_dark_current(None, exposure) == 0).all()
    assert (average_dark_current(dark, exposure) == 0).all()
    dark.attrs["average_dark_current"] = 0.0082
    np.testing.assert_allclose(average_dark_current(dark, exposure), 0.0082, rtol=1e-6)
    dark["average_dark_current"] = ("row", "column"), image.astype(np.float32)
    with forbid_computes():
        lazy = average_dark_current(dark.chunk(), exposure.chunk({"row": 6}))
    np.testing.assert_array_equal(lazy, np.nan_to_num(image).astype(np.float32))
    np.testing.assert_allclose(average_dark_current(dark, exposure, 0.5), 0.5)
