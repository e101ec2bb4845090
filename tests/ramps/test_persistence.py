"""Persistence: windows after saturation against a plain version, across integrations, exposures and subarrays."""

import numpy as np
import pytest
import xarray as xr

from nsxr.associate.predecessors import earlier_exposures
from nsxr.errors import DegradedResultWarning, InputFileError, ModelError, ParameterError
from nsxr.model.dq import GroupFlag
from nsxr.model.history import steps
from nsxr.ramps.persistence import flag_persistence, last_saturation, latest_saturation
from nsxr.testing import assert_lazy_and_chunk_invariant, forbid_computes, make_exposure, make_times

SATURATED, PERSISTENCE, DO_NOT_USE, JUMP = (
    np.uint8(flag.value)
    for flag in (GroupFlag.SATURATED, GroupFlag.PERSISTENCE, GroupFlag.DO_NOT_USE, GroupFlag.JUMP_DET)
)
RAMP = ("integration", "group", "row", "column")
GROUP, GAP, ZERO = 10.0, 2.5, 61000.5  # seconds, seconds, MJD


def expose(groupdq, zero=ZERO, with_times=True, row_start=500, column_start=900, detector="NRS1"):
    """Return flags of groups of four frames, in integrations that follow each other after a gap of one frame."""
    integrations, groups = groupdq.shape[:2]
    seconds = groups * GROUP
    place = {"SUBARRAY": "FULL", "SUBSTRT1": column_start + 1, "SUBSTRT2": row_start + 1, "DETECTOR": detector}
    times = {"NFRAMES": 4, "TFRAME": GAP, "EXPSTART": zero}
    times["EXPEND"] = zero + (integrations * (seconds + GAP) - GAP) / 86400
    exposure = make_exposure(np.zeros(groupdq.shape), groupdq, **place, **times)[["groupdq"]]
    return exposure.assign_coords(make_times(zero, integrations, seconds, GAP)) if with_times else exposure


def random_flags(seed=1, shape=(7, 4, 6, 8)):
    rng = np.random.default_rng(seed)
    first = np.where(
        rng.random((shape[0], 1, *shape[2:])) < 0.2, rng.integers(0, shape[1], (shape[0], 1, *shape[2:])), 99
    )
    groupdq = (np.arange(shape[1])[:, None, None] >= first) * SATURATED
    return groupdq | np.where(rng.random(shape) < 0.1, JUMP, np.uint8(0))


def plainly(groupdq, window, before=None, extra=PERSISTENCE):
    """The same in loops over pixels, seconds since the start."""
    out = groupdq.copy()
    length = groupdq.shape[1] * GROUP + GAP
    for row, column in np.ndindex(groupdq.shape[2:]):
        until = -np.inf if before is None else before[row, column] + window
        for i in range(groupdq.shape[0]):
            for g in range(groupdq.shape[1]):
                if i * length + (g + 1) * GROUP <= until + 1e-3:
                    out[i, g, row, column] |= extra
            if (groupdq[i, :, row, column] & SATURATED).any():
                until = i * length + groupdq.shape[1] * GROUP + window
    return out


@pytest.mark.parametrize("window", [5.0, 24.0, 60.0, 1e5])
@pytest.mark.parametrize("with_times", [True, False])
def test_windows_are_those_of_a_plain_version(window, with_times):
    groupdq = random_flags()
    exposure = expose(groupdq, with_times=with_times)
    after = flag_persistence(exposure, persistence_time=window)["groupdq"].values
    np.testing.assert_array_equal(after, plainly(groupdq, window))
    unusable = flag_persistence(exposure, persistence_time=window, persistence_dnu=True)["groupdq"].values
    np.testing.assert_array_equal(unusable, plainly(groupdq, window, extra=PERSISTENCE | DO_NOT_USE))
    assert (after != groupdq).any() == (window > 13)


def test_lazy_and_chunk_invariant():
    exposure = expose(random_flags(2, (9, 4, 6, 8)), with_times=False)
    before = xr.DataArray(
        np.where(np.random.default_rng(3).random((6, 8)) < 0.4, ZERO - 20 / 86400, -np.inf),
        coords={"row": exposure["row"].values, "column": exposure["column"].values},
        dims=("row", "column"),
    )
    chunkings = {"integration": 2}, {"integration": 4, "row": 3}, {"group": 2, "column": 5, "integration": 1}
    result = assert_lazy_and_chunk_invariant(
        lambda data, image, **settings: flag_persistence(data, image["before"], **settings),
        exposure,
        before.to_dataset(name="before"),
        chunkings=chunkings,
        persistence_time=52.0,
    )
    seconds = (before.values - ZERO) * 86400
    np.testing.assert_array_equal(result["groupdq"].values, plainly(exposure["groupdq"].values, 52.0, seconds))
    (entry,) = steps(result)
    assert (entry["step"], entry["status"]) == ("persistence", "COMPLETE")
    assert entry["parameters"] == {"persistence_time": 52.0, "persistence_dnu": False, "before": True}
    with forbid_computes():
        lazy = last_saturation(exposure.chunk({"integration": 2, "row": 2}))
    xr.testing.assert_identical(lazy.compute(), last_saturation(exposure))


@pytest.mark.parametrize("pieces", [1, 3])
def test_exposures_one_after_the_other_are_as_one(pieces):
    """Integrations that are exposures of their own have the same flags, in any order in which they come."""
    groupdq = random_flags(4, (6, 4, 6, 8))
    whole = flag_persistence(expose(groupdq), persistence_time=70.0)["groupdq"].values
    length = 4 * GROUP + GAP
    parts = [expose(groupdq[i : i + pieces], ZERO + i * length / 86400, with_times=False) for i in range(0, 6, pieces)]
    order = np.random.default_rng(5).permutation(len(parts))
    given = [parts[i] for i in order]
    for number, part in enumerate(parts):
        chosen = earlier_exposures(part.attrs, [other.attrs for other in given], 70.0)
        states = [last_saturation(given[i]) for i in chosen]
        before = latest_saturation(states) if states else None
        result = flag_persistence(part, before, persistence_time=70.0)["groupdq"].values
        np.testing.assert_array_equal(result, whole[number * pieces : (number + 1) * pieces])


def test_pixels_of_other_subarrays_are_found_by_label():
    groupdq = np.zeros((1, 3, 4, 5), np.uint8)
    groupdq[0, 2, 1, 2] = SATURATED  # detector row 501, column 902
    first = expose(groupdq)
    second = expose(np.zeros((1, 3, 6, 6), np.uint8), ZERO + 50 / 86400, row_start=498, column_start=902)
    flags = flag_persistence(second, last_saturation(first), persistence_time=500.0)["groupdq"].values
    assert (flags[0, :, 3, 0] == PERSISTENCE).all()
    assert (flags != 0).sum() == 3
    elsewhere = expose(np.zeros((1, 3, 6, 6), np.uint8), ZERO + 50 / 86400, row_start=100)
    assert not flag_persistence(elsewhere, last_saturation(first), persistence_time=500.0)["groupdq"].values.any()
    both = latest_saturation([last_saturation(elsewhere), last_saturation(first)])
    assert np.isfinite(both.values).sum() == 1
    assert float(both.sel(row=501, column=902)) == pytest.approx(ZERO + 30 / 86400)


def test_which_exposures_matter():
    def header(start, length=100, detector="NRS1"):
        return {"DETECTOR": detector, "EXPSTART": ZERO + start / 86400, "EXPEND": ZERO + (start + length) / 86400}

    others = [header(2000), header(800), header(850, detector="NRS2"), header(0), header(1000), header(650)]
    assert earlier_exposures(header(1000), others, 500.0) == [5, 1]
    assert earlier_exposures(header(1000), others, 5000.0) == [3, 5, 1]
    for strange in ({"EXPEND": None}, {"EXPSTART": "N/A"}, {"EXPSTART": "soon"}, {"EXPEND": ZERO - 1}):
        bad = header(900) | strange
        with pytest.warns(DegradedResultWarning, match="EXP(START|END).*persistence is not carried"):
            assert earlier_exposures(header(1000), [*others, bad], 500.0) == [5, 1]
        with pytest.warns(DegradedResultWarning, match="EXP"):
            assert earlier_exposures(bad, others, 5000.0) == []


@pytest.mark.parametrize("damage", ["one", "all", "backwards"])
def test_times_that_are_none_fall_back_on_the_start_of_the_exposure(damage):
    exposure = expose(random_flags())
    expected = flag_persistence(expose(random_flags(), with_times=False), persistence_time=24.0)["groupdq"]
    assert (expected.values & PERSISTENCE).any()
    start, end = (exposure[f"int_{name}_MJD_UTC"].values.copy() for name in ("start", "end"))
    if damage == "backwards":
        start, end = end, start
    else:
        end[2 if damage == "one" else slice(None)] = np.nan
    exposure = exposure.assign_coords(int_start_MJD_UTC=("integration", start), int_end_MJD_UTC=("integration", end))
    with pytest.warns(DegradedResultWarning, match="INT_TIMES does not give start and end of all integrations"):
        found = flag_persistence(exposure, persistence_time=24.0)["groupdq"]
    np.testing.assert_array_equal(found, expected)


def test_off_is_recorded_and_errors_name_what_is_wrong():
    exposure = expose(random_flags())
    for off in (None, 0):
        result = flag_persistence(exposure, persistence_time=off)
        assert result["groupdq"].identical(exposure["groupdq"])
        assert steps(result)[-1]["status"] == "SKIPPED"
    with pytest.raises(ParameterError, match="persistence_time is -3"):
        flag_persistence(exposure, persistence_time=-3)
    with pytest.raises(ModelError, match="'groupdq' is missing"):
        flag_persistence(exposure.drop_vars("groupdq"), persistence_time=3)
    bare = expose(random_flags(), with_times=False)
    del bare.attrs["EXPSTART"]
    with pytest.raises(InputFileError, match="EXPSTART"):
        flag_persistence(bare, persistence_time=3)


def test_integrations_out_of_order_are_refused():
    exposure = make_exposure(np.zeros((3, 4, 2, 3)), EXPSTART=60000.0, EXPEND=60000.01).isel(integration=[0, 2, 1])
    with pytest.raises(ModelError, match="not in order of time"):
        flag_persistence(exposure, persistence_time=100.0)
    flag_persistence(exposure.sortby("integration"), persistence_time=100.0)
