import json
import os
import pickle

import dask.array as da
import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import nsxr
from nsxr import archive as archives
from nsxr.archive.journal import claim
from nsxr.errors import ArchiveInUseError, OutputExistsError
from nsxr.formats.zarr import CHUNK_BYTES, ZarrTarget, consolidate, create_zarr, encoding
from nsxr.model.dq import PixelFlag
from nsxr.model.variables import variable_attributes
from nsxr.simulate import simulate_exposure
from nsxr.storage.folder import Folder
from nsxr.storage.options import StorageOptions
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


def test_ramps_and_light_curves_are_in_few_chunks():
    dims = ("integration", "group", "row", "column")
    raw = xr.DataArray(da.zeros((1, 12, 3200, 2048), chunks=(1, 12, 640, 2048), dtype="u2"), dims=dims)
    assert encoding(raw)["chunks"] == (1, 12, 20, 2048)
    series = xr.DataArray(da.zeros((200, 32, 512), chunks=(200, 16, 512), dtype="f4"), dims=("integration", *dims[2:]))
    assert encoding(series)["chunks"] == (200, 2, 512)


def test_raw_counts_come_back_from_a_store_with_groups_last(tmp_path):
    counts = np.random.default_rng(0).integers(0, 2**16, (2, 3, 8, 16), dtype="u2")
    counts[0] = [[[0]], [[65535]], [[0]]]
    raw = xr.Dataset({"sci": (("integration", "group", "row", "column"), counts)}).chunk({"row": 4})
    path = write(tmp_path / "x.zarr", {"raw": raw})
    np.testing.assert_array_equal(zarr.open_array(path / "raw" / "sci", mode="r")[...], counts)


def test_text_and_scalars_come_back(tmp_path):
    dataset = cube().assign_coords(note=("integration", np.array(["a", "", "öß", "long" * 9, "e"])))
    dataset["events"] = xr.DataArray(np.float64(-0.0))
    path = write(tmp_path / "x.zarr", {"rate": dataset})
    with xr.open_dataset(path, group="rate", engine="zarr") as found:
        assert found["note"].values.tolist() == dataset["note"].values.tolist()
        assert bits(found["events"].values) == bits(np.float64(-0.0))


def test_every_chunk_has_a_checksum(tmp_path):
    path = write(tmp_path / "x.zarr", {"rate": cube().assign(events=xr.DataArray(1.5)).chunk({"integration": 2})})
    for name in ("sci/c/0/0/0", "row/c/0", "events/c"):
        file = path / "rate" / name
        content = bytearray(file.read_bytes())
        content[-5] ^= 1  # the last byte before the checksum
        file.write_bytes(content)
        with pytest.raises(ValueError, match="checksum"):
            zarr.open_array(path / "rate" / name.partition("/")[0], mode="r")[...]


def same_behind_a_url(url, options=None):
    dataset = cube().chunk({"integration": 2, "row": 4})
    dataset["int_mid_MJD_UTC"].attrs["units"] = "d"
    pairs = create_zarr(url, {"/": dataset}, StorageOptions(options))
    for array, target in pairs:
        array.data.store(pickle.loads(pickle.dumps(target)), lock=False)
    opened = xr.open_dataset(url, engine="zarr", consolidated=False, storage_options=options)
    with opened as found:
        np.testing.assert_array_equal(bits(found["sci"].values), bits(dataset["sci"].values))
        xr.testing.assert_identical(found.drop_vars("sci").load(), dataset.drop_vars("sci").load())


def test_store_behind_a_url():
    try:
        same_behind_a_url("memory://zarr-test/x.zarr")
    finally:
        fsspec.filesystem("memory").rm("/zarr-test", recursive=True)


@pytest.fixture
def s3(monkeypatch):
    """Storage options of an S3 server with an empty bucket."""
    pytest.importorskip("s3fs", reason="s3fs is not installed (extra 's3')")
    servers = pytest.importorskip("object_servers", reason="moto's server is not installed (extra 'test')")
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    application, handler = servers.s3_application()
    with servers.served(servers.Counted(application), handler) as address:
        options = {"client_kwargs": {"endpoint_url": address}}
        system = fsspec.filesystem("s3", **options)
        system.mkdir("zarr-bucket")
        yield options
        system.rm("zarr-bucket", recursive=True)  # moto keeps what its servers have in one place
        known = type(system)._cache
        for key in [key for key, other in known.items() if not hasattr(other, "_s3creator")]:
            del known[key]  # was never connected
        servers.forget_connections()


def test_store_on_s3(s3):
    same_behind_a_url("s3://zarr-bucket/x.zarr", s3)


@pytest.mark.slow  # hundreds of objects, each asked for from a server written in Python
def test_archive_on_s3(s3, tmp_path):
    """Added, resumed, listed, opened and checked as on a disk."""
    made = simulate_exposure(tmp_path, readout="NRSRAPID", subarray="SUB32", groups=3, integrations=2)
    url = "s3://zarr-bucket/a.zarr"
    left_out = ["saturation", "superbias", "refpix", "linearity", "dark_current", "jump", "clean_flicker_noise"]
    node = archives.add_exposure(url, made.uncal, made.references, raw=True, skip=left_out, storage_options=s3)
    with pytest.raises(OutputExistsError):
        archives.add_exposure(url, made.uncal, made.references, storage_options=s3)
    tree = archives.open_archive(url, s3)
    xr.testing.assert_identical(archives.open_raw(tree).compute(), nsxr.open_exposure(made.uncal).compute())
    assert list(archives.check_archive(url, s3)) == []
    fsspec.filesystem("s3", **s3).rm_file(f"zarr-bucket/a.zarr/{node}/rate/dq/c/0/0")
    assert list(archives.check_archive(url, s3)) == [f"{node}/rate/dq c/0/0: missing"]
    folder = Folder.at(url, s3)
    held = claim(folder, node)
    with pytest.raises(ArchiveInUseError):
        archives.add_exposure(url, made.uncal, made.references, overwrite=True, storage_options=s3)
    assert not folder.make(held.keys[-1], b"")  # of several processes one succeeds
    held.release()
    assert archives.resume_archive(url, storage_options=s3).finished == []
    assert [exposure.state for exposure in archives.list_exposures(url, s3)] == ["complete"]
