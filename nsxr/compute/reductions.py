"""Reduce lazy arrays block by block, and spread the results over the blocks again."""

from collections.abc import Callable, Mapping, Sequence

import dask.array as da
import numpy as np
import xarray as xr

from nsxr.compute.layouts import in_groups

_Info = Mapping[int, Mapping[str, Sequence[int]]]
_UNKNOWN: _Info = {}  # dask passes the position of each block as block_info

__all__ = ["add_blocks", "reduce_blocks", "reduce_tree", "spread_blocks"]


def reduce_blocks(
    kernel: Callable[..., np.ndarray], array: xr.DataArray, dim: str, dtype: type[np.generic], **parameters: object
) -> xr.DataArray:
    """Reduce each block along a dim to length 1. The caller combines the results of the blocks.

    Parameters
    ----------
    kernel : callable
        ``kernel(block, start, **parameters)``, where ``start`` is the position of the block along the dim. It returns
        the block with that dim of length 1.
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
        The results, without coordinates along ``dim``. The length of ``dim`` is its number of chunks (1 for NumPy).
    """
    axis = array.get_axis_num(dim)
    if array.chunks is None:
        data: np.ndarray | da.Array = kernel(array.values, 0, **parameters)
    else:
        starts = np.cumsum((0, *array.chunks[axis][:-1]))

        def run(block: np.ndarray, block_info: _Info = _UNKNOWN) -> np.ndarray:
            return kernel(block, int(starts[block_info[0]["chunk-location"][axis]]), **parameters)

        chunks = tuple((1,) * len(c) if i == axis else c for i, c in enumerate(array.chunks))
        data = da.map_blocks(run, array.data, chunks=chunks, dtype=dtype, meta=np.empty((0,) * array.ndim, dtype=dtype))
    coordinates = {name: c for name, c in array.coords.items() if dim not in c.dims}
    return xr.DataArray(data, dims=array.dims, coords=coordinates)


def reduce_tree(
    kernel: Callable[[np.ndarray], np.ndarray], array: xr.DataArray, dim: str, dtype: type[np.generic]
) -> xr.DataArray:
    """Reduce an array along a dim to length 1, a few blocks at a time, so that few blocks are in memory at once.

    Parameters
    ----------
    kernel : callable
        ``kernel(block)`` returns the block with that dim of length 1. It must be associative.
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


def add_blocks(block: np.ndarray) -> np.ndarray:
    """Return the sum along the first dim, which keeps length 1: a kernel for :func:`reduce_tree`."""
    total: np.ndarray = block.sum(0, keepdims=True)
    return total


def spread_blocks(array: xr.DataArray, model: xr.DataArray, dim: str) -> xr.DataArray:
    """Repeat each entry of an array along a dim to the length of the corresponding block of ``model``.

    This is the inverse of :func:`reduce_blocks`: the array has one entry for each block. Other dims that both arrays
    have are chunked as in ``model``. If ``model`` has no chunks, the array is returned unchanged.
    """
    if model.chunks is None:
        return array
    lengths = dict(zip(model.dims, model.chunks, strict=True))
    aligned = array.chunk({d: 1 if d == dim else lengths.get(d, -1) for d in array.dims})
    axis = aligned.get_axis_num(dim)
    starts = np.cumsum((0, *lengths[dim]))

    def repeat(block: np.ndarray, block_info: _Info = _UNKNOWN) -> np.ndarray:
        number = block_info[0]["chunk-location"][axis]
        return np.repeat(block, int(starts[number + 1] - starts[number]), axis)

    assert aligned.chunks is not None
    chunks = tuple(lengths[dim] if i == axis else c for i, c in enumerate(aligned.chunks))
    meta = np.empty((0,) * array.ndim, dtype=array.dtype)
    data = da.map_blocks(repeat, aligned.data, chunks=chunks, dtype=array.dtype, meta=meta)
    return xr.DataArray(data, dims=array.dims)
