"""A bad integration of a series leaves the spectra of the others, their errors and their white light as they were."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from nsxr.model.dq import PixelFlag
from nsxr.simulate import simulate_trace
from nsxr.spectra.extraction import extract_spectrum
from nsxr.spectra.series_mean import mean_image
from nsxr.spectra.trace_model import usable_pixels
from nsxr.spectra.white_light import white_light_curve
from nsxr.testing import assert_lazy_and_chunk_invariant

BAD = np.uint32(PixelFlag.DO_NOT_USE | PixelFlag.SATURATED)
KINDS = (
    "saturated",
    "partly saturated",
    "NaN",
    "empty",
    "noisy",
    "garbage",
    "negative",
    "upside down",
    "hit",
    "no variance",
    "NaN variance",
    "huge variance",
)
INTEGRATIONS = 6


def deviation(spectrum: xr.Dataset) -> xr.DataArray:
    return np.sqrt(sum(spectrum[f"flux_var_{part}"] for part in ("poisson", "rnoise", "flat")))


def spoil(slit: xr.Dataset, number: int, kind: str, seed: int) -> xr.Dataset:
    """Return the series with one bad integration."""
    random = np.random.default_rng(seed)
    slit = slit.copy(deep=True)
    sci, dq, poisson, read = (slit[name].values[number] for name in ("sci", "dq", "var_poisson", "var_rnoise"))
    row, column = random.integers(8, 18), random.integers(10, 50)
    if kind == "saturated":
        dq |= BAD
    elif kind == "partly saturated":
        dq[10:19, column:] |= BAD
    elif kind == "NaN":
        sci[:] = np.nan
    elif kind == "empty":
        sci[:] = poisson[:] = 0.0
    elif kind == "noisy":
        sci += 30 * random.normal(size=sci.shape) * np.sqrt(poisson + read)
    elif kind == "garbage":
        sci *= 1000.0
    elif kind == "negative":
        sci *= -1.0
    elif kind == "upside down":
        sci[:] = sci[::-1].copy()
    elif kind == "hit":
        sci[row : row + 6, column : column + 4] += 100 * np.nanmax(sci)
    elif kind == "no variance":
        poisson[:] = read[:] = 0.0
    elif kind == "NaN variance":
        read[:] = np.nan
    else:
        read[:] = 1e30
    return slit


@pytest.fixture(scope="module")
def series() -> tuple[xr.Dataset, xr.Dataset]:
    slit, _ = simulate_trace(signal_to_noise=60.0, integrations=INTEGRATIONS, columns=64, bad_pixels="none", seed=4)
    return slit, extract_spectrum(slit)


@settings(max_examples=10, derandomize=True, deadline=None)
@given(number=st.integers(0, INTEGRATIONS - 1), kind=st.sampled_from(KINDS), seed=st.integers(0, 5))
def test_does_not_reach_into_others(series: tuple[xr.Dataset, xr.Dataset], number: int, kind: str, seed: int) -> None:
    slit, clean = series
    found = extract_spectrum(spoil(slit, number, kind, seed))
    others = np.arange(INTEGRATIONS) != number
    change = ((found["flux"] - clean["flux"]) / deviation(clean)).values[others]
    assert np.sqrt(np.mean(change**2)) < 0.1
    ratio = (deviation(found) / deviation(clean)).values[others]
    assert ratio.min() > 0.9
    assert ratio.max() < 1.1
    np.testing.assert_array_equal(found["dq"].values[others], clean["dq"].values[others])
    curve, before = white_light_curve(found), white_light_curve(clean)
    moved = ((curve["flux"] - before["flux"]) / deviation(before)).values[others]
    assert np.sqrt(np.mean(moved**2)) < 0.1
    np.testing.assert_allclose(deviation(curve)[others], deviation(before)[others], rtol=0.1)


def test_light_that_varies_stays() -> None:
    """A flare, and an eclipse of all of the light: what is left of the pixels is their mean."""
    slit, _ = simulate_trace(signal_to_noise=60.0, integrations=12, columns=100, bad_pixels="none", seed=4)
    clean = extract_spectrum(slit)
    light = np.ones(12)
    light[2:4], light[8:10] = 1.15, 0.05
    varied = slit.copy(deep=True)
    for name in ("sci", "var_poisson"):
        varied[name].values *= light[:, None, None].astype(np.float32)
    found = extract_spectrum(varied)
    ratio = (found["flux"].sum("dispersion") / clean["flux"].sum("dispersion")).values
    np.testing.assert_allclose(ratio, light, atol=0.003)


def test_mean_and_variances() -> None:
    slit, _ = simulate_trace(signal_to_noise=60.0, integrations=5, columns=40, bad_pixels="none", seed=4)
    slit["sci"].values[1, 14, 20] *= 50
    slit["dq"].values[2] |= BAD
    mean = mean_image(slit, usable_pixels(slit))
    number = mean["n_averaged"]
    assert number == pytest.approx(4.0, abs=0.01)
    inside = np.isfinite(slit["sci"].values[0])
    for (row, column), kept in {(14, 20): [0, 3, 4], (14, 21): [0, 1, 3, 4], (10, 3): [0, 1, 3, 4]}.items():
        assert inside[row, column]
        values = slit.isel(row=row, column=column, integration=kept)
        pixel = mean.isel(row=row, column=column)
        assert float(pixel["sci"]) == pytest.approx(float(values["sci"].astype(float).mean()), rel=1e-5)
        for name in ("var_poisson", "var_rnoise"):
            assert float(pixel[name]) == pytest.approx(float(values[name].sum()) / len(kept) ** 2, rel=1e-5)
    assert mean["usable"].values[inside].all()
    assert not mean["usable"].values[~inside].any()


def test_lazy_and_the_same_for_any_chunks() -> None:
    slit, _ = simulate_trace(integrations=40, columns=64, seed=4)
    assert_lazy_and_chunk_invariant(
        lambda each: mean_image(each, usable_pixels(each)),
        slit,
        chunkings=({"integration": 1}, {"integration": 7, "column": 20}, {"row": 9}),
        rtol=1e-6,
    )
