"""Trace models: position, profile and noise of simulated sources are found; nods are fitted together."""

import numpy as np
import pytest
import xarray as xr

from nsxr.errors import DegradedResultWarning, ModelError, ParameterError
from nsxr.simulate import simulate_trace
from nsxr.spectra.trace_model import fit_trace_model
from nsxr.testing import forbid_computes

IMAGE = ("row", "column")


@pytest.mark.parametrize(("signal_to_noise", "tolerance"), [(20.0, 0.02), (150.0, 0.012)])
def test_finds_position(signal_to_noise: float, tolerance: float) -> None:
    for seed, offset in enumerate((-0.43, 0.0, 0.61)):
        slit, truth = simulate_trace(signal_to_noise=signal_to_noise, offset=offset, seed=seed)
        model = fit_trace_model(slit)
        centroid = (truth["profile"] * truth["row"]).sum("row")
        assert abs(float((model["trace"] - centroid).mean())) < tolerance
        assert abs(float(model["position_planned"] + offset - truth["trace"][210])) < 0.05
        assert float(model["position_uncertainty"]) < tolerance


def test_finds_profile() -> None:
    slit, truth = simulate_trace(signal_to_noise=150.0, seed=3)
    model = fit_trace_model(slit)
    wanted = truth["profile"] / (truth["profile"] * model["aperture"]).sum("row")
    deviation = ((model["profile"] - wanted) * (model["aperture"] > 0)).values
    assert np.abs(deviation).max() < 0.006
    claimed = model["profile_uncertainty"].where(model["aperture"] > 0.9).values
    pull = (deviation / claimed)[np.isfinite(claimed)]
    assert 0.5 < np.sqrt(np.mean(pull**2)) < 2.0


def test_position_follows_plan_where_there_is_no_light() -> None:
    slit, _ = simulate_trace(signal_to_noise=0.02, seed=5)
    model = fit_trace_model(slit, position_prior=0.05)
    assert abs(float(model["position_fitted"] - model["position_planned"])) < 0.2
    assert float(model["position_uncertainty"]) > 0.03


@pytest.mark.parametrize("nod", [-1, 0, 1])
def test_plan_follows_shutters(nod: int) -> None:
    slit, truth = simulate_trace(nod=nod)
    model = fit_trace_model(slit)
    assert float(model["position_planned"]) == pytest.approx(float(truth["trace"][210]), abs=0.05)


def test_without_wavelengths_the_light_tells() -> None:
    slit, truth = simulate_trace(signal_to_noise=30.0, offset=4.0, tilt=0.02)
    model = fit_trace_model(slit.drop_vars("wavelength"))
    assert np.isnan(model["position_planned"])
    assert float(np.abs(model["trace"] - truth["trace"]).max()) < 0.1


def test_given_position_is_the_plan() -> None:
    slit, truth = simulate_trace(offset=4.0)
    model = fit_trace_model(slit, position=float(truth["trace"][210]) + 0.2)
    assert float(model["position_planned"]) == pytest.approx(float(truth["trace"][210]) + 0.2)
    assert float(np.abs(model["trace"] - truth["trace"]).max()) < 0.05


def test_nods_share_a_profile() -> None:
    slits, truths = zip(*(simulate_trace(signal_to_noise=15.0, nod=n, seed=n + 7) for n in (-1, 0, 1)), strict=True)
    together, alone = fit_trace_model(slits), [fit_trace_model(slit) for slit in slits]

    def error(models: list[xr.Dataset]) -> float:
        total = 0.0
        for model, truth in zip(models, truths, strict=True):
            wanted = truth["profile"] / (truth["profile"] * model["aperture"]).sum("row")
            total += float((((model["profile"] - wanted) * (model["aperture"] > 0)) ** 2).sum())
        return total

    assert error(together) < 0.6 * error(alone)
    for model, slit in zip(together, slits, strict=True):
        assert all(model[dim].identical(slit[dim]) for dim in IMAGE)


def test_negative_traces_are_left_out() -> None:
    slit, truth = simulate_trace(signal_to_noise=60.0, negative_nods=True, bad_pixels="none")
    model = fit_trace_model(slit)
    distance = truth["row"] - truth["trace"]
    for nod in (-1, 1):
        core = np.abs(distance - nod * 1.15 * 4.4) < 0.6
        assert float(model["is_used"].where(core).mean()) < 0.05
    assert float(model["is_used"].where(np.abs(distance) < 2).mean()) == 1.0


@pytest.mark.parametrize("background", ["none", "constant", "auto"])
def test_negative_traces_are_no_background(background: str) -> None:
    each = [simulate_trace(signal_to_noise=300.0, bad_pixels="none", lines=True, seed=n) for n in range(3)]
    (slit, truth), others = each[0], [other["sci"].fillna(0.0) for other, _ in each[1:]]
    beside = sum(0.7 * other.roll(row=shift) for other, shift in zip(others, (7, -7), strict=True))
    nodded = slit.assign(sci=(slit["sci"] - beside).assign_attrs(slit["sci"].attrs)).drop_vars("wavelength")
    cut = nodded.isel(row=slice(4, 25)).assign_attrs(S_BKDSUB="COMPLETE")
    model = fit_trace_model(cut, background=background)
    error = model["trace"] - (truth["profile"] * truth["row"]).sum("row")
    assert np.abs(error).max() < 0.1
    flux = (truth["flux"] * (truth["profile"] * model["aperture"]).sum("row")).values / 1e6
    assert np.nanmedian(model["flux"] / flux) == pytest.approx(1.0, abs=0.03)  # skirts beyond what is left out


def test_outliers_are_left_out_and_lines_are_not() -> None:
    slit, truth = simulate_trace(signal_to_noise=45.0, lines=True, bad_pixels="none", seed=2)
    random = np.random.default_rng(4)
    columns = random.choice(420, 60, replace=False)
    rows = np.rint(truth["trace"].values[columns] - 200 + random.uniform(-2, 2, 60)).astype(int)
    sci = slit["sci"].copy(deep=True)
    sci.values[rows, columns] += 10 * np.sqrt(truth["variance"].values[rows, columns])
    sci.values[rows, columns] += 0.15 * truth["flux"].values[columns] / 1e6
    model = fit_trace_model(slit.assign(sci=sci))
    assert (~model["is_used"].values[rows, columns]).sum() >= 58
    kept = model["is_used"].where(np.abs(truth["row"] - truth["trace"]) < 2).values
    kept[rows, columns] = np.nan
    assert np.nanmean(kept) > 0.999


def test_extra_noise_is_seen() -> None:
    slit, _ = simulate_trace(background=50.0, negative_nods=True, bad_pixels="none")
    more = slit.assign(var_rnoise=slit["var_rnoise"] / 3, var_poisson=slit["var_poisson"] / 3)
    assert float(fit_trace_model(slit)["noise_scale"]) == 1.0
    assert float(fit_trace_model(more)["noise_scale"]) == pytest.approx(3.0, rel=0.1)
    assert float(fit_trace_model(more, rescale_noise=False)["noise_scale"]) == 1.0


def test_lazy_and_the_same_for_any_chunks() -> None:
    slit, _ = simulate_trace(columns=128)
    plain = fit_trace_model(slit)
    before = slit.copy(deep=True)
    for chunks in ({"column": 50}, {"row": 7, "column": 128}, {}):
        with forbid_computes():
            lazy = fit_trace_model(slit.chunk(chunks))
        assert lazy["profile"].chunks is not None
        xr.testing.assert_identical(lazy.compute(), plain)
    xr.testing.assert_identical(slit, before)
    assert plain["profile"].dims == IMAGE
    assert plain["trace"].attrs["units"] == "pixel"


def test_empty_slit_gives_no_error() -> None:
    slit, _ = simulate_trace(columns=64)
    model = fit_trace_model(slit.assign(sci=slit["sci"] * np.float32(np.nan)))
    assert not model["is_used"].any()


def test_refused() -> None:
    slit, _ = simulate_trace(columns=64)
    with pytest.raises(ParameterError, match="background is 'parabola'"):
        fit_trace_model(slit, background="parabola")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="half_width is -1"):
        fit_trace_model(slit, half_width=-1)
    with pytest.raises(ParameterError, match="no slit"):
        fit_trace_model([])
    with pytest.raises(ModelError, match="'var_rnoise' is missing"):
        fit_trace_model(slit.drop_vars("var_rnoise"))
    with pytest.raises(ModelError, match="many slits"):
        fit_trace_model(slit.expand_dims("slit"))


@pytest.mark.parametrize("given", ["FOO", "POINTS", 1, True])
def test_a_source_type_that_says_nothing_is_told(given: object) -> None:
    slit, _ = simulate_trace(columns=40, seed=1)
    slit.attrs["SRCTYPE"] = given
    with pytest.warns(DegradedResultWarning, match=f"SRCTYPE is {given!r}, expected POINT or EXTENDED; treated as"):
        fit_trace_model(slit.chunk())


@pytest.mark.parametrize("given", [None, "N/A", "UNKNOWN", "point", " EXTENDED "])
def test_usual_source_types_are_taken_without_a_word(given: object) -> None:
    slit, _ = simulate_trace(columns=40, seed=1)
    slit.attrs["SRCTYPE"] = given
    fit_trace_model(slit.chunk())
