"""Compute an exposure in several passes, so that little of it is in memory at once.

This is the only module that rewrites graphs of dask. It relies on three facts about these graphs. They are kept as
layers with names. A layer names the layers that it depends on. A function that is mapped over blocks is one
``Blockwise`` layer. ``tests/compute/test_passes.py`` fails for a version of dask that breaks one of these facts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

__all__ = ["settle", "settle_flags", "settled"]

_SETTLE = "settle-"


def settle(array: xr.DataArray) -> xr.DataArray:
    """Mark a small array to be computed first, in a pass of its own, when products are written.

    Limits from all integrations and flags of whole frames depend on all pixels, and all pixels then need them. In a
    single pass all pixels would stay in memory until then. With a separate pass for the small array (:func:`settled`),
    the pixels are dropped and read a second time, which is cheap.
    """
    if array.chunks is None:
        return array
    name = f"{_SETTLE}{array.data.name}"
    return array.copy(data=array.data.map_blocks(_same, name=name, dtype=array.dtype, meta=array.data._meta))


def settle_flags(ramps: xr.Dataset) -> xr.Dataset:
    """Mark ``groupdq`` and all variables without rows to be computed first, if chunks hold a part of the rows.

    Use this for flags that are found in whole frames. The signal of a frame then need not stay in memory until its
    flags are known.
    """
    chunks = ramps["sci"].variable.chunksizes.get("row", ())  # coordinates may have other chunks
    if len(chunks) <= 1:
        return ramps
    waiting = [name for name, array in ramps.data_vars.items() if name == "groupdq" or "row" not in array.dims]
    return ramps.assign({name: settle(ramps[name]) for name in waiting})


def settled(collections: Sequence[Any], persist: Callable[[list[da.Array]], Sequence[da.Array]]) -> list[Any]:
    """Compute the arrays that :func:`settle` marked, and return the collections on top of the results.

    Parameters
    ----------
    collections : sequence of dask collections
        Collections, for instance from :func:`nsxr.compute.blocks.store`.
    persist : callable
        Function that computes arrays together and returns them with their results, like :func:`dask.persist`. It is
        called once for all marked arrays that do not depend on each other.
    """
    while True:
        graph = HighLevelGraph.merge(*(collection.__dask_graph__() for collection in collections))
        marked = {name for name in graph.layers if name.startswith(_SETTLE)} - _finished(graph)
        if not marked:
            return list(collections)
        first = [name for name in sorted(marked) if not _above(graph, name) & marked]
        results = persist([_array(graph, name) for name in first])
        done = {array.name: MaterializedLayer(dict(array.__dask_graph__())) for array in results}
        collections = [_on_top(collection, done) for collection in collections]


def _same(block: np.ndarray) -> np.ndarray:
    return block


def _finished(graph: HighLevelGraph) -> set[str]:
    """Return the names of the layers that hold results."""
    return {name for name, layer in graph.layers.items() if isinstance(layer, MaterializedLayer)}


def _above(graph: HighLevelGraph, name: str) -> set[str]:
    """Return all layers that a layer depends on."""
    found: set[str] = set()
    waiting = list(graph.dependencies[name])
    while waiting:
        layer = waiting.pop()
        if layer not in found:
            found.add(layer)
            waiting += graph.dependencies[layer]
    return found


def _array(graph: HighLevelGraph, name: str) -> da.Array:
    """Return the array of a layer of a graph. The lengths of its chunks are unknown and not needed."""
    layer = graph.layers[name]
    blocks = layer.numblocks[layer.indices[0][0]]
    meta = np.empty((0,) * len(blocks))
    return da.Array(graph.cull_layers([name]), name, tuple((np.nan,) * n for n in blocks), meta=meta)


def _on_top(collection: Any, done: Mapping[str, MaterializedLayer]) -> Any:
    """Return a collection with some layers of its graph replaced by results."""
    graph = collection.__dask_graph__()
    layers = {name: done.get(name, layer) for name, layer in graph.layers.items()}
    dependencies = {name: set() if name in done else above for name, above in graph.dependencies.items()}
    rebuild, arguments = collection.__dask_postpersist__()
    return rebuild(HighLevelGraph(layers, dependencies), *arguments)
