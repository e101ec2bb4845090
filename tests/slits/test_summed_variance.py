"""Variances of sums, with the noise that pixels share."""

import numpy as np
import pytest
import xarray as xr

import nsxr
from nsxr.errors import ModelError
from nsxr.kernels.ramps.lag_covariance import LAGS
from nsxr.model.readout import Readout
from nsxr.model.time_order import science_time_order
from nsxr.testing import assert_lazy_and_chunk_invariant, make_header, make_rates
from tests.optics.exposures import make_rates as make_frame
from tests.optics.exposures import optics_of

ROWS, COLUMNS = slice(498, 526), slice(700, 712)


def shared_rates(detector="NRS1", readout="NRSRAPID", integrations=0):
    """Rates at the border of two amplifiers, with a table that depends on all of its arguments."""
    random = np.random.default_rng(1)
    shape = (ROWS.stop - ROWS.start, COLUMNS.stop - COLUMNS.start)
    sci = random.standard_normal((integrations, *shape) if integrations else shape)
    variance = 1 + random.random(sci.shape)
    header = make_header(subarray="FULL") | {"DETECTOR": detector, "READPATT": readout, "NOUTPUTS": 4}
    header |= {"SUBSTRT1": 1, "SUBSTRT2": 1, "SUBSIZE1": 2048, "SUBSIZE2": 2048}
    rates = make_rates(sci, 0.1 * variance, variance, **header)
    rates = rates.assign_coords(row=np.arange(ROWS.start, ROWS.stop), column=np.arange(COLUMNS.start, COLUMNS.stop))
    line, slot = LAGS.T
    alike = 0.3 * np.exp(-np.abs(slot + 5 * line) / 10)
    table = np.array([line, slot, -0.3 * alike, alike, 0.2 * alike], np.float32).T
    return rates.assign(
        noise_used=(("row", "column"), (random.random(shape) > 0.5).astype(np.uint8)),
        noise_correlation=(("lag", "kind"), table),
    )


def dense_covariance(rates):
    """The twin: the covariance matrix of all pixels, from the time of each pixel."""
    readout = Readout.from_header(rates.attrs, ramps=False)
    order = science_time_order(readout, 2048, 2048)
    amplifier, slot = np.zeros(2048, int), np.zeros(2048, int)
    for number, (rows, slots) in enumerate(zip(order.rows, order.slot, strict=True)):
        amplifier[rows], slot[rows] = number, slots
    row, column = (grid.ravel() for grid in np.meshgrid(rates["row"], rates["column"], indexing="ij"))
    line = -column if order.is_reversed else column
    used, read = rates["noise_used"].values.ravel(), rates["var_rnoise"].values.ravel().astype(float)
    table = {(lines, slots): kinds for lines, slots, *kinds in rates["noise_correlation"].values.tolist()}
    covariance = np.diag(read + rates["var_poisson"].values.ravel())
    for i in range(row.size):
        for j in range(row.size):
            lag = (line[j] - line[i], slot[row[j]] - slot[row[i]])
            if i != j and amplifier[row[i]] == amplifier[row[j]]:
                kinds = table.get(lag, table.get((-lag[0], -lag[1]), (0, 0, 0)))
                covariance[i, j] += np.sqrt(read[i] * read[j]) * kinds[2 if used[i] != used[j] else 1 - used[i]]
    return covariance


@pytest.mark.parametrize(
    ("detector", "readout"), [("NRS1", "NRSRAPID"), ("NRS2", "NRSRAPID"), ("NRS1", "NRSIRS2RAPID")]
)
def test_the_variance_of_a_sum_is_that_of_the_covariance_matrix(detector, readout):
    rates = shared_rates(detector, readout)
    weights = xr.zeros_like(rates["sci"])
    weights[4:24, 3:6] = np.random.default_rng(2).random((20, 3))
    covariance = dense_covariance(rates)
    flat = weights.values.astype(float).ravel()
    found = nsxr.summed_variance(rates, weights)
    np.testing.assert_allclose(found, flat @ covariance @ flat, rtol=1e-6)
    assert found.attrs["units"] == "(DN/s)2"
    of_columns = nsxr.summed_variance(rates, weights, dim="row")
    assert of_columns.dims == ("column",)
    flat = weights.where(weights["column"] == 704, 0).values.astype(float).ravel()
    np.testing.assert_allclose(of_columns.sel(column=704), flat @ covariance @ flat, rtol=1e-6)
    alone = nsxr.summed_variance(rates.drop_vars("noise_correlation"), weights)
    np.testing.assert_allclose(alone, (weights.astype(float) ** 2 * (rates["var_rnoise"] + rates["var_poisson"])).sum())


def test_lazy_and_the_same_for_every_chunking():
    rates = shared_rates(integrations=3)
    weights = xr.ones_like(rates["sci"].isel(integration=0, drop=True))
    result = assert_lazy_and_chunk_invariant(
        lambda dataset: nsxr.summed_variance(dataset, weights).to_dataset(name="variance"),
        rates,
        chunkings=({"integration": 1}, {"row": 5, "integration": 2}, {"column": 4}),
    )
    assert result["variance"].dims == ("integration",)
    one = nsxr.summed_variance(rates.isel(integration=1), weights)
    np.testing.assert_array_equal(result["variance"][1], one)


def test_a_sum_has_never_less_than_a_tenth_of_the_variance_of_independent_pixels():
    rates = shared_rates()
    table = rates["noise_correlation"].copy()
    table[:, 2:] = -0.9
    weights = xr.ones_like(rates["sci"])
    least = nsxr.summed_variance(rates.assign(noise_correlation=table), weights)
    np.testing.assert_allclose(least, (rates["var_poisson"] + 0.1 * rates["var_rnoise"]).astype(float).sum(), rtol=1e-6)


def test_what_does_not_fit_is_refused():
    rates = shared_rates()
    with pytest.raises(ModelError, match="expected rows and columns of the product"):
        nsxr.summed_variance(rates, xr.ones_like(rates["sci"])[:3])
    with pytest.raises(ModelError, match="dim is 'column'"):
        nsxr.summed_variance(rates, xr.ones_like(rates["sci"]), dim="column")
    moved = rates.assign_coords(row=np.arange(2101 - rates.sizes["row"], 2101))
    with pytest.raises(ModelError, match="rows go to 2100"):
        nsxr.summed_variance(moved, xr.ones_like(moved["sci"]))


def test_cut_outs_keep_what_pixels_share(tmp_path):
    rates = make_frame(
        "FIXEDSLIT", "PRISM", rows=(900, 1150), SUBSIZE1=2048, SUBSIZE2=250, READPATT="NRSRAPID", SUBARRAY="ALLSLITS"
    )
    used = (rates["row"] % 3 == 0) & (rates["column"] % 2 == 0)
    table = shared_rates()["noise_correlation"]
    rates = rates.assign(noise_used=used.astype(np.uint8), noise_correlation=table)
    slits = nsxr.cut_slits(rates, optics_of(rates), slits=["S200A1", "S200A2"])
    for name in ("slits.fits", "slits.zarr"):
        nsxr.write_slits(slits, tmp_path / name)
        for key, slit in nsxr.open_slits(tmp_path / name).children.items():
            np.testing.assert_array_equal(slit["noise_correlation"], table)
            np.testing.assert_array_equal(slit["noise_used"], used.sel(row=slit["row"], column=slit["column"]))
            weights = slit["sci"].notnull().astype(float)
            expected = nsxr.summed_variance(slits[key].to_dataset(), weights)
            np.testing.assert_array_equal(nsxr.summed_variance(slit.to_dataset(), weights), expected)
