"""Snowballs by ellipses: regions and ellipses against scipy, known events, laziness."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nsxr.errors import ModelError, ParameterError
from nsxr.kernels.ramps.snowballs import Ellipses, fill_ellipse, find_ellipses, find_regions, is_near_edge
from nsxr.model.dq import GroupFlag
from nsxr.model.history import steps
from nsxr.ramps.snowballs import flag_snowballs
from nsxr.testing import assert_lazy_and_chunk_invariant, make_exposure

JUMP, SATURATED, DO_NOT_USE = (
    np.uint8(flag.value) for flag in (GroupFlag.JUMP_DET, GroupFlag.SATURATED, GroupFlag.DO_NOT_USE)
)
ELLIPSE = {"snowball_algorithm": "ellipse"}
NOTHING = np.uint8(0)
EIGHT = np.ones((3, 3))


def expose(groupdq, row_start=0, group_time=10.0):
    """Return flags of full rows, from a row on."""
    place = {"SUBARRAY": "FULL", "SUBSTRT1": 1, "SUBSTRT2": row_start + 1, "TFRAME": group_time}
    return make_exposure(np.zeros(groupdq.shape), groupdq, **place)[["groupdq"]]


def disc(shape, row, column, radius):
    y, x = np.mgrid[: shape[-2], : shape[-1]]
    return np.hypot(y - row, x - column) < radius


def snowball(shape=(1, 5, 120, 120), place=(60, 60), core=4.0, ring=9.0, at=(0, 2)):
    """Flags of one event: a core saturated to the end, and a ring of jumps."""
    groupdq = np.zeros(shape, np.uint8)
    integration, group = at
    groupdq[integration, group:, disc(shape, *place, core)] = SATURATED
    groupdq[integration, group, disc(shape, *place, ring) & ~disc(shape, *place, core)] = JUMP
    return groupdq


def flag(groupdq, **parameters):
    return flag_snowballs(expose(groupdq), **ELLIPSE, **parameters)["groupdq"].values


def count(groupdq, **parameters):
    result = flag_snowballs(expose(groupdq), **ELLIPSE, **parameters)["extended_emission_events"]
    return round(float(result) * 10 * (groupdq[:, 1:].size) / 1e6)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31), st.sampled_from([0.05, 0.3, 0.45, 0.7]), st.tuples(st.integers(1, 12), st.integers(1, 25))
)
def test_regions_are_those_of_scipy(seed, share, shape):
    rng = np.random.default_rng(seed)
    plane = np.where(rng.random(shape) < share, JUMP, NOTHING) | np.where(rng.random(shape) < 0.2, DO_NOT_USE, NOTHING)
    other = np.where(rng.random(shape) < 0.1, SATURATED, NOTHING)
    mask = ((plane & JUMP) > 0) & (other == 0)
    labels, n = ndimage.label(mask, EIGHT)
    regions = find_regions(plane, JUMP, other, SATURATED)
    assert len(regions) == n
    for label, region in enumerate(regions, start=1):
        y, x = np.nonzero(labels == label)
        np.testing.assert_array_equal(region[6:], [y.min(), y.max(), x.min(), x.max(), x[y == y.min()][0]])
        y, x = y - int(region[6]), x - int(region[10])
        expected = [y.size, y.sum(), x.sum(), (y * y).sum(), (x * x).sum(), (x * y).sum()]
        np.testing.assert_array_equal(region[:6], expected)


@pytest.mark.parametrize("degrees", [-80, -45, 0, 30, 90])
def test_ellipse_of_an_ellipse(degrees):
    angle = np.radians(degrees)
    y, x = np.mgrid[:200, :200]
    along = (y - 90.3) * np.cos(angle) + (x - 105.6) * np.sin(angle)
    across = (y - 90.3) * np.sin(angle) - (x - 105.6) * np.cos(angle)
    plane = np.where(np.hypot(along / 40, across / 15) < 1, JUMP, NOTHING)
    (found,) = zip(*find_ellipses(plane, JUMP, plane, SATURATED, 5), strict=True)
    np.testing.assert_allclose(found[:4], [90.3, 105.6, 2 * 15 - 1, 2 * 40 - 1], atol=0.3)
    difference = (found[4] - angle + np.pi / 2) % np.pi - np.pi / 2
    assert abs(difference) < 0.01
    drawn = np.zeros((1, 200, 200), np.uint8)
    fill_ellipse(drawn, JUMP, NOTHING, 90, 106, 15, 40, found[4])
    assert ((drawn[0] ^ plane) > 0).sum() < 150  # of 1885 pixels: the centre is rounded


def test_round_region_gives_a_round_ellipse_anywhere():
    for row, column in ((10, 10), (90, 1037), (55, 1999)):
        plane = np.where(disc((120, 2048), row, column, 6.5), JUMP, NOTHING)
        (found,) = zip(*find_ellipses(plane, JUMP, plane, SATURATED, 5), strict=True)
        assert found[:2] == (row, column)
        assert found.count(found[2]) == 2  # the minor axis is the major axis


@pytest.mark.parametrize(("least", "n"), [(5, 3), (9, 2), (25, 2), (26, 1)])
def test_holes_count_as_area(least, n):
    plane = np.zeros((40, 40), np.uint8)
    plane[2:7, 2:7] = JUMP  # a ring of 16 pixels around 9
    plane[3:6, 3:6] = 0
    plane[10:19, 10:19] = JUMP
    plane[30, [30, 31, 32, 33, 34]] = JUMP
    plane[4, 4] = JUMP if least == 26 else 0  # a region of its own, inside the ring
    assert find_ellipses(plane, JUMP, plane, SATURATED, least).row.size == n


def test_a_ring_with_a_saturated_core_is_enlarged():
    before = snowball()
    after = flag(before)
    y, x = np.mgrid[:120, :120] - 60
    distance = np.hypot(y, x)
    np.testing.assert_array_equal((after[0, 2:] & SATURATED) > 0, np.broadcast_to(distance < 5, (3, 120, 120)))
    # the core is 8 pixels wide less one, and grows by 4; the ring has an axis of 4 sqrt((9^2 + 4^2) / 4) = 19.7
    # pixels less one, which is doubled
    jump = (after[0, 2] & JUMP) > 0
    assert jump[(distance > 5) & (distance < 17)].all()
    assert not jump[distance > 20].any()
    assert not after[0, :2].any()
    assert not (after[0, 3:] & JUMP).any()
    assert count(before) == 1


def test_a_core_that_saturates_one_group_later_counts():
    groupdq = snowball()
    groupdq[0, 2, disc(groupdq.shape, 60, 60, 4)] = JUMP
    assert count(groupdq) == 1
    groupdq[0, 3, disc(groupdq.shape, 60, 60, 4)] = NOTHING
    assert count(groupdq) == 0  # two groups later is something else


def test_jumps_without_a_core_stay_as_they_are():
    groupdq = np.zeros((1, 5, 120, 120), np.uint8)
    groupdq[0, 2, disc(groupdq.shape, 60, 60, 9)] = JUMP
    groupdq[0, :, 20:30, 60:80] = SATURATED  # from the start: not new
    groupdq[0, 3:, 90:100, 60:80] = SATURATED  # elsewhere
    after = flag(groupdq, min_sat_radius_extend=99.0)
    np.testing.assert_array_equal(after, groupdq)
    after = flag(groupdq, sat_required_snowball=False, expand_factor=1.5)
    assert (after[0, 2, disc(groupdq.shape, 60, 60, 12)] == JUMP).all()
    assert not after[0, 2, ~disc(groupdq.shape, 60, 60, 15)][
        after[0, 2, ~disc(groupdq.shape, 60, 60, 15)] == JUMP
    ].any()


def test_small_cores_and_regions_are_left_alone():
    small = snowball(core=1.5, ring=6.0)  # nine pixels: a minor axis of 2.3
    after = flag(small)
    np.testing.assert_array_equal(after & SATURATED, small & SATURATED)
    assert count(small) == 1
    assert count(small, min_sat_area=10.0) == 0
    assert count(small, min_jump_area=200.0) == 0
    widest = flag(snowball(core=20.0, ring=30.0), max_extended_radius=21)
    assert (np.nonzero(widest[0, 2].any(axis=0))[0][[0, -1]] == [31, 89]).all()  # the ring itself: 59 pixels wide
    assert (np.nonzero((widest[0, 3] & SATURATED).any(axis=0))[0][[0, -1]] == [40, 80]).all()


def test_the_core_must_lie_inside_the_ellipse_of_the_jumps():
    groupdq = np.zeros((1, 4, 200, 200), np.uint8)
    y, x = np.mgrid[:200, :200] - 100
    along, across = (y + x) / np.sqrt(2), (y - x) / np.sqrt(2)
    groupdq[0, 1, np.hypot(along / 40, across / 10) < 1] = JUMP
    inside, outside = groupdq.copy(), groupdq.copy()
    inside[0, 1:, 120, 120] = SATURATED
    outside[0, 1:, 120, 80] = SATURATED
    assert count(inside) == 1
    assert count(outside) == 0


def test_edges_are_those_of_rows_for_rows_and_of_columns_for_columns():
    def place(row, column):
        return Ellipses(*(np.array([value]) for value in (row, column, 8.0, 9.0, 0.0)))

    allslits = (256, 2048)
    for row, column, expected in ((128, 1000, False), (128, 24.5, True), (128, 2024, True), (240, 1000, True)):
        assert is_near_edge(place(row, column), allslits, 25) == [expected]
    sub2048 = (32, 2048)
    assert is_near_edge(place(16, 1000), sub2048, 25) == [True]  # 25 rows reach every row of 32
    assert is_near_edge(place(16, 1000), sub2048, 10) == [False]
    assert is_near_edge(place(16, 2040), sub2048, 10) == [True]


def test_events_at_an_edge_need_no_core():
    groupdq = np.zeros((1, 3, 64, 300), np.uint8)
    for column in (10, 150, 290):
        groupdq[0, 1, disc(groupdq.shape, 32, column, 5)] = JUMP
    assert count(groupdq) == 2
    assert count(groupdq, edge_size=5) == 0
    after = flag(groupdq)
    assert (after[0, 1, 32] & JUMP)[[3, 17, 283, 297]].all()
    assert not (after[0, 1, 32] & JUMP)[[144, 156]].any()


def test_no_flag_is_lost_where_a_core_grows():
    groupdq = snowball()
    groupdq[0, :, 62, 64] |= DO_NOT_USE  # in the ring that the core grows into
    groupdq[0, 3, 60, 64] |= JUMP
    after = flag(groupdq)
    assert not (groupdq & ~after).any()
    assert (after[0, 3, 62, 64] & (DO_NOT_USE | SATURATED)) == DO_NOT_USE | SATURATED
    assert (after[0, 3, 60, 64] & (JUMP | SATURATED)) == JUMP | SATURATED
    np.testing.assert_array_equal(after[0, 2] & SATURATED, after[0, 4] & SATURATED)


@pytest.mark.parametrize(("time", "groups"), [(4000.0, 4), (35.0, 2), (19.0, 0), (25.0, 1)])
def test_cores_are_flagged_in_the_next_integration(time, groups):
    groupdq = snowball((3, 5, 60, 60), (30, 30), at=(1, 3))
    exposure = expose(groupdq)
    after = flag_snowballs(exposure, **ELLIPSE, snowball_time_masked_next_int=time)["groupdq"].values
    core = disc(groupdq.shape, 30, 30, 3)
    for group in range(5):
        assert (after[2, group][core] == (JUMP if 1 <= group <= groups else 0)).all()
    assert not after[0].any()
    without = flag_snowballs(exposure, **ELLIPSE, mask_snowball_core_next_int=False)["groupdq"].values
    assert not without[2].any()


def test_events_cross_amplifier_borders():
    groupdq = snowball((1, 4, 80, 80), (40, 40))
    exposure = expose(groupdq, row_start=472)
    assert set(exposure["amplifier"].values) == {1, 2}
    lazy = flag_snowballs(exposure.chunk({"row": 40}), **ELLIPSE)["groupdq"]
    assert lazy.chunks[2] == (40, 40)
    after = lazy.values
    np.testing.assert_array_equal(after, after[:, :, ::-1][:, :, np.r_[79, :79]])  # mirrored about row 40


@pytest.mark.parametrize(
    "parameters", [{}, {"sat_required_snowball": False}, {"min_jump_area": 12.0, "min_sat_area": 9.0}]
)
def test_lazy_and_chunk_invariant(parameters):
    rng = np.random.default_rng(5)
    shape = 3, 5, 90, 100
    groupdq = np.where(rng.random(shape) < 0.05, JUMP, NOTHING)
    for _ in range(12):
        event = snowball(
            shape, rng.uniform(0, 90, 2), rng.uniform(1, 5), rng.uniform(5, 9), (rng.integers(3), rng.integers(1, 5))
        )
        groupdq |= event
    groupdq[(groupdq & SATURATED) > 0] &= ~JUMP
    groupdq |= np.where(rng.random(shape) < 0.02, DO_NOT_USE, NOTHING)
    chunkings = {"row": 30}, {"row": 7, "integration": 1, "column": 50}, {"group": 2, "integration": 2}
    result = assert_lazy_and_chunk_invariant(
        flag_snowballs, expose(groupdq), chunkings=chunkings, rtol=1e-12, **ELLIPSE, **parameters
    )
    after = result["groupdq"].values
    assert not (groupdq & ~after).any()
    assert not (after & ~groupdq & ~(JUMP | SATURATED)).any()
    assert (after != groupdq).sum() > 100
    (entry,) = steps(result)
    assert entry["step"] == "jump"
    assert entry["parameters"].items() >= parameters.items()
    assert result["extended_emission_events"].attrs["keyword"] == "EXTNCRS"


def test_errors_name_what_is_wrong():
    exposure = expose(snowball())
    with pytest.raises(ModelError, match="'groupdq' is missing"):
        flag_snowballs(exposure.drop_vars("groupdq"), **ELLIPSE)
    with pytest.raises(ParameterError, match="expand_factor"):
        flag_snowballs(exposure, **ELLIPSE, expand_factor=-1.0)
