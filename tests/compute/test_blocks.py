import pickle

import cloudpickle
import dask
import numpy as np
import pytest
import xarray as xr

from nsxr.compute.blocks import map_blocks, map_with_halo, store, take_rows
from nsxr.compute.reductions import reduce_blocks
from nsxr.errors import ModelError
from nsxr.kernels.reductions import first_flagged, sum_groups
from nsxr.testing import count_computes, forbid_computes

RAMP = ("integration", "group", "row", "column")


@pytest.fixture
def ramps(rng):
    return xr.DataArray(rng.normal(size=(2, 5, 6, 4)).astype(np.float32), dims=RAMP)


def summarize(ramps, image, series, offset):
    assert ramps.ndim == 4
    assert image.ndim == 2
    assert series.ndim == 2
    fit = (ramps.sum(1) + series.sum(-1)[:, None, None]) * image
    return fit + offset, fit.mean(0), np.stack([fit, -fit], 1)


@pytest.mark.parametrize("chunks", [None, {"row": 2}, {"row": 5, "column": 3}])
def test_kernel_sees_dims_in_their_order(ramps, rng, chunks):
    image = xr.DataArray(rng.normal(size=(6, 4)), dims=("row", "column"))
    series = xr.DataArray(rng.normal(size=(2, 5)), dims=("integration", "group"))
    expected = summarize(ramps.values, image.values, series.values, 3.0)
    if chunks:
        ramps, image = ramps.chunk(chunks), image.chunk(chunks)
    with forbid_computes():
        results = map_blocks(
            summarize,
            ramps,
            image,
            series,
            core=("integration", "group"),
            outputs={
                "fit": (("integration", "row", "column"), np.float64),
                "mean": (("row", "column"), np.float64),
                "signed": (("integration", "sign", "row", "column"), np.float64),
            },
            sizes={"sign": 2},
            offset=3.0,
        )
    assert list(results) == ["fit", "mean", "signed"]
    for result, values in zip(results.values(), expected, strict=True):
        np.testing.assert_allclose(result, values)
    assert results["signed"].dims == ("integration", "sign", "row", "column")


def test_other_arrays_follow_the_first_and_nobody_keeps_labels(ramps, rng):
    image = xr.DataArray(rng.normal(size=(6, 4)), dims=("row", "column"), coords={"row": np.arange(10, 16)})
    series = xr.DataArray(rng.normal(size=(2, 5, 3)), dims=("integration", "group", "sample"))

    def multiply(ramps, image, series):
        assert series.shape == (ramps.shape[0], 5, 3)
        return ramps * image * series.sum(2)[:, :, None, None]

    def run(*arrays):
        return map_blocks(multiply, *arrays, core=("group",), outputs={"product": (RAMP, np.float64)})["product"]

    expected = ramps.values * image.values * series.values.sum(2)[:, :, None, None]
    first = ramps.assign_coords(row=np.arange(6))
    np.testing.assert_array_equal(run(first, image, series), expected)
    with forbid_computes():
        lazy = run(first.chunk({"row": 2, "integration": 1}), image.chunk({"row": 3}), series.chunk(1))
        plain = run(first, image, series.chunk({"group": 2}))
    for product in (lazy, plain):
        np.testing.assert_array_equal(product, expected)
        assert not product.coords
    assert lazy.chunks == ((1, 1), (5,), (2, 2, 2), (4,))


def test_sums_of_blocks_have_length_one_for_each_block(ramps):
    def sums(block):
        return block.sum(0, keepdims=True), block.sum(1)

    outputs = {"sums": (RAMP, np.float32), "others": (("integration", "row", "column"), np.float32)}
    blocks = ramps.chunk({"integration": 1})
    found = map_blocks(sums, blocks, core=("group",), outputs=outputs, reduced={"sums": "integration"})
    np.testing.assert_array_equal(found["sums"], ramps)
    np.testing.assert_array_equal(found["others"], ramps.sum("group"))
    assert found["sums"].chunks[0] == (1, 1)


def test_missing_middle_dim_is_not_confused_with_its_neighbour(ramps, rng):
    rates = xr.DataArray(rng.normal(size=(2, 6, 4)), dims=("integration", "row", "column"))

    def check(ramps, rates):
        assert rates.shape == (ramps.shape[0], ramps.shape[2], ramps.shape[3])
        return ramps * rates[:, None]

    outputs = {"product": (RAMP, np.float64)}
    result = map_blocks(check, ramps.chunk({"integration": 2, "row": 3}), rates, core=(), outputs=outputs)
    np.testing.assert_allclose(result["product"], ramps.values * rates.values[:, None])


def test_split_core_dim_is_refused(ramps):
    with pytest.raises(ModelError, match="split along 'group' into chunks"):
        map_blocks(np.copy, ramps.chunk({"group": 2}), core=("group",), outputs={"copy": (RAMP, np.float32)})
    with pytest.raises(ModelError, match=r"without \['row'\]"):
        map_blocks(np.copy, ramps, core=("group",), outputs={"copy": (("integration", "column"), np.float32)})


def test_halo_carries_neighbours_across_chunks(rng):
    image = xr.DataArray(rng.integers(0, 9, (7, 5)).astype(np.int16), dims=("row", "column"))

    def above(block):
        return np.roll(block, 1, axis=0)

    expected = np.vstack([np.full((1, 5), -1), image.values[:-1]])
    for array in (image, image.chunk({"row": 3}), image.chunk({"row": 1, "column": 2})):
        result = map_with_halo(above, array, {"row": 1}, boundary=np.int16(-1))
        np.testing.assert_array_equal(result, expected)
        assert result.dtype == np.int16
    with pytest.raises(ModelError, match="shorter than the halo of 2"):
        map_with_halo(above, image.chunk({"row": 1}), {"row": 2}, boundary=np.int16(-1))


def test_counter_counts(ramps):
    with count_computes() as counter:
        ramps.chunk({"row": 2}).sum().compute()
    assert counter.computes == 1
    assert counter.tasks > 1
    with pytest.raises(AssertionError, match="1 computes"), forbid_computes():
        ramps.chunk().compute()


@pytest.mark.parametrize("chunks", [None, {"group": 2}, {"group": 3, "row": 4, "integration": 1}])
def test_reductions_do_not_depend_on_chunks(ramps, rng, chunks):
    flags = xr.DataArray(rng.choice([0, 2, 4, 6], p=[0.7, 0.1, 0.1, 0.1], size=ramps.shape).astype(np.uint8), dims=RAMP)
    saturated = (flags.values & 2) > 0
    expected = np.where(saturated.any(1), saturated.argmax(1), 5)
    total = ramps.values.sum(1, dtype=np.float64)
    if chunks:
        ramps, flags = ramps.chunk(chunks), flags.chunk(chunks)
    with forbid_computes():
        first = reduce_blocks(first_flagged, flags, "group", np.int16, flag=np.uint8(2), never=5).min("group")
        summed = reduce_blocks(sum_groups, ramps, "group", np.float64).sum("group")
    np.testing.assert_array_equal(first, expected)
    assert first.dtype == np.int16
    np.testing.assert_allclose(summed, total, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("chunks", [None, {"row": 2}, {"row": 6, "group": 1}])
def test_rows_are_taken_band_by_band(ramps, chunks):
    rows = np.array([0, 0, 1, 3, 4, 5])
    expected = ramps.values[:, :, rows]
    array = ramps.assign_coords(row=np.arange(6), column=np.arange(4))
    with forbid_computes():
        taken = take_rows(array.chunk(chunks) if chunks else array, rows, 2)
    np.testing.assert_array_equal(taken, expected)
    assert taken.dims == RAMP
    assert "row" not in taken.coords
    assert "column" in taken.coords
    if chunks:
        assert taken.chunks[2] == (3, 3)


def test_stores_share_one_graph(ramps):
    reads = []

    def read(block):
        reads.append(1)
        return block * 2

    source = map_blocks(read, ramps.chunk({"row": 3}), core=(), outputs={"source": (RAMP, np.float32)})["source"]
    targets = [np.zeros(ramps.shape, np.float32), np.zeros(ramps.shape, np.float32)]
    collections = store([source, source + 1], targets)
    reads.clear()
    with count_computes() as counter:
        dask.compute(*collections)
    assert counter.computes == 1
    assert len(reads) == 2  # one for each chunk
    np.testing.assert_array_equal(targets[0], ramps * 2)
    np.testing.assert_array_equal(targets[1], ramps * 2 + 1)


def test_arrays_of_one_block_give_the_same_as_blocks_with_few_layers(ramps):
    def both(block, factor):
        return block * factor, block.sum(-1)

    outputs = {"scaled": (RAMP, np.float32), "summed": (RAMP[:3], np.float32)}
    whole, split = ({} if n is None else {"row": n} for n in (None, 2))
    found = map_blocks(both, ramps.chunk(whole), core=("column",), outputs=outputs, factor=2)
    again = map_blocks(both, ramps.chunk(whole), core=("column",), outputs=outputs, factor=2)
    other = map_blocks(both, ramps.chunk(whole), core=("column",), outputs=outputs, factor=3)
    blocks = map_blocks(both, ramps.chunk(split), core=("column",), outputs=outputs, factor=2)
    assert found["scaled"].data.name == again["scaled"].data.name != other["scaled"].data.name
    for name, array in found.items():
        np.testing.assert_array_equal(array, blocks[name])
        np.testing.assert_array_equal((array + 1).isel(row=slice(1, 3)), blocks[name].isel(row=slice(1, 3)) + 1)
        np.testing.assert_array_equal(pickle.loads(cloudpickle.dumps(array)), blocks[name])
    (scaled, summed) = dask.compute(found["scaled"], found["summed"])
    np.testing.assert_array_equal(scaled, 2 * ramps)
    np.testing.assert_array_equal(summed, ramps.sum("column"))
