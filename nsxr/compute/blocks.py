"""Run NumPy kernels on the blocks of lazy arrays, with or without a halo.

A kernel is a function of NumPy arrays. It uses neither xarray nor dask. Nothing is computed while a graph is built.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from nsxr.compute.layouts import one_chunk
from nsxr.compute.single import pick, run_once
from nsxr.errors import ModelError
from nsxr.model.types import Attributes

__all__ = [
    "Output",
    "compute_together",
    "map_blocks",
    "map_with_halo",
    "store",
    "take_rows",
    "unlabelled",
]

Kernel = Callable[..., np.ndarray | tuple[np.ndarray, ...]]
"""A function of NumPy arrays."""

_Chunks = tuple[tuple[int, ...], ...] | None

_Block = np.ndarray | list["_Block"]

Output = tuple[Sequence[str], type[np.generic]]
"""Dims and dtype of an array that a kernel returns."""


def compute_together(*collections: object) -> tuple[Any, ...]:
    """Compute lazy arrays and Datasets in one graph. Parts that they share are computed once."""
    return tuple(dask.compute(*collections))


def unlabelled(array: xr.DataArray) -> xr.DataArray:
    """Return an array without coordinates.

    Arithmetic compares coordinates, and the comparison of lazy coordinates would compute them.
    """
    return array.drop_vars(list(array.coords))


def map_blocks(
    kernel: Kernel,
    *arrays: xr.DataArray,
    core: Sequence[str],
    outputs: Mapping[str, Output],
    sizes: Mapping[str, int] | None = None,
    reduced: Mapping[str, str] | None = None,
    joined: str | None = None,
    within: tuple[str, slice] | None = None,
    **parameters: object,
) -> dict[str, xr.DataArray]:
    """Apply a kernel to blocks that hold the ``core`` dims whole.

    A block has its dims in the order of the array that it is cut from, and is C-ordered. A kernel for
    ``(integration, group, row, column)`` always gets blocks of four dims.

    The first array decides how all arrays are split. The other arrays get its chunks along the dims that they share
    with it, and one chunk along the ``core`` dims and along dims that the first array does not have. The first array
    itself must hold the ``core`` dims in one chunk: :mod:`nsxr.compute.layouts` has the functions for it.

    Parameters
    ----------
    kernel : callable
        ``kernel(*blocks, **parameters)``. It returns the array of the one output, or a tuple with the arrays of all
        outputs in their order.
    *arrays : DataArray
        The first one sets the dims, their order and the chunks.
    core : sequence of str
        Dims that a block must hold whole.
    outputs : mapping
        Dims and dtype of each output by its name. Every output has all dims of the first array that are not ``core``;
        its other dims are ``core`` dims, or new ones whose lengths ``sizes`` gives.
    sizes : mapping, optional
        Lengths of new dims.
    reduced : mapping, optional
        Outputs that have length 1 along one dim for each block along it, and that dim. :func:`reduce_tree` combines
        such outputs.
    joined : str, optional
        A core dim that may be split. Its blocks are joined just before the kernel runs, in the same task.
    within : (dim, slice), optional
        The part of a core dim that the kernel gets and that two or more outputs have. The task itself cuts this part
        out of the block, because dask would copy it.
    **parameters
        Passed to the kernel.

    Returns
    -------
    dict of DataArray
        The outputs by name, without coordinates. They are lazy if an array is lazy.

    Raises
    ------
    ModelError
        If the first array is split along a core dim, or an output lacks a dim along which blocks may be split.
    """
    plain, chunks = _aligned([array.variable for array in arrays], core, joined)
    data = _apply(kernel, plain, chunks, core, outputs, sizes or {}, reduced or {}, joined, within, parameters)
    return {
        name: xr.DataArray(values, dims=dims) for (name, (dims, _)), values in zip(outputs.items(), data, strict=True)
    }


def _aligned(
    arrays: Sequence[xr.Variable], core: Sequence[str], joined: str | None
) -> tuple[list[xr.Variable], list[_Chunks]]:
    """Return the arrays and their chunks. All but the first one get the chunks that :func:`map_blocks` describes."""
    first, chunks = arrays[0], arrays[0].chunks
    lengths: dict[str, int | tuple[int, ...]] = dict(zip(map(str, first.dims), chunks or (), strict=False))
    lengths |= {dim: -1 for dim in core if dim != joined}
    aligned, found = [first], [chunks]
    for array in arrays[1:]:
        own = array.chunks  # each time xarray looks this up anew, for 20 microseconds
        if chunks is not None:
            wanted = {dim: lengths.get(str(dim), -1) for dim in array.dims}
        else:  # lazy arrays keep their chunks if no dim must be whole
            wanted = {dim: -1 for dim in array.dims if dim in core and dim != joined}
        if not _has_chunks(array, own, wanted, chunks is None):
            array = array.chunk(wanted)
            own = array.chunks
        aligned.append(array)
        found.append(own)
    return aligned, found


def _has_chunks(array: xr.Variable, chunks: _Chunks, wanted: Attributes, may_be_whole: bool) -> bool:
    """Return whether an array has the wanted chunks. This saves a call of ``chunk``, which takes half a millisecond."""
    if chunks is None:
        return may_be_whole
    found = dict(zip(array.dims, chunks, strict=True))
    return all(len(found[dim]) == 1 if lengths == -1 else found[dim] == lengths for dim, lengths in wanted.items())


def _apply(
    kernel: Kernel,
    arrays: Sequence[xr.Variable],
    chunks: Sequence[_Chunks],
    core: Sequence[str],
    outputs: Mapping[str, Output],
    sizes: Mapping[str, int],
    reduced: Mapping[str, str],
    joined: str | None,
    within: tuple[str, slice] | None,
    parameters: Mapping[str, object],
) -> list[np.ndarray | da.Array]:
    """Return the data of each output, as NumPy or dask arrays."""
    loop = tuple(str(d) for d in arrays[0].dims if d not in core)
    _check(arrays, chunks, [d for d in core if d != joined], outputs, loop)
    axes = [list(array.dims).index(joined) if joined in array.dims else 0 for array in arrays]
    cuts = [tuple(within[1] if within and d == within[0] else slice(None) for d in array.dims) for array in arrays]

    def run(*blocks: _Block) -> np.ndarray | tuple[np.ndarray, ...]:
        whole = (_whole(block, cut, axis) for block, cut, axis in zip(blocks, cuts, axes, strict=True))
        return kernel(*whole, **parameters)

    if all(each is None for each in chunks):
        results = run(*(array.values for array in arrays))
        return list(results) if isinstance(results, tuple) else [results]
    lengths = {str(d): n for array in arrays for d, n in array.sizes.items()} | dict(sizes)
    if within is not None:
        lengths[within[0]] = len(range(lengths[within[0]])[within[1]])
    if all(each is not None and all(len(parts) == 1 for parts in each) for each in chunks):
        shapes = repr((cuts, axes, list(outputs.items())))  # dask goes through nested lists ten times as slowly
        token = tokenize(_named(kernel), parameters, shapes, [array.data.name for array in arrays])
        made = [
            (tuple(1 if reduced.get(name) == d else lengths[d] for d in dims), dtype)
            for name, (dims, dtype) in outputs.items()
        ]
        return run_once(run, [array.data for array in arrays], made, token)
    # Dims keep their order. A dim that the kernel sums over arrives as a list with its one block.
    # apply_ufunc would move the core dims to the end, which makes slow copies of every block.
    pairs: list[object] = []
    for array in arrays:
        pairs += [array.data, tuple(map(str, array.dims))]
    if len(outputs) == 1:
        ((name, (dims, dtype)),) = outputs.items()
        new = {d: lengths[d] for d in dims if d in sizes}
        return [_blockwise(run, dims, pairs, new, dtype, {reduced[name]: 1} if reduced else None)]
    together = _blockwise(run, loop, pairs, {}, np.object_)
    data = []
    for number, (name, (dims, dtype)) in enumerate(outputs.items()):
        new = {d: lengths[d] for d in dims if d not in loop}
        adjust = {reduced[name]: 1} if name in reduced else None
        # named after the task that it is picked from: making a name from the arguments would take most of the time
        picked = f"pick-{together.name.rpartition('-')[2]}-{number}"
        data.append(_blockwise(pick, dims, [together, loop], new, dtype, adjust, name=picked, number=number))
    return data


def _named(kernel: Kernel) -> object:
    """Return what tells a kernel from others: the name of a function of a module, or else the function."""
    name = getattr(kernel, "__qualname__", "<")
    # a function of a notebook may change
    is_fixed = "<" not in name and not hasattr(kernel, "__self__") and kernel.__module__ != "__main__"
    return (kernel.__module__, name) if is_fixed else kernel


def _check(
    arrays: Sequence[xr.Variable],
    chunks: Sequence[_Chunks],
    whole: Sequence[str],
    outputs: Mapping[str, Output],
    loop: Sequence[str],
) -> None:
    for array, each in zip(arrays, chunks, strict=True):
        for dim, parts in zip(array.dims, each or (), strict=False):
            if dim in whole and len(parts) > 1:
                raise ModelError(
                    f"an array is split along {dim!r} into chunks {parts}, expected one chunk; call one_chunk"
                )
    for name, (dims, _) in outputs.items():
        lost = [d for d in loop if d not in dims]
        if lost:
            raise ModelError(f"output {name!r} has dims {tuple(dims)} without {lost}, along which blocks may be split")


def _blockwise(
    function: Kernel,
    dims: Sequence[str],
    pairs: list[object],
    new: dict[str, int],
    dtype: type[np.generic],
    adjust: dict[str, int] | None = None,
    name: str | None = None,
    **parameters: object,
) -> da.Array:
    return da.blockwise(
        function,
        tuple(dims),
        *pairs,
        name=name,
        new_axes=new or None,
        adjust_chunks=adjust,
        dtype=dtype,
        meta=np.empty((0,) * len(dims), dtype=dtype),
        concatenate=False,
        **parameters,
    )


def _whole(block: _Block, cut: tuple[slice, ...], axis: int) -> np.ndarray:
    """Return a block from its nested lists. It is C-ordered and writeable, because kernels are compiled for that."""
    parts = [block]
    while isinstance(parts[0], list):
        parts = [part for inner in parts for part in inner]
    parts = [np.asarray(part)[cut] for part in parts]
    return np.require(parts[0] if len(parts) == 1 else np.concatenate(parts, axis), requirements=["C", "W"])


def map_with_halo(
    kernel: Callable[..., np.ndarray],
    array: xr.DataArray,
    depth: dict[str, int],
    boundary: float | np.generic,
    dtype: type[np.generic] | None = None,
    **parameters: object,
) -> xr.DataArray:
    """Apply a kernel that needs neighbours along some dims. The shape does not change.

    Parameters
    ----------
    kernel : callable
        ``kernel(block, **parameters)`` on a block that includes the halo. It returns an array of the same shape.
    array : DataArray
        Input. Dims not in ``depth`` get no halo.
    depth : dict
        Width of the halo by dim, in pixels.
    boundary : scalar
        Value beyond the edges of the array.
    dtype : type, optional
        Dtype of the result. Default: that of the input.
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


def take_rows(array: xr.DataArray, rows: np.ndarray, n_bands: int) -> xr.DataArray:
    """Return rows by position, in equal bands. Each band depends on few blocks of the input.

    If a lazy array were indexed with all positions at once, every block of the result would depend on every block of
    the input. With a band for each IRS2 output, a block of the result depends on one output only.

    Parameters
    ----------
    array : DataArray
        Array with dim ``row``.
    rows : (n,) int
        Positions in ascending order. Repetitions are allowed.
    n_bands : int
        Number of bands in the result. It must divide n.

    Returns
    -------
    DataArray
        The rows, without coordinates along ``row``.
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
        taken = map_blocks(
            np.take,
            source,
            core=("source_row",),
            outputs={"taken": (dims, array.dtype.type)},
            sizes={"row": part.size},
            indices=part - first,
            axis=axis,
        )["taken"]
        parts.append(taken)
    return xr.concat(parts, "row").assign_coords(array.coords)


def store(arrays: Sequence[xr.DataArray], targets: Sequence[object]) -> tuple[object, ...]:
    """Return dask collections that write lazy arrays into their targets when they are computed together.

    All arrays share one graph. Graphs that are optimised separately would each read the raw pixels.

    Parameters
    ----------
    arrays : sequence of DataArray
        Lazy arrays.
    targets : sequence
        Objects to whose slices NumPy blocks can be assigned, from several threads or processes at once.
    """
    stored = da.store([array.data for array in arrays], list(targets), lock=False, compute=False)
    return stored if isinstance(stored, tuple) else (stored,)
