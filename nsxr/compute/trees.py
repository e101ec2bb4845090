"""Compute many lazy arrays of a DataTree at once."""

from typing import Any

import dask.array as da
import xarray as xr
from dask.base import compute_as_if_collection, is_dask_collection
from dask.highlevelgraph import HighLevelGraph

__all__ = ["compute_tree"]


def compute_tree(tree: xr.DataTree) -> xr.DataTree:
    """Return a DataTree with all its arrays computed, in one graph. Parts that they share are computed once.

    ``tree.compute()`` gives the same, but takes a millisecond longer for each array. An exposure of shutters has
    thousands of arrays.
    """
    done = tree.copy()
    lazy = [
        variable
        for node in done.subtree
        for variable in node.to_dataset(inherit=False).variables.values()
        if is_dask_collection(variable)
    ]
    if not lazy:
        return done
    arrays: list[da.Array] = [variable.data for variable in lazy]
    graph = HighLevelGraph.merge(*{id(array.dask): array.dask for array in arrays}.values())
    keys: list[Any] = [array.__dask_keys__() for array in arrays]
    for variable, array, blocks in zip(lazy, arrays, compute_as_if_collection(da.Array, graph, keys), strict=True):
        finish, arguments = array.__dask_postcompute__()
        variable.data = finish(blocks, *arguments)
    return done
