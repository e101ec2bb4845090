"""Run kernels on blocks, with or without a halo: the only module that knows dask arrays.

A kernel is a NumPy function; it gets its core dims first to last in the order named here and never
sees xarray or dask. Building a graph computes nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from nsxr.errors import ModelError
from nsxr.model.chunking import one_chunk

__all__ = ["map_blocks", "map_with_halo", "reduce_blocks", "store", "take_rows", "unlabelled"]


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
        choosing chunks belongs to :mod:`nsxr.model.chunking`.
    outputs : sequence of (dims, dtype)
        Dims and dtype of each output; dims are a subset of the first array's, in its order, or
        new ones whose lengths ``sizes`` gives.
    sizes : dict, optional
        Lengths of new dims.
    **parameters
        Passed to the kernel.
    """
    first = arrays[0]
    loop = tuple(str(d) for d in first.dims if d not in core)
    lengths = {str(d): n for array in arrays for d, n in array.sizes.items()} | (sizes or {})
    for array in arrays:
        for dim, chunks in zip(array.dims, array.chunks or (), strict=False):
            if dim in core and len(chunks) > 1:
                raise ModelError(f"array is split along {dim!r} into chunks {chunks}, but one chunk is needed")
    for wanted, _ in outputs:
        lost = [d for d in loop if d not in wanted]
        if lost:
            raise ModelError(f"an output without the loop dims {lost} cannot be computed block by block")

    def run(*blocks: Any) -> Any:
        return kernel(*(_unpacked(block) for block in blocks), **parameters)

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
            data = [_blockwise(run, dims, pairs, {d: lengths[d] for d in dims if d in (sizes or {})}, dtype)]
        else:
            together = _blockwise(run, loop, pairs, {}, np.object_)
            data = [
                _blockwise(
                    _pick, dims, [together, loop], {d: lengths[d] for d in dims if d not in loop}, dtype, number=number
                )
                for number, (dims, dtype) in enumerate(outputs)
            ]
    found: list[xr.DataArray] = []
    for (dims, _), values in zip(outputs, data, strict=True):
        coordinates = {
            name: c for array in reversed(arrays) for name, c in array.coords.items() if set(c.dims) <= set(dims)
        }
        found.append(xr.DataArray(values, dims=dims, coords=coordinates))
    return tuple(found)


def _blockwise(
    function: Callable[..., Any],
    dims: Sequence[str],
    pairs: list[Any],
    new: dict[str, int],
    dtype: type[np.generic],
    **parameters: Any,
) -> da.Array:
    meta = np.empty((0,) * len(dims), dtype=dtype)
    return da.blockwise(
        function, tuple(dims), *pairs, new_axes=new or None, dtype=dtype, meta=meta, concatenate=False, **parameters
    )


def _unpacked(block: Any) -> np.ndarray:
    while isinstance(block, list):
        (block,) = block
    return np.asarray(block)


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
