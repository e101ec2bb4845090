"""The whole of stage 1 on small simulated exposures: truth, laziness, chunks, errors."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import nsxr
from nsxr.compute import layouts as chunking
from nsxr.errors import MissingReferenceError, ModelError, ParameterError
from nsxr.model.dq import PixelFlag
from nsxr.model.history import steps
from nsxr.pipelines.detector1 import DETECTOR1
from nsxr.simulate import QUIET, simulate_exposure, small_exposure
from nsxr.testing import count_computes, forbid_computes

CONFIGURATIONS = {
    "irs2": {"readout": "NRSIRS2RAPID", "groups": 8, "columns": 32, "detector": "NRS1"},
    "irs2-averaged": {"readout": "NRSIRS2", "groups": 6, "columns": 32, "detector": "NRS2"},
    "full": {"readout": "NRSRAPID", "groups": 8, "columns": 32, "detector": "NRS2"},
    "full-averaged": {"readout": "NRS", "groups": 6, "columns": 32, "detector": "NRS1"},
    "allslits": {"readout": "NRSRAPID", "subarray": "ALLSLITS", "groups": 8, "integrations": 2, "columns": 64},
    "series": {"readout": "NRSRAPID", "subarray": "SUB512", "groups": 6, "integrations": 12, "columns": 64},
}


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def small(request):
    return small_exposure(seed=3, **CONFIGURATIONS[request.param])


def calibrate(small, **parameters):
    return nsxr.detector1(small.exposure, small.references, **parameters)


def test_rates_agree_with_the_truth(small):
    tree = calibrate(small)
    rate = tree["rate"].to_dataset()
    truth, disturbed = small.truth["rate_dn"], small.truth["disturbed"].any("integration")
    clean = (rate["dq"] == 0) & ~disturbed & np.isfinite(truth)
    error = np.sqrt(rate["var_poisson"] + rate["var_rnoise"])
    pull = ((rate["sci"] - truth) / error).where(clean).values
    pull = pull[np.isfinite(pull)]
    assert pull.size > 0.5 * truth.size
    low, middle, high = np.percentile(pull, [15.87, 50, 84.13])
    assert abs(middle) < 0.3  # noise shared by many pixels moves them together
    assert 0.8 < (high - low) / 2 < 1.25


def test_everything_is_declared(small):
    tree = calibrate(small)
    assert list(tree.children) == ["rate", "rateints"]
    sizes = small.exposure.sizes
    rows = 2048 if sizes["row"] == 3200 else sizes["row"]
    for name, dims in (("rate", ("row", "column")), ("rateints", ("integration", "row", "column"))):
        node = tree[name].to_dataset()
        for variable in ("sci", "var_poisson", "var_rnoise", "dq"):
            assert node[variable].dims == dims
            assert node[variable].dtype == (np.uint32 if variable == "dq" else np.float32)
        assert node["sci"].attrs["units"] == "DN/s"
        assert node["var_poisson"].attrs["units"] == node["var_rnoise"].attrs["units"] == "(DN/s)2"
        assert node.sizes["row"] == rows
        assert [entry["step"] for entry in steps(node)] == [
            s for name in DETECTOR1.steps for s in [name] * (2 if name == "jump" else 1)
        ]
        assert (node["var_poisson"].fillna(0) >= 0).all()
        bad = (node["dq"] & np.uint32(PixelFlag.DO_NOT_USE)) != 0
        np.testing.assert_array_equal(node["sci"].isnull(), bad)
    assert "amplifier" in tree["rate"].coords


def chunked(small, chunks):
    exposure = small.exposure.chunk(chunks).assign_coords(small.exposure.coords)
    return exposure, {kind: reference.chunk() for kind, reference in small.references.items()}


def test_any_chunks_give_the_same_and_nothing_is_computed_early(small):
    expected = calibrate(small)
    before = small.exposure.copy(deep=True)
    rows = small.exposure.sizes["row"] // 5 if small.exposure.sizes["row"] == 3200 else small.exposure.sizes["row"] // 4
    for chunks in ({"row": rows, "integration": 1}, {"group": 3, "integration": 5, "row": -1}):
        exposure, references = chunked(small, chunks)
        with forbid_computes():
            tree = nsxr.detector1(exposure, references)
        for name in ("rate", "rateints"):
            with count_computes():
                computed = tree[name].to_dataset().compute()
            for variable in ("sci", "dq", "var_poisson", "var_rnoise"):
                np.testing.assert_allclose(
                    computed[variable], expected[name][variable], rtol=3e-5, atol=2e-5, err_msg=f"{name} {variable}"
                )
            assert computed.attrs == expected[name].attrs
    xr.testing.assert_identical(small.exposure, before)


def test_one_amplifier_costs_a_fraction(monkeypatch):
    """A band of the rate runs the expensive kernels for that band, and the reference output, alone."""
    from nsxr.kernels.ramps import irs2
    from nsxr.ramps.reference_pixels import irs2 as refpix_irs2

    small = small_exposure(readout="NRSIRS2RAPID", groups=6, columns=16, seed=1)
    exposure, references = chunked(small, {"row": 640, "integration": 1})
    corrected = []
    original = refpix_irs2._correct_amplifier

    def counting(sci, *blocks, sector):
        corrected.append(sector.rows.start)
        return original(sci, *blocks, sector=sector)

    monkeypatch.setattr(refpix_irs2, "_correct_amplifier", counting)
    settings = {"jump": {"expand_large_events": False}, "skip": ["clean_flicker_noise"]}  # which needs whole frames
    tree = nsxr.detector1(exposure, references, **settings)
    band = tree["rate"]["sci"].isel(row=slice(0, 512))
    with count_computes() as part:
        values = band.compute()
    assert len(corrected) == 2  # its own output, and the one next to it, whose jumps may flag neighbours
    assert irs2.SLOTS == 712
    corrected.clear()
    with count_computes() as whole:
        everything = tree["rate"]["sci"].compute()
    assert len(corrected) == 4
    assert part.tasks < 0.65 * whole.tasks  # three of the five outputs of a raw frame, and the way to the rates
    np.testing.assert_array_equal(values, everything.isel(row=slice(0, 512)))


def test_parameters_and_skips_reach_the_steps(small):
    jump = {"rejection_threshold": 50.0, "flag_4_neighbors": False}
    tree = calibrate(small, jump=jump, skip=["dark_current", "clean_flicker_noise"])
    rate = tree["rate"].to_dataset()
    done = {entry["step"]: entry for entry in reversed(steps(rate))}
    assert done["dark_current"]["status"] == "SKIPPED"
    assert done["dark_current"]["reason"] == "on request"
    assert done["jump"]["parameters"]["rejection_threshold"] == 50.0
    trees = (tree, calibrate(small, skip=["clean_flicker_noise"]))
    jumps = [(t["rate"]["dq"] & np.uint32(PixelFlag.JUMP_DET)).values.astype(bool).sum() for t in trees]
    assert jumps[0] < jumps[1]


def test_every_step_can_be_inspected(small):
    stages = nsxr.correct_ramps(small.exposure, small.references)
    assert list(stages) == [name for name in DETECTOR1.steps if name not in ("ramp_fit", "gain_scale")]
    assert list(stages) == list(DETECTOR1.saved)
    assert stages["saturation"].sizes == small.exposure.sizes
    tree = nsxr.fit_rates(stages["persistence"], small.references)
    xr.testing.assert_identical(tree["rate"].to_dataset(), calibrate(small)["rate"].to_dataset())


@pytest.fixture(scope="module")
def quiet():
    return small_exposure(readout="NRSRAPID", subarray="SUB512S", groups=5, columns=32, artifacts=QUIET, rounded=False)


def test_noise_free_rates_are_exact(quiet):
    rate = calibrate(quiet)["rate"].to_dataset()
    truth = quiet.truth["rate_dn"]
    good = (rate["dq"] == 0) & np.isfinite(truth)
    np.testing.assert_allclose(rate["sci"].where(good), truth.where(good), rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("readout", ["NRSRAPID", "NRS"])
@pytest.mark.parametrize("algorithm", ["likelihood", "ols"])
def test_groups_that_were_chosen_give_the_same_rates(readout, algorithm):
    small = small_exposure(
        readout=readout, subarray="SUB512", groups=9, integrations=2, columns=32, artifacts=QUIET, rounded=False
    )
    fit = {"algorithm": algorithm, "suppress_one_group": False}
    truth = small.truth["rate_dn"]
    for chosen in (slice(0, 9, 2), slice(1, 9, 3), slice(2, None), slice(7, 8)):
        exposure = small.exposure.isel(group=chosen)
        tree = nsxr.detector1(exposure, small.references, ramp_fit=fit, skip=["clean_flicker_noise"])
        rates = tree["rateints"].to_dataset()
        good = (rates["dq"] == 0) & (truth > 0.5)
        assert good.sum() > 100
        error = np.abs(rates["sci"] - truth).where(good)
        assert float((error - 2e-3 * truth).max()) < 0.02
        assert steps(rates)[-2]["parameters"]["groups"] == exposure["group"].values.tolist()
    for labels in ([3, 2, 1], [0, 1, 3]):
        with pytest.raises(ModelError, match="expected evenly spaced groups in order of time"):
            nsxr.detector1(small.exposure.isel(group=labels), small.references)


def test_names_are_checked_together_before_anything_runs(quiet):
    with pytest.raises(ParameterError) as caught:
        calibrate(quiet, jmup={"rejection_threshold": 3}, jump={"rejection": 3}, skip=["ramp_fit", "drak_current"])
    for words in ("'jmup', did you mean 'jump'?", "no parameter 'rejection', did", "'ramp_fit' cannot be skipped"):
        assert words in str(caught.value)
    with pytest.raises(ParameterError, match="must be a mapping"):
        calibrate(quiet, jump=5.0)


def test_missing_references_are_named_together(quiet):
    few = {k: v for k, v in quiet.references.items() if k not in ("dark", "gain")}
    with pytest.raises(MissingReferenceError, match=r"dark \(dark_current\), gain \(jump, ramp_fit, gain_scale\)"):
        nsxr.detector1(quiet.exposure, few)
    tree = nsxr.detector1(quiet.exposure, {**few, "gain": quiet.references["gain"]}, skip=["dark_current"])
    assert np.isfinite(tree["rate"]["sci"]).any()


def test_reference_types_depend_on_readout_and_skips(quiet):
    assert "refpix" not in DETECTOR1.reference_types(quiet.exposure)
    assert "dark" not in DETECTOR1.reference_types(quiet.exposure, DETECTOR1.settings(skip=["dark_current"]))
    irs2 = quiet.exposure.assign_attrs(READPATT="NRSIRS2", SUBARRAY="FULL")
    assert "refpix" in DETECTOR1.reference_types(irs2)


def test_accessor_calls_the_same_functions(quiet):
    tree = quiet.exposure.nsxr.detector1(quiet.references)
    xr.testing.assert_identical(tree["rate"].to_dataset(), calibrate(quiet)["rate"].to_dataset())
    assert quiet.exposure.nsxr.readout.subarray == "SUB512S"
    assert quiet.exposure.nsxr.steps == []
    assert tree["rate"].to_dataset().nsxr.steps[-1]["step"] == "gain_scale"


@pytest.mark.parametrize(("detector", "order"), [("NRS1", [1, 2, 3, 4]), ("NRS2", [4, 3, 2, 1])])
def test_amplifier_as_group_and_as_dimension(detector, order):
    small = small_exposure(readout="NRSRAPID", groups=2, columns=8, detector=detector)
    exposure = small.exposure
    means = exposure["sci"].groupby("amplifier").mean()
    view = exposure.nsxr.by_amplifier()
    assert view["sci"].sizes["amplifier"] == 4
    assert view.sizes["row"] == 512
    assert view["amplifier"].values.tolist() == order
    expected = view["sci"].mean().values
    assert np.shares_memory(view["sci"].values, exposure["sci"].values)
    assert means.mean() == pytest.approx(float(expected), rel=1e-5)
    for number in range(1, 5):
        np.testing.assert_array_equal(
            view["sci"].sel(amplifier=number).transpose("integration", "group", "row", "column"),
            exposure["sci"].isel(row=np.flatnonzero(exposure["amplifier"].values == number)),
        )
    with forbid_computes():
        assert exposure.chunk({"row": 512}).assign_coords(exposure.coords).nsxr.by_amplifier()["sci"].chunks
    with pytest.raises(ValueError, match="16 rows"):
        small_exposure(readout="NRSRAPID", subarray="SUB512S", groups=2, columns=8).exposure.nsxr.by_amplifier()


@pytest.mark.parametrize("kept", [2**30, 1])
def test_the_signal_is_read_once_where_the_cleaning_needs_whole_frames_too(monkeypatch, kept):
    monkeypatch.setattr(chunking, "KEPT_BYTES", kept)
    monkeypatch.setattr(chunking, "CHUNK_BYTES", 2**19)
    made = small_exposure(readout="NRSRAPID", groups=6, columns=16)
    rates, layers = {}, {}
    for cleaned, skip in ((True, ()), (False, ("clean_flicker_noise",))):
        tree = nsxr.detector1(made.exposure.chunk(row=512), made.references, skip=skip)
        layers[cleaned] = {n for n in tree["rate"]["sci"].data.__dask_graph__().layers if n.startswith("settle-")}
        rates[cleaned] = tree["rate"]["sci"].values
    (of_flags,) = (n for n in layers[False] if "rechunk" in n)  # flags of whole frames, in blocks again
    assert (of_flags in layers[True]) == (kept == 1)
    whole = nsxr.detector1(made.exposure, made.references)["rate"]["sci"].values
    np.testing.assert_allclose(rates[True], whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("many", "algorithm"), [(False, "ols"), (True, "ols"), (True, "likelihood")])
def test_series_longer_than_memory_give_the_same_in_several_passes(tmp_path, monkeypatch, many, algorithm):
    settings = {"subarray": "SUB32", "readout": "NRSRAPID", "groups": 5, "segments": 3, "seed": 5}
    made = simulate_exposure(tmp_path, integrations=120 if many else 9, **settings)  # with 100, clipping among them
    products = []
    for kept, chunk in ((2**30, 2**24), (1, 320_000 if many else 40_000)):
        monkeypatch.setattr(chunking, "KEPT_BYTES", kept)
        monkeypatch.setattr(chunking, "CHUNK_BYTES", chunk)
        exposure = nsxr.open_exposure(made.uncal)
        assert (exposure["sci"].chunks[2] == (32,)) == (kept > 1)
        references = nsxr.open_references(made.references["gain"].parent, exposure)
        with forbid_computes():
            skip = ["clean_flicker_noise"]  # tests of that step have series of several passes too
            tree = nsxr.detector1(exposure, references, ramp_fit={"algorithm": algorithm}, skip=skip)
        settled = [n for n in tree["rate"]["sci"].data.__dask_graph__().layers if n.startswith("settle-")]
        # the levels of reference pixels in two layouts, four limits, the rate; the likelihood needs no limits
        assert len(settled) == (0 if kept > 1 else 7 if algorithm == "ols" else 3)
        written = nsxr.write_products(tree, tmp_path / str(kept), "it", progress=False)
        products.append([fits.open(path, memmap=False) for path in written])
    for kept, again in zip(*products, strict=True):
        assert len(kept) == len(again)
        for one, other in zip(kept[1:], again[1:], strict=True):
            assert one.data.tobytes() == other.data.tobytes(), one.name
        kept.close()
        again.close()


@pytest.mark.parametrize("skip", [["clean_flicker_noise"], []])
def test_graph_of_a_long_series_is_small(tmp_path, skip):
    made = simulate_exposure(tmp_path, subarray="SUB512", readout="NRSRAPID", groups=5, integrations=2, seed=5)
    short, integrations = nsxr.open_exposure(made.uncal[0]), 10_000
    references = nsxr.open_references(made.references["gain"].parent, short)
    sizes = {**short.sizes, "integration": integrations}
    lengths = chunking.raw_chunks(sizes)
    zeros = xr.DataArray(
        da.zeros(tuple(sizes.values()), dtype=np.float32, chunks=tuple(lengths.values())), dims=list(sizes)
    )
    coordinates = {name: c for name, c in short.coords.items() if "integration" not in c.dims}
    exposure = xr.Dataset(
        {"sci": zeros.assign_attrs(units="DN")}, {**coordinates, "integration": np.arange(1, integrations + 1)}
    )
    exposure.attrs = {**short.attrs, "NINTS": integrations}
    with forbid_computes():
        tree = nsxr.detector1(exposure, references, skip=skip)
    pieces = exposure["sci"].data.npartitions
    assert pieces < integrations / 2
    assert len(tree["rateints"]["sci"].data.__dask_graph__()) < 12 * pieces


@pytest.mark.parametrize("configuration", ["irs2", "allslits"])
def test_light_is_found_by_the_labels_of_the_detector(configuration):
    made = small_exposure(seed=3, **{**CONFIGURATIONS[configuration], "groups": 3, "integrations": 1, "scene": "dark"})
    rows, columns = np.arange(2048), np.arange(2048)
    lit = np.broadcast_to((rows[:, np.newaxis] % 64) < 20, (2048, 2048))
    light = xr.DataArray(lit, {"row": rows, "column": columns}, ("row", "column"))
    found = nsxr.correct_ramps(made.exposure, made.references, light=light)["clean_flicker_noise"]
    is_dark = found["is_dark"].compute()
    assert not is_dark.sel(row=is_dark["row"] % 64 < 20).any()
    assert is_dark.sel(row=is_dark["row"] % 64 >= 20).mean() > 0.5
    assert steps(found)[-1]["status"] == "COMPLETE"
