import json
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import xarray as xr
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from nsxr.errors import DegradedResultWarning, ModelError, ParameterError
from nsxr.kernels.spectra.combination import interpolation, running_median
from nsxr.model.dq import PixelFlag
from nsxr.model.history import steps
from nsxr.spectra.combination import combine_spectra
from nsxr.testing import forbid_computes, make_spectrum

BAD = np.uint32(PixelFlag.DO_NOT_USE)
ROWS, COLUMNS = 8, 60


def total(combined, kind="flux"):
    names = [name for name in combined if name.startswith(f"{kind}_var")]
    return sum(combined[name].values for name in names)


def matrix_of(spectra, grid):
    """A plain twin of the interpolation: one dense matrix for each spectrum."""
    found = []
    for part in spectra:
        matrix = np.zeros((grid.size, part.sizes["dispersion"]))
        for k, wanted in enumerate(grid):
            for j in range(part.sizes["dispersion"] - 1):
                low, high = part["wavelength"].values[j : j + 2]
                if low <= wanted <= high and not matrix[k].any():
                    matrix[k, j] = (high - wanted) / (high - low)
                    matrix[k, j + 1] = 1 - matrix[k, j]
        found.append(matrix)
    return found


def test_same_grid_is_the_weighted_mean(rng):
    parts = [make_spectrum(rng.normal(5, 1, 40), v) for v in (1.0, 4.0, 2.0)]
    combined = combine_spectra(parts)
    weights = np.array([1, 0.25, 0.5])[:, None]
    flux = np.array([part["flux"].values for part in parts])
    np.testing.assert_allclose(combined["flux"], (weights * flux).sum(0) / weights.sum(), rtol=1e-14)
    np.testing.assert_allclose(combined["surf_bright"], 3 * combined["flux"], rtol=1e-14)
    np.testing.assert_allclose(total(combined), 1 / weights.sum(), rtol=1e-14)
    np.testing.assert_allclose(total(combined, "sb"), 9 / weights.sum(), rtol=1e-14)
    np.testing.assert_array_equal(combined["flux_covariance"], 0)
    np.testing.assert_array_equal(combined["n_input"], 3)
    np.testing.assert_allclose(combined["combination_weight"], 1.75)
    assert combined["flux"].attrs["units"] == "Jy"
    assert combined["flux_var_shared"].attrs["units"] == "(Jy)2"
    assert combined["dq"].dtype == np.uint32
    assert combined.attrs["SLTNAME"] == "S200A1"
    assert steps(combined)[-1]["step"] == "combine_1d"
    np.testing.assert_array_equal(combined["dispersion"], parts[0]["dispersion"])


def test_exposure_time_weights(rng):
    parts = [make_spectrum(rng.normal(5, 1, 40), 1.0, EFFEXPTM=time) for time in (10.0, 30.0)]
    combined = combine_spectra(parts, weighting="exposure_time")
    expected = 0.25 * parts[0]["flux"] + 0.75 * parts[1]["flux"]
    np.testing.assert_allclose(combined["flux"], expected, rtol=1e-14)
    np.testing.assert_allclose(total(combined), (1 + 9) / 16)
    with pytest.raises(ParameterError, match="EFFEXPTM"):
        combine_spectra([parts[0], parts[1].drop_attrs(deep=False)], weighting="exposure_time")


def test_shifted_wavelengths_against_dense_matrices(rng):
    """Flux, variance and covariance of neighbours are those of plain matrix products."""
    n = 30
    waves = [1 + 0.01 * (np.arange(n) + shift) for shift in (0.0, 0.3, -0.45)]
    variances = [rng.uniform(1, 2, n) for _ in waves]
    parts = [make_spectrum(rng.normal(5, 1, n), v, w) for v, w in zip(variances, waves, strict=True)]
    combined = combine_spectra(parts, weighting="exposure_time")
    matrices = matrix_of(parts, waves[0])
    used = np.array([matrix.any(axis=1) for matrix in matrices])
    np.testing.assert_array_equal(combined["n_input"], used.sum(0))
    shares = used / used.sum(0)
    applied = [share[:, None] * matrix for share, matrix in zip(shares, matrices, strict=True)]
    flux = sum(matrix @ part["flux"].values for matrix, part in zip(applied, parts, strict=True))
    covariance = sum(matrix @ np.diag(v) @ matrix.T for matrix, v in zip(applied, variances, strict=True))
    np.testing.assert_allclose(combined["flux"], flux, rtol=1e-12)
    np.testing.assert_allclose(total(combined), np.diag(covariance), rtol=1e-12)
    np.testing.assert_allclose(combined["flux_covariance"][:-1], np.diag(covariance, 1), rtol=1e-12)
    assert combined["flux_covariance"][5] > 0.1 * total(combined)[5]


def test_given_grid_and_nothing_beyond_the_spectra(rng):
    part = make_spectrum(rng.normal(5, 1, 20), 1.0)
    grid = np.array([0.5, 1.005, 1.1, 1.19, 1.1901])
    combined = combine_spectra([part], wavelength=grid)
    np.testing.assert_array_equal(combined["n_input"], [0, 1, 1, 1, 0])
    np.testing.assert_array_equal(combined["dq"] & BAD, [1, 0, 0, 0, 1])
    np.testing.assert_array_equal(np.isnan(combined["flux"]), [True, False, False, False, True])
    np.testing.assert_allclose(combined["flux"][1], part["flux"][:2].mean())
    np.testing.assert_array_equal(combined["wavelength"], grid)


def test_bad_samples_are_left_out_with_weights_renormalised(rng):
    parts = [make_spectrum(np.full(30, 1.0 + i), 1.0) for i in range(3)]
    parts[0]["flux"].values[4] = np.nan
    parts[1]["dq"].values[[4, 9]] = BAD
    parts[2]["dq"].values[9] = np.uint32(PixelFlag.FLUX_ESTIMATED)
    parts[2]["flux_var_rnoise"].values[12] = np.nan
    combined = combine_spectra(parts)
    np.testing.assert_allclose(combined["flux"][[3, 4, 9, 12]], [2, 3, 2, 1.5])
    np.testing.assert_allclose(total(combined)[[3, 4, 9, 12]], [1 / 3, 1, 0.5, 0.5])
    np.testing.assert_array_equal(combined["n_input"][[3, 4, 9, 12]], [3, 1, 2, 2])
    np.testing.assert_array_equal(combined["dq"][[4, 9]], [0, PixelFlag.FLUX_ESTIMATED])


def test_a_flat_field_of_unknown_variance_loses_no_sample(rng):
    parts = [make_spectrum(rng.normal(5, 1, 30), 1.0) for _ in range(2)]
    known = combine_spectra([part.assign(flux_var_flat=0 * part["flux_var_rnoise"]) for part in parts])
    lost = combine_spectra([part.assign(flux_var_flat=np.nan * part["flux_var_rnoise"]) for part in parts])
    for name in ("flux", "flux_var_poisson", "flux_covariance", "n_input", "dq"):
        np.testing.assert_array_equal(lost[name], known[name])


def test_a_bad_pixel_takes_both_wavelengths_interpolated_from_it():
    wave = 1 + 0.01 * (np.arange(20) + 0.5)
    parts = [make_spectrum(np.zeros(20), 1.0), make_spectrum(np.ones(20), 1.0, wave)]
    parts[1]["dq"].values[7] = BAD
    combined = combine_spectra(parts, weighting="exposure_time")
    np.testing.assert_array_equal(combined["n_input"], [1] + [2] * 6 + [1, 1] + [2] * 11)


def test_weights_do_not_follow_the_noise_of_pixels(rng):
    """Where photon noise is estimated from the data, inverse variances pull the mean down; smooth weights do not."""
    truth, n, seeds = 20.0, 400, 40
    bias = []
    for _ in range(seeds):
        counts = rng.poisson(truth, (4, n)).astype(float)
        parts = [make_spectrum(c, np.maximum(c, 1)) for c in counts]
        bias.append(combine_spectra(parts)["flux"].mean() - truth)
    assert abs(np.mean(bias)) < 4 * np.sqrt(truth / (4 * n * seeds))
    naive = np.mean([1 / np.mean(1 / np.maximum(rng.poisson(truth, (4, n)), 1), axis=0)]) - truth
    assert naive < -0.5  # what weights from each pixel would do


@pytest.mark.parametrize("n", [2, 3, 5])
def test_clip_finds_the_outlier(rng, n):
    flux = rng.normal(100, 1, (n, 200))
    where = np.arange(5, 195, 10)
    flux[1, where] += np.where(np.arange(where.size) % 2, 12, -12)
    parts = [make_spectrum(f, 1.0) for f in flux]
    kept = combine_spectra(parts, clip_threshold=5.0)
    np.testing.assert_array_equal(kept["n_input"][where], n - 1)
    assert (kept["n_input"] == n).sum() == 200 - where.size
    others = np.delete(flux, 1, axis=0).mean(axis=0)
    np.testing.assert_allclose(kept["flux"][where], others[where], rtol=1e-12)
    np.testing.assert_array_equal(combine_spectra(parts)["n_input"], n)


def test_clip_keeps_lines(rng):
    line = 1000 * np.exp(-0.5 * ((np.arange(100) - 50) / 0.8) ** 2)
    parts = [make_spectrum(line + rng.normal(0, 1, 100), 1.0) for _ in range(4)]
    np.testing.assert_array_equal(combine_spectra(parts, clip_threshold=5.0)["n_input"], 4)


def dithers(rng, swapped=False):
    """Four dithers that share one background image, or two nods that are each other's background.

    Truth is 0 everywhere, so all that comes out is noise. Returns spectra, with what the covariance needs, and without.
    """
    sigma_source, sigma_background = 1.0, 1.5
    n = 2 if swapped else 4
    images = rng.normal(0, sigma_source, (n, ROWS, COLUMNS))
    background = rng.normal(0, sigma_background, (ROWS, COLUMNS))
    row = np.arange(ROWS)
    parts = []
    for i, image in enumerate(images):
        # traces of dithers overlap in part
        center = 3.2 + 0.4 * i if not swapped else 3.0 + 1.0 * i
        profile = np.exp(-0.5 * ((row - center) / 1.1) ** 2)
        weight = np.repeat((profile / (profile**2).sum())[:, None], COLUMNS, axis=1)
        subtracted = images[1 - i] if swapped else background
        spread = sigma_source if swapped else sigma_background
        flux = (weight * (image - subtracted)).sum(axis=0)
        variance = (weight**2).sum(axis=0) * (sigma_source**2 + spread**2)
        wave = 1 + 0.01 * (np.arange(COLUMNS) + 0.25 * i)
        members = [f"jw1_{1 - i}_nrs1_rate.fits"] if swapped else ["jw1_9_nrs1_rate.fits"]
        part = make_spectrum(
            flux, variance, wave, filename=f"jw1_{i}_nrs1_cal.fits", background_members=json.dumps(members)
        )
        maps = {"weight": weight, "var_background": np.full(weight.shape, spread**2)}
        part = part.assign({k: (("row", "dispersion"), v.astype("f4")) for k, v in maps.items()})
        parts.append(part.assign_coords(row=200 + row))
    return parts


@pytest.mark.parametrize(("swapped", "independent"), [(False, "low"), (True, "high")])
def test_pull_with_shared_background(rng, swapped, independent):
    seeds = 250
    flux, variance, alone, neighbours = [], [], [], []
    for _ in range(seeds):
        parts = dithers(rng, swapped)
        combined = combine_spectra(parts, wavelength=1 + 0.01 * np.arange(2, COLUMNS - 3))
        flux.append(combined["flux"].values)
        variance.append(total(combined))
        alone.append(total(combined) - combined["flux_var_shared"].values)
        neighbours.append(combined["flux_covariance"].values)
    flux = np.array(flux)
    pull = np.sqrt(np.mean(flux**2 / np.array(variance)))
    assert pull == pytest.approx(1.0, abs=0.02)
    wrong = np.sqrt(np.mean(flux**2 / np.array(alone)))
    assert wrong > 1.4 if independent == "low" else wrong < 0.8
    measured = np.mean(flux[:, :-1] * flux[:, 1:])
    assert np.mean(np.array(neighbours)[:, :-1]) == pytest.approx(measured, rel=0.05)
    np.testing.assert_allclose(combined["sb_var_shared"], 9 * combined["flux_var_shared"], rtol=1e-12)


def test_different_backgrounds_and_rows_apart_share_nothing(rng):
    parts = dithers(rng)[:2]
    shared = combine_spectra(parts)["flux_var_shared"]
    assert (shared > 0).sum() == COLUMNS - 1
    apart = [parts[0], parts[1].assign_coords(row=300 + np.arange(ROWS))]
    np.testing.assert_array_equal(combine_spectra(apart)["flux_var_shared"], 0)
    other = [parts[0], parts[1].assign_attrs(background_members=json.dumps(["jw1_8_nrs1_rate.fits"]))]
    np.testing.assert_array_equal(combine_spectra(other)["flux_var_shared"], 0)
    plain = [part.drop_vars(["weight", "var_background"]) for part in parts]
    np.testing.assert_array_equal(combine_spectra(plain)["flux_var_shared"], 0)


def test_three_nods_share_as_their_differences_do(rng):
    """A - (B + C)/2 and B - (A + C)/2 at the same pixel have covariance -3/4 of the variance of one exposure."""
    parts = dithers(rng)[:2]
    names = ["jw1_0_nrs1_rate.fits", "jw1_1_nrs1_rate.fits", "jw1_2_nrs1_rate.fits"]
    one = xr.ones_like(parts[0]["weight"]).isel(row=slice(1))
    nods = []
    for i, part in enumerate(parts):
        members = json.dumps([name for j, name in enumerate(names) if j != i])
        part = part.drop_vars(["weight", "var_background"]).assign(weight=one, var_background=one / 2)
        part = part.assign_coords(wavelength=parts[0]["wavelength"]).assign_attrs(background_members=members)
        nods.append(part)
    shared = combine_spectra(nods, weighting="exposure_time")["flux_var_shared"]
    np.testing.assert_allclose(shared, 2 * 0.25 * -0.75, rtol=1e-6)


def test_lazy_and_pure(rng):
    parts = dithers(rng)
    before = [part.copy(deep=True) for part in parts]
    expected = combine_spectra(parts, clip_threshold=4.0)
    for chunks in ({"dispersion": 7}, {"dispersion": -1}, {"dispersion": 20, "row": 3}):
        with forbid_computes():
            lazy = [part.assign_coords(wavelength=part["wavelength"].chunk()).chunk(chunks) for part in parts]
            combined = combine_spectra(lazy, clip_threshold=4.0)
        assert combined["flux"].chunks is not None
        xr.testing.assert_identical(combined.compute(scheduler="synchronous"), expected)
    for part, original in zip(parts, before, strict=True):
        xr.testing.assert_identical(part, original)


def test_what_cannot_be_combined(rng):
    part = make_spectrum(np.ones(20), 1.0)
    with pytest.raises(ModelError, match="no spectra"):
        combine_spectra([])
    with pytest.raises(ModelError, match="integration"):
        combine_spectra([part.expand_dims("integration")])
    other = part.assign(flux=part["flux"].assign_attrs(units="DN/s"))
    with pytest.raises(ModelError, match="units"):
        combine_spectra([part, other])
    with pytest.raises(ModelError, match="wavelength"):
        combine_spectra([part.drop_vars("wavelength")])
    for wrong in (
        {"weighting": "best"},
        {"clip_threshold": 0.0},
        {"smoothing": 10},
        {"wavelength": np.array([2.0, 1.0])},
    ):
        with pytest.raises(ParameterError):
            combine_spectra([part], **wrong)


def test_interpolation_kernel():
    wavelength = np.array([np.nan, 1.0, 2.0, np.nan, 4.0, 5.0])
    first, second, part = interpolation(wavelength, np.array([0.9, 1.0, 1.25, 2.0, 3.0, 5.0, np.nan]))
    np.testing.assert_array_equal(first, [-1, 1, 1, 2, -1, 5, -1])
    np.testing.assert_array_equal(second, [-1, 1, 2, 2, -1, 5, -1])
    np.testing.assert_allclose(part, [0, 0, 0.25, 0, 1 / 2, 0, 0])
    assert (interpolation(np.full(3, np.nan), np.ones(2))[0] == -1).all()


def test_running_median_is_that_of_numpy(rng):
    values = rng.normal(size=50)
    values[rng.random(50) < 0.3] = np.nan
    values[20:30] = np.nan
    found = running_median(values, 7)
    for i in [*range(23), *range(27, 50)]:
        window = values[max(0, i - 3) : i + 4]
        if np.isfinite(window).any():
            assert found[i] == np.nanmedian(window)
    assert np.isfinite(found).all()


def test_an_empty_first_spectrum_costs_nothing(rng):
    parts = [make_spectrum(rng.normal(5, 1, 30), 1.0) for _ in range(3)]
    empty = make_spectrum(np.full(30, np.nan), 1.0, wavelength=np.full(30, np.nan), dq=np.full(30, BAD))
    expected = combine_spectra(parts)
    for others in ([empty, *parts], [parts[0], empty, *parts[1:]]):
        with pytest.warns(DegradedResultWarning, match="no flux with a known error at any wavelength of the mean"):
            combined = combine_spectra(others)
        for name in ("wavelength", "flux", "flux_var_poisson", "n_input", "dq", "dispersion"):
            np.testing.assert_array_equal(combined[name], expected[name])
        with forbid_computes():
            lazy = [part.assign_coords(wavelength=part["wavelength"].chunk()).chunk() for part in others]
            found = combine_spectra(lazy)
        xr.testing.assert_identical(found.compute(scheduler="synchronous"), combined)


def test_nods_go_on_where_the_first_ends():
    """The second begins ten columns earlier and lies a third of a pixel beside."""
    first = make_spectrum(np.full(30, 5.0), 1.0, column_start=110)
    second = make_spectrum(np.full(40, 5.0), 1.0, 0.9 + 0.01 * (np.arange(40) + 1 / 3), column_start=100)
    combined = combine_spectra([first, second])
    np.testing.assert_allclose(combined["wavelength"], 0.9 + 0.01 * np.arange(40), rtol=1e-12)
    np.testing.assert_array_equal(combined["dispersion"], 100 + np.arange(40))
    np.testing.assert_array_equal(combined["n_input"], [0] + [1] * 9 + [2] * 30)
    assert np.all(np.isnan(combined["flux"]) == (combined["dq"] == BAD))


def test_detectors_keep_their_sampling_and_the_gap_between_them_is_flagged(rng):
    first = make_spectrum(rng.normal(5, 1, 50), 1.0, 2.0 + 0.01 * np.arange(50), column_start=1900, DETECTOR="NRS1")
    second = make_spectrum(rng.normal(5, 1, 60), 2.0, 2.6 + 0.012 * np.arange(60), column_start=30, DETECTOR="NRS2")
    empty = make_spectrum(np.full(60, np.nan), 1.0, np.full(60, np.nan), column_start=30, DETECTOR="NRS2")
    for parts in ([first, second], [second, first], [empty, first, second]):
        with pytest.warns(DegradedResultWarning, match="no flux") if len(parts) > 2 else nullcontext():
            combined = combine_spectra(parts)
        wavelength = combined["wavelength"].values
        assert np.all(np.diff(wavelength) > 0)
        assert np.diff(wavelength).max() < 0.0125
        for part in (first, second):
            own = np.isin(wavelength, part["wavelength"])
            np.testing.assert_array_equal(combined["flux"][own], part["flux"])
            np.testing.assert_array_equal(combined["n_input"][own], 1)
        gap = (wavelength > 2.4901) & (wavelength < 2.5999)
        assert gap.sum() == 8
        np.testing.assert_array_equal(combined["dq"], np.where(gap, BAD, 0))
    slits = [first, first.assign(flux=first["flux"] + 1).assign_attrs(SLTNAME="S200A2")]
    slits[1]["wavelength"] = first["wavelength"] + 0.004
    both = combine_spectra(slits)
    np.testing.assert_array_equal(both["wavelength"], first["wavelength"])  # not every wavelength of each
    np.testing.assert_array_equal(both["n_input"], [1] + [2] * 49)
    with pytest.raises(ParameterError, match=r"2 detectors or slits.*compute\(\)"):
        combine_spectra([part.assign_coords(wavelength=part["wavelength"].chunk()) for part in (first, second)])


@pytest.mark.parametrize("kind", ["continuum", "lines"])
@pytest.mark.parametrize(
    ("snr", "light", "included"), [(20, 0.0, 0), (20, -0.5, 0), (20, 0.6, 1), (1.5, 0, 0), (0.1, 0, 1)]
)
@pytest.mark.parametrize("n", [2, 3])
def test_a_nod_without_light_does_not_enter_the_mean(rng, kind, snr, light, included, n):
    pixel = np.arange(800)
    truth = np.full(800, float(snr))
    if kind == "lines":
        truth = snr * 20 * sum(np.exp(-0.5 * ((pixel - c) / 1.5) ** 2) for c in (60, 210, 330, 480, 700))
        if snr < 1:
            truth /= 20
    levels = [1.0, light, 0.9][:n]
    parts = [
        make_spectrum(truth * level + rng.normal(0, 1, 800), 1.0, filename=f"n{i}_cal.fits")
        for i, level in enumerate(levels)
    ]
    parts[0]["flux"].values[400] += 1000  # a hit is no light
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        combined = combine_spectra(parts)
    expected = [True, bool(included), True][:n]
    assert combined["n_input"].max() == sum(expected)
    assert [str(one.message).split(":")[0] for one in told] == ["n1_cal.fits"] * (not included)
    lazy = combine_spectra([part.assign_coords(wavelength=part["wavelength"].chunk()).chunk() for part in parts])
    xr.testing.assert_identical(lazy.compute(scheduler="synchronous"), combined)


BAD_SPECTRA = {
    "no flux": lambda part: part.assign(flux=part["flux"] * np.nan),
    "flagged": lambda part: part.assign(dq=part["dq"] | BAD),
    "no wavelength": lambda part: part.assign_coords(wavelength=part["wavelength"] * np.nan),
    "no variance": lambda part: part.assign(flux_var_rnoise=part["flux_var_rnoise"] * np.nan),
    "endless variance": lambda part: part.assign(flux_var_poisson=part["flux_var_poisson"] + np.inf),
    "no light": lambda part: part.assign(flux=part["flux"] - 30),
    "negative": lambda part: part.assign(flux=-part["flux"]),
    "noise alone": lambda part: part.assign(flux_var_rnoise=part["flux_var_rnoise"] * 1e30),
}


@example(kind="negative", which=2, seed=0)  # interpolation makes it the most significant
@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(sorted(BAD_SPECTRA)), which=st.integers(0, 3), seed=st.integers(0, 1000))
def test_one_bad_spectrum_leaves_the_mean_of_the_others_as_it_was(kind, which, seed):
    rng = np.random.default_rng(seed)
    wave = 1 + 0.01 * np.arange(60)
    parts = [
        make_spectrum(30 + rng.normal(0, 1, 60), 1.0, wave + 0.0025 * i, filename=f"{i}_cal.fits") for i in range(4)
    ]
    others = [part for i, part in enumerate(parts) if i != which]
    changed = BAD_SPECTRA[kind](parts[which])
    changed["flux"].attrs, changed["surf_bright"].attrs = parts[which]["flux"].attrs, parts[which]["surf_bright"].attrs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegradedResultWarning)
        found = combine_spectra([changed if i == which else part for i, part in enumerate(parts)])
    expected = combine_spectra(others, wavelength=found["wavelength"].values)
    good = (expected["dq"] == 0).values
    assert good.sum() > 55
    for name in ("flux", "flux_var_poisson", "flux_covariance"):
        np.testing.assert_allclose(found[name][good][:-1], expected[name][good][:-1], rtol=1e-6, err_msg=name)


SPOILED = (
    "NaN",
    "garbage",
    "garbage, errors not",
    "noise",
    "negative",
    "flagged",
    "no variance",
    "tiny variance",
    "dark",
)


def one_of_several_is_bad(n, number, kind, seed):
    """Assert that the mean is that of the others, within a tenth of its error, and so is the error."""
    random, number = np.random.default_rng(seed), number % n
    light = 20 + 5 * np.sin(np.arange(400) / 30)
    losses = random.uniform(0.85, 1.0, n)
    parts = [
        make_spectrum(loss * light + random.normal(size=400), 1.0, filename=f"n{i}_cal.fits")
        for i, loss in enumerate(losses)
    ]
    good = combine_spectra([part for i, part in enumerate(parts) if i != number])
    bad = parts[number]
    flux = bad["flux"].values
    parts_of_variance = [bad[name].values for name in bad if "_var_" in name]
    if kind == "NaN":
        flux[:] = np.nan
    elif kind == "flagged":
        bad["dq"].values[:] = BAD
    elif kind == "noise":
        flux[:] = 1e4 * random.normal(size=400)
    elif kind == "dark":
        flux[:] = random.normal(size=400)
    elif kind.startswith("garbage") or kind == "negative":
        flux *= -1 if kind == "negative" else 1000
    for values in parts_of_variance:
        values *= {"garbage": 1e6, "no variance": 0.0, "tiny variance": 1e-8}.get(kind, 1.0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        mean = combine_spectra(parts, wavelength=parts[0]["wavelength"].values)
    error = np.sqrt(total(good))
    assert np.sqrt(np.mean(((mean["flux"] - good["flux"]).values / error) ** 2)) < 0.1
    np.testing.assert_allclose(np.sqrt(total(mean)), error, rtol=0.1)
    assert all(issubclass(one.category, DegradedResultWarning) for one in told)
    if kind not in ("NaN", "flagged", "no variance"):  # of those, n_input tells
        assert [str(one.message).split(":")[0] for one in told] == [f"n{number}_cal.fits"]


@settings(max_examples=16, derandomize=True, deadline=None)
@given(n=st.integers(3, 5), number=st.integers(0, 4), kind=st.sampled_from(SPOILED), seed=st.integers(0, 9))
def test_one_bad_exposure_does_not_reach_the_mean(n, number, kind, seed):
    assume((n, kind) != (3, "garbage"))  # see the next test
    one_of_several_is_bad(n, number, kind, seed)


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="which of three exposures is wrong is not found if its errors grow with it",
)
def test_one_of_three_that_is_a_thousand_times_too_bright_does_not_reach_the_mean():
    one_of_several_is_bad(n=3, number=0, kind="garbage", seed=0)


@pytest.mark.parametrize("kind", ["NaN", "no error", "flagged", "nanometres", "elsewhere", "one wavelength"])
def test_a_useless_spectrum_is_named(rng, kind):
    parts = [
        make_spectrum(rng.normal(50, 1, 40), 1.0, filename=f"jw1_{n}_nrs1_cal.fits", EXPOSURE=n) for n in (1, 2, 3)
    ]
    expected = combine_spectra(parts[::2])
    wavelength = parts[1]["wavelength"]
    if kind == "NaN":
        parts[1]["flux"].values[:] = np.nan
    elif kind == "no error":
        parts[1]["flux_var_rnoise"].values[:] = np.nan
    elif kind == "flagged":
        parts[1]["dq"].values[:] = BAD
    else:
        changed = {
            "nanometres": wavelength * 1000,
            "elsewhere": wavelength + 5,
            "one wavelength": wavelength * 0 + 1.205,
        }
        parts[1] = parts[1].assign_coords(wavelength=changed[kind])
    words = "^jw1_2_nrs1_cal.fits: no flux with a known error at any wavelength of the mean; left out of the mean$"
    with pytest.warns(DegradedResultWarning, match=words) as caught:
        combined = combine_spectra(parts)
    assert len(caught) == 1
    np.testing.assert_array_equal(combined["n_input"], expected["n_input"])
    np.testing.assert_array_equal(combined["flux"], expected["flux"])
