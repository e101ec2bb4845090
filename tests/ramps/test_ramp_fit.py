"""Rates of ramps whose answer is known. Group time 2 s, gain 1.25, read noise 10 DN unless stated."""

from functools import partial

import cloudpickle
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nsxr.errors import ModelError, ParameterError
from nsxr.model.history import steps
from nsxr.ramps import ramp_fit
from nsxr.testing import assert_lazy_and_chunk_invariant, forbid_computes, make_noise_references

fit_ramps = partial(ramp_fit.fit_ramps, algorithm="ols")

DNU, SAT, JUMP, PERSISTENCE = 1, 2, 4, 32
NO_GAIN = 1 << 19
GAIN, READNOISE, TIME = 1.25, 10.0, 2.0


@pytest.fixture
def references():
    def make(exposure, gain=GAIN, readnoise=READNOISE):
        return make_noise_references(exposure, readnoise, gain)

    return make


@pytest.fixture
def fit_one(make_exposure, references):
    """Return a function that fits one pixel, given (integration, group) samples and flags."""

    def fit(samples, flags=None, pixeldq=0, gain=GAIN, readnoise=READNOISE, keywords=None, **parameters):
        samples = np.atleast_2d(np.asarray(samples, float))[..., np.newaxis, np.newaxis]
        exposure = make_exposure(samples, **(keywords or {}))
        if flags is not None:
            exposure["groupdq"][:] = np.reshape(flags, samples.shape).astype(np.uint8)
        exposure["pixeldq"][:] = np.uint32(pixeldq)
        tree = fit_ramps(exposure, *references(exposure, gain, readnoise), **parameters)
        return tree["rate"].to_dataset().squeeze(), tree["rateints"].to_dataset().squeeze(("row", "column"))

    return fit


def var_rnoise(*lengths, time=TIME):
    """Variance of segments of these lengths: noise of one group is the CDS noise over sqrt(2)."""
    return 12 * READNOISE**2 / 2 / time**2 / sum(n**3 - n for n in lengths)


def var_poisson(rate, *lengths, gain=GAIN, time=TIME):
    return rate / (time * gain * sum(n - 1 for n in lengths))


def assert_lost(*products):
    """No rate, no variance, and a flag that says so."""
    for product in products:
        assert np.isnan(product["sci"]).all()
        assert np.isnan(product["var_poisson"]).all()
        assert np.isnan(product["var_rnoise"]).all()
        assert (product["dq"] & DNU).all()


@pytest.mark.parametrize("groups", [2, 3, 4, 7, 30])
@pytest.mark.parametrize("rate", [-3.0, 0.0, 0.5, 20.0, 900.0])
def test_noise_free_ramps_are_exact(fit_one, groups, rate):
    rates, integrations = fit_one(np.stack([100 + rate * TIME * np.arange(groups)] * 2))
    np.testing.assert_allclose(integrations["sci"], rate, rtol=1e-6)
    np.testing.assert_allclose(rates["sci"], rate, rtol=1e-6)
    np.testing.assert_allclose(integrations["var_rnoise"], var_rnoise(groups), rtol=1e-6)
    np.testing.assert_allclose(rates["var_rnoise"], var_rnoise(groups) / 2, rtol=1e-6)
    np.testing.assert_allclose(integrations["var_poisson"], var_poisson(max(rate, 0), groups), rtol=1e-6)
    np.testing.assert_allclose(rates["var_poisson"], var_poisson(max(rate, 0), groups) / 2, rtol=1e-6)
    assert (rates["dq"] == 0) & (integrations["dq"] == 0).all()


def test_segments_meet_at_the_jump(fit_one):
    ramp = 10 * np.arange(8.0) + 500 * (np.arange(8) >= 3)
    rate, _ = fit_one(ramp, [0, 0, 0, JUMP, 0, 0, 0, 0])
    assert rate["sci"] == 5
    np.testing.assert_allclose(rate["var_rnoise"], var_rnoise(3, 5), rtol=1e-6)
    np.testing.assert_allclose(rate["var_poisson"], var_poisson(5.0, 3, 5), rtol=1e-6)
    assert rate["dq"] == JUMP


def test_segments_count_by_read_noise(fit_one):
    ramp = np.array([0, 10, 20, 1000, 1014, 1028, 1042, 1056.0])
    rate, _ = fit_one(ramp, [0, 0, 0, JUMP, 0, 0, 0, 0])
    np.testing.assert_allclose(rate["sci"], (24 * 5 + 120 * 7) / 144, rtol=1e-6)


def test_jump_with_another_flag_opens_no_segment(fit_one):
    ramp = np.array([0, 10, 999, 30, 40, 50.0])
    rate, _ = fit_one(ramp, [0, 0, JUMP | DNU, 0, 0, 0])
    assert rate["sci"] == 5
    np.testing.assert_allclose(rate["var_rnoise"], var_rnoise(2, 3), rtol=1e-6)


def test_saturation_part_way_ends_the_ramp(fit_one):
    rate, integration = fit_one([0, 10, 20, 30, 65000, 65000], [0, 0, 0, 0, SAT, SAT])
    assert rate["sci"] == 5
    np.testing.assert_allclose(rate["var_rnoise"], var_rnoise(4), rtol=1e-6)
    assert rate["dq"] == SAT
    assert integration["dq"] == SAT


def test_saturation_from_the_first_group_loses_that_integration(fit_one):
    ramp = 10 * np.arange(5.0)
    rate, integrations = fit_one([ramp, ramp], [[0] * 5, [SAT] * 5])
    assert rate["sci"] == 5
    assert rate["dq"] == SAT
    assert_lost(integrations.isel(integration=1))
    assert integrations["dq"].values.tolist() == [0, SAT | DNU]
    assert_lost(*fit_one(ramp, [SAT, 0, 0, 0, 0]))


def test_persistence_is_reported_but_used(fit_one):
    rate, _ = fit_one(10 * np.arange(5.0), [0, PERSISTENCE, PERSISTENCE, 0, 0])
    assert rate["sci"] == 5
    np.testing.assert_allclose(rate["var_rnoise"], var_rnoise(5), rtol=1e-6)
    assert rate["dq"] == PERSISTENCE


def test_single_good_group_is_given_up_by_default(fit_one):
    flags = [0, SAT, SAT, SAT]
    assert_lost(*fit_one([60, 1, 1, 1], flags))
    for frames in (1, 4):
        exposed = (frames + 1) * (TIME / frames) / 2
        rate, _ = fit_one(
            [60, 1, 1, 1], flags, keywords={"NFRAMES": frames, "TFRAME": TIME / frames}, suppress_one_group=False
        )
        np.testing.assert_allclose(rate["sci"], 60 / exposed, rtol=1e-6)
        np.testing.assert_allclose(rate["var_rnoise"], READNOISE**2 / frames / exposed**2, rtol=1e-6)
        np.testing.assert_allclose(rate["var_poisson"], 60 / exposed / (exposed * GAIN), rtol=1e-6)


@pytest.mark.parametrize("flag", [0, PERSISTENCE])
def test_integrations_of_one_group(fit_one, flag):
    keywords = {"NFRAMES": 4, "TFRAME": 0.5}
    rate, integrations = fit_one([[50], [55], [7]], [[flag], [flag], [SAT]], keywords=keywords)
    np.testing.assert_allclose(integrations["sci"], [40, 44, np.nan], rtol=1e-6)
    np.testing.assert_allclose(rate["sci"], 42, rtol=1e-6)
    np.testing.assert_allclose(rate["var_rnoise"], READNOISE**2 / 4 / 1.25**2 / 2, rtol=1e-6)
    np.testing.assert_allclose(rate["var_poisson"], 42 / (1.25 * GAIN) / 2, rtol=0.01)
    assert rate["dq"] == SAT | flag


@pytest.mark.parametrize(
    "flags",
    [
        [DNU, JUMP, JUMP, JUMP, JUMP, JUMP],  # no segment: the peer says rate 0 without a flag
        [0, DNU, 0, DNU, 0, DNU],  # no difference: the peer says first value / T
        [0, SAT, 0, SAT, 0, SAT],
        [DNU] * 6,
        [DNU, DNU, 0, SAT, SAT, SAT],
    ],
)
def test_ramps_without_information_are_lost(fit_one, flags):
    assert_lost(*fit_one(100 + 10 * np.arange(6.0), flags))


def test_isolated_groups_without_suppression(fit_one):
    """Only the first group says anything alone: its charge since the reset."""
    ramp = 10 + 10 * np.arange(6.0)
    rate, _ = fit_one(ramp, [0, DNU, 0, DNU, 0, DNU], suppress_one_group=False)
    assert rate["sci"] == 5
    assert_lost(*fit_one(ramp, [DNU, 0, DNU, 0, DNU, 0], suppress_one_group=False))
    assert_lost(*fit_one(ramp, [DNU, DNU, DNU, 0, DNU, DNU], suppress_one_group=False))


def test_lost_integrations_do_not_dilute_the_photon_noise(fit_one):
    ramp = 100 * np.arange(5.0)
    rate, integrations = fit_one([ramp] * 3, [[0] * 5, [SAT] * 5, [DNU] * 5])
    np.testing.assert_allclose(rate["var_poisson"], var_poisson(50, 5), rtol=1e-6)
    np.testing.assert_allclose(integrations["var_poisson"][0], var_poisson(50, 5), rtol=1e-6)


def test_samples_that_are_not_finite_are_left_out(fit_one):
    ramp = 10 * np.arange(7.0)
    ramp[3] = np.nan
    rate, _ = fit_one(ramp)
    assert rate["sci"] == 5
    np.testing.assert_allclose(rate["var_rnoise"], var_rnoise(3, 3), rtol=1e-6)
    assert_lost(*fit_one(np.full(7, np.nan)))
    assert_lost(*fit_one(np.full(7, np.inf)))


def test_dark_current_is_divided_by_the_gain(fit_one):
    """In truth: variance of the electrons between first and last group, over gain, time squared."""
    dark, groups = 3.0, 6
    electrons = dark * TIME * (groups - 1)
    truth = electrons / GAIN**2 / (TIME * (groups - 1)) ** 2
    rate, _ = fit_one(np.zeros(groups), average_dark_current=dark)
    np.testing.assert_allclose(rate["var_poisson"], truth, rtol=1e-6)
    rate, _ = fit_one(10 * np.arange(6.0), average_dark_current=dark)
    np.testing.assert_allclose(rate["var_poisson"], truth + var_poisson(5, 6), rtol=1e-6)


def test_image_of_dark_current_is_used(make_exposure, references, rng):
    exposure = make_exposure(np.zeros((1, 5, 8, 10)))
    image = rng.uniform(0, 1, (8, 10)).astype(np.float32)
    image[0, 0], image[0, 1] = np.nan, -5
    dark = xr.DataArray(image, dims=("row", "column"))
    truth = np.where(image > 0, image, 0) / GAIN**2 / (TIME * 4)
    for each, current in (
        (exposure, dark),
        (exposure.chunk({"row": 3}), dark),
        (exposure.chunk({"row": 3}), dark.chunk()),
    ):
        found = fit_ramps(each, *references(each), average_dark_current=current)["rate"]["var_poisson"]
        np.testing.assert_allclose(found, truth, rtol=1e-6)


def test_negative_median_leaves_the_dark_current(fit_one):
    rate, _ = fit_one(-10 * np.arange(6.0), average_dark_current=0.5)
    assert rate["sci"] == -5
    np.testing.assert_allclose(rate["var_poisson"], var_poisson(0.5 / GAIN, 6), rtol=1e-6)


def test_large_variances_stay(fit_one):
    """Short groups: above 1e6 (DN/s)2 the peer says variance 0, for read noise rate 0 too."""
    keywords = {"TFRAME": 0.015, "TGROUP": 0.015}
    rate, integration = fit_one([0, 30000.0], readnoise=20.0, keywords=keywords)
    for product in (rate, integration):
        np.testing.assert_allclose(product["sci"], 2e6, rtol=1e-6)
        np.testing.assert_allclose(product["var_rnoise"], 400 / 0.015**2, rtol=1e-6)
        np.testing.assert_allclose(product["var_poisson"], 2e6 / (0.015 * GAIN), rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_bad_gain_or_read_noise_loses_the_pixel(fit_one, value):
    rate, integration = fit_one(10 * np.arange(5.0), gain=value)
    assert_lost(rate, integration)
    assert rate["dq"] == NO_GAIN | DNU
    rate, integration = fit_one(10 * np.arange(5.0), readnoise=value)
    assert_lost(rate, integration)
    assert rate["dq"] == DNU


@pytest.mark.parametrize("pixeldq", [DNU, SAT, DNU | 1 << 10])
def test_bad_pixels_are_lost(fit_one, pixeldq):
    rate, integration = fit_one(10 * np.arange(5.0), pixeldq=pixeldq)
    assert_lost(rate, integration)
    assert rate["dq"] == pixeldq | DNU


def test_flags_of_rate_and_integrations(fit_one):
    ramp = 10 * np.arange(5.0)
    flags = [[0, 0, JUMP, 0, 0], [DNU] * 5, [0, 0, PERSISTENCE, SAT, SAT]]
    rate, integrations = fit_one([ramp] * 3, flags, pixeldq=1 << 11)
    assert integrations["dq"].values.tolist() == [1 << 11 | JUMP, 1 << 11 | DNU, 1 << 11 | PERSISTENCE | SAT]
    assert rate["dq"] == 1 << 11 | JUMP | PERSISTENCE | SAT


def test_all_saturated_gives_a_product(fit_one):
    rate, integrations = fit_one([[1, 1, 1]] * 2, [[SAT] * 3] * 2)
    assert_lost(rate, integrations)
    assert rate["dq"] == SAT | DNU


def test_first_and_last_group(fit_one):
    ramp = np.array([900, 10, 20, 30, 40, 7000.0])
    rate, _ = fit_one(ramp, firstgroup=1, lastgroup=4)
    assert rate["sci"] == 5
    np.testing.assert_allclose(rate["var_rnoise"], var_rnoise(4), rtol=1e-6)
    np.testing.assert_allclose(rate["var_poisson"], var_poisson(5, 4), rtol=1e-6)
    assert fit_one(10 * np.arange(6.0), lastgroup=99)[0]["sci"] == 5
    assert fit_one([10.0], firstgroup=0, lastgroup=0)[0]["sci"] == 5
    for wrong in ({"firstgroup": 3, "lastgroup": 3}, {"firstgroup": 5}, {"firstgroup": -1}, {"lastgroup": 0}):
        with pytest.raises(ParameterError, match="fewer than two"):
            fit_one(ramp, **wrong)


@pytest.fixture
def scene(make_exposure, rng):
    shape = (3, 6, 16, 40)
    exposure = make_exposure(rng.poisson(40, shape).cumsum(axis=1) + rng.normal(0, 7, shape))
    flags = rng.choice([0, DNU, SAT, JUMP, PERSISTENCE], shape, p=[0.8, 0.05, 0.05, 0.08, 0.02])
    exposure["groupdq"][:] = flags.astype(np.uint8)
    exposure["pixeldq"][2, 3:6] = [1 << 11, 1, 1 << 10]
    times = 59000.0 + np.arange(3)
    return exposure.assign_coords(int_mid_MJD_UTC=("integration", times)).assign(primary_cosmic_rays=1.5)


@pytest.mark.parametrize("node", ["rate", "rateints"])
def test_lazy_and_independent_of_chunks(scene, references, chunkings, node):
    def fit(*given):
        return fit_ramps(*given)[node].to_dataset()

    result = assert_lazy_and_chunk_invariant(fit, scene, *references(scene), chunkings=chunkings)
    dims = ("integration", "row", "column") if node == "rateints" else ("row", "column")
    assert {name: (array.dims, str(array.dtype), array.attrs.get("units")) for name, array in result.items()} == {
        "sci": (dims, "float32", "DN/s"),
        "var_poisson": (dims, "float32", "(DN/s)2"),
        "var_rnoise": (dims, "float32", "(DN/s)2"),
        "dq": (dims, "uint32", None),
        "primary_cosmic_rays": ((), "float64", None),
    }
    assert "DO_NOT_USE" in result["dq"].attrs["flag_meanings"]
    assert "group" not in result.dims
    assert ("int_mid_MJD_UTC" in result.coords) == (node == "rateints")
    assert {"row", "column", "amplifier"} <= set(result.coords)
    assert result.attrs["NGROUPS"] == 6
    assert steps(result)[-1]["step"] == "ramp_fit"
    assert steps(result)[-1]["references"] == {"readnoise": "readnoise.fits", "gain": "gain.fits"}


def test_both_products_come_from_one_pass(scene, references):
    lazy = scene.chunk({"row": 4})
    reads = []

    def read(block):
        reads.append(block.shape)
        return block

    lazy["sci"] = lazy["sci"].copy(data=lazy["sci"].data.map_blocks(read, meta=lazy["sci"].data._meta))
    tree = fit_ramps(lazy, *references(scene))
    merged = xr.Dataset(
        {f"{n}_{k}": v for n in ("rate", "rateints") for k, v in tree[n].to_dataset().items()}, coords={}
    )
    merged.compute(scheduler="synchronous")
    assert len(reads) == 4
    again = cloudpickle.loads(
        cloudpickle.dumps(fit_ramps(scene.chunk({"row": 4}), *references(scene))["rate"].to_dataset())
    )
    xr.testing.assert_equal(again.compute(), tree["rate"].to_dataset().compute())


def test_coordinates_stay_in_memory(scene, references):
    tree = fit_ramps(scene.chunk({"row": 4}).assign_coords(scene.coords), *references(scene))
    for node in tree.children.values():
        assert all(coordinate.chunks is None for coordinate in node.coords.values())


def test_rows_are_cut_without_the_rest(scene, references):
    """A band of the rate computes that band, and cutting commutes with fitting."""
    whole = fit_ramps(scene, *references(scene))["rate"].to_dataset()
    cut = scene.isel(row=slice(3, 9), column=slice(5, 30))
    band = fit_ramps(cut, *references(scene))["rate"].to_dataset()
    xr.testing.assert_equal(band, whole.isel(row=slice(3, 9), column=slice(5, 30)))


def test_files_of_a_series_do_not_matter(scene, references):
    """Integrations in any order, and cut in any way, give the same photon noise."""
    readnoise, gain = references(scene)
    whole = fit_ramps(scene, readnoise, gain)["rateints"].to_dataset()
    turned = fit_ramps(scene.isel(integration=[2, 0, 1]), readnoise, gain)["rateints"].to_dataset()
    with forbid_computes():
        lazy = fit_ramps(scene.chunk({"integration": (1, 2)}), readnoise, gain)["rateints"].to_dataset()
    np.testing.assert_allclose(turned["var_poisson"].isel(integration=[1, 2, 0]), whole["var_poisson"], rtol=1e-6)
    np.testing.assert_array_equal(lazy["var_poisson"], whole["var_poisson"])


def test_problems_are_named(scene, references):
    with pytest.raises(ModelError, match="groupdq"):
        fit_ramps(scene.drop_vars("groupdq"), *references(scene))
    scene["sci"].attrs["units"] = "DN/s"
    with pytest.raises(ModelError, match="units"):
        fit_ramps(scene, *references(scene))


flags_of_a_ramp = arrays(
    np.uint8, (2, 5, 1, 6), elements=st.sampled_from([0, 0, 0, DNU, SAT, JUMP, PERSISTENCE, DNU | JUMP, 8])
)
samples = arrays(np.float32, (2, 5, 1, 6), elements=st.integers(-2000, 60000).map(float))
relaxed = settings(deadline=None, max_examples=60)


def fit_samples(sci, flags, pixeldq=0, **parameters):
    dims = ("integration", "group", "row", "column")
    labels = {"row": [960], "column": np.arange(6), "integration": [1, 2], "group": np.arange(1, 6)}
    header = {"DETECTOR": "NRS1", "READPATT": "NRSRAPID", "SUBARRAY": "SUB512S", "SUBSTRT1": 1}
    header |= {"SUBSTRT2": 961, "SUBSIZE1": 6, "SUBSIZE2": 1, "NINTS": 2, "NGROUPS": 5, "NFRAMES": 1}
    exposure = xr.Dataset(
        {
            "sci": (dims, sci.astype(np.float32), {"units": "DN"}),
            "groupdq": (dims, flags),
            "pixeldq": (dims[2:], np.full((1, 6), pixeldq, np.uint32)),
        },
        labels,
        header | {"TFRAME": TIME, "TGROUP": TIME},
    )
    image = exposure["pixeldq"].astype(np.float32)
    noise = xr.Dataset({"sci": image * 0 + 9}, attrs={"reference_type": "readnoise"})
    gain = xr.Dataset({"sci": image * 0 + 1.5}, attrs={"reference_type": "gain"})
    return fit_ramps(exposure, noise, gain, **parameters)


@relaxed
@given(sci=samples, flags=flags_of_a_ramp, pixeldq=st.sampled_from([0, DNU, 1 << 11]), suppress=st.booleans())
def test_variances_and_flags(sci, flags, pixeldq, suppress):
    tree = fit_samples(sci, flags, pixeldq, suppress_one_group=suppress)
    for node in ("rate", "rateints"):
        rates = tree[node].to_dataset()
        lost = np.isnan(rates["sci"].values)
        for name in ("var_poisson", "var_rnoise"):
            np.testing.assert_array_equal(np.isnan(rates[name].values), lost)
            assert (rates[name].values[~lost] >= 0).all()
        assert (rates["var_rnoise"].values[~lost] > 0).all()
        np.testing.assert_array_equal((rates["dq"].values & DNU) > 0, lost)
        assert (rates["dq"].values & pixeldq == pixeldq).all()
    given_flags = np.bitwise_or.reduce(flags, axis=1) & (JUMP | SAT | PERSISTENCE)
    assert (tree["rateints"]["dq"].values & given_flags == given_flags).all()


@relaxed
@given(sci=samples, flags=flags_of_a_ramp, offset=st.integers(-5000, 5000))
def test_a_constant_does_not_change_the_slope(sci, flags, offset):
    first = fit_samples(sci, flags)
    second = fit_samples(sci + np.float32(offset), flags)
    for node in ("rate", "rateints"):
        xr.testing.assert_equal(first[node].to_dataset(), second[node].to_dataset())
