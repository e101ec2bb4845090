"""Sizes and speeds of codecs on simulated rates and raw ramps; prints a table in Markdown.

    python ci/benchmarks/codecs.py [--columns 256] [--repeat 3]

A full-frame IRS2 exposure (of few columns) and a time series of SUB2048 are simulated and calibrated. Every variable is
written to memory through Zarr with each codec, in the shards and chunks of archives. It is read back and must be the
same. Speeds are uncompressed megabytes per second of processor time, the best of some repetitions, so that other work
on the machine hardly matters. The defaults in ``nsxr/formats/zarr.py`` come from this table.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.storage import MemoryStore

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import make_parser, write_head, write_row

import nsxr
from nsxr.formats.zarr import encoding
from nsxr.simulate import simulate_exposure

KINDS = {"sci": "rates", "var_poisson": "variances", "var_rnoise": "variances", "dq": "flags"}
_GROUP_LAST = (0, 2, 3, 1)


def _blosc(name: str, level: int, shuffle: str) -> dict[str, object]:
    return {"compressors": lambda size: BloscCodec(cname=name, clevel=level, shuffle=shuffle, typesize=size)}


CODECS: dict[str, dict[str, object]] = {
    "none": {"compressors": None},
    **{
        f"blosc {name} {level}, {shuffle}": _blosc(name, level, shuffle)
        for name, levels in (("lz4", (1, 5)), ("zstd", (1, 3, 5)))
        for level in levels
        for shuffle in ("shuffle", "bitshuffle")
    },
    "zstd 1": {"compressors": lambda size: ZstdCodec(level=1)},
    "zstd 3": {"compressors": lambda size: ZstdCodec(level=3)},
    "gzip 1": {"compressors": lambda size: GzipCodec(level=1)},
}
for _name in ("blosc lz4 5, bitshuffle", "blosc zstd 1, bitshuffle", "blosc zstd 3, bitshuffle"):
    CODECS[f"groups last, {_name}"] = {**CODECS[_name], "groups last": True}
CODECS["groups differenced, blosc zstd 1, bitshuffle"] = {**CODECS["blosc zstd 1, bitshuffle"], "differences": True}


def _contents(columns: int) -> Iterator[tuple[str, xr.DataArray, xr.DataArray]]:
    """Yield kind, lazy variable (for its chunks) and the variable in memory."""
    exposures = (
        {"readout": "NRSIRS2RAPID", "subarray": "FULL", "groups": 12, "integrations": 1, "columns": columns},
        {"readout": "NRSRAPID", "subarray": "SUB2048", "groups": 10, "integrations": 30},
    )
    for settings in exposures:
        with tempfile.TemporaryDirectory() as folder:
            made = simulate_exposure(folder, **settings)
            exposure = nsxr.open_exposure(made.uncal)
            tree = nsxr.detector1(exposure, nsxr.open_references(made.references, exposure))
            loaded = tree.compute()
            raw = exposure["sci"].astype("u2")
            yield "raw", raw, raw.compute()
            for name, node in tree.children.items():
                for key in ("sci", "var_poisson", "var_rnoise", "dq"):
                    yield KINDS[key], node[key], loaded[name][key]


def _differences(values: np.ndarray) -> np.ndarray:
    """Return differences between groups, modulo 2**16; small differences of both signs become small numbers."""
    change = np.diff(values, axis=1, prepend=np.zeros_like(values[:, :1])).view("i2")
    return ((change << 1) ^ (change >> 15)).view("u2")


def _measure(lazy: xr.DataArray, values: np.ndarray, codec: dict[str, object], repeat: int) -> tuple[int, float, float]:
    """Return bytes stored, and the processor seconds of writing and of reading."""
    chosen = encoding(lazy)
    make = codec["compressors"]
    compressors = () if make is None else (make(values.dtype.itemsize),)
    filters = (TransposeCodec(order=_GROUP_LAST),) if codec.get("groups last") else ()
    write, read, size = np.inf, np.inf, 0
    for _ in range(repeat):
        store = MemoryStore()
        array = zarr.create_array(
            store,
            shape=values.shape,
            dtype=values.dtype,
            chunks=chosen["chunks"],
            shards=chosen.get("shards"),
            compressors=(*compressors, Crc32cCodec()),
            filters=filters,
            fill_value=chosen.get("fill_value", 0),
        )
        start = time.process_time()
        array[...] = _differences(values) if codec.get("differences") else values
        middle = time.process_time()
        found = array[...]
        read = min(read, time.process_time() - middle)
        write = min(write, middle - start)
        if not codec.get("differences"):
            np.testing.assert_array_equal(found.view("u1"), values.view("u1"))
        size = sum(len(content) for content in store._store_dict.values())
    return size, write, read


def main() -> None:
    """Measure all codecs and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--columns", type=int, default=256, help="columns of the full frame")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    contents = [
        (kind, lazy, np.ascontiguousarray(loaded.values)) for kind, lazy, loaded in _contents(arguments.columns)
    ]
    kinds = ("rates", "variances", "flags", "raw")
    total = {kind: sum(values.nbytes for k, _, values in contents if k == kind) for kind in kinds}
    print(", ".join(f"{kind}: {size / 1e6:.0f} MB" for kind, size in total.items()))
    write_head("codec", *(text for kind in kinds for text in (f"{kind}: size", "write MB/s", "read MB/s")))
    for name, codec in CODECS.items():
        cells = []
        for kind in kinds:
            if kind != "raw" and ("groups last" in codec or "differences" in codec):
                cells += ["", "", ""]
                continue
            parts = [_measure(lazy, values, codec, arguments.repeat) for k, lazy, values in contents if k == kind]
            size, write, read = (sum(column) for column in zip(*parts, strict=True))
            cells += [
                f"{size / total[kind]:.3f}",
                f"{total[kind] / 1e6 / write:.0f}",
                f"{total[kind] / 1e6 / read:.0f}",
            ]
        write_row(name, *cells)


if __name__ == "__main__":
    main()
