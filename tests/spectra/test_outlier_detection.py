"""Outliers: injected ones are found in every exposure, emission lines and flanks are kept."""

import numpy as np
import pytest
import xarray as xr

from nsxr.errors import ParameterError
from nsxr.model.dq import PixelFlag
from nsxr.simulate import simulate_trace
from nsxr.spectra.extraction import extract_spectrum
from nsxr.spectra.outlier_detection import flag_outliers
from nsxr.testing import forbid_computes

OUTLIER = np.uint32(PixelFlag.OUTLIER)


def exposures(number: int, signal_to_noise: float, strength: float, seed: int = 0) -> tuple[list, list, list, list]:
    """Return exposures in three nods with outliers: slits, truths, which pixels were hit, which are bright."""
    slits, truths, hits, cores = [], [], [], []
    for k in range(number):
        nod = k % 3 - 1
        slit, truth = simulate_trace(
            signal_to_noise=signal_to_noise, lines=True, nod=nod, bad_pixels="isolated", seed=seed + k, offset=0.2
        )
        random = np.random.default_rng(900 + seed + k)
        near = np.abs(truth["row"] - truth["trace"]) < 2.0
        hit = (random.random(near.shape) < 0.01) & near.values & ~truth["is_bad"].values
        light = truth["flux"].values * truth["profile"].values / 1e6
        light = np.maximum(np.maximum(np.roll(light, 1, 0), np.roll(light, -1, 0)), light)
        sci = slit["sci"].copy(deep=True)
        sci.values[hit] += (strength * np.sqrt(truth["variance"].values) + 0.1 * light)[hit]
        slits.append(slit.assign(sci=sci))
        truths.append(truth)
        hits.append(hit)
        cores.append(near.values & ~hit & ~truth["is_bad"].values)
    return slits, truths, hits, cores


@pytest.mark.parametrize("number", [1, 2, 3, 6])
@pytest.mark.parametrize("signal_to_noise", [11.0, 60.0])
def test_finds_outliers_and_keeps_lines(number: int, signal_to_noise: float) -> None:
    found = hit = wrong = kept = 0
    for seed in (0, 50):
        slits, truths, hits, cores = exposures(number, signal_to_noise, 10.0, seed)
        for slit, is_hit, core, truth in zip(flag_outliers(slits), hits, cores, truths, strict=True):
            flagged = (slit["dq"].values & OUTLIER) > 0
            found, hit = found + (flagged & is_hit).sum(), hit + is_hit.sum()
            line = core & (truth["flux"].values > 2 * np.median(truth["flux"].values))
            wrong, kept = wrong + (flagged & core).sum(), kept + core.sum()
            assert not (flagged & line).any()
    assert hit > 20
    assert found >= (0.99 if number > 1 else 0.8) * hit
    assert wrong <= 0.001 * kept


def test_whole_columns_are_found_by_the_other_exposures() -> None:
    slits, truths, _, _ = exposures(3, 45.0, 0.0)
    sci = slits[1]["sci"].copy(deep=True)
    light = truths[1]["flux"].values * truths[1]["profile"].values / 1e6
    sci.values[:, 250] += 2.0 * light[:, 250]  # looks like an emission line, but is in one exposure only
    slits[1] = slits[1].assign(sci=sci)
    flagged = [(slit["dq"].values & OUTLIER)[:, 250] > 0 for slit in flag_outliers(slits)]
    assert flagged[1].sum() >= 2
    assert not flagged[0].any()
    assert not flagged[2].any()


def flagged(slits: list[xr.Dataset]) -> list[int]:
    return [int(((slit["dq"].values & OUTLIER) > 0).sum()) for slit in slits]


@pytest.mark.parametrize("dark", [0, 1])
@pytest.mark.parametrize("number", [2, 3])
def test_a_nod_behind_a_closed_shutter_flags_nothing(number: int, dark: int) -> None:
    light = [45.0] * number
    light[dark] = 0.02
    slits = [simulate_trace(signal_to_noise=s, bad_pixels="none", seed=n)[0] for n, s in enumerate(light)]
    found = flag_outliers(slits)
    assert max(flagged(found)) <= 2
    disagreement = [float(slit["disagreement"]) for slit in found]
    assert disagreement[dark] > 0.9
    if number == 3:  # the other two still agree
        assert max(disagreement[:dark] + disagreement[dark + 1 :]) < 0.05
    assert float(extract_spectrum(found[dark])["disagreement"]) == disagreement[dark]


def test_another_source_in_one_exposure_takes_no_outliers_from_the_others() -> None:
    slits, _, hits, _ = exposures(3, 45.0, 10.0)
    alone, _ = simulate_trace(signal_to_noise=45.0, fwhm=2.4, seed=77, bad_pixels="none")
    bend = 1 + 0.8 * np.cos(np.arange(420) / 9.0)
    alone = alone.assign(sci=(alone["sci"] * bend).astype(np.float32).assign_attrs(alone["sci"].attrs))
    found = flag_outliers([*slits, alone])
    assert float(found[3]["disagreement"]) > 0.5
    for slit, hit in zip(found[:3], hits, strict=True):
        assert ((slit["dq"].values & OUTLIER) > 0)[hit].mean() > 0.95
        assert float(slit["disagreement"]) < 0.05
    assert flagged(found)[3] <= 40  # of 2940: its width is not the one that all share


def test_flags_stay_and_inputs_too() -> None:
    slits, _, _, _ = exposures(2, 30.0, 10.0)
    before = [slit.copy(deep=True) for slit in slits]
    plain = flag_outliers(slits)
    with forbid_computes():
        lazy = flag_outliers([slit.chunk({"column": 100}) for slit in slits])
    for slit, old, one, other in zip(slits, before, plain, lazy, strict=True):
        xr.testing.assert_identical(slit, old)
        xr.testing.assert_identical(one, other.compute())
        assert ((one["dq"] & slit["dq"]) == slit["dq"]).all()
        assert one["dq"].dtype == np.uint32
        xr.testing.assert_identical(one["sci"], slit["sci"])


def test_refused() -> None:
    slits, _, _, _ = exposures(2, 30.0, 0.0)
    with pytest.raises(ParameterError, match="snr is 0"):
        flag_outliers(slits, snr=0)
    with pytest.raises(ParameterError, match="2 slits and 1 models"):
        flag_outliers(slits, models=[slits[0]])
    with pytest.raises(ParameterError, match="series"):
        flag_outliers([simulate_trace(integrations=3, columns=64)[0]])
