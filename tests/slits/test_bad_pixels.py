"""Bad pixels are found in the exposures themselves; lines, hits, edges and clean data lose nothing."""

import numpy as np
import pytest
import xarray as xr

import nsxr
from nsxr.errors import ModelError, ParameterError
from nsxr.kernels.slits.row_medians import row_medians
from nsxr.model.dq import PixelFlag
from nsxr.model.history import steps
from nsxr.testing.assertions import forbid_computes
from tests.optics.exposures import make_rates

ROWS, COLUMNS, SIGMA = (1000, 1160), (400, 900), 0.02
BAD = PixelFlag.DO_NOT_USE | PixelFlag.OTHER_BAD_PIXEL
ROW, COLUMN = np.mgrid[ROWS[0] : ROWS[1], COLUMNS[0] : COLUMNS[1]]


def rates(light=0.0, seed=None, name="a", added=None):
    """Count rates of a light, with noise if there is a seed, and pixels (row, column) with something added."""
    one = make_rates("IFU", "PRISM", rows=ROWS, columns=COLUMNS, filename=f"{name}_rate.fits")
    values = np.broadcast_to(np.asarray(light, float), one["sci"].shape).copy()
    variance = SIGMA**2 + values / 1000
    if seed is not None:
        values += np.sqrt(variance) * np.random.default_rng(seed).standard_normal(values.shape)
    for place, amount in (added or {}).items():
        values[place] += amount
    dims = ("row", "column")
    images = {"sci": values, "var_poisson": variance - SIGMA**2, "var_rnoise": np.full(values.shape, SIGMA**2)}
    new = {key: (dims, image.astype(np.float32), one[key].attrs) for key, image in images.items()}
    return one.assign(**new, dq=(dims, np.zeros(values.shape, np.uint32)))


def several(count=3, light=0.0, seed=1, **others):
    """Return exposures of the same light with noise of their own."""
    return [rates(light, None if seed is None else (seed, n), f"exposure{n}", **others) for n in range(count)]


def trace(peak=3.0):
    """Return a continuum with lines of 1.8 pixels at many phases, in slightly tilted rows of a slice."""
    along = 1.0 + 0.3 * np.sin(COLUMN / 60)
    for number, centre in enumerate(np.arange(440, 880, 23.13)):
        at = centre + 0.13 * (ROW - 1080) + 0.1 * number
        along = along + 8 * np.exp(-0.5 * ((COLUMN - at) / 0.76) ** 2)
    across = 1 / (1 + np.exp(-(ROW - 1030 - COLUMN / 200) / 0.4)) / (1 + np.exp((ROW - 1110 - COLUMN / 200) / 0.4))
    return peak * along * across


@pytest.mark.filterwarnings("ignore:All-NaN")
def test_medians_are_those_of_numpy():
    values = np.random.default_rng(2).normal(size=(5, 40)).astype(np.float32)
    values[1, 3:12] = np.nan
    values[2] = np.nan
    values[3, ::2] = values[3, 1::2]
    for length in (3, 15, 51):
        for outside in (np.nan, 0.0):
            padded = np.pad(values, ((0, 0), (length // 2, length // 2)), constant_values=outside)
            windows = np.lib.stride_tricks.sliding_window_view(padded, length, axis=1)
            expected = np.nanmedian(windows, axis=-1)
            np.testing.assert_array_equal(row_medians(values, length, outside), expected.astype(np.float32))


def test_hot_and_cold_pixels_are_found_and_nothing_else():
    random = np.random.default_rng(5)
    light = trace()
    places = [(random.integers(160), random.integers(8, 492)) for _ in range(60)]
    deviation = np.sqrt(SIGMA**2 + light / 1000)
    added = {place: 15 * deviation[place] + 0.8 * light[place] for place in places}
    added |= {(70, column): -light[70, column] for column in (130, 231, 407)}  # dead pixels between lines
    found = nsxr.find_bad_pixels(several(light=light, added=added))
    assert found.dtype == np.uint32
    flagged = {(int(r), int(c)) for r, c in zip(*np.nonzero(found.values), strict=True)}
    assert len(flagged & set(added)) >= 0.9 * len(added)
    assert len(flagged - set(added)) <= 1
    values = found.values
    assert all(values[place] in (0, BAD | PixelFlag.WARM) for place in places)
    assert all(values[70, column] == BAD for column in (130, 231, 407))


@pytest.mark.parametrize("peak", [0.0, 0.3, 30.0])
@pytest.mark.parametrize("seed", [None, 3])
def test_data_without_bad_pixels_lose_nothing(peak, seed):
    found = nsxr.find_bad_pixels(several(2, light=trace(peak), seed=seed))
    assert (found.values > 0).sum() <= (0 if peak == 0.0 and seed is None else 1)


def test_hits_are_not_bad_pixels_and_two_side_by_side_are():
    hits = [{(20, 50 + n): 5.0, (21, 50 + n): 5.0} for n in range(3)]
    one, two, three = ({**hit, (90, 200): 2.0, (90, 201): 1.0} for hit in hits)
    exposures = [
        rates(0.1, n, f"e{n}", added=added) for n, added in enumerate((one, {**two, (5, 5): 9.0}, three))
    ]  # fmt: skip
    found = nsxr.find_bad_pixels(exposures).values
    assert found[90, 200]
    assert found[90, 201]
    assert (found > 0).sum() <= 3
    alone = nsxr.find_bad_pixels(exposures[:1], force_single=True).values
    assert alone[20, 50]  # nothing tells hits in a single exposure


def test_the_observatorys_way_flags_a_fraction():
    exposures = several(2, light=trace(0.3), added={(30, 100): 9.0})
    found = nsxr.find_bad_pixels(exposures, method="jwst", flagfrac_lower=0.002, kernel_size=11).values
    lowest = np.minimum(*(one["sci"].values for one in exposures))
    padded = np.pad(lowest, ((0, 0), (5, 5)))
    flat = lowest - np.median(np.lib.stride_tricks.sliding_window_view(padded, 11, axis=1), axis=-1)
    low, high = np.percentile(flat, [0.2, 99.9])
    np.testing.assert_array_equal(found > 0, (flat < low) | (flat > high))
    assert set(np.unique(found)) == {0, BAD}
    assert found[30, 100]


@pytest.mark.parametrize("method", ["significance", "jwst"])
def test_lazy_and_the_same_for_every_chunking(method):
    exposures = several(2, light=trace(), added={(30, 100): 9.0, (70, 130): -9.0})
    whole = nsxr.find_bad_pixels(exposures, method=method)
    for chunks in ({"row": 50}, {"row": 33, "column": 77}, {"row": -1}):
        with forbid_computes():
            lazy = nsxr.find_bad_pixels([one.chunk(chunks) for one in exposures], method=method)
        assert lazy.chunks is not None
        xr.testing.assert_identical(lazy.compute(), whole)


def test_flags_reach_an_exposure_and_its_history():
    exposures = several(2, added={(30, 100): 9.0})
    found = nsxr.flag_bad_pixels(exposures[0], exposures=exposures, n_sigma=6.0)
    assert found["dq"].values[30, 100] == BAD | PixelFlag.WARM
    assert np.isnan([found[name].values[30, 100] for name in ("sci", "var_poisson", "var_rnoise")]).all()
    assert exposures[0]["dq"].values[30, 100] == 0
    entry = steps(found)[-1]
    assert (entry["step"], entry["parameters"]) == ("badpix_selfcal", {"n_sigma": 6.0})
    known = nsxr.find_bad_pixels(exposures, n_sigma=6.0)
    xr.testing.assert_equal(nsxr.flag_bad_pixels(exposures[0], exposures=known), found)
    series = xr.concat([exposures[1], exposures[1] + 0.0], "integration", combine_attrs="override")
    series = series.assign(dq=series["dq"].astype(np.uint32))
    assert (nsxr.flag_bad_pixels(series, exposures=known)["dq"].values[:, 30, 100] > 0).all()


def test_parts_of_larger_backgrounds_and_bad_input():
    one, two = several(2, added={(30, 100): 9.0})
    part = one.isel(row=slice(20, 60))
    found = nsxr.find_bad_pixels([part, two])
    assert found.sizes["row"] == 40
    assert found.values[10, 100]
    with pytest.raises(ParameterError, match="two exposures or more"):
        nsxr.find_bad_pixels([one])
    with pytest.raises(ParameterError, match="kernel_size is 8"):
        nsxr.find_bad_pixels([one, two], kernel_size=8)
    with pytest.raises(ModelError, match="does not cover"):
        nsxr.find_bad_pixels([two, part])
    with pytest.raises(ModelError, match="has DETECTOR 'NRS2'"):
        nsxr.find_bad_pixels([one, two.assign_attrs(DETECTOR="NRS2")])
