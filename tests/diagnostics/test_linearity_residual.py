"""Late against early slopes: ramps that are linear, that bend, and whose charge migrates."""

import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner

import nsxr
from nsxr.cli import main
from nsxr.diagnostics.linearity_residual import linearity_table, measure_linearity_residual
from nsxr.errors import ModelError, ParameterError
from nsxr.kernels.ramps.linearity_residual import KINDS, half_slopes
from nsxr.model.dq import GroupFlag
from nsxr.plot.linearity import plot_linearity
from nsxr.simulate import simulate_exposure
from nsxr.testing import assert_lazy_and_chunk_invariant, make_exposure

SATURATED, JUMP, DO_NOT_USE = (
    np.uint8(flag.value) for flag in (GroupFlag.SATURATED, GroupFlag.JUMP_DET, GroupFlag.DO_NOT_USE)
)
RAMP = ("integration", "group", "row", "column")


def make_ramps(seed=1, bend=0.0, migration=0.0, shape=(2, 11, 96, 120), row_start=464):
    """Ramps [DN = electron] of many fluxes; some pixels are brighter than their neighbours."""
    rng = np.random.default_rng(seed)
    rate = rng.choice([60.0, 300.0, 1500.0, 4000.0], (shape[2] // 8, shape[3] // 8)).repeat(8, 0).repeat(8, 1)
    rate[2::4, 2::4] *= 1.5
    steps = rng.poisson(rate, shape).astype(float)
    if migration:
        signal = np.cumsum(steps, 1)
        lost = (
            migration
            * np.clip(signal - 10000, 0, None)
            * (np.add.outer(np.arange(shape[2]), np.zeros(shape[3])) % 4 == 2)
        )
        lost = lost * ((np.arange(shape[3]) % 4) == 2) / 20000 * rate
        steps = steps - lost + sum(np.roll(lost, s, a) for a in (2, 3) for s in (1, -1)) / 4
    total = np.cumsum(steps, 1)
    sci = (total * (1 - bend * total / 4e4) + rng.normal(0, 8, shape)).astype(np.float32)
    return make_exposure(sci, SUBARRAY="FULL", SUBSTRT1=1, SUBSTRT2=row_start + 1, TFRAME=10.0)[["sci", "groupdq"]]


def test_halves_are_those_of_a_plain_version():
    rng = np.random.default_rng(3)
    sci = rng.normal(0, 20, (2, 9, 5, 6)).cumsum(1).astype(np.float32)
    sci[1, 4, 2, 2] = np.nan
    flags = rng.choice(np.array([0, 0, 0, 0, 0, JUMP, DO_NOT_USE, SATURATED], np.uint8), sci.shape)
    early, late = half_slopes(sci, flags)
    for i, r, c in np.ndindex(2, 5, 6):
        dq, step = flags[i, :, r, c], np.diff(sci[i, :, r, c].astype(float))
        usable = ((dq[1:] | dq[:-1]) & (SATURATED | DO_NOT_USE) == 0) & (dq[1:] & JUMP == 0) & np.isfinite(step)
        chosen = step[usable]
        half = chosen.size // 2
        expected = (chosen[:half].mean(), chosen[-half:].mean()) if half >= 2 else (np.nan, np.nan)
        np.testing.assert_allclose((early[i, r, c], late[i, r, c]), expected, rtol=1e-5, atol=1e-4)


def test_linear_ramps_have_no_residual():
    result = measure_linearity_residual(make_ramps())
    assert result["residual"].dims == ("amplifier", "kind", "signal")
    assert list(result["amplifier"].values) == [1, 2]
    assert list(result["kind"].values) == list(KINDS)
    significance = (result["residual"] / result["residual_error"]).values
    known = np.isfinite(significance)
    assert known.sum() >= 20
    assert np.mean(significance[known] ** 2) == pytest.approx(1, abs=0.6)
    assert np.nanmin(result["residual_error"].values) < 5e-4
    assert int(result["pixels"].sel(kind="all").sum()) == 2 * 96 * 120


def test_bent_ramps_are_found():
    result = measure_linearity_residual(make_ramps(bend=0.01), signals=np.geomspace(300, 65000, 40)).sel(kind="all")
    # the slope at half the signal of each half: late 3/4, early 1/4 of the end, so it falls by 2 * 0.01 / 4e4 * S / 2
    expected = -0.01 * result["signal"] / 4e4
    known = (result["pixels"] > 500).values
    pull = ((result["residual"] - expected) / result["residual_error"]).values[known]
    assert np.abs(pull).max() < 4.5
    assert float(result["residual"].sel(signal=40000, method="nearest").mean()) == pytest.approx(-0.01, rel=0.15)


def test_charge_that_migrates_shows_in_the_contrast():
    result = measure_linearity_residual(make_ramps(migration=0.05, shape=(4, 11, 96, 120)))
    bright = result.sel(signal=slice(40000, None)).sum("amplifier")
    frame = result.sel(signal=slice(30000, None))
    weight = 1 / frame["residual_error"] ** 2
    mean = (frame["residual"] * weight).sum(("amplifier", "signal")) / weight.sum(("amplifier", "signal"))
    error = weight.sum(("amplifier", "signal")) ** -0.5
    assert int(bright["pixels"].sel(kind="brighter").sum()) > 500
    assert float(mean.sel(kind="brighter")) < -5 * float(error.sel(kind="brighter"))
    faint = result.sel(signal=slice(None, 8000))
    assert np.nanmax(np.abs((faint["residual"] / faint["residual_error"]).values)) < 4


def test_lazy_and_chunk_invariant():
    chunkings = {"row": 32}, {"integration": 1, "group": 4}, {"row": 16, "column": 60}
    exposure = make_ramps(shape=(3, 7, 96, 120))
    exposure["groupdq"][0, 4:, 10:30, 5:50] = SATURATED
    result = assert_lazy_and_chunk_invariant(measure_linearity_residual, exposure, chunkings=chunkings, rtol=1e-9)
    assert result["residual"].dtype == np.float64


def test_errors_name_what_is_wrong():
    exposure = make_ramps(shape=(1, 4, 8, 8))
    with pytest.raises(ModelError, match="4 groups; two halves need five"):
        measure_linearity_residual(exposure)
    with pytest.raises(ParameterError, match="signals are the edges"):
        measure_linearity_residual(exposure, signals=[3, 2])
    with pytest.raises(ModelError, match="'groupdq' is missing"):
        measure_linearity_residual(exposure.drop_vars("groupdq"))


def test_table_picture_and_command(tmp_path):
    made = simulate_exposure(tmp_path, readout="NRSRAPID", subarray="SUB32", groups=8, integrations=6)
    words = ["detector1", made.uncal[0], "--references", made.references["gain"].parent, "-o", tmp_path, "--linearity"]
    result = CliRunner().invoke(main, list(map(str, words)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    table = Table.read(tmp_path / "jw01234001001_03101_00001_nrs1_linearity.ecsv")
    assert table.colnames == ["amplifier", "kind", "signal", "residual", "residual_error", "pixels"]
    assert table["signal"].unit == "DN"
    assert table.meta["DETECTOR"] == "NRS1"
    assert set(table["kind"]) <= set(KINDS)
    assert (tmp_path / "jw01234001001_03101_00001_nrs1_linearity.png").stat().st_size > 10000
    refused = CliRunner().invoke(main, list(map(str, words)))
    assert refused.exit_code == 1
    assert "linearity.ecsv" in refused.output
    residual = measure_linearity_residual(make_ramps(shape=(1, 7, 96, 120)))
    figure = plot_linearity(residual)
    assert [axes.get_title() for axes in figure.axes] == ["amplifier 1", "amplifier 2"]
    assert len(linearity_table(residual)) == int((residual["pixels"] > 0).sum())
    assert nsxr.linearity_table.__wrapped__ is linearity_table
