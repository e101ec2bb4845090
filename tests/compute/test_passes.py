"""Passes rewrite graphs of dask. These tests fail with a version of dask that builds its graphs in another way.

`ci/oldest_dask` runs them with the oldest version that nsxr supports.
"""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.blockwise import Blockwise
from dask.highlevelgraph import HighLevelGraph

from nsxr.compute.blocks import store
from nsxr.compute.passes import settle, settle_flags, settled

RAMP = ("integration", "group", "row", "column")


class Reads:
    """Count how often blocks are read."""

    def __init__(self):
        self.count = 0

    def __call__(self, block):
        self.count += block.size > 0
        return block + 1


@pytest.fixture
def reads():
    return Reads()


@pytest.fixture
def pixels(reads):
    data = da.zeros((6, 4), chunks=(2, 4)).map_blocks(reads, dtype="f8", meta=np.empty((0, 0)))
    return xr.DataArray(data, dims=("row", "column"))


def in_passes(*arrays):
    """Store arrays as products are stored; return their values, and how many arrays each pass computed."""
    targets = [np.full(array.shape, np.nan) for array in arrays]
    passes = []

    def persist(parts):
        passes.append([part.shape for part in parts])
        return dask.persist(*parts, scheduler="sync")

    collections = settled(store(arrays, targets), persist)
    dask.compute(*collections, scheduler="sync")
    return targets, passes


def test_graphs_of_dask_are_as_the_passes_need_them(pixels):
    marked = settle(pixels.sum("row"))
    graph = (pixels - marked).data.__dask_graph__()
    name = marked.data.name
    assert isinstance(graph, HighLevelGraph)
    assert name.startswith("settle-")
    layer = graph.layers[name]
    assert isinstance(layer, Blockwise)
    assert layer.numblocks[layer.indices[0][0]] == (1,)
    assert graph.dependencies[name]
    assert name in set().union(*graph.dependencies.values())


def test_a_settled_array_is_computed_once_before_the_rest(pixels, reads):
    mean = pixels.mean("row")
    (alone,), passes = in_passes(pixels - mean)
    assert passes == []
    assert reads.count == 3  # all blocks wait for the mean
    reads.count = 0
    (twice,), passes = in_passes(pixels - settle(mean))
    assert len(passes) == 1
    assert len(passes[0]) == 1
    assert reads.count == 6  # read again after the mean is known
    np.testing.assert_array_equal(alone, 0)
    np.testing.assert_array_equal(twice, alone)


def test_settled_arrays_that_wait_for_each_other_get_passes_in_order(pixels):
    mean = settle(pixels.mean("row"))
    scatter = settle((pixels - mean).std("row"))
    largest = settle(pixels.max("row"))
    stored, passes = in_passes(pixels - mean, pixels + scatter, pixels * largest)
    assert [len(one) for one in passes] == [2, 1]
    for values, expected in zip(stored, (0, 1, 1), strict=True):
        np.testing.assert_array_equal(values, expected)


def test_a_settled_array_is_a_product_too_and_keeps_its_blocks(pixels):
    marked = settle(pixels.max("column"))
    stored, passes = in_passes(marked, pixels - marked)
    assert len(passes) == 1
    np.testing.assert_array_equal(stored[0], 1)
    np.testing.assert_array_equal(stored[1], 0)
    assert marked.chunks == ((2, 2, 2),)


def test_without_the_passes_a_settled_array_is_like_any_other(pixels):
    np.testing.assert_array_equal((pixels - settle(pixels.mean("row"))).compute(), 0)
    array = xr.DataArray(np.arange(3), dims="row")
    assert settle(array) is array


def test_flags_are_settled_where_blocks_are_parts_of_frames():
    ramps = xr.Dataset(
        {
            "sci": (RAMP, np.ones((3, 2, 4, 5), np.float32)),
            "groupdq": (RAMP, np.zeros((3, 2, 4, 5), np.uint8)),
            "jumps": (("integration",), np.zeros(3)),
        }
    )
    for whole in (ramps, ramps.chunk(integration=1)):
        assert settle_flags(whole) is whole
    marked = settle_flags(ramps.chunk(row=2))
    is_marked = {name: array.data.name.startswith("settle-") for name, array in marked.data_vars.items()}
    assert is_marked == {"sci": False, "groupdq": True, "jumps": True}
