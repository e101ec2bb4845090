"""Snowballs by their halos: scaled differences and rings against plain versions, events whose truth is known."""

import warnings

import numpy as np
import pytest
import xarray as xr

from nsxr.errors import ParameterError
from nsxr.kernels.ramps.halos import fit_halo, smallest_charge
from nsxr.kernels.ramps.rings import STEPS_PER_SIGMA, ring_histograms, scaled_differences
from nsxr.model.dq import GroupFlag
from nsxr.model.history import steps
from nsxr.model.variables import EVENT_PROPERTIES
from nsxr.ramps.jump import flag_jumps
from nsxr.ramps.ramp_fit import fit_ramps
from nsxr.ramps.snowballs import flag_snowballs
from nsxr.testing import assert_lazy_and_chunk_invariant, make_exposure, make_noise_references

JUMP, SATURATED, DO_NOT_USE = (
    np.uint8(flag.value) for flag in (GroupFlag.JUMP_DET, GroupFlag.SATURATED, GroupFlag.DO_NOT_USE)
)
NOISE, FULL, FLUX, GROUP_TIME = 6.0, 6e4, 0.05, 14.6


def make_ramps(events, shape=(1, 12, 160, 180), seed=1, row_start=432, column_start=700, release=0.0, flux=FLUX):
    """Ramps in electrons with events (integration, group, row, column, core radius); halos are exponential."""
    rng = np.random.default_rng(seed)
    sci = np.empty(shape, np.float32)
    y, x = np.mgrid[: shape[2], : shape[3]]
    for i in range(shape[0]):
        total = np.zeros(shape[2:])
        for g in range(shape[1]):
            total += rng.poisson(flux * GROUP_TIME, shape[2:])
            for integration, group, row, column, core in events:
                distance = np.hypot(y - row, x - column)
                halo = 2000 * np.exp(-np.maximum(distance - core, 0) / (0.8 * core))
                if (integration, group) == (i, g):
                    total += np.where(distance <= core, 2 * FULL, rng.poisson(halo))
                elif integration == i and g > group:
                    total += rng.poisson(release * 0.5 ** (g - group) * halo)
            hit = rng.random(shape[2:]) < 0.003
            total += hit * np.exp(rng.uniform(np.log(10), np.log(3000), shape[2:]))
            sci[i, g] = np.minimum(total, FULL) + rng.normal(0, NOISE, shape[2:])
    full = np.maximum.accumulate(sci > 0.9 * FULL, axis=1) * SATURATED
    place = {"SUBARRAY": "FULL", "SUBSTRT1": column_start + 1, "SUBSTRT2": row_start + 1, "TFRAME": GROUP_TIME}
    exposure = make_exposure(sci, full, **place)
    return exposure, *make_noise_references(exposure, NOISE * np.sqrt(2))


def flagged(*arguments, parameters=None, **settings):
    exposure, readnoise, gain = make_ramps(*arguments, **settings)
    jumps = flag_jumps(exposure, readnoise, gain, flag_4_neighbors=False)
    return jumps, flag_snowballs(jumps, readnoise, gain, **(parameters or {})), (readnoise, gain)


def found(result):
    table = result["snowballs"].dropna("snowball", how="all")
    return [dict(zip(EVENT_PROPERTIES, row.tolist(), strict=True)) for row in table.values]


def test_scaled_differences_are_those_of_the_other_groups():
    rng = np.random.default_rng(2)
    sci = rng.normal(0, 30, (2, 7, 5, 7)).cumsum(1).astype(np.float32)
    sci[0, 3, 2, 2] = np.nan
    flags = rng.choice(np.array([0, 0, 0, 0, JUMP, DO_NOT_USE, SATURATED | JUMP], np.uint8), sci.shape)
    gain, noise = (rng.uniform(1, 2, (5, 7)).astype(np.float32) for _ in range(2))
    result = scaled_differences(sci, flags, gain, noise * 10, 4)
    expected = np.full(sci.shape, np.nan)
    for i, r, c in np.ndindex(2, 5, 7):
        ramp, dq = sci[i, :, r, c].astype(float), flags[i, :, r, c]
        step = np.diff(ramp)
        usable = ((dq[1:] | dq[:-1]) & (SATURATED | DO_NOT_USE)) == 0
        ordinary = usable & ((dq[1:] & JUMP) == 0)
        for g in np.flatnonzero(usable):
            others = np.delete(step, g)[np.delete(ordinary, g)]
            level = others.mean() if others.size else np.nan
            sigma = np.sqrt((noise[r, c] * 10) ** 2 / 4 + max(level, 0) / gain[r, c])
            expected[i, g + 1, r, c] = np.clip(STEPS_PER_SIGMA * (step[g] - level) / sigma, -127, 127)
    padded = np.pad(expected, [(0, 0)] * 3 + [(0, 1)], constant_values=np.nan)
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pairs of which none is known
        pairs = np.nanmean(padded.reshape(2, 7, 5, 4, 2), axis=-1)
    np.testing.assert_array_equal(result == -128, np.isnan(pairs))
    known = ~np.isnan(pairs)
    assert np.abs(result - pairs)[known].max() < 0.51
    assert 100 < known.sum() < result.size


@pytest.mark.parametrize("place", [(20.0, 31.5), (-3.0, 10.0), (41.2, 60.4)])
def test_rings_are_those_of_the_distances(place):
    rng = np.random.default_rng(3)
    plane = rng.integers(-128, 128, (40, 30)).astype(np.int8)
    flags = rng.choice(np.array([0, 0, 0, JUMP, SATURATED], np.uint8), (40, 60))
    histogram, pixels, jumps = ring_histograms(plane, flags, *place, 12)
    rows = np.arange(40)[:, None] - place[0]
    ring = np.hypot(rows, np.arange(60) - place[1]).astype(int)
    ring_of_pair = np.hypot(rows, 2 * np.arange(30) + 0.5 - place[1]).astype(int)
    is_usable = (flags & SATURATED) == 0
    counted = (plane != -128) & is_usable.reshape(40, 30, 2).all(-1)
    for k in range(12):
        values = plane[(ring_of_pair == k) & counted]
        np.testing.assert_array_equal(histogram[k], np.bincount(values.astype(int) + 128, minlength=256))
        assert pixels[k] == is_usable[ring == k].sum()
        assert jumps[k] == ((flags & JUMP) > 0)[(ring == k) & is_usable].sum()


def paired(image):
    """Differences [sigma] as means of pairs of columns, in bytes."""
    columns = image.shape[1] // 2 * 2
    pairs = np.clip(image, -7.9, 7.9)[:, :columns].reshape(len(image), -1, 2).mean(-1)
    return np.rint(STEPS_PER_SIGMA * pairs).astype(np.int8)


@pytest.mark.parametrize("shape", ["exponential", "power"])
def test_reach_of_a_halo_that_is_known(shape):
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:300, :300] - 150.0
    distance = np.hypot(y, x)
    charge = 60 * np.exp(-(distance - 4) / 3.0) if shape == "exponential" else 60 * (np.maximum(distance, 4) / 4) ** -4
    noise = rng.normal(0.3, 1, distance.shape)  # the level does not matter
    plane = paired(charge + noise)
    histogram, _, _ = ring_histograms(plane, np.zeros(distance.shape, np.uint8), 150.0, 150.0, 80)
    limit = 0.05
    halo = fit_halo(histogram, 4.0, limit)
    true = 4 + 3 * np.log(60 / limit) if shape == "exponential" else 4 * (60 / limit) ** 0.25
    assert halo.reach == pytest.approx(true, rel=0.12)
    assert halo.amplitude == pytest.approx(60, rel=0.35 if shape == "exponential" else 0.7)  # followed inwards


def test_noise_is_no_halo():
    rng = np.random.default_rng(5)
    for _ in range(50):
        plane = paired(rng.normal(0, 1, (120, 120)))
        histogram, _, _ = ring_histograms(plane, np.zeros((120, 120), np.uint8), 60.0, 60.0, 50)
        assert fit_halo(histogram, 3.0, 0.04) is None


@pytest.mark.parametrize(("group", "groups"), [(1, 20), (10, 20), (4, 5)])
def test_smallest_charge_shifts_a_slope_by_the_tolerance(group, groups):
    time = np.arange(groups) - (groups - 1) / 2
    charge = smallest_charge(group, groups, 0.1) * np.sqrt(2)  # [noise of a group]
    shift = (time * (np.arange(groups) >= group)).sum() * charge / (time**2).sum()
    assert shift * np.sqrt((time**2).sum()) == pytest.approx(0.1)


def test_an_event_is_flagged_as_far_as_it_matters():
    event = 0, 5, 80.0, 90.0, 4.0
    jumps, result, references = flagged([event])
    (entry,) = found(result)
    assert (entry["integration"], entry["group"]) == (1, 6)
    assert entry["row"] == pytest.approx(432 + 80, abs=0.5)
    assert entry["column"] == pytest.approx(700 + 90, abs=0.5)
    assert entry["core_radius"] == pytest.approx(4, abs=0.5)
    limit = smallest_charge(5, 12, 0.1) * NOISE * np.sqrt(2)
    need = 4 + 3.2 * np.log(2000 / limit)
    assert entry["masked_radius"] == pytest.approx(need, rel=0.08)
    distance = np.hypot(*(np.mgrid[:160, :180] - np.array([80.0, 90.0])[:, None, None]))
    after, before = result["groupdq"].values[0], jumps["groupdq"].values[0]
    is_halo = (distance > 7) & (distance < entry["masked_radius"] - 1)
    assert (after[5][is_halo & (before[5] & SATURATED == 0)] & JUMP).all()
    place = np.array([entry["row"] - 432, entry["column"] - 700])[:, None, None]
    is_inside = np.hypot(*(np.mgrid[:160, :180] - place)) < entry["masked_radius"]
    assert entry["pixels"] == (is_inside & (before[5] & SATURATED == 0)).sum()
    np.testing.assert_array_equal(after[:5], before[:5])
    np.testing.assert_array_equal(after[6:][:, distance > 7], before[6:][:, distance > 7])
    assert (after[5:, distance < 5] & SATURATED).all()

    def mean_pull(exposure):
        rate = fit_ramps(exposure, *references)["rate"].to_dataset()
        pull = (rate["sci"] - FLUX) / np.sqrt(rate["var_poisson"] + rate["var_rnoise"])
        return float(pull.values[(distance > 7) & (distance < need + 5)].mean())

    assert mean_pull(jumps) > 0.3
    assert abs(mean_pull(result)) < 0.05  # of 2500 pixels


def test_charge_that_comes_later_is_flagged_too():
    _, result, _ = flagged([(0, 4, 80.0, 90.0, 5.0)], release=0.2)
    (entry,) = found(result)
    jump = (result["groupdq"].values[0] & JUMP) > 0
    distance = np.hypot(*(np.mgrid[:160, :180] - np.array([80.0, 90.0])[:, None, None]))
    radii = [distance[plane & (distance < 40)].size for plane in jump[4:9]]
    assert radii == sorted(radii, reverse=True)
    assert radii[1] > 1000  # a fifth of 2000 electrons and half of it
    assert radii[2] > 500
    assert entry["pixels"] > 3000


@pytest.mark.parametrize(
    ("row", "column", "core"), [(-4.0, 90.0, 6.0), (2.0, 60.0, 5.0), (163.0, 100.0, 7.0), (80.0, -5.0, 8.0)]
)
def test_events_at_an_edge(row, column, core):
    _, result, _ = flagged([(0, 6, row, column, core)])
    entries = found(result)
    assert len(entries) == 1
    distance = np.hypot(*(np.mgrid[:160, :180] - np.array([row, column])[:, None, None]))
    shift = 2000 * np.exp((core - distance) / (0.8 * core))
    matters = shift > 5 * smallest_charge(6, 12, 0.1) * NOISE * np.sqrt(2)
    after = result["groupdq"].values[0, 6]
    assert ((after[matters] & (JUMP | SATURATED)) > 0).mean() > 0.97
    assert entries[0]["row"] == pytest.approx(432 + row, abs=2.5)
    assert entries[0]["column"] == pytest.approx(700 + column, abs=2.5)


def test_cosmic_rays_at_an_edge_stay_as_they_are():
    for seed in range(3):
        rng = np.random.default_rng(seed)
        exposure, readnoise, gain = make_ramps([], seed=seed)
        for _ in range(15):  # tracks of 8 pixels along the edge
            row, column, group = rng.integers(0, 3), rng.integers(0, 170), rng.integers(1, 12)
            exposure["sci"][0, group:, row : row + 3, column : column + 8] += 2000
        jumps = flag_jumps(exposure, readnoise, gain)
        result = flag_snowballs(jumps, readnoise, gain)
        xr.testing.assert_equal(result["groupdq"], jumps["groupdq"])
        assert float(result["extended_emission_events"]) == 0


def test_a_source_that_saturates_is_no_event():
    exposure, readnoise, gain = make_ramps([])
    y, x = np.mgrid[:160, :180]
    light = 9000 * np.exp(-0.5 * np.hypot(y - 80, x - 90) ** 2 / 16)
    sci = np.minimum(exposure["sci"].values + light * np.arange(1, 13)[:, None, None], FULL).astype(np.float32)
    exposure["sci"][:] = sci
    exposure["groupdq"][:] = (np.maximum.accumulate(sci > 0.9 * FULL, axis=1) * SATURATED).astype(np.uint8)
    jumps = flag_jumps(exposure, readnoise, gain)
    assert (jumps["groupdq"].values & SATURATED).any()
    result = flag_snowballs(jumps, readnoise, gain)
    xr.testing.assert_equal(result["groupdq"], jumps["groupdq"])


def test_events_of_several_integrations_lazily():
    events = [(0, 3, 30.0, 40.0, 3.0), (1, 5, 120.0, 100.0, 5.0), (1, 7, 80.0, 150.0, 3.0), (2, 2, 60.0, 60.0, 4.0)]
    exposure, readnoise, gain = make_ramps(events, shape=(3, 9, 160, 180))
    jumps = flag_jumps(exposure, readnoise, gain)
    jumps = jumps.drop_vars(["primary_cosmic_rays", "median_rate"])
    chunkings = {"row": 40}, {"integration": 1, "group": 3}, {"row": 16, "column": 90}
    result = assert_lazy_and_chunk_invariant(flag_snowballs, jumps, readnoise, gain, chunkings=chunkings, rtol=1e-12)
    assert [(e["integration"], e["group"]) for e in found(result)] == [(i + 1, g + 1) for i, g, *_ in events]
    assert result["snowballs"].dims == ("snowball", "property")
    assert result["snowballs"].dtype == np.float32
    after, before = result["groupdq"].values, jumps["groupdq"].values
    assert not (before & ~after).any()
    core = np.hypot(*(np.mgrid[:160, :180] - np.array([120.0, 100.0])[:, None, None])) < 4
    assert ((after[2, 1:][:, core] & JUMP) > 0).all()  # still releases charge
    assert not (after[0, :, 110:130, 90:110] & ~before[0, :, 110:130, 90:110]).any()
    assert result["extended_emission_events"] == pytest.approx(1e6 * 4 / (GROUP_TIME * 160 * 180 * 24))
    entry = steps(result)[-1]
    assert entry["parameters"]["snowball_algorithm"] == "halo"
    assert set(entry["references"]) == {"readnoise", "gain"}


def test_more_events_than_rows_are_flagged_all_the_same(monkeypatch):
    monkeypatch.setattr("nsxr.ramps.snowball_halos._MOST_EVENTS", (1, 0.0))
    _, result, _ = flagged([(0, 3, 40.0, 40.0, 3.0), (0, 5, 120.0, 120.0, 3.0)])
    assert len(found(result)) == 1
    assert ((result["groupdq"].values[0, 5] & JUMP) > 0)[110:130, 110:130].mean() > 0.8


def test_showers_are_flagged_on_request():
    exposure, readnoise, gain = make_ramps([])
    distance = np.hypot(*(np.mgrid[:160, :180] - np.array([80.0, 90.0])[:, None, None]))
    exposure["sci"][0, 6:] += (10 * (distance < 20)).astype(np.float32)  # a little more than the noise of a difference
    jumps = flag_jumps(exposure, readnoise, gain)
    without = flag_snowballs(jumps, readnoise, gain)
    xr.testing.assert_equal(without["groupdq"], jumps["groupdq"])
    flags = flag_snowballs(jumps, readnoise, gain, find_showers=True)["groupdq"].values[0]
    assert ((flags[6] & JUMP) > 0)[distance < 15].mean() > 0.99
    assert ((flags[6] & JUMP) > 0)[distance > 27].mean() < 0.01
    np.testing.assert_array_equal(np.delete(flags, 6, 0), np.delete(jumps["groupdq"].values[0], 6, 0))


def test_errors_name_what_is_wrong():
    exposure, readnoise, gain = make_ramps([], shape=(1, 5, 20, 30))
    with pytest.raises(ParameterError, match="need readnoise and gain"):
        flag_snowballs(exposure)
    with pytest.raises(ParameterError, match="snowball_algorithm is 'circle'"):
        flag_snowballs(exposure, readnoise, gain, snowball_algorithm="circle")
    with pytest.raises(ParameterError, match="halo_tolerance"):
        flag_snowballs(exposure, readnoise, gain, halo_tolerance=0)
