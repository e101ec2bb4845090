from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsxr.model.readout import irs2_layout
from nsxr.simulate import QUIET, Artifacts, small_exposure
from nsxr.simulate.configuration import configure
from nsxr.simulate.detectors import detector_pixels, measure
from nsxr.simulate.ramps import Ramps, response_terms

DARKLESS = replace(QUIET, dark_current=0)


@given(
    st.floats(0, 1.0),
    st.floats(0, 0.15),
    st.floats(10_000, 80_000),
)
def test_response_is_undone_by_its_polynomial(share, curvature, well):
    signal = np.array([share * well], dtype=np.float32)
    quadratic, cubic = np.float32(curvature / well), np.float32(0.3 * curvature / well**2)
    m = measure(signal, quadratic, cubic)
    np.testing.assert_allclose(m + quadratic * m**2 + cubic * m**3, signal, atol=0.05)
    assert m <= signal


def signal(small, group_scale=1.0):
    """Raw signal above bias of science rows."""
    sci = small.exposure["sci"].values * np.float32(group_scale) - small.references["superbias"]["sci"].values
    if small.exposure.sizes["row"] == 3200:
        sci = sci[..., irs2_layout(small.exposure.attrs["DETECTOR"]).science_rows_raw, :]
    return sci


def pixels_of(small, artifacts, **names):
    """Properties of the pixels of an exposure in NRS1."""
    columns = small.exposure["column"].values
    return detector_pixels(configure(**names, groups=2, integrations=1, detector="NRS1", columns=columns), artifacts)


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
@pytest.mark.parametrize(
    ("readout", "subarray", "full_well", "bright"),
    [("NRSRAPID", "SUB2048", 56000, 10000), ("NRSRAPID", "FULL", 400, 200), ("NRSIRS2RAPID", "FULL", 400, 200)],
)
def test_ramps_are_linear_after_the_reference(readout, subarray, full_well, bright, detector):
    small = small_exposure(
        readout=readout,
        subarray=subarray,
        detector=detector,
        groups=8,
        artifacts=replace(QUIET, full_well=full_well),
        columns=128 if subarray == "SUB2048" else 16,
        rounded=False,
    )
    measured = signal(small)[0].astype(float)
    coefficients = small.references["linearity"]["coefficients"].values.astype(float)
    linear = sum(c * measured**k for k, c in enumerate(coefficients))
    gain = small.references["gain"]["sci"].values
    time = small.exposure.attrs["TFRAME"] * np.arange(1, 9)[:, None]
    light = coefficients[1] == 1
    charge_rate = (small.truth["rate"] + small.truth["dark_current"]).values[light]
    assert bright < (charge_rate * time).max() < 0.97 * full_well
    assert measured[:, light].max() < 0.99 * linear[:, light].max()
    np.testing.assert_allclose(linear[:, light], charge_rate * time / gain[light], atol=0.1)
    np.testing.assert_allclose(measured[:, ~light], 0, atol=0.01)
    signal_alone = (linear - small.references["dark"]["sci"].values[:8])[:, light]
    product = small.truth["rate_dn"].values[light] / small.truth.attrs["gain_factor"]
    np.testing.assert_allclose(signal_alone, product * time, atol=0.1)


@pytest.mark.parametrize(("readout", "stored"), [("NRS", 1.0), ("NRSIRS2", 5 / 8)])
def test_groups_are_means_of_frames_divided_as_on_board(readout, stored):
    small = small_exposure(readout=readout, groups=3, artifacts=DARKLESS, columns=16, rounded=False, scene="flat")
    frames = {"NRS": 4, "NRSIRS2": 5}[readout]
    measured = signal(small, 1 / stored)[0]
    gain = small.references["gain"]["sci"].values
    pixels = pixels_of(small, DARKLESS, readout=readout, subarray="FULL")
    step = small.truth["rate"].values * small.exposure.attrs["TFRAME"] / gain
    reads = np.arange(1, 3 * frames + 1)[:, None, None] * step
    expected = measure(reads.astype(np.float32), *response_terms(pixels)).reshape(3, frames, *gain.shape).mean(1)
    np.testing.assert_allclose(measured, expected, atol=0.02)
    dark_times = small.references["dark"].attrs["n_frames"]
    assert dark_times == frames


def test_inverse_coefficients_predict_the_response():
    small = small_exposure(readout="NRSRAPID", subarray="SUB512", columns=None, groups=2, artifacts=Artifacts())
    pixels = pixels_of(small, Artifacts(), readout="NRSRAPID", subarray="SUB512")
    inverse = small.references["linearity"]["inverse_coefficients"].values.astype(float)
    for share in (0.01, 0.3, 0.7, 1.0):
        linear = np.float32(share) * pixels.full_well / pixels.gain
        fitted = sum(c * linear.astype(float) ** k for k, c in enumerate(inverse))
        np.testing.assert_allclose(fitted, measure(linear, *response_terms(pixels)), atol=0.1)


def test_photons_arrive_in_poisson_steps():
    artifacts = replace(QUIET, photon_noise=True, nonlinearity=0, pixel_scatter=0, dark_current=0)
    small = small_exposure(
        readout="NRS", subarray="SUBS200A1", scene="flat", groups=6, columns=512, artifacts=artifacts, rounded=False
    )
    inside = (small.truth["rate"] > 0).values
    mean = 5.0 * 4 * 1.55724  # electrons in a group
    charge = signal(small)[0][:, inside] * small.references["gain"]["sci"].values[inside]
    steps = np.diff(charge, axis=0)
    assert steps.mean() == pytest.approx(mean, rel=0.01)
    # differences of means over 4 frames: increments weighted 1/4, 2/4, 3/4, 1, 3/4, 2/4, 1/4
    expected = mean / 4 * (2 * (1 + 4 + 9) / 16 + 1)
    assert steps.var() == pytest.approx(expected, rel=0.02)
    # neighbouring differences share frames
    shared = mean / 4 * (3 + 4 + 3) / 16
    assert (steps[1:] * steps[:-1]).mean() - mean**2 == pytest.approx(shared, rel=0.35)


def test_cosmic_rays_leave_the_charge_that_truth_says():
    quiet = replace(DARKLESS, nonlinearity=0, full_well=1e7)
    rays = replace(quiet, cosmic_rays=400)
    size = {"readout": "NRS", "subarray": "SUBS200A1", "scene": "dark", "groups": 4, "integrations": 2, "columns": 256}
    without, hit = (small_exposure(**size, artifacts=a, rounded=False) for a in (quiet, rays))
    charge = (signal(hit) - signal(without)) * hit.references["gain"]["sci"].values
    truth = hit.truth
    total = np.zeros(charge.shape[:1] + charge.shape[2:])
    row = truth["hit_row"].values - hit.exposure["row"].values[0]
    column = np.searchsorted(hit.exposure["column"].values, truth["hit_column"].values)
    np.add.at(total, (truth["hit_integration"].values - 1, row, column), truth["hit_charge"].values)
    early = truth["hit_group"].values < 4
    arrived = np.zeros_like(total)
    np.add.at(
        arrived,
        tuple(x[early] for x in (truth["hit_integration"].values - 1, row, column)),
        truth["hit_charge"].values[early],
    )
    assert truth.sizes["hit_pixel"] > 200
    # the last group holds everything that came before its first frame, and a mean of what came within
    np.testing.assert_array_less(arrived - 2, charge[:, -1])
    np.testing.assert_array_less(charge[:, -1] - 2, total)
    first = np.full(total.shape, 5)
    np.minimum.at(first, (truth["hit_integration"].values - 1, row, column), truth["hit_group"].values)
    appears = np.where((charge > 2).any(1), (charge > 2).argmax(1) + 1, 5)
    np.testing.assert_array_equal(appears[total > 100], first[total > 100])
    assert (charge[:, :, total.max(0) == 0] < 2).all()
    assert ((truth["disturbed"] & 1) > 0).sum() == (total > 0).sum()
    time_group = np.ceil(truth["hit_time"] / hit.exposure.attrs["TGROUP"])
    np.testing.assert_array_equal(np.maximum(time_group, 1), truth["hit_group"])


def test_cosmic_rays_come_at_their_rate_with_their_charge():
    configuration = configure(
        readout="NRSRAPID", subarray="FULL", groups=10, integrations=1, detector="NRS1", scene="dark"
    )
    events = Ramps(configuration, Artifacts(snowballs=0), 3).events[0]
    hits = np.unique(events.hit).size
    assert hits == pytest.approx(4.3 * 2048**2 * 18e-4**2 * 10.73676 * 10, rel=0.05)
    assert events.charge.sum() / hits == pytest.approx(5200, rel=0.05)
    assert events.pixel.size / hits == pytest.approx(7.1, rel=0.3)
    assert not configuration.is_border.reshape(-1)[events.pixel].any()


def test_snowballs_saturate_their_core():
    artifacts = replace(DARKLESS, snowballs=3.0)
    small = small_exposure(
        readout="NRSRAPID", subarray="ALLSLITS", scene="dark", columns=None, groups=3, artifacts=artifacts
    )
    truth = small.truth
    assert truth.sizes["snowball"] > 2
    threshold = small.references["saturation"]["sci"].values
    sci = small.exposure["sci"].values[0]
    light = (truth["flags"] == 0).values
    for ball in range(truth.sizes["snowball"]):
        group, row, column = (int(truth[f"snowball_{n}"][ball]) for n in ("group", "row", "column"))
        y, x = row - small.exposure["row"].values[0], column
        if light[y, x]:
            assert (sci[group - 1 :, y, x] > threshold[y, x]).all()
            assert truth["disturbed"].values[0, y, x] & 6 == 6


def test_bright_pixels_stop_above_the_threshold():
    artifacts = replace(QUIET, full_well=300)
    small = small_exposure(readout="NRSRAPID", scene="flat", groups=12, columns=16, artifacts=artifacts, rounded=False)
    light = small.truth["rate"].values > 0
    sci = small.exposure["sci"].values[0][:, light]
    threshold = small.references["saturation"]["sci"].values[light]
    bias = small.references["superbias"]["sci"].values[light]
    np.testing.assert_array_equal(sci[-1], sci[-2])
    above = (threshold - bias) / (sci[-1] - bias)
    np.testing.assert_allclose(above, 0.98, atol=1e-3)
    assert (small.truth["disturbed"].values[0][light] == 4).all()


def test_transit_dims_the_star():
    small = small_exposure(
        readout="NRSRAPID",
        subarray="SUB512S",
        columns=None,
        groups=3,
        integrations=9,
        artifacts=DARKLESS,
        rounded=False,
    )
    curve = small.truth["light_curve"].values
    assert curve.min() == pytest.approx(0.98)
    assert curve[0] == curve[-1] == 1
    white = signal(small)[:, 0].sum((1, 2))
    np.testing.assert_allclose(white / white[0], curve, atol=1e-3)


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_interleaved_rows_see_no_light_and_science_rows_lie_where_the_layout_says(detector):
    small = small_exposure(groups=3, scene="flat", detector=detector, artifacts=DARKLESS, columns=16, rounded=False)
    grown = (small.exposure["sci"][0, -1] - small.exposure["sci"][0, 0]).values
    layout = irs2_layout(detector)
    lit = (small.truth["rate"] > 0).values
    assert not grown[~layout.is_science].any()
    np.testing.assert_array_equal(grown[layout.science_rows_raw] > 1, lit)
    np.testing.assert_array_equal(small.exposure["science_row"], layout.science_row)
    mask = small.references["mask"]["dq"].values
    assert ((mask[~layout.is_science] >> 31) == 1).all()
    np.testing.assert_array_equal((mask >> 31)[layout.science_rows_raw] == 0, lit)


def test_seed_decides_the_exposure_and_not_the_detector():
    size = {"readout": "NRSRAPID", "subarray": "SUB512S", "columns": None, "groups": 4}
    one, again, other = (small_exposure(**size, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.exposure["sci"], again.exposure["sci"])
    assert (one.exposure["sci"] != other.exposure["sci"]).mean() > 0.5
    for kind, reference in one.references.items():
        assert reference.identical(other.references[kind]), kind


def test_subarray_sees_the_pixels_of_the_full_frame():
    full, part = (
        small_exposure(
            readout="NRSRAPID", subarray=s, columns=8, groups=2, artifacts=replace(QUIET, bad_pixels=1.0)
        ).references
        for s in ("FULL", "ALLSLITS")
    )
    rows = part["gain"]["row"].values
    np.testing.assert_allclose(part["gain"]["sci"].values, 2 * full["gain"]["sci"].sel(row=rows), rtol=1e-6)
    np.testing.assert_array_equal(part["mask"]["dq"].values, full["mask"]["dq"].sel(row=rows))
    assert part["gain"].attrs["gain_factor"] == 2 * full["gain"].attrs["gain_factor"]


def test_stored_values_are_integers_in_range():
    small = small_exposure(columns=8, groups=2)
    sci = small.exposure["sci"].values
    np.testing.assert_array_equal(sci, np.rint(sci))
    assert sci.dtype == np.float32
    assert sci.min() >= 0
    assert sci.max() <= 65535


@pytest.mark.parametrize("readout", ["NRSRAPID", "NRSIRS2RAPID"])
def test_read_noise_reference_says_what_is_seen(readout):
    """White noise alone: what is left of correlated noise depends on the correction."""
    artifacts = replace(QUIET, white_noise=5.2, correlated_scale=0)
    small = small_exposure(readout=readout, scene="dark", groups=12, columns=16, artifacts=artifacts)
    seen = np.diff(signal(small)[0], axis=0)[:, 4:-4, 4:-4]
    reference = small.references["readnoise"]["sci"].values[4:-4, 4:-4]
    assert np.sqrt((seen**2).mean()) == pytest.approx(np.sqrt((reference**2).mean()), rel=0.01)
