"""Wild pixels cost the columns that they hit and no others; narrow lines, flanks and other sources stay."""

import numpy as np
import pytest
import xarray as xr

from nsxr.kernels.spectra.wild_pixels import wild_pixels, wild_variances
from nsxr.simulate import simulate_trace
from nsxr.spectra.extraction import extract_spectrum
from nsxr.spectra.outlier_detection import flag_outliers
from nsxr.spectra.trace_model import fit_trace_model

PARTS = ("poisson", "rnoise", "flat")


def deviation(spectrum: xr.Dataset) -> np.ndarray:
    return np.sqrt(sum(spectrum[f"flux_var_{part}"] for part in PARTS)).values


def hit(slit: xr.Dataset, truth: xr.Dataset, amplitude: float, places: list[tuple[int, int]]) -> xr.Dataset:
    """Return the slit with pixels (rows from the trace, column) of so many times its peak, with their photon noise."""
    peak = float((truth["flux"] * truth["profile"]).max()) / 1e6
    sci, poisson = (slit[name].astype(np.float64) for name in ("sci", "var_poisson"))
    photon = float((slit["var_poisson"] / slit["sci"]).where(truth["profile"] > 0.3).median())
    for offset, column in places:
        row = int(np.rint(float(truth["trace"][column]))) - 200 + offset
        sci.values[row, column] += amplitude * peak
        poisson.values[row, column] += abs(amplitude) * peak * photon
    with np.errstate(over="ignore"):
        return slit.assign(sci=sci.astype(np.float32).assign_attrs(slit["sci"].attrs), var_poisson=poisson.astype("f4"))


STREAK = [(0, 100), (0, 101), (1, 102), (-1, 103), (0, 104)]
BLOCK = [(0, 200), (0, 201), (1, 200), (1, 201)]


@pytest.fixture(scope="module")
def clean() -> tuple[xr.Dataset, xr.Dataset, xr.Dataset, np.ndarray]:
    """Return a slit without bad pixels, its truth, its spectrum, and the true flux in the aperture."""
    slit, truth = simulate_trace(signal_to_noise=45.0, lines=True, bad_pixels="none", seed=1)
    model = fit_trace_model(slit)
    within = (truth["flux"] * (truth["profile"] * model["aperture"]).sum("row")).values
    return slit, truth, extract_spectrum(slit, model), within


@pytest.mark.parametrize("amplitude", [3.0, 30.0, 1e9, 1e30, -3.0, -1e6])
@pytest.mark.parametrize("places", [[(0, 100)], [(2, 200)], STREAK, BLOCK])
def test_only_columns_that_were_hit_lose(clean: tuple, amplitude: float, places: list[tuple[int, int]]) -> None:
    slit, truth, before, wanted = clean
    found = extract_spectrum(hit(slit, truth, amplitude, places))
    columns = sorted({column for _, column in places})
    others = np.setdiff1d(np.arange(420), columns)
    change = (found["flux"] - before["flux"]).values / deviation(before)
    assert np.abs(change[others]).max() < 0.1
    np.testing.assert_allclose(deviation(found)[others], deviation(before)[others], rtol=0.02)
    np.testing.assert_array_equal(found["dq"][others], before["dq"][others])
    kept = [column for column in columns if found["dq"][column] == 0]
    assert np.abs((found["flux"].values - wanted)[kept] / deviation(found)[kept]).max(initial=0.0) < 4


@pytest.mark.parametrize("variance", [0.0, 1e30, -1.0, np.nan])
@pytest.mark.parametrize("name", ["var_poisson", "var_rnoise"])
def test_wild_variances_cost_their_column_only(clean: tuple, name: str, variance: float) -> None:
    slit, _, before, _ = clean
    wild = slit[name].copy(deep=True)
    wild.values[14, 200] = variance
    found = extract_spectrum(slit.assign({name: wild}))
    change = np.abs((found["flux"] - before["flux"]).values / deviation(before))
    assert np.delete(change, 200).max() < 0.1
    assert change[200] < 4
    np.testing.assert_allclose(deviation(found), deviation(before), rtol=0.5)


def test_a_nod_does_not_reach_the_others() -> None:
    slits, truths = zip(*(simulate_trace(nod=n, seed=n + 5, bad_pixels="none") for n in (-1, 0, 1)), strict=True)
    clean = flag_outliers(slits)
    wild = [slits[0], hit(slits[1], truths[1], 30.0, [(0, 150), (1, 152)]), slits[2]]
    models, found = fit_trace_model(wild), flag_outliers(wild)
    for number in (0, 2):
        before = extract_spectrum(slits[number], fit_trace_model(slits)[number])
        after = extract_spectrum(wild[number], models[number])
        assert np.abs((after["flux"] - before["flux"]).values / deviation(before)).max() < 0.1
        np.testing.assert_array_equal(found[number]["dq"], clean[number]["dq"])


@pytest.mark.parametrize("fwhm", [1.3, 1.8, 3.0])
def test_light_of_all_kinds_stays(fwhm: float) -> None:
    """Narrow lines of a source, of a compact one beside it without continuum, and of a whole slit, at any phase."""
    x, y, sigma = np.arange(420), np.arange(30)[:, None], fwhm / 2.3548
    random = np.random.default_rng(3)
    fine = np.linspace(-0.5, 0.5, 21)

    def spread(at: np.ndarray, centre: float) -> np.ndarray:
        return np.mean([np.exp(-0.5 * ((at + shift - centre) / sigma) ** 2) for shift in fine], axis=0)

    end = np.cumsum(spread(y, 19.3), axis=0)  # of the light of a whole slit
    image = sum(spread(y, 14.3 + 0.01 * column) * (x == column) for column in x)
    for number, phase in enumerate(np.linspace(0, 1, 11)):
        line = spread(x, 30 + 35 * number + phase)
        image = image + 40 * line * (spread(y, 14.3 + 0.01 * 35 * number) + spread(y, 5 + 3 * phase) + end)
    image = image + random.normal(size=image.shape) * 0.05
    assert not wild_pixels(image[None], np.ones((1, *image.shape), bool)).any()


def test_pixels_without_neighbours_are_judged_and_no_pixel_is_no_error() -> None:
    image, is_used = np.zeros((1, 6, 40)), np.ones((1, 6, 40), bool)
    image += np.random.default_rng(1).normal(size=image.shape)
    image[0, 2, 10] = 1e30
    is_used[0, 1:4, 9:12] = False
    is_used[0, 2, 10] = True
    assert wild_pixels(image, is_used)[0, 2, 10]
    nothing = np.zeros_like(is_used)
    assert not wild_pixels(image, nothing).any()
    assert not wild_variances(image, image, nothing).any()
