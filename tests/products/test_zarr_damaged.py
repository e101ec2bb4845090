"""Zarr stores that others wrote, or that lost something: nothing of theirs is run, and nothing lost reads as good."""

import json
import pickle
import shutil
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner

import nsxr
from nsxr import archive as archives
from nsxr.cli import main
from nsxr.errors import InputFileError, NsxrError
from nsxr.formats.zarr_metadata import require_plain
from nsxr.formats.zarr_read import open_store
from nsxr.products.checker import check_product
from nsxr.products.describe import describe
from nsxr.products.slits_read import open_slits
from nsxr.products.spectra_read import open_spectra
from nsxr.products.write import write_products
from nsxr.simulate import simulate_exposure
from nsxr.storage.folder import Folder

OPENERS = (describe, open_slits, open_spectra, lambda path: open_store(Folder.at(path)))
GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
ARRAY = {
    "zarr_format": 3,
    "node_type": "array",
    "attributes": {},
    "shape": [4],
    "data_type": "float32",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": 0.0,
    "codecs": [BYTES],
    "dimension_names": ["row"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A product store and an archive of the same exposure."""
    folder = tmp_path_factory.mktemp("made")
    simulated = simulate_exposure(folder, readout="NRSRAPID", subarray="SUB512S", groups=3, integrations=2)
    references = simulated.references["gain"].parent
    exposure = nsxr.open_exposure(simulated.uncal)
    write_products(
        nsxr.detector1(exposure, nsxr.open_references(references, exposure)), folder, "x", ("zarr",), progress=False
    )
    node = archives.add_exposure(folder / "a.zarr", simulated.uncal, references, progress=False)
    return folder / "x.zarr", folder / "a.zarr", node


@pytest.fixture
def store(made, tmp_path):
    return Path(shutil.copytree(made[0], tmp_path / "x.zarr"))


def consolidated(path, edit):
    """Edit the consolidated metadata of a store."""
    root = json.loads((path / "zarr.json").read_text())
    edit(root["consolidated_metadata"]["metadata"])
    (path / "zarr.json").write_text(json.dumps(root))


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def pickled(path, mark):
    """Write an array of format 2 by hand, whose chunk runs code if it is unpickled."""
    path.mkdir(parents=True)
    (path / ".zarray").write_text(
        json.dumps(
            {
                "zarr_format": 2,
                "shape": [1],
                "chunks": [1],
                "dtype": "|O",
                "compressor": None,
                "filters": [{"id": "pickle", "protocol": 5}],
                "fill_value": None,
                "order": "C",
            }
        )
    )
    (path / ".zattrs").write_text('{"_ARRAY_DIMENSIONS": ["row"]}')
    (path / "0").write_bytes(pickle.dumps(Bomb(mark)))


def test_code_in_stores_is_not_run(store, tmp_path, made):
    mark = tmp_path / "mark"
    whole = tmp_path / "whole.zarr"
    pickled(whole / "row", mark)
    (whole / ".zgroup").write_text('{"zarr_format": 2}')
    bare = tmp_path / "bare.zarr"
    pickled(bare, mark)
    below = tmp_path / "below.zarr"
    below.mkdir()
    (below / "zarr.json").write_text(json.dumps(GROUP))
    pickled(below / "group" / "row", mark)
    for path in (whole, bare, below):
        for opener in OPENERS:
            with pytest.raises(InputFileError, match="format 2"):
                opener(path)
    archive = Path(shutil.copytree(made[1], tmp_path / "a.zarr"))
    pickled(archive / made[2] / "rate" / "evil", mark)  # beside: never looked at
    pickled(store / "rate" / "evil", mark)
    archives.open_archive(archive).load()
    open_slits(store)
    assert any("not in the manifest" in line for line in archives.check_archive(archive))
    assert any("not in the manifest" in line for line in check_product(store))
    document = json.loads((archive / made[2] / "rate" / "evil" / ".zarray").read_text()) | {"node_type": "array"}
    consolidated(archive, lambda known: known.update({f"{made[2]}/rate/evil": document}))
    consolidated(store, lambda known: known.update({"rate/evil": document}))
    for opener in (archives.open_archive, *OPENERS):
        with pytest.raises(InputFileError, match="format 2"):
            opener(archive if opener is archives.open_archive else store)
    assert not mark.exists()


CODECS = [
    *("pickle", "numcodecs.pickle", "numcodecs.bz2", "json2", "", None, 5, {"name": 5}, {}, [], "numcodecs.zlib"),
    {"name": "sharding_indexed", "configuration": {"chunk_shape": [4], "codecs": ["pickle"], "index_codecs": []}},
    {"name": "sharding_indexed", "configuration": {"chunk_shape": [4], "codecs": [BYTES], "index_codecs": ["gzip"]}},
    {"name": "sharding_indexed", "configuration": {"chunk_shape": [3], "codecs": [BYTES], "index_codecs": []}},
    {"name": "sharding_indexed", "configuration": {"chunk_shape": [0], "codecs": [BYTES], "index_codecs": []}},
    {"name": "sharding_indexed"},
]


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_codecs_are_from_a_list(codec):
    require_plain(ARRAY, "x")
    for codecs in ([codec], [BYTES, codec]):
        with pytest.raises(InputFileError, match="x: its Zarr metadata are"):
            require_plain({**ARRAY, "codecs": codecs}, "x")


HUGE = 2**40
WRONG = [
    *({"zarr_format": n} for n in (2, 4, "3", None, True)),
    *({"node_type": kind} for kind in ("x", None, 5)),
    *({"data_type": kind} for kind in ("object", "|O", None, {}, {"name": "struct"}, {"name": 5}, "r999999")),
    {"data_type": {"name": "fixed_length_utf32", "configuration": {"length_bytes": 2**31}}},
    *({"shape": shape} for shape in ([-1], [HUGE], [1e20], "4", [4, 4], None, [True], [2**70], [[4]])),
    *({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": c}}} for c in ([0], [-4], [HUGE], [], [1.5])),
    *({"chunk_grid": grid} for grid in (None, {}, {"name": "rectilinear"}, {"name": "regular"})),
    *({"codecs": codecs} for codecs in (None, 5, "bytes", {"name": "bytes"})),
    *({"storage_transformers": [{"name": "x"}]}, {"attributes": 5}, {"attributes": None}, {"attributes": []}),
    {"shape": [2**23], "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2**31]}}},
    {
        "shape": [2**12, 2**12, 2**12],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2**12] * 3}},
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {"chunk_shape": [1, 1, 1], "codecs": [BYTES], "index_codecs": [BYTES]},
            }
        ],
    },
]


@pytest.mark.parametrize("change", WRONG, ids=lambda change: repr(change)[:70])
def test_metadata_beyond_reason_are_refused_before_anything_is_allocated(change, store):
    with pytest.raises(InputFileError):
        require_plain({**ARRAY, **change}, "x")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "5", "null", '{"zarr_format": 3}', '{"a":' * 100_000, "\xff", '{"zarr_format": 2}']
)
def test_roots_that_are_none(store, text):
    (store / "zarr.json").write_text(text, encoding="latin-1")
    for opener in OPENERS:
        with pytest.raises(InputFileError) as error:
            opener(store)
        assert "\n" not in str(error.value)


def test_an_index_of_a_billion_labels_is_not_read(tmp_path):
    for change in ({"shape": [10**9]}, {"shape": [10**9], "data_type": "string", "codecs": ["vlen-utf8"]}):
        path = tmp_path / f"{len(change)}.zarr"
        (path / "row").mkdir(parents=True)
        document = {**ARRAY, **change, "fill_value": "" if "data_type" in change else 0.0}
        document["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": [10**8]}}
        (path / "row" / "zarr.json").write_text(json.dumps(document))
        (path / "zarr.json").write_text(json.dumps(GROUP))
        start = time.monotonic()
        with pytest.raises(InputFileError, match="labels"):
            open_slits(path)
        assert time.monotonic() - start < 60  # not forever


def test_what_xarray_cannot_open_is_one_of_our_errors(tmp_path):
    """Dims that contradict each other, fill values and times that are none."""
    changes = (
        {"dimension_names": ["row", "column"]},
        {"dimension_names": [5]},
        {"fill_value": "nonsense"},
        {"fill_value": {}},
        {"attributes": {"units": "days since nonsense"}},
        {"attributes": {"_FillValue": "???", "scale_factor": "x"}},
        {"chunk_key_encoding": {"name": "unknown"}},
        {"dimension_names": ["row"], "shape": [5]},
        {"chunk_key_encoding": None},
    )
    for number, change in enumerate(changes):
        path = tmp_path / f"{number}.zarr"
        for name, document in {"row": ARRAY, "sci": {**ARRAY, **change}}.items():
            (path / name).mkdir(parents=True)
            (path / name / "zarr.json").write_text(json.dumps(document))
        (path / "zarr.json").write_text(json.dumps(GROUP))
        for opener in OPENERS:
            with suppress(NsxrError):  # and nothing else
                opener(path)


# what got lost


def chunks(path, name):
    return sorted(file for file in (path / name / "c").rglob("*") if file.is_file())


def test_stores_list_what_they_consist_of(store):
    assert list(check_product(store)) == []
    result = CliRunner().invoke(main, ["check", str(store)])
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no problems" in result.stderr
    assert "nsxr_manifest" not in open_store(Folder.at(store)).attrs
    with xr.open_datatree(store, engine="zarr") as tree:  # anybody can read it
        assert "rate" in tree.children


@pytest.mark.parametrize("act", ["remove", "cut", "flip", "lengthen", "metadata"])
def test_damage_is_found(store, act):
    name = "rateints/dq"
    file = chunks(store, name)[0]
    if act == "remove":
        file.unlink()
    elif act == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif act == "lengthen":
        file.write_bytes(file.read_bytes() + b"x")
    elif act == "flip":
        content = bytearray(file.read_bytes())
        content[-6] ^= 1
        file.write_bytes(content)
    else:
        file = store / name / "zarr.json"
        file.write_text(file.read_text().replace('"fill_value": 1', '"fill_value": 0'))
    found = list(check_product(store))
    assert found
    assert all(line.startswith(name) for line in found)
    assert CliRunner().invoke(main, ["check", str(store)]).exit_code == 1
    if act in ("remove", "cut", "lengthen"):
        for opener in OPENERS:
            with pytest.raises(InputFileError, match=f"{name} "):
                opener(store)


def test_lost_flags_are_not_good_ones_in_any_reader(store):
    for file in chunks(store, "rateints/dq"):
        file.unlink()
    with xr.open_dataset(store, group="rateints", engine="zarr") as found:
        assert (found["dq"].values & 1).all()


def test_junk_manifests_hide_nothing(store):
    for text in ("", "{}", "[]", "5", '{"rate/sci": {"stored": 5}}', '{"a":' * 100_000, None):
        root = json.loads((store / "zarr.json").read_text())
        root["attributes"]["nsxr_manifest"] = text
        (store / "zarr.json").write_text(json.dumps(root))
        assert any("manifest" in line for line in check_product(store))
        with pytest.raises(InputFileError, match="manifest"):
            open_store(Folder.at(store))


def test_stores_of_earlier_versions_are_opened_and_said_to_have_no_checksums(store):
    root = json.loads((store / "zarr.json").read_text())
    del root["attributes"]["nsxr_manifest"]
    (store / "zarr.json").write_text(json.dumps(root))
    open_slits(store)
    (line,) = check_product(store)
    assert "lists no checksums" in line
    file = chunks(store, "rate/sci")[0]
    content = bytearray(file.read_bytes())
    content[-6] ^= 1
    file.write_bytes(content)
    assert any("cannot be decoded" in line for line in check_product(store))


def test_check_of_an_archive_and_of_what_is_none(made, tmp_path):
    assert CliRunner().invoke(main, ["check", str(made[1])]).exit_code == 0
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nothing", tmp_path / "nothing.zarr"):
        result = CliRunner().invoke(main, ["check", str(path)])
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")


def test_plain_stores_of_xarray_are_read(tmp_path):
    """Without manifest or consolidated metadata, with codecs by default."""
    dataset = xr.Dataset({"sci": (("row", "column"), np.ones((4, 5), "f4"))}, {"row": np.arange(4)}, {"note": "x"})
    dataset.to_zarr(tmp_path / "x.zarr", group="a/b", zarr_format=3, consolidated=False)
    xr.testing.assert_identical(open_store(Folder.at(tmp_path / "x.zarr"))["a/b"].to_dataset().load(), dataset)
    assert zarr.open_group(tmp_path / "x.zarr", mode="r").metadata.zarr_format == 3
