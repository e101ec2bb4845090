"""Nod-subtracted products get back the variance of their background."""

import json

import numpy as np
import pytest
import xarray as xr

from nsxr.errors import ModelError, ParameterError
from nsxr.simulate import simulate_trace
from nsxr.slits.nod_variance import restore_background_variance
from nsxr.testing import forbid_computes


def nods(number: int = 3) -> list[xr.Dataset]:
    """Return nods as the peer's pipeline leaves them: subtracted, with their own variances alone."""
    raw = [
        simulate_trace(signal_to_noise=0.3, nod=n - 1, background=100.0, bad_pixels="none", seed=n)[0]
        for n in range(number)
    ]
    subtracted = []
    for i, slit in enumerate(raw):
        others = sum((o["sci"] for j, o in enumerate(raw) if j != i), xr.zeros_like(slit["sci"])) / (number - 1)
        sci = (slit["sci"] - others).assign_attrs(slit["sci"].attrs)
        subtracted.append(slit.assign(sci=sci).assign_attrs(S_BKDSUB="COMPLETE", filename=f"nod{i}_cal.fits"))
    return subtracted


@pytest.mark.parametrize("number", [2, 3])
def test_scatter_agrees_with_variances(number: int) -> None:
    for slit in restore_background_variance(nods(number)):
        pull = slit["sci"] / np.sqrt(slit["var_poisson"] + slit["var_rnoise"])
        assert float(pull.std()) == pytest.approx(1.0, abs=0.03)
    low = nods(number)[0]
    before = low["sci"] / np.sqrt(low["var_poisson"] + low["var_rnoise"])
    assert float(before.std()) == pytest.approx(np.sqrt(1 + 1 / (number - 1)), abs=0.04)


def test_what_is_added() -> None:
    slits = nods()
    random = np.random.default_rng(1)
    slits[1]["var_rnoise"].values[random.random(slits[1]["var_rnoise"].shape) < 0.1] = np.nan
    copies = [slit.copy(deep=True) for slit in slits]
    result = restore_background_variance(slits)
    for part in ("var_poisson", "var_rnoise"):
        others = np.stack([slits[1][part].values, slits[2][part].values])
        known = np.isfinite(others)
        mean = np.where(known, others, 0).sum(0) / np.maximum(known.sum(0), 1)
        np.testing.assert_allclose(result[0][part], slits[0][part] + (mean / 2).astype(np.float32), rtol=1e-5)
        assert result[0][part].dtype == np.float32
    assert json.loads(result[0].attrs["background_members"]) == ["nod1_cal.fits", "nod2_cal.fits"]
    for slit, copy in zip(slits, copies, strict=True):
        xr.testing.assert_identical(slit, copy)
    with forbid_computes():
        lazy = restore_background_variance([slit.chunk({"column": 99}) for slit in slits])
    xr.testing.assert_identical(lazy[2].compute(), result[2])


def test_refused() -> None:
    slits = nods()
    with pytest.raises(ParameterError, match="1 nods given"):
        restore_background_variance(slits[:1])
    with pytest.raises(ModelError, match="already"):
        restore_background_variance(restore_background_variance(slits))
    plain = slits[1].assign_attrs(SLTNAME="other")
    del plain.attrs["S_BKDSUB"]
    with pytest.raises(ModelError, match=r"S_BKDSUB None.*SLTNAME 'other'"):
        restore_background_variance([slits[0], plain])
