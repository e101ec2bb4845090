"""The likelihood as jump search and as fit: known answers, truth, laziness. Group time 2 s unless stated."""

import numpy as np
import pytest
import xarray as xr

import nsxr
from nsxr.errors import ParameterError
from nsxr.model.history import steps
from nsxr.ramps.jump import flag_jumps
from nsxr.ramps.ramp_fit import fit_ramps
from nsxr.simulate import small_exposure
from nsxr.testing import assert_lazy_and_chunk_invariant, forbid_computes, make_noise_references

JUMP, SATURATED = 4, np.uint8(2)


@pytest.fixture
def references():
    def make(exposure, readnoise=10.0, gain=1.25):
        return make_noise_references(exposure, readnoise, gain)

    return make


def nodes(exposure, *references, node="rate", **parameters):
    return fit_ramps(exposure, *references, algorithm="likelihood", **parameters)[node].to_dataset()


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("integrations", [1, 3])
def test_noise_free_ramps_are_exact(make_exposure, references, frames, integrations):
    ramp = 100 + 37.0 * np.arange(8)
    ramp[4:] += 900
    exposure = make_exposure(
        np.broadcast_to(ramp[:, None, None], (integrations, 8, 4, 5)), NFRAMES=frames, TFRAME=2 / frames
    )
    exposure["groupdq"][:, 4] = JUMP
    common = (("row", "column"), np.full((4, 5), 18.5, np.float32), {"units": "DN/s"})
    exposure = exposure.assign(median_rate=common) if integrations > 1 else exposure
    rate = nodes(exposure, *references(exposure))
    np.testing.assert_allclose(rate["sci"], 18.5, rtol=1e-6)
    np.testing.assert_allclose(rate["chi_square"], 0, atol=1e-6)
    assert (rate["dq"] == JUMP).all()
    assert (rate["var_poisson"] > 0).all()
    assert (rate["var_rnoise"] > 0).all()


def test_two_segments_are_independent_and_photons_alone_make_the_mean_difference(make_exposure, references):
    """Without read noise the slope is from first to last sample of each segment, and its variance that of a count."""
    rng = np.random.default_rng(1)
    sci = rng.poisson(5000, (1, 7, 3, 4)).cumsum(axis=1).astype(float)
    exposure = make_exposure(sci)
    exposure["groupdq"][:, 3] = JUMP
    rate = nodes(exposure, *references(exposure, readnoise=1e-3, gain=1.0))
    mean = (sci[0, 2] - sci[0, 0] + sci[0, 6] - sci[0, 3]) / 5
    np.testing.assert_allclose(rate["sci"], mean / 2, rtol=1e-6)
    np.testing.assert_allclose(rate["var_poisson"], mean / 5 / 4, rtol=1e-4)
    assert (rate["var_rnoise"] < 1e-6).all()


def test_read_noise_alone_makes_least_squares(make_exposure, references):
    rng = np.random.default_rng(2)
    sci = rng.normal(0, 10, (1, 9, 3, 40))
    exposure = make_exposure(sci)
    rate = nodes(exposure, *references(exposure, readnoise=10 * np.sqrt(2), gain=1e6))  # photons hardly scatter
    slopes = np.polyfit(np.arange(9), sci[0].reshape(9, -1), 1)[0].reshape(3, 40) / 2
    np.testing.assert_allclose(rate["sci"], slopes, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(rate["var_rnoise"], 12 * 100 / 4 / (9**3 - 9), rtol=1e-3)


def truth(rng, flux, frames, shape=(1, 20, 40, 500), time=14.6, noise=6.0, hit=0.06):
    """Return ramps [electron], which of them are hit after the first group, and the rate per second."""
    total, sci = np.zeros((shape[0], *shape[2:])), np.zeros(shape)
    hits = rng.random(total.shape) < hit
    when = rng.uniform(time, shape[1] * time, hits.shape)
    charge = np.exp(rng.uniform(np.log(10), np.log(3000), hits.shape)) * hits
    for group in range(shape[1]):
        for frame in range(frames):
            total += rng.poisson(flux * time / frames, total.shape)
            now = group * time + (frame + 1) * time / frames
            sci[:, group] += (total + charge * (when <= now) + rng.normal(0, noise, total.shape)) / frames
    return sci, hits


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize("flux", [0.02, 1.0, 20.0])
def test_rates_of_clean_and_of_hit_pixels(make_exposure, references, frames, flux):
    """Uncertainties mean what they say, and hits leave less behind than by two-point differences."""
    rng = np.random.default_rng(3)
    sci, hits = truth(rng, flux, frames)
    exposure = make_exposure(sci, NFRAMES=frames, TFRAME=14.6 / frames, TGROUP=14.6)
    given = references(exposure, readnoise=6 * np.sqrt(2), gain=1.0)
    bias, false = {}, {}
    for jump, fit in (("likelihood", "likelihood"), ("two-point", "ols")):
        flagged = flag_jumps(exposure, *given, algorithm=jump, flag_4_neighbors=False)
        rate = fit_ramps(flagged, *given, algorithm=fit)["rate"]
        deviation = ((rate["sci"] - flux) / np.sqrt(rate["var_poisson"] + rate["var_rnoise"])).values
        bias[fit] = deviation[hits[0]].mean()
        false[fit] = ((flagged["groupdq"].values & JUMP) != 0).any(1)[~hits].mean()
        if fit == "likelihood":
            # of faint pixels the uncertainty follows the estimate, up and down; the mean variance is still right
            spread = deviation[~hits[0]].std() if flux > 0.5 else 1.0
            assert abs(spread - 1) < 0.02
            variance = (rate["var_poisson"] + rate["var_rnoise"]).values[~hits[0]].mean()
            measured = (rate["sci"].values[~hits[0]] - flux).var()
            assert abs(measured / variance - 1) < 0.06
            degrees = 18 - (flagged["groupdq"].values & JUMP).astype(bool).sum(1)[0]
            np.testing.assert_allclose((rate["chi_square"] / degrees).values[~hits[0]].mean(), 1, atol=0.02)
    # where photons hide small hits, two-point differences find as many with twice the false jumps or more
    assert bias["likelihood"] < min(0.4, bias["ols"] + (0.03 if flux > 5 else 0.0))
    assert false["likelihood"] < 1.6e-3  # 1e-3 wanted, of 19 000 ramps
    assert flux < 5 or frames > 1 or false["ols"] > 2 * false["likelihood"]


@pytest.fixture
def scene(make_exposure, rng):
    shape = (3, 9, 16, 40)
    sci = rng.poisson(40, shape).cumsum(axis=1) + rng.normal(0, 7, shape)
    sci += ((rng.random(shape) < 0.05) * 900).cumsum(axis=1)
    exposure = make_exposure(sci)
    exposure["groupdq"][:] = rng.choice([0, 1, 2, 32], shape, p=[0.85, 0.05, 0.05, 0.05]).astype(np.uint8)
    exposure["pixeldq"][2, 3:6] = [1 << 11, 1, 1 << 10]
    return exposure


@pytest.mark.parametrize("integrations", [1, 3])
def test_lazy_and_independent_of_chunks(scene, references, chunkings, integrations):
    scene = scene.isel(integration=slice(integrations))
    flagged = assert_lazy_and_chunk_invariant(
        flag_jumps, scene, *references(scene), chunkings=chunkings, algorithm="likelihood"
    )
    assert ("median_rate" in flagged) == (integrations > 1)
    assert ((flagged["groupdq"] & JUMP) != 0).sum() > 100
    for node, dims in (("rate", ("row", "column")), ("rateints", ("integration", "row", "column"))):
        result = assert_lazy_and_chunk_invariant(
            nodes, flagged, *references(scene), chunkings=chunkings, node=node, rtol=2e-7
        )
        kinds = {name: (array.dims, str(array.dtype), array.attrs.get("units")) for name, array in result.items()}
        del kinds["primary_cosmic_rays"]
        assert kinds == {
            "sci": (dims, "float32", "DN/s"),
            "var_poisson": (dims, "float32", "(DN/s)2"),
            "var_rnoise": (dims, "float32", "(DN/s)2"),
            "chi_square": (dims, "float32", None),
            "dq": (dims, "uint32", None),
        }
    assert steps(result)[-1]["parameters"]["algorithm"] == "likelihood"


@pytest.mark.parametrize("reset_noise", [None, 25.0])
@pytest.mark.parametrize("flux", [5.0, 150.0])
@pytest.mark.parametrize("good", [1, 2, 3])
def test_few_good_groups(make_exposure, references, good, flux, reset_noise):
    """Rates without bias and with the uncertainty that they have; with the level after the reset also of one group."""
    rng, time = np.random.default_rng(6), 73.0
    sci, _ = truth(rng, flux, 5, shape=(1, good + 1, 100, 200), time=time, hit=0.0)
    level = rng.normal(0, 25, (100, 200))
    exposure = make_exposure(sci + level, NFRAMES=5, TFRAME=time / 5, TGROUP=time)
    exposure["groupdq"][:, good:] = 2
    given = references(exposure, readnoise=6 * np.sqrt(2), gain=1.0)
    rate = nodes(exposure, *given, reset_noise=reset_noise)
    if reset_noise is None and good == 1:
        assert np.isnan(rate["sci"]).all()
        return
    deviation = (rate["sci"] - flux) / np.sqrt(rate["var_poisson"] + rate["var_rnoise"])
    assert abs(deviation.mean()) < 0.03
    assert abs(deviation.std() - 1) < 0.02
    if reset_noise is not None and good > 1:
        unknown = nodes(exposure, *given)
        gain = (unknown["sci"].std() / rate["sci"].std()).item()
        expected = {(2, 5.0): 1.02, (2, 150.0): 1.09, (3, 5.0): 1.02, (3, 150.0): 1.08}[good, flux]
        assert abs(gain - expected) < 0.015


@pytest.mark.parametrize("integrations", [1, 2])
def test_a_first_group_alone(make_exposure, references, integrations):
    """Rate and variances by hand: of frames 1 to 4 of 0.5 s, and of one that has a neighbour."""
    sci = np.full((integrations, 3, 2, 2), 100.0)
    sci[:, 0] = 50
    exposure = make_exposure(sci, NFRAMES=4, TFRAME=0.5)
    exposure["groupdq"][:, 1:] = 2
    given = references(exposure)
    known = nodes(exposure, *given, reset_noise=20.0, node="rateints")
    np.testing.assert_allclose(known["sci"], 50 / 1.25, rtol=1e-6)
    shared_time = 0.5 * 5 * 9 / (6 * 4)  # of the charge in four frames
    np.testing.assert_allclose(known["var_poisson"], 40 * shared_time / 1.25 / 1.25**2, rtol=1e-6)
    np.testing.assert_allclose(known["var_rnoise"], ((10**2 / 8) + 16**2) / 1.25**2, rtol=1e-6)
    assert (known["dq"] == 2).all()
    assert (known["chi_square"] < 1e-6).all()
    unknown = nodes(exposure, *given, suppress_one_group=False, node="rateints")
    np.testing.assert_allclose(unknown["sci"], known["sci"])
    np.testing.assert_allclose(unknown["var_poisson"], 40 / 1.25 / 1.25, rtol=1e-6)


def test_the_first_group_counts_only_where_it_is_good(make_exposure, references):
    ramp = np.array([999.0, 140, 180, 220, 260])
    exposure = make_exposure(np.broadcast_to(ramp[:, None, None], (1, 5, 2, 2)).copy())
    exposure["groupdq"][:, 0] = 1
    rate = nodes(exposure, *references(exposure), reset_noise=1.0)
    np.testing.assert_allclose(rate["sci"], 20, rtol=1e-6)
    xr.testing.assert_equal(rate, nodes(exposure, *references(exposure)))
    exposure["groupdq"][:, 0] = 0
    rate = nodes(exposure, *references(exposure), reset_noise=1.0, firstgroup=1)
    np.testing.assert_allclose(rate["sci"], 20, rtol=1e-6)


@pytest.mark.parametrize("integrations", [1, 3])
def test_reset_level_lazily(scene, references, chunkings, integrations):
    scene = scene.isel(integration=slice(integrations))
    flagged = flag_jumps(scene, *references(scene), algorithm="likelihood")
    results = [
        assert_lazy_and_chunk_invariant(
            nodes, flagged, *references(scene), chunkings=chunkings, rtol=2e-7, reset_noise=reset_noise
        )
        for reset_noise in (None, 30.0)
    ]
    assert (results[0]["sci"] != results[1]["sci"]).mean() > 0.5
    assert steps(results[1])[-1]["parameters"]["reset_noise"] == 30.0


@pytest.mark.parametrize(("reset_noise", "algorithm"), [(-1.0, "likelihood"), (np.inf, "likelihood"), (25.0, "ols")])
def test_reset_noise_that_cannot_be_is_refused(make_exposure, references, reset_noise, algorithm):
    exposure = make_exposure(np.zeros((1, 5, 4, 4)))
    with pytest.raises(ParameterError, match=f"reset_noise is {reset_noise!r} with algorithm '{algorithm}'"):
        fit_ramps(exposure, *references(exposure), algorithm=algorithm, reset_noise=reset_noise)


def test_integrations_share_one_covariance(make_exposure, references):
    """Were the weights those of each integration, low ones would count more, by one part in the electrons of each."""
    rng = np.random.default_rng(4)
    sci = rng.poisson(20, (40, 6, 40, 100)).cumsum(axis=1)
    exposure = make_exposure(sci)
    given = references(exposure, readnoise=0.5, gain=1.0)
    flagged = flag_jumps(exposure, *given, algorithm="likelihood", rejection_threshold=20.0)
    rate = nodes(flagged, *given)
    error = np.sqrt((rate["var_poisson"] + rate["var_rnoise"]).mean() / rate["sci"].size)
    assert abs(rate["sci"].mean() - 10) < 4 * error
    assert 20 * error < 10 / 100  # what that bias would be


@pytest.mark.parametrize(("groups", "expected"), [(5, 3.80), (20, 4.18), (70, 4.47)])
def test_false_jumps_are_as_rare_in_ramps_of_any_length(make_exposure, references, groups, expected):
    rng = np.random.default_rng(5)
    sci = rng.poisson(20, (1, groups, 200, 200)).cumsum(axis=1) + rng.normal(0, 7, (1, groups, 200, 200))
    exposure = make_exposure(sci)
    given = references(exposure, readnoise=7 * np.sqrt(2), gain=1.0)
    flagged = flag_jumps(exposure, *given, algorithm="likelihood", flag_4_neighbors=False)
    assert steps(flagged)[-1]["parameters"]["rejection_threshold"] == pytest.approx(expected, abs=0.01)
    assert 2e-4 < ((flagged["groupdq"] & JUMP) != 0).any("group").mean() < 1.2e-3


def test_ramps_of_few_groups_are_searched_by_differences(make_exposure, references):
    sci = np.broadcast_to(100.0 * np.arange(4)[:, None, None], (1, 4, 3, 3)).copy()
    sci[0, 2:, 1, 1] += 900
    exposure = make_exposure(sci)
    results = [flag_jumps(exposure, *references(exposure), algorithm=name) for name in ("two-point", "likelihood")]
    xr.testing.assert_identical(*results)
    assert results[1]["groupdq"].values[0, 2, 1, 1] == JUMP
    assert steps(results[1])[-1]["parameters"]["algorithm"] == "two-point"


def algorithms(tree):
    """What steps say about their algorithm."""
    done = [(entry["step"], entry["parameters"]) for entry in steps(tree["rate"].to_dataset())]
    return {step: parameters["algorithm"] for step, parameters in done if "algorithm" in parameters}


@pytest.mark.parametrize("name", ["likelihood", "LIKELY"])
def test_one_name_switches_search_and_fit(tmp_path, name):
    made = small_exposure(readout="NRSRAPID", subarray="SUB512S", groups=8, columns=None)
    with forbid_computes():
        tree = nsxr.detector1(made.exposure, made.references, ramp_fit={"algorithm": name})
    assert algorithms(tree) == {"jump": "likelihood", "ramp_fit": "likelihood"}
    mixed = nsxr.detector1(
        made.exposure, made.references, ramp_fit={"algorithm": name}, jump={"algorithm": "two-point"}
    )
    assert algorithms(mixed) == {"jump": "two-point", "ramp_fit": "likelihood"}
    paths = nsxr.write_products(tree, tmp_path, "it", formats=("fits", "zarr"), progress=False)
    for path in paths:
        if path.suffix == ".fits":
            again = xr.open_dataset(path, engine="nirspec")
            expected = tree["rateints" if "rateints" in path.name else "rate"]
            np.testing.assert_array_equal(again["chi_square"], expected["chi_square"])
        else:
            assert "chi_square" in xr.open_dataset(path, group="rate", engine="zarr")


def test_unknown_algorithms_are_refused(make_exposure, references):
    exposure = make_exposure(np.zeros((1, 5, 4, 4)))
    with pytest.raises(ParameterError, match="'best', expected one of two-point, likelihood"):
        flag_jumps(exposure, *references(exposure), algorithm="best")
    with pytest.raises(ParameterError, match="'best', expected one of ols"):
        fit_ramps(exposure, *references(exposure), algorithm="best")
    made = small_exposure(readout="NRSRAPID", subarray="SUB512S", groups=5, columns=16)
    with pytest.raises(ParameterError, match="'best'"):
        nsxr.detector1(made.exposure, made.references, ramp_fit={"algorithm": "best"})


@pytest.mark.parametrize(("good", "hit"), [(3, 2), (4, 1), (4, 3)])
def test_hits_in_ramps_that_are_cut_short_are_found(make_exposure, make_reference, rng, good, hit):
    """Of three differences or two the likelihood cannot tell which one is apart; they are compared."""
    sci = 50.0 * np.arange(1, 13)[:, None, None] + rng.normal(0, 6, (1, 12, 40, 100))
    plain = make_exposure(sci)
    sci[:, hit:, :, ::2] += 400
    exposure = make_exposure(sci)
    flags = np.where(np.arange(12)[:, None, None] >= good, SATURATED, np.uint8(0)) | np.zeros(sci.shape, np.uint8)
    readnoise, gain = (
        make_reference("readnoise", exposure, sci=6 * np.sqrt(2)),
        make_reference("gain", exposure, sci=1.0),
    )
    settings = {"algorithm": "likelihood", "flag_4_neighbors": False}
    for one, share in ((exposure, 0.5), (plain, 0.0)):
        one = one.assign(groupdq=one["groupdq"].copy(data=flags))
        found = (flag_jumps(one, readnoise, gain, **settings)["groupdq"].values & JUMP) > 0
        assert found[0, hit].mean() == pytest.approx(share, abs=0.001)
        assert np.delete(found[0], hit, axis=0).mean() < 0.001


@pytest.mark.parametrize("groups", [2, 3])
def test_several_integrations_without_a_common_rate_have_no_bias(make_exposure, make_reference, rng, groups):
    """Covariances of each integration's own would favour low ones: -47 % here."""
    sci = rng.poisson(1.0, (40, groups, 30, 60)).cumsum(1) + rng.normal(0, 3, (40, groups, 30, 60))
    exposure = make_exposure(sci)
    given = make_reference("readnoise", exposure, sci=3 * np.sqrt(2)), make_reference("gain", exposure, sci=1.0)
    rate = fit_ramps(exposure, *given, algorithm="likelihood")["rate"]["sci"].values
    assert rate.mean() * 2.0 == pytest.approx(1, abs=0.05)
