"""Write products as Zarr in format 3, which plain xarray can open.

Each dask chunk covers whole shards, so blocks are written without locks. A shard has chunks of about a megabyte. A
reader can therefore read only one slit, or only the light curves of some rows. Every chunk has a checksum, which
readers verify. Metadata are consolidated once, at the end. zarr is slow to import, and is imported only where it is
needed.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from nsxr.model.dq import PixelFlag
from nsxr.model.types import Entries
from nsxr.model.variables import TABLES
from nsxr.storage.options import NO_OPTIONS, StorageOptions
from nsxr.storage.remote_errors import remote_errors
from nsxr.storage.urls import is_remote

__all__ = ["CHUNK_BYTES", "ZarrTarget", "attributes", "consolidate", "create_zarr", "encoding", "trim_tables"]

CHUNK_BYTES = 2**20
"""Target size of the chunks inside a shard, uncompressed [bytes]."""

_FILL_ORDER = ("column", "group", "integration")
"""Dims along which a chunk grows first. The ramps and light curves of some rows are then in few chunks."""

_UNWRITTEN = float(np.float32(9.969209968386869e36))
"""Fill value of floats, which is netCDF's default. Zarr does not store chunks that equal the fill value. If it were NaN
or 0, chunks of other NaNs or of -0 would be changed when they are read."""

# xarray decodes these words to timedelta64 when it opens a file, but not the symbols of CF
_SYMBOLS = {"days": "d", "hours": "h", "minutes": "min", "seconds": "s", "milliseconds": "ms", "microseconds": "us"}


@dataclass(frozen=True)
class ZarrTarget:
    """One array in a Zarr store, on disk or at a URL. Assignment writes a block.

    The array is opened again for each block. The object can therefore be pickled, and a late block cannot create again
    a store that failed and has been removed.
    """

    path: str
    options: StorageOptions = NO_OPTIONS

    def __setitem__(self, index: object, block: object) -> None:
        import zarr

        with remote_errors(self.path):
            array = zarr.open_array(self.path, mode="r+", storage_options=_given(self.path, self.options))
            array[index] = np.asarray(block)

    def trim(self) -> None:
        """Cut off the unused rows at the end of a table. The first column is read back to find these rows."""
        import zarr

        with remote_errors(self.path):
            array = zarr.open_array(self.path, mode="r+", storage_options=_given(self.path, self.options))
            first = np.asarray(array[:, 0])
            array.resize((int(np.count_nonzero(~np.isnan(first))), *array.shape[1:]))


def trim_tables(pairs: Sequence[tuple[xr.DataArray, Any]]) -> None:
    """Cut off the unused rows of tables whose length became known late, after everything is stored.

    Parameters
    ----------
    pairs : sequence of (DataArray, target)
        Arrays that were stored, and their targets. Targets other than :class:`ZarrTarget` are ignored.
    """
    late = {variable for variable, _, _ in TABLES.values()}
    for array, target in pairs:
        if isinstance(target, ZarrTarget) and array.name in late:
            target.trim()


def _given(path: str, options: StorageOptions) -> Entries | None:
    return options.of(path) if is_remote(path) else None


def _plain(value: object) -> Any:
    """Return an attribute in a form that JSON can hold: NumPy scalars and arrays become numbers and lists."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def attributes(attrs: Mapping[str, object]) -> Entries:
    """Return attributes in a form that JSON can hold. Units of time in words become symbols."""
    plain = {str(key): _plain(value) for key, value in attrs.items()}
    if plain.get("units") in _SYMBOLS:
        plain["units"] = _SYMBOLS[plain["units"]]
    return plain


def encoding(array: xr.DataArray) -> Entries:
    """Return the Zarr encoding of one variable.

    Shards are the largest regular tiles that no boundary between dask chunks cuts. Inner chunks have all columns,
    groups and integrations of the shard, and as many rows as fit into :data:`CHUNK_BYTES` and divide the shard.
    There is no ``_FillValue``. Every bit pattern is therefore restored, also those of NaN, and no value means a missing
    pixel.

    Parameters
    ----------
    array : DataArray
        Variable of which only the name, dims, shape, dtype and chunks are used.
    """
    result: Entries = {"_FillValue": None, **_codecs(array)}
    if array.dtype.kind == "f":
        result["fill_value"] = _UNWRITTEN
    elif array.name in ("dq", "pixeldq", "groupdq"):
        result["fill_value"] = int(PixelFlag.DO_NOT_USE)  # pixels of a missing chunk must not look good
    if not array.ndim:
        return result
    lengths = array.chunks or tuple((n,) for n in array.shape)
    shard = tuple(math.gcd(*axis[:-1]) if len(axis) > 1 else max(axis[0], 1) for axis in lengths)
    budget = max(1, CHUNK_BYTES // array.dtype.itemsize)
    inner = [1] * array.ndim
    first = [array.get_axis_num(dim) for dim in _FILL_ORDER if dim in array.dims]
    for axis in [*first, *(axis for axis in reversed(range(array.ndim)) if axis not in first)]:
        part = min(shard[axis], budget)
        while shard[axis] % part:
            part -= 1
        inner[axis] = part
        budget = max(1, budget // part) if part == shard[axis] else 1
    result["chunks"] = tuple(inner)
    if tuple(inner) != shard:
        result["shards"] = shard
    return result


def _codecs(array: xr.DataArray) -> Entries:
    """Return the codecs of a variable, chosen from the table that ``ci/benchmarks/codecs.py`` prints.

    Sizes below are relative to the uncompressed size. Speeds are those of one core while writing. Noise is hard to
    compress: lz4 after a bit shuffle reduces rates to 0.86 at 430 MB/s, zstd 3 to 0.84 at 230 MB/s. For raw ramps zstd
    is better: 0.49 with all groups of a pixel next to each other, against 0.57 by lz4 without this order. Differences
    between groups would give 0.36, but the Zarr format has no such codec yet, and other readers could not open the
    ramps. Variances repeat in every integration, at distances larger than the blocks of blosc. Only zstd finds these
    repetitions: 0.29 at 510 MB/s, against 0.37 at 440 MB/s by lz4. Flags become tiny with any codec.
    """
    from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec, ZstdCodec

    typesize = 1 if array.dtype.kind == "O" else array.dtype.itemsize
    if array.dtype == np.uint16 and array.ndim == 4 and "group" in array.dims:
        group = array.get_axis_num("group")
        order = (*(axis for axis in range(array.ndim) if axis != group), group)
        blosc = BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=typesize)
        return {"filters": (TransposeCodec(order=order),), "compressors": (blosc, Crc32cCodec())}
    if str(array.name).startswith("var_") and "integration" in array.dims:
        return {"compressors": (ZstdCodec(level=1), Crc32cCodec())}
    blosc = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=typesize)
    return {"compressors": (blosc, Crc32cCodec())}


def _without_padding(dataset: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose tables in memory have no unused rows. For lazy tables, see :func:`trim_tables`."""
    for name, _, _ in TABLES.values():
        if name in dataset and dataset[name].chunks is None and dataset[name].ndim == 2:
            first = dataset[name].to_numpy()[:, 0]
            dataset = dataset.isel({dataset[name].dims[0]: slice(int(np.count_nonzero(~np.isnan(first))))})
    return dataset


def create_zarr(
    path: Path | str, nodes: Mapping[str, xr.Dataset], options: StorageOptions = NO_OPTIONS
) -> list[tuple[xr.DataArray, ZarrTarget]]:
    """Create a Zarr store with all metadata and coordinates, and return the targets of lazy arrays.

    Parameters
    ----------
    path : path or URL
        Directory to create. It must not exist.
    nodes : mapping of str to Dataset
        Content by name of the group. ``"/"`` is the root. Texts become Zarr strings, of any length.
    options : StorageOptions, optional
        Options for access to a URL.

    Returns
    -------
    list of (DataArray, ZarrTarget)
        Each lazy variable and its target. Variables in memory are already written.
    """
    targets = []
    root = str(path)
    for name, padded in {"/": xr.Dataset(), **nodes}.items():
        node = _without_padding(padded)
        texts = {
            key: node[key].astype(object) for key, variable in node.variables.items() if variable.dtype.kind == "U"
        }
        dataset = node.assign(texts).drop_encoding()
        dataset.attrs = attributes(node.attrs)
        for variable in dataset.variables.values():
            variable.attrs = attributes(variable.attrs)
        # xarray's delayed write is not used, because one graph must store FITS and Zarr to read raw pixels once
        dataset.to_zarr(
            root,
            group=None if name == "/" else name,
            mode="w-" if name == "/" else "a",
            zarr_format=3,
            consolidated=False,
            compute=False,
            encoding={str(key): encoding(dataset[key]) for key in dataset.variables},
            storage_options=_given(root, options),
        )
        group = root if name == "/" else f"{root}/{name}"
        lazy = [name for name, variable in node.variables.items() if variable.chunks is not None]
        targets += [(node[key], ZarrTarget(f"{group}/{key}", options)) for key in lazy]
    return targets


def consolidate(path: Path) -> None:
    """Consolidate the metadata of a finished store, so that it is opened by reading one file."""
    import zarr

    with warnings.catch_warnings():
        # zarr warns that other readers may not use consolidated metadata; they read the metadata of each group
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part", category=UserWarning)
        zarr.consolidate_metadata(str(path), zarr_format=3)
