import json
import pickle

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from nsxr.io.zarr import CHUNK_BYTES, ZarrTarget, consolidate, create_zarr, encoding
from nsxr.model.dq import PixelFlag
from nsxr.model.variables import variable_attributes
from nsxr.testing import forbid_computes


def cube(integrations=5, rows=8, columns=16):
    random = np.random.default_rng(0)
    shape, dims = (integrations, rows, columns), ("integration", "row", "column")
    sci = np.frombuffer(random.bytes(4 * int(np.prod(shape))), "f4").reshape(shape)  # any bit pattern
    sci = sci.copy()
    sci[:2] = -0.0
    sci.view("u4")[2:4] = 0x7FC12345  # whole chunks of one NaN with a payload
    return xr.Dataset(
        {
            "sci": (dims, sci, {"units": "DN/s", "fits_header": "CRVAL1  = 1.0\nEND"}),
            "dq": (dims, random.integers(0, 2**32, shape, dtype="u4"), variable_attributes("dq")),
        },
        {
            "integration": np.arange(integrations) + 1,
            "row": np.arange(rows),
            "column": np.arange(columns),
            "amplifier": ("row", np.ones(rows, "i1")),
            "int_mid_MJD_UTC": ("integration", 6e4 + np.arange(integrations) / 3, {"units": "days"}),
        },
        {
            "NGROUPS": np.int64(5),
            "TFRAME": np.float32(0.5),
            "TSOVISIT": np.bool_(True),
            "nsxr_steps": "[]",
            "READPATT": "A",
        },
    )


def write(path, nodes):
    for array, target in create_zarr(path, nodes):
        array.data.store(target, lock=False)
    consolidate(path)
    return path


def bits(array):
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


@pytest.mark.parametrize(
    "chunks", [None, {}, {"integration": 1}, {"integration": 2, "row": 3}, {"integration": (2, 3)}]
)
def test_plain_xarray_reads_the_same_bits(tmp_path, chunks):
    dataset = cube()
    given = dataset if chunks is None else dataset.chunk(chunks)
    path = write(
        tmp_path / "x.zarr", {"/": xr.Dataset(attrs={"title": "all"}), "rateints": given, "rate": given.isel(row=0)}
    )
    with xr.open_datatree(path, engine="zarr", chunks=None) as tree:
        assert set(tree.children) == {"rate", "rateints"}
        assert tree.attrs == {"title": "all"}
        found = tree["rateints"].to_dataset().load()
    assert set(found.coords) == set(dataset.coords)
    for name in dataset.variables:
        assert found[name].dims == dataset[name].dims
        assert found[name].dtype == dataset[name].dtype
        np.testing.assert_array_equal(bits(found[name].values), bits(dataset[name].values))
    assert found.attrs == {"NGROUPS": 5, "TFRAME": 0.5, "TSOVISIT": True, "nsxr_steps": "[]", "READPATT": "A"}
    assert found["sci"].attrs == dataset["sci"].attrs
    assert found["dq"].attrs["flag_masks"] == [flag.value for flag in PixelFlag]
    assert found["dq"].attrs["flag_meanings"].split()[0] == "DO_NOT_USE"


def test_store_is_format_3_consolidated_and_explains_itself(tmp_path):
    path = write(tmp_path / "x.zarr", {"rate": cube().isel(integration=0, drop=True).chunk()})
    root = json.loads((path / "zarr.json").read_text())
    assert root["zarr_format"] == 3
    assert "rate/sci" in root["consolidated_metadata"]["metadata"]
    array = zarr.open_array(path / "rate" / "sci", mode="r")
    assert array.attrs["units"] == "DN/s"
    assert array.metadata.dimension_names == ("row", "column")


def test_creating_computes_nothing_and_input_is_unchanged(tmp_path):
    dataset = cube().chunk({"integration": 1})
    dataset["sci"].encoding = {"chunks": (3, 3, 3), "_FillValue": -1.0, "dtype": "i2"}  # stale, from another file
    before = dataset.copy(deep=True)
    with forbid_computes():
        targets = create_zarr(tmp_path / "x.zarr", {"rate": dataset})
    assert sorted(str(array.name) for array, _ in targets) == ["amplifier", "dq", "int_mid_MJD_UTC", "sci"]
    xr.testing.assert_identical(dataset, before)
    assert dataset["sci"].encoding["dtype"] == "i2"
    assert zarr.open_array(tmp_path / "x.zarr" / "rate" / "sci", mode="r").dtype == np.float32


def test_target_pickles_and_does_not_revive_a_removed_store(tmp_path):
    path = tmp_path / "a"
    zarr.create_array(str(path), shape=(4,), dtype="f4", chunks=(2,))
    target = pickle.loads(pickle.dumps(ZarrTarget(str(path))))
    target[0:2] = np.ones(2, "f4")
    np.testing.assert_array_equal(zarr.open_array(path, mode="r")[:], [1, 1, 0, 0])
    for file in sorted(path.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    path.rmdir()
    with pytest.raises(FileNotFoundError):
        target[0:2] = np.ones(2, "f4")
    assert not path.exists()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(1, 700), min_size=1, max_size=4), min_size=1, max_size=4))
def test_shards_never_straddle_chunks(lengths):
    dims = [f"d{i}" for i in range(len(lengths))]
    zeros = da.zeros([sum(axis) for axis in lengths], chunks=tuple(map(tuple, lengths)), dtype="f4")
    chosen = encoding(xr.DataArray(zeros, dims=dims))
    shards = chosen.get("shards", chosen["chunks"])
    for axis, shard, inner in zip(lengths, shards, chosen["chunks"], strict=True):
        assert shard % inner == 0
        assert all(edge % shard == 0 for edge in np.cumsum(axis)[:-1])
    assert 4 * int(np.prod(chosen["chunks"])) <= CHUNK_BYTES


def test_sizes_for_a_full_frame():
    zeros = da.zeros((3, 2048, 2048), chunks=(1, 512, 2048), dtype="f4")
    chosen = encoding(xr.DataArray(zeros, dims=("integration", "row", "column")))
    assert chosen["shards"] == (1, 512, 2048)
    assert chosen["chunks"] == (1, 128, 2048)
