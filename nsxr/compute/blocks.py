"""Run kernels on blocks, with or without a halo: the only module that knows dask arrays.

A kernel is a NumPy function; it gets its core dims first to last in the order named here and never
sees xarray or dask. Building a graph computes nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from nsxr.compute.layouts import in_groups, one_chunk
from nsxr.errors import ModelError

__all__ = [
    "compute_together",
    "map_blocks",
    "map_with_halo",
    "reduce_blocks",
    "reduce_tree",
    "settle",
    "settled",
    "spread_blocks",
    "store",
    "take_rows",
    "unlabelled",
]


_SETTLE = "settle-"


def compute_together(*collections: Any) -> tuple[Any, ...]:
    """Compute lazy arrays and Datasets in one graph, so that what they share is computed once."""
    return tuple(dask.compute(*collections))


def unlabelled(array: xr.DataArray) -> xr.DataArray:
    """Return an array without coordinates.

    Arithmetic compares coordinates, and comparing lazy ones computes them.
    """
    return array.drop_vars(list(array.coords))


def map_blocks(
    kernel: Callable[..., Any],
    *arrays: xr.DataArray,
    core: Sequence[str],
    outputs: Sequence[tuple[Sequence[str], type[np.generic]]],
    sizes: dict[str, int] | None = None,
    reduced: dict[int, str] | None = None,
    joined: str | None = None,
    within: tuple[str, slice] | None = None,
    **parameters: Any,
) -> tuple[xr.DataArray, ...]:
    """Apply a kernel to blocks that hold the ``core`` dims whole.

    Blocks reach the kernel with dims in the order of the first array, exactly as stored, so a
    kernel for ``(integration, group, row, column)`` always gets C-ordered four-dimensional blocks
    and loops as it likes; other arrays keep those of the dims that they have, in the same order.

    Parameters
    ----------
    kernel : callable
        ``kernel(*blocks, **parameters)`` returning one array per output, in order.
    *arrays : DataArray
        The first one sets the dims and their order.
    core : sequence of str
        Dims that a block must hold whole. A lazy array split along one of them is an error:
        choosing chunks belongs to :mod:`nsxr.compute.layouts`.
    outputs : sequence of (dims, dtype)
        Dims and dtype of each output; dims are a subset of the first array's, in its order, or
        new ones whose lengths ``sizes`` gives.
    sizes : dict, optional
        Lengths of new dims.
    reduced : dict, optional
        Numbers of outputs that have length 1 along one dim for each block along it, and that dim: sums to be
        combined by :func:`reduce_tree`. They carry no coordinates along it.
    joined : str, optional
        A core dim that may be split; its blocks are put together just before the kernel runs, one task at a time.
    within : (dim, slice), optional
        The part of a core dim that the kernel gets, of each block, and that two or more outputs have. Cut in the
        task: dask copies the pieces that it cuts.
    **parameters
        Passed to the kernel.
    """
    first = arrays[0]
    loop = tuple(str(d) for d in first.dims if d not in core)
    lengths = {str(d): n for array in arrays for d, n in array.sizes.items()} | (sizes or {})
    if within is not None:
        lengths[within[0]] = len(range(lengths[within[0]])[within[1]])
    for array in arrays:
        for dim, chunks in zip(array.dims, array.chunks or (), strict=False):
            if dim in core and dim != joined and len(chunks) > 1:
                raise ModelError(f"array is split along {dim!r} into chunks {chunks}, but one chunk is needed")
    for wanted, _ in outputs:
        lost = [d for d in loop if d not in wanted]
        if lost:
            raise ModelError(f"an output without the loop dims {lost} cannot be computed block by block")

    axes = [list(array.dims).index(joined) if joined in array.dims else 0 for array in arrays]
    cuts = [tuple(within[1] if within and d == within[0] else slice(None) for d in array.dims) for array in arrays]

    def run(*blocks: Any) -> Any:
        whole = (_whole(block, cut, axis) for block, cut, axis in zip(blocks, cuts, axes, strict=True))
        return kernel(*whole, **parameters)

    if all(array.chunks is None for array in arrays):
        results = run(*(array.values for array in arrays))
        data = list(results) if isinstance(results, tuple) else [results]
    else:
        # dims keep their places, and a dim that the kernel sums over arrives as a list of its one block:
        # apply_ufunc would move the core dims to the end, which copies every block, badly
        pairs: list[Any] = []
        for array in arrays:
            pairs += [array.data, tuple(map(str, array.dims))]
        if len(outputs) == 1:
            dims, dtype = outputs[0]
            new = {d: lengths[d] for d in dims if d in (sizes or {})}
            adjust = {reduced[0]: 1} if reduced else None
            data = [_blockwise(run, dims, pairs, new, dtype, adjust)]
        else:
            together = _blockwise(run, loop, pairs, {}, np.object_)
            data = [
                _blockwise(
                    _pick,
                    dims,
                    [together, loop],
                    {d: lengths[d] for d in dims if d not in loop},
                    dtype,
                    adjust={reduced[number]: 1} if reduced and number in reduced else None,
                    number=number,
                )
                for number, (dims, dtype) in enumerate(outputs)
            ]
    found: list[xr.DataArray] = []
    for number, ((dims, _), values) in enumerate(zip(outputs, data, strict=True)):
        labelled = {d for d in dims if not (reduced and reduced.get(number) == d) and not (within and within[0] == d)}
        coordinates = {
            name: c for array in reversed(arrays) for name, c in array.coords.items() if labelled.issuperset(c.dims)
        }
        found.append(xr.DataArray(values, dims=dims, coords=coordinates))
    return tuple(found)


def _blockwise(
    function: Callable[..., Any],
    dims: Sequence[str],
    pairs: list[Any],
    new: dict[str, int],
    dtype: type[np.generic],
    adjust: dict[str, int] | None = None,
    **parameters: Any,
) -> da.Array:
    return da.blockwise(
        function,
        tuple(dims),
        *pairs,
        new_axes=new or None,
        adjust_chunks=adjust,
        dtype=dtype,
        meta=np.empty((0,) * len(dims), dtype=dtype),
        concatenate=False,
        **parameters,
    )


def _whole(block: Any, cut: tuple[slice, ...], axis: int) -> np.ndarray:
    """Return a block that came in nested lists, C-ordered and writeable, for which kernels are compiled."""
    parts = [block]
    while isinstance(parts[0], list):
        parts = [part for inner in parts for part in inner]
    parts = [np.asarray(part)[cut] for part in parts]
    return np.require(parts[0] if len(parts) == 1 else np.concatenate(parts, axis), requirements=["C", "W"])


def _pick(results: tuple[np.ndarray, ...], number: int) -> np.ndarray:
    return results[number]


def map_with_halo(
    kernel: Callable[..., np.ndarray],
    array: xr.DataArray,
    depth: dict[str, int],
    boundary: Any,
    dtype: type[np.generic] | None = None,
    **parameters: Any,
) -> xr.DataArray:
    """Apply a kernel that needs neighbours along some dims; the shape stays.

    Parameters
    ----------
    kernel : callable
        ``kernel(block, **parameters)`` on a block that carries the halo, returning the same shape.
    array : DataArray
        Input; dims not in ``depth`` get no halo.
    depth : dict
        Halo width per dim, pixels.
    boundary : scalar
        Value beyond the edges of the array.
    dtype : type, optional
        Output dtype; default that of the input.
    **parameters
        Passed to the kernel.
    """
    depths = {axis: depth.get(str(dim), 0) for axis, dim in enumerate(array.dims)}
    if array.chunks is None:
        width = [(depths[axis],) * 2 for axis in range(array.ndim)]
        padded = np.pad(array.values, width, constant_values=boundary)
        inner = tuple(slice(d, d + n) for (d, _), n in zip(width, array.shape, strict=True))
        return array.copy(data=kernel(padded, **parameters)[inner])
    for axis, lengths in enumerate(array.chunks):
        if len(lengths) > 1 and min(lengths) < depths[axis]:
            raise ModelError(
                f"chunks {lengths} along {array.dims[axis]!r} are shorter than the halo of {depths[axis]} pixels"
            )
    data = da.map_overlap(
        kernel,
        array.data,
        depth=depths,
        boundary=dict.fromkeys(range(array.ndim), boundary),
        dtype=dtype or array.dtype,
        allow_rechunk=False,
        meta=np.empty((0,) * array.ndim, dtype=dtype or array.dtype),
        **parameters,
    )
    return array.copy(data=data)


def reduce_blocks(
    kernel: Callable[..., np.ndarray], array: xr.DataArray, dim: str, dtype: type[np.generic], **parameters: Any
) -> xr.DataArray:
    """Reduce each block along a dim, whatever its chunks; the caller combines the few that remain.

    Parameters
    ----------
    kernel : callable
        ``kernel(block, start, **parameters)`` with ``start`` the position of the block along the dim;
        returns the block with that dim of length 1.
    array : DataArray
        Input.
    dim : str
        Dim to reduce.
    dtype : type
        Dtype of the result.
    **parameters
        Passed to the kernel.

    Returns
    -------
    DataArray
        Without coordinates along ``dim``, whose length is the number of chunks along it (1 for NumPy).
    """
    axis = array.get_axis_num(dim)
    if array.chunks is None:
        data: Any = kernel(array.values, 0, **parameters)
    else:
        starts = np.cumsum((0, *array.chunks[axis][:-1]))

        def run(block: np.ndarray, block_info: Any = None) -> np.ndarray:
            return kernel(block, int(starts[block_info[0]["chunk-location"][axis]]), **parameters)

        chunks = tuple((1,) * len(c) if i == axis else c for i, c in enumerate(array.chunks))
        data = da.map_blocks(run, array.data, chunks=chunks, dtype=dtype, meta=np.empty((0,) * array.ndim, dtype=dtype))
    coordinates = {name: c for name, c in array.coords.items() if dim not in c.dims}
    return xr.DataArray(data, dims=array.dims, coords=coordinates)


def reduce_tree(
    kernel: Callable[[np.ndarray], np.ndarray], array: xr.DataArray, dim: str, dtype: type[np.generic]
) -> xr.DataArray:
    """Reduce an array along a dim to length 1, a few blocks at a time, so that few have to be held at once.

    Parameters
    ----------
    kernel : callable
        ``kernel(block)`` returns the block with that dim of length 1. Associative.
    array : DataArray
        Input, without coordinates along ``dim``.
    dim : str
        Dim to reduce.
    dtype : type
        Dtype of the result.
    """
    reduced = reduce_blocks(lambda block, start: kernel(block), array, dim, dtype)
    while reduced.sizes[dim] > 1:
        reduced = reduce_blocks(lambda block, start: kernel(block), in_groups(reduced, dim), dim, dtype)
    return reduced


def spread_blocks(array: xr.DataArray, model: xr.DataArray, dim: str) -> xr.DataArray:
    """Return an array with an entry along a dim for each block of ``model``, repeated to the length of the block.

    The inverse of a reduction of blocks; other dims that both have are chunked as in ``model``. Without chunks it
    stays as it is.
    """
    if model.chunks is None:
        return array
    lengths = dict(zip(model.dims, model.chunks, strict=True))
    aligned = array.chunk({d: 1 if d == dim else lengths.get(d, -1) for d in array.dims})
    axis = aligned.get_axis_num(dim)
    starts = np.cumsum((0, *lengths[dim]))

    def repeat(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        number = block_info[0]["chunk-location"][axis]
        return np.repeat(block, int(starts[number + 1] - starts[number]), axis)

    assert aligned.chunks is not None
    chunks = tuple(lengths[dim] if i == axis else c for i, c in enumerate(aligned.chunks))
    meta = np.empty((0,) * array.ndim, dtype=array.dtype)
    data = da.map_blocks(repeat, aligned.data, chunks=chunks, dtype=array.dtype, meta=meta)
    return xr.DataArray(data, dims=array.dims)


def settle(array: xr.DataArray) -> xr.DataArray:
    """Mark a small array for which many blocks wait: when products are written it is computed by itself, first.

    Limits found in all integrations, or flags of whole frames, come from all of the pixels, and all of the
    pixels need them. In one graph, the pixels would be kept in memory meanwhile. Where a settled array is
    computed before the rest (:func:`settled`), they are let go and read a second time, which is cheap.
    """
    if array.chunks is None:
        return array
    name = f"{_SETTLE}{array.data.name}"
    return array.copy(data=array.data.map_blocks(_same, name=name, dtype=array.dtype, meta=array.data._meta))


def _same(block: np.ndarray) -> np.ndarray:
    return block


def settled(collections: Sequence[Any], persist: Callable[[list[da.Array]], Sequence[da.Array]]) -> list[Any]:
    """Compute the arrays marked by :func:`settle`, and return the collections on top of the results.

    Parameters
    ----------
    collections : sequence of dask collections
        From :func:`store`, for instance.
    persist : callable
        Computes arrays together and returns them with their results, as :func:`dask.persist` does. Called once for
        all that do not wait for each other.
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


def _finished(graph: HighLevelGraph) -> set[str]:
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
    """Return the array that a layer of a graph holds; the lengths of its chunks do not matter."""
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


def take_rows(array: xr.DataArray, rows: np.ndarray, n_bands: int) -> xr.DataArray:
    """Return rows by position, in equal bands each of which needs few blocks of the input.

    Indexing a lazy array with all positions at once would tie every block of the result to every
    block of the input; a band for each IRS2 output keeps outputs apart.

    Parameters
    ----------
    array : DataArray
        With dim ``row``.
    rows : (n,) int
        Ascending positions, with repetitions if need be.
    n_bands : int
        Number of bands in the result; must divide n.

    Returns
    -------
    DataArray
        Without coordinates along ``row``.
    """
    axis = array.get_axis_num("row")
    array = array.drop_vars([name for name, c in array.coords.items() if "row" in c.dims])
    if array.chunks is None:
        return array.isel(row=rows)
    dims = [str(dim) for dim in array.dims]
    parts = []
    for part in np.split(rows, n_bands):
        first = int(part[0])
        source = one_chunk(array.isel(row=slice(first, int(part[-1]) + 1)), "row").rename(row="source_row")
        (taken,) = map_blocks(
            np.take,
            source,
            core=("source_row",),
            outputs=[(dims, array.dtype.type)],
            sizes={"row": part.size},
            indices=part - first,
            axis=axis,
        )
        parts.append(taken)
    return xr.concat(parts, "row", coords="minimal", compat="override")


def store(arrays: Sequence[xr.DataArray], targets: Sequence[Any]) -> tuple[Any, ...]:
    """Return dask collections that, computed together, put lazy arrays into their targets.

    One graph for all: graphs that are optimised apart would each read the raw pixels.

    Parameters
    ----------
    arrays : sequence of DataArray
        Lazy arrays.
    targets : sequence
        Objects to whose slices NumPy blocks can be assigned, from several threads or processes at once.
    """
    stored = da.store([array.data for array in arrays], list(targets), lock=False, compute=False)
    return stored if isinstance(stored, tuple) else (stored,)
