"""Archives: what is complete is whole, what is not cannot be seen, and what is damaged is found."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from astropy.io import fits
from click.testing import CliRunner

import nsxr
from nsxr import archive as archives
from nsxr.archive import layout, writer
from nsxr.archive.journal import claim
from nsxr.archive.nodes import node_path
from nsxr.cli import main
from nsxr.compute.cluster import connected
from nsxr.errors import ArchiveInUseError, InputFileError, ModelError, OutputExistsError, ParameterError
from nsxr.formats import zarr as zarr_io
from nsxr.formats.keywords import as_product
from nsxr.formats.zarr import ZarrTarget
from nsxr.simulate import simulate_exposure
from nsxr.storage.folder import Folder
from nsxr.testing import forbid_computes

SUB32 = {"readout": "NRSRAPID", "subarray": "SUB32", "groups": 3, "integrations": 4}
FIRST, SECOND, OTHER = (
    "01234/001/001_03101_00001/nrs1",
    "01234/001/001_03101_00002/nrs1",
    "01234/001/001_03101_00001/nrs2",
)
NAMES = ["jw01234001001_03101_00001_nrs1", "jw01234001001_03101_00002_nrs1"]
LEFT_OUT = ["saturation", "superbias", "refpix", "linearity", "dark_current", "jump", "clean_flicker_noise"]
"""Steps that are left out where a test is about the archive alone: graphs are built three times as fast."""
QUICKLY = [word for step in LEFT_OUT for word in ("--skip", step)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Raw files of two exposures and one of the other detector, and the directory of references."""
    folder = tmp_path_factory.mktemp("made")
    first = simulate_exposure(folder, **SUB32)
    simulate_exposure(folder, **SUB32, detector="NRS2")
    second = folder / f"{NAMES[1]}_uncal.fits"
    shutil.copy(first.uncal[0], second)
    with fits.open(second, mode="update", memmap=False) as hdus:
        hdus[0].header["EXPOSURE"] = "2"
        hdus[0].header["FILTER"] = "F140X"
        hdus["SCI"].data[:, 1:] += 3
    return {
        "files": [first.uncal[0], second],
        "other": folder / "jw01234001001_03101_00001_nrs2_uncal.fits",
        "references": first.references["gain"].parent,
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory, made):
    """An archive with raw ramps, in shards of several chunks; to be copied, not changed."""
    path = tmp_path_factory.mktemp("whole") / "a.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr_io, "CHUNK_BYTES", 2**12)
        for file in made["files"]:
            archives.add_exposure(path, file, made["references"], raw=True)
    return path


@pytest.fixture(scope="module")
def straight(tmp_path_factory, made):
    """An archive of all three exposures, made without interruption by other means than the command line."""
    path = tmp_path_factory.mktemp("straight") / "a.zarr"
    for file in [*made["files"], made["other"]]:
        archives.add_exposure(path, file, made["references"], raw=True, skip=["jump", "clean_flicker_noise"])
    return path


@pytest.fixture
def copied(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy.zarr"))


@pytest.fixture
def run():
    def invoke(*words, status=0):
        result = CliRunner().invoke(main, ["archive", *map(str, words)], prog_name="nsxr")
        assert result.exit_code == status, result.output
        assert "Traceback" not in result.output
        return result

    return invoke


def visible(path):
    """Return the exposures that three kinds of readers find, after making sure that these agree."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Object at")  # of the journal and of half-written exposures
        trees = [xr.open_datatree(path, engine="zarr", consolidated=False)]
        members = dict(zarr.open_group(str(path), mode="r", use_consolidated=False).members(max_depth=None))
        trees.append(xr.open_datatree(path, engine="zarr"))
    found = []
    for tree in trees:
        with tree:
            # the children, not the attribute: these are the exposures with pixels to read
            found.append({node.path.strip("/").rpartition("/")[0] for node in tree.subtree if node.name == "rate"})
    assert found[0] == {name.rpartition("/")[0] for name in members if name.endswith("/rate")}
    assert found[1] <= found[0]  # those that were finished after the last time that metadata were consolidated lack
    return sorted(found[0])


def manifest(path, node):
    document = json.loads((Path(path) / node / "zarr.json").read_text())
    return json.loads(document["attributes"]["nsxr_manifest"])


def trimmed(dataset):
    """Return a product, computed, whose table of snowballs is as long as in an archive."""
    return dataset.compute().dropna("snowball", how="all", subset=["snowballs"])


def stamps(folder):
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in sorted(folder.rglob("*")) if file.is_file()}


# --- one call opens, headers select, nothing is read


def test_open_select_and_list_without_pixels(whole, monkeypatch):
    read = []
    original = zarr.storage.LocalStore.get

    async def get(self, key, *args, **kwargs):
        read.append(key)
        return await original(self, key, *args, **kwargs)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", get)
    with forbid_computes():
        tree = archives.open_archive(whole)
        chosen = archives.select_exposures(tree, FILTER="F140X", GRATING=["MIRROR", "G395H"])
        listed = archives.list_exposures(whole)
    assert [leaf.path for leaf in chosen.leaves] == [f"/{SECOND}/{name}" for name in ("rate", "rateints", "raw")]
    assert chosen[SECOND].attrs["SUBARRAY"] == "SUB32"
    assert not [key for key in read if any(f"/{name}/c" in key for name in ("sci", "dq", "var_poisson", "var_rnoise"))]
    assert [(e.path, e.state, e.filter, e.integrations, e.groups, e.has_raw) for e in listed] == [
        (FIRST, "complete", "F110W", 4, 3, True),
        (SECOND, "complete", "F140X", 4, 3, True),
    ]
    chosen[f"{SECOND}/rate/sci"].values.sum()
    assert [key for key in read if "/rate/sci/c/" in key]  # the counter counts


def test_selection_of_nothing_and_of_unknown_keywords(whole):
    tree = archives.open_archive(whole)
    assert not archives.select_exposures(tree, FILTER="F290LP").children
    assert len(list(archives.select_exposures(tree).leaves)) == 6
    with pytest.raises(ParameterError, match="FILTR; did you mean FILTER"):
        archives.select_exposures(tree, FILTR="F110W")


def test_rates_are_those_of_detector1(whole, made):
    exposure = nsxr.open_exposure(made["files"][1])
    expected = nsxr.detector1(exposure, nsxr.open_references(made["references"], exposure))
    found = archives.open_archive(whole)[SECOND]
    for name in ("rate", "rateints"):
        product = as_product(expected[name].to_dataset(), f"{SECOND}/{name}", dated=False)
        xr.testing.assert_identical(found[name].to_dataset().compute(), trimmed(product))


def test_raw_comes_back_bit_by_bit_and_calibrates_alike(whole, made, tmp_path):
    tree = archives.open_archive(whole)[FIRST]
    assert tree["raw/sci"].dtype == np.uint16
    raw = archives.open_raw(tree)
    exposure = nsxr.open_exposure(made["files"][0])
    xr.testing.assert_identical(raw.compute(), exposure.compute())
    assert {name: c.dtype.kind for name, c in raw.coords.items()} == {
        n: c.dtype.kind for n, c in exposure.coords.items()
    }
    references = nsxr.open_references(made["references"], raw)
    again = nsxr.detector1(raw, references)
    for name in ("rate", "rateints"):
        product = as_product(again[name].to_dataset(), f"{FIRST}/{name}", dated=False)
        xr.testing.assert_identical(trimmed(product), tree[name].to_dataset().compute())


def test_raw_extremes_and_what_is_not_raw():
    values = np.array([0, 1, 32767, 32768, 65535], "f4").reshape(1, 1, 1, 5)
    dims = ("integration", "group", "row", "column")
    exposure = xr.Dataset({"sci": (dims, values, {"units": "DN"})}, {"column": np.arange(5)}, {"A": 1})
    raw = layout.as_raw(exposure)
    assert raw["sci"].dtype == np.uint16
    xr.testing.assert_identical(layout.from_raw(raw), exposure)
    with pytest.raises(ModelError, match="expected a raw exposure"):
        layout.as_raw(exposure.isel(group=0))
    with pytest.raises(ModelError, match="not a raw exposure"):
        layout.from_raw(exposure)


def test_raw_is_refused_where_it_would_be_changed():
    dims = ("integration", "group", "row", "column")
    for value in (0.5, -1, 65536, np.nan):
        exposure = xr.Dataset({"sci": (dims, np.full((1, 1, 2, 5), value, "f4"))}).chunk({"row": 1})
        with pytest.raises(InputFileError, match="whole numbers from 0 to 65535"):
            layout.as_raw(exposure).compute(scheduler="synchronous")


def test_raw_that_was_not_kept(tmp_path, made):
    archives.add_exposure(tmp_path / "a.zarr", made["files"][0], made["references"], skip=LEFT_OUT)
    tree = archives.open_archive(tmp_path / "a.zarr")
    with pytest.raises(InputFileError, match="--raw keeps them"):
        archives.open_raw(tree)
    assert list(tree[FIRST].children) == ["rate", "rateints"]


def test_paths_come_from_headers():
    header = dict(
        zip(
            ("PROGRAM", "OBSERVTN", "VISIT", "VISITGRP", "SEQ_ID", "ACT_ID", "EXPOSURE", "DETECTOR"),
            ("1234", "1", "001", "03", "1", "0A", "12", "NRS2"),
            strict=True,
        )
    )
    assert node_path(header) == "01234/001/001_0310a_00012/nrs2"
    assert node_path({**header, "INTSTART": 1, "INTEND": 9, "NINTS": 9}) == "01234/001/001_0310a_00012/nrs2"
    part = {**header, "INTSTART": 5, "INTEND": 9, "NINTS": 9}
    assert node_path(part) == "01234/001/001_0310a_00012_integrations5to9/nrs2"
    with pytest.raises(InputFileError, match=r"PROGRAM is '\.\./x', ACT_ID is None"):
        node_path({k: v for k, v in header.items() if k != "ACT_ID"} | {"PROGRAM": "../x"})


def test_format_and_consolidated_metadata_are_those_of_zarr(copied):
    ours = json.loads((copied / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(copied), zarr_format=3)
    theirs = json.loads((copied / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    for document in theirs.values():
        document.pop("consolidated_metadata", None)  # an empty one for each group
    assert ours == theirs
    codecs = json.dumps(ours[f"{FIRST}/rateints/sci"]["codecs"])
    assert codecs.count("crc32c") == 2  # of chunks, and of the index of a shard


# --- killed, full, lost: nothing unfinished is seen, resume finishes, what was finished stays

KILLED = """
import os, signal, sys
from nsxr.archive import writer
from nsxr.storage.folder import Folder
from nsxr.cli import main
from nsxr.formats.zarr import ZarrTarget

moment, number = sys.argv[1], int(sys.argv[2])
owner, name = {"block": (ZarrTarget, "__setitem__"), "metadata": (Folder, "put_json")}[moment]
original = getattr(owner, name)
left = [number]

def method(self, *args):
    original(self, *args)
    left[0] -= moment == "block" or args[0].endswith("/zarr.json")
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)

setattr(owner, name, method)
main(["archive", *sys.argv[3:]])
"""


def killed(moment, number, *words):
    """Run nsxr archive in a process that is killed after the n-th block, or n-th metadata of an exposure."""
    code = subprocess.run(
        [sys.executable, "-c", KILLED, moment, str(number), *map(str, words)],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert code.returncode == -signal.SIGKILL, code.stderr.decode()


@pytest.mark.parametrize(("moment", "number", "complete"), [("block", 23, [FIRST]), ("metadata", 2, [FIRST, SECOND])])
def test_killed_while_adding(tmp_path, made, straight, run, moment, number, complete):
    path, files = tmp_path / "a.zarr", [*made["files"], made["other"]]
    words = [path, *files, "--references", made["references"], "--raw"]
    killed(moment, number, "add", *words, "--skip", "jump", "--skip", "clean_flicker_noise")
    assert visible(path) == complete
    with archives.open_archive(path) as tree:
        assert not tree.children  # it was consolidated before anything was complete
    states = {e.path: e.state for e in archives.list_exposures(path)}
    assert states == {node: "complete" if node in complete else "interrupted" for node in (FIRST, SECOND, OTHER)}
    before = {node: stamps(path / node) for node in complete}
    lines = run("check", path, status=1).stdout
    assert f".nsxr/{OTHER.replace('/', '-')}.json: planned, but not done" in lines
    assert "left behind by a process that is gone" in lines

    assert run("resume", path).stdout.splitlines() == [
        node for node in (FIRST, OTHER, SECOND) if node not in complete[:1]
    ]
    assert {node: stamps(path / node) for node in complete} == before
    assert visible(path) == sorted([FIRST, SECOND, OTHER])
    assert run("check", path).stdout == ""
    assert not list((path / ".nsxr").iterdir())
    for node in (FIRST, SECOND, OTHER):
        assert manifest(path, node) == manifest(straight, node)  # the same bytes in every object
    again = run("resume", path)
    assert (again.stdout, again.stderr) == ("", "nothing to resume\n")
    words = CliRunner().invoke(main, ["info", str(path)]).output
    assert words == f"{path.name}: archive of 3 exposures; nsxr archive ls lists them\n"


def test_killed_while_overwriting(copied, made, run):
    other = stamps(copied / FIRST)
    words = (copied, made["files"][1], "--references", made["references"], *QUICKLY)
    killed("block", 4, "add", *words, "--overwrite")
    assert visible(copied) == [FIRST]
    with archives.open_archive(copied) as tree:
        assert SECOND not in tree
    run("resume", copied)
    assert visible(copied) == [FIRST, SECOND]
    assert stamps(copied / FIRST) == other
    assert not list((copied / SECOND / "rate").glob("raw"))
    assert run("check", copied).stdout == ""


def test_full_disk(tmp_path, made, run, monkeypatch):
    path = tmp_path / "a.zarr"
    original, left = ZarrTarget.__setitem__, [8]

    def write(self, index, block):
        left[0] -= 1
        if left[0] < 0 and "00001/nrs1" in self.path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        original(self, index, block)

    monkeypatch.setattr(ZarrTarget, "__setitem__", write)
    words = ("add", path, *made["files"], "--references", made["references"], "--raw", *QUICKLY)
    result = run(*words, status=1)
    assert result.stdout.splitlines() == [SECOND]
    assert "No space left" in result.stderr
    assert "1 of 2 exposures done" in result.stderr
    assert visible(path) == [SECOND]
    assert not (path / FIRST).exists()  # nothing half-written fills the disk
    before = stamps(path / SECOND)
    assert run("resume", path, status=1).stdout == ""
    monkeypatch.undo()
    assert run("resume", path).stdout.splitlines() == [FIRST]
    assert stamps(path / SECOND) == before
    assert run("check", path).stdout == ""


def die_once(flag):
    """Let the first worker that stores a block die of it."""
    original = ZarrTarget.__setitem__

    def write(self, index, block):
        try:
            os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return original(self, index, block)
        os.kill(os.getpid(), signal.SIGKILL)

    ZarrTarget.__setitem__ = write


@pytest.mark.slow  # workers are processes that import nsxr, and one more is started for the one that died
def test_a_worker_dies(tmp_path, made, straight):
    flag = tmp_path / "died"
    with connected(workers=2, memory_limit="1GB") as client:
        client.run(die_once, str(flag))
        archives.add_exposure(
            tmp_path / "a.zarr", made["files"][0], made["references"], raw=True, skip=["jump", "clean_flicker_noise"]
        )
        assert flag.exists()
        assert list(archives.check_archive(tmp_path / "a.zarr")) == []
    found, expected = archives.open_archive(tmp_path / "a.zarr"), archives.open_archive(straight)
    for name in ("rate", "rateints", "raw"):
        xr.testing.assert_identical(found[f"{FIRST}/{name}"].to_dataset(), expected[f"{FIRST}/{name}"].to_dataset())


# --- several runs, several exposures


def test_what_is_there_is_skipped_or_replaced(copied, made, run):
    before = stamps(copied)
    words = ("add", copied, made["files"][0], "--references", made["references"])
    assert run(*words).stdout == f"{NAMES[0]}: already there\n"
    assert stamps(copied) == before
    with pytest.raises(OutputExistsError, match="already"):
        archives.add_exposure(copied, made["files"][0], made["references"])
    assert run(*words, *QUICKLY, "--overwrite").stdout == f"{FIRST}\n"
    tree = archives.open_archive(copied)
    assert list(tree[FIRST].children) == ["rate", "rateints"]  # without --raw this time
    assert run("check", copied).stdout == ""


def test_unfinished_groups_are_not_found_by_path_either(tmp_path, made, monkeypatch):
    found = []

    def stop(*collections, **keywords):
        for name in ("", "/rate", "/rateints", "/raw"):
            with pytest.raises(FileNotFoundError):
                xr.open_dataset(tmp_path / "a.zarr", engine="zarr", group=f"{FIRST}{name}", consolidated=False)
            found.append(name)
        raise OSError("stop")

    monkeypatch.setattr(writer, "compute", stop)
    with pytest.raises(OSError, match="stop"):
        archives.add_exposure(tmp_path / "a.zarr", made["files"][0], made["references"], raw=True, skip=LEFT_OUT)
    assert len(found) == 4


@pytest.mark.parametrize("part", ["a.zarr/zarr.json", "01234/zarr.json", ".claim1"])
def test_disk_is_full_for_small_files(tmp_path, made, run, monkeypatch, part):
    """Files that are made once are made whole: an empty one would never be made again."""
    path, original = tmp_path / "a.zarr", os.fsync
    left = [True]

    def sync(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if left and all(word in name for word in part.split("/")) and name.endswith(".partial"):
            left.clear()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    words = ("add", path, made["files"][0], "--references", made["references"], *QUICKLY)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        assert "No space left" in run(*words, status=1).stderr
    assert not left
    run(*words)
    assert run("check", path).stdout == ""


def test_two_runs_at_once(tmp_path, made, run, monkeypatch):
    path, words = tmp_path / "a.zarr", ["--references", made["references"], *QUICKLY]
    original, seen = writer.make_manifest, []

    def meanwhile(folder, node):
        if not seen:
            seen.append(node)
            seen.append(run("add", path, made["files"][0], *words, status=1).stderr)
            seen.append(run("resume", path, "--force", status=1).stderr)
            seen.append({e.path: e.state for e in archives.list_exposures(path)})
            seen.append(run("check", path).stdout)
            seen.append(run("add", path, made["files"][1], *words).stdout)
        return original(folder, node)

    monkeypatch.setattr(writer, "make_manifest", meanwhile)
    assert run("add", path, made["files"][0], *words).stdout == f"{FIRST}\n"
    own = f"{FIRST} is being written by process {os.getpid()} on {socket.gethostname()}"
    assert own in seen[1]
    assert own in seen[2]
    assert seen[3:] == [{FIRST: "in progress"}, "", f"{SECOND}\n"]
    assert visible(path) == [FIRST, SECOND]
    assert run("check", path).stdout == ""


@pytest.mark.slow  # three processes that import nsxr
def test_two_processes_at_once(tmp_path, made, run):
    path = tmp_path / "a.zarr"
    command = [sys.executable, "-c", "from nsxr.cli import main; main()", "archive", "add", path]
    command += ["--references", made["references"], *QUICKLY]
    files = [*made["files"], made["files"][0]]
    # started together, they plan and write side by side
    running = [subprocess.Popen([*command, file], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for file in files]
    outputs = [process.communicate(timeout=120) for process in running]
    texts = [out.decode() + err.decode() for out, err in outputs]
    assert texts[1] == f"{SECOND}\n"
    first = sorted((texts[0], texts[2]))
    assert first[0] == f"{FIRST}\n", texts
    assert "is being written by" in first[1] or "already there" in first[1]
    assert visible(path) == [FIRST, SECOND]
    assert run("check", path).stdout == ""


def test_claims_of_the_dead_and_of_other_hosts(tmp_path):
    folder = Folder.at(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    key = tmp_path / ".nsxr" / f"{FIRST.replace('/', '-')}.claim1"
    key.parent.mkdir()
    for host, pid, force in ((socket.gethostname(), gone.pid, False), ("elsewhere", os.getpid(), True)):
        key.write_text(json.dumps({"host": host, "pid": pid, "started": "1", "since": "yesterday"}))
        if force:
            with pytest.raises(ArchiveInUseError, match=r"on elsewhere since yesterday; .* --force"):
                claim(folder, FIRST)
        held = claim(folder, FIRST, force)
        for attempt in (False, True):  # of a live one of this host, not even by force
            with pytest.raises(ArchiveInUseError, match=f"process {os.getpid()}"):
                claim(folder, FIRST, attempt)
        claim(folder, SECOND).release()
        held.release()
        assert not list(key.parent.iterdir())


def test_a_later_process_of_the_same_number_does_not_keep_a_claim(tmp_path):
    folder = Folder.at(tmp_path)
    held = claim(folder, FIRST)
    (key,) = (tmp_path / ".nsxr").iterdir()
    content = json.loads(key.read_text())
    if content["started"] == "running":
        pytest.skip("this system does not tell when processes started")
    key.write_text(json.dumps({**content, "started": "1"}))
    claim(folder, FIRST).release()
    held.release()
    assert not list((tmp_path / ".nsxr").iterdir())


def test_who_takes_over_looks_again(tmp_path, monkeypatch):
    """Another run takes over, finishes and goes between the look at dead claims and the own claim."""
    folder = Folder.at(tmp_path)
    dead = {"host": socket.gethostname(), "pid": 2**22 + 1, "started": "1", "since": "yesterday"}
    key = f".nsxr/{FIRST.replace('/', '-')}.claim1"
    folder.make(key, json.dumps(dead).encode())
    original = Folder.make

    def make(self, *args):
        folder.remove(key)
        original(self, key, json.dumps({**dead, "pid": os.getpid(), "host": "elsewhere"}).encode())
        return original(self, *args)

    monkeypatch.setattr(Folder, "make", make)
    with pytest.raises(ArchiveInUseError, match="elsewhere"):
        claim(folder, FIRST)
    assert [name.name for name in (tmp_path / ".nsxr").iterdir()] == [key.rpartition("/")[2]]


def test_one_bad_exposure_does_not_stop_the_others(tmp_path, made, run):
    bad = tmp_path / "jw01234001001_03101_00003_nrs1_uncal.fits"
    bad.write_bytes(made["files"][0].read_bytes()[:20000])
    path = tmp_path / "a.zarr"
    result = run("add", path, bad, made["files"][1], "--references", made["references"], *QUICKLY, status=1)
    assert result.stdout == f"{SECOND}\n"
    assert bad.name in result.stderr
    assert "1 of 2 exposures done" in result.stderr
    assert visible(path) == [SECOND]
    assert run("check", path).stdout == ""


def test_nothing_is_written_where_the_recipe_is_wrong_or_no_archive_is(tmp_path, made, run):
    words = [made["files"][0], "--references", made["references"]]
    assert "no parameter" in run("add", tmp_path / "a.zarr", *words, "--set", "jump.nonsense=1", status=1).stderr
    assert not (tmp_path / "a.zarr").exists()
    assert "is no archive" in run("add", made["references"], *words, status=1).stderr
    for command in ("ls", "check", "resume"):
        assert "is no archive" in run(command, tmp_path, status=1).stderr


def test_resume_needs_nothing_but_the_archive(tmp_path, made, run, monkeypatch):
    """Relative paths, references by type and parameters are written down; the working directory may change."""
    monkeypatch.chdir(made["files"][0].parent)
    gain = next(made["references"].glob("*gain*nrs1*"))
    words = ["--references", made["references"].name, "--reference", f"gain={os.path.relpath(gain)}"]
    words += ["--skip", "linearity", "--set", "jump.rejection_threshold=5.5"]

    def fail(*args):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(ZarrTarget, "__setitem__", fail)
        assert "Input/output error" in run("add", tmp_path / "a.zarr", made["files"][0].name, *words, status=1).stderr
    plan = json.loads(next((tmp_path / "a.zarr" / ".nsxr").glob("*.json")).read_text())
    assert plan["recipe"]["named"]["gain"] == str(gain)
    assert sorted(plan["recipe"]["named"]) == ["dark", "gain", "mask", "readnoise", "saturation", "superbias"]
    assert all(Path(path).is_absolute() for path in [*plan["sources"], *plan["recipe"]["named"].values()])
    monkeypatch.chdir(tmp_path)
    run("resume", tmp_path / "a.zarr")
    records = {
        r["step"]: r for r in json.loads(archives.open_archive("a.zarr")[f"{FIRST}/rate"].attrs["nsxr_steps"])[:8]
    }
    assert records["linearity"]["status"] == "SKIPPED"
    assert records["jump"]["parameters"]["rejection_threshold"] == 5.5


# --- check


def chunk_file(folder, smallest=200):
    return next(file for file in sorted(folder.rglob("c/**/*")) if file.is_file() and file.stat().st_size > smallest)


def problems(run, path):
    return run("check", path, status=1).stdout.splitlines()


def test_check_finds_a_flipped_byte(copied, run):
    file = chunk_file(copied / FIRST / "rateints" / "sci")
    content = bytearray(file.read_bytes())
    content[40] ^= 4
    file.write_bytes(content)
    (line,) = problems(run, copied)
    name = file.relative_to(copied / FIRST / "rateints" / "sci")
    assert line.startswith(f"{FIRST}/rateints/sci {name}: stored bytes changed, cannot be decoded (")
    assert line.endswith("pixels [0:4, 0:8, 0:32]")  # the other chunks of the shard are well


def test_check_finds_missing_truncated_and_foreign_objects(copied, run):
    missing = chunk_file(copied / FIRST / "rate" / "sci")
    missing.unlink()
    cut = chunk_file(copied / SECOND / "raw" / "sci")
    size = cut.stat().st_size
    os.truncate(cut, size - 1)
    (copied / SECOND / "rate" / "foreign").write_text("x")
    names = [file.relative_to(copied).as_posix().replace("/c/", " c/") for file in (missing, cut)]
    assert problems(run, copied) == [
        f"{names[0]}: missing",
        f"{names[1]}: truncated, {size - 1} bytes where {size} were written",
        f"{SECOND}/rate foreign: not in the manifest",
    ]


def test_check_finds_changed_metadata_and_lost_provenance(copied, run):
    file = copied / FIRST / "rate" / "zarr.json"
    document = json.loads(file.read_text())
    records = json.loads(document["attributes"]["nsxr_steps"])
    kept = [record for record in records if record["step"] != "superbias"]
    for record in kept:
        record["references"].pop("dark", None)
    document["attributes"]["nsxr_steps"] = json.dumps(kept)
    size = file.stat().st_size
    file.write_text(json.dumps(document))
    found = problems(run, copied)
    assert found[0].startswith(f"{FIRST}/rate zarr.json: truncated, ")
    assert str(size) in found[0]
    assert found[1:3] == [
        f"{FIRST}/rate: provenance has no step superbias",
        f"{FIRST}/rate: provenance of step dark_current names no dark reference",
    ]
    assert found[3].startswith(f"{FIRST}/rate: consolidated metadata differ from its own")
    assert len(found) == 4


def test_check_compares_consolidated_metadata(copied, run):
    shutil.rmtree(copied / SECOND)
    root = json.loads((copied / "zarr.json").read_text())
    del root["consolidated_metadata"]["metadata"][f"{FIRST}/rate/dq"]
    root["consolidated_metadata"]["metadata"][f"{FIRST}/raw/sci"]["fill_value"] = 7
    (copied / "zarr.json").write_text(json.dumps(root))
    parent = SECOND.rpartition("/")[0]
    found = problems(run, copied)
    assert len(found) == 3
    assert f"{FIRST}/rate/dq: consolidated metadata lack it" in found[0]
    assert f"{parent}: consolidated metadata have it" in found[1]
    assert f"{SECOND}: consolidated metadata have it" in found[2]
    run("resume", copied)
    assert run("check", copied).stdout == ""


def test_check_reports_leftovers(copied, run):
    (copied / "01234" / ".zarr.json.1234.partial").write_text("x")
    (copied / "01234" / "001" / "x" / "nrs1" / "rate").mkdir(parents=True)
    found = problems(run, copied)
    assert found == [
        "01234/001/x/nrs1: half-written and not planned; remove it or add it again",
        "01234/.zarr.json.1234.partial: does not belong to the archive; remove it",
    ]
    assert {e.state for e in archives.list_exposures(copied)} == {"complete", "half-written"}


# --- command line, stores behind URLs


def test_ls(whole, run):
    lines = run("ls", whole).stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].split()[:4] == ["path", "mode", "filter", "grating"]
    assert lines[2].split()[:6] == [SECOND, "NRS_WATA", "F140X", "MIRROR", "SUB32", "NRSRAPID"]
    entries = json.loads(run("ls", whole, "--json").stdout)
    stored = sum(file.stat().st_size for file in (whole / FIRST).rglob("*") if file.is_file())
    assert entries[0]["size"] == stored - (whole / FIRST / "zarr.json").stat().st_size
    assert entries[0]["date"].startswith("2026-01-15T06:00:00")


def test_archive_behind_a_url(tmp_path, made, run, monkeypatch):
    monkeypatch.setattr(zarr_io, "CHUNK_BYTES", 2**12)
    path = "memory://bucket/a.zarr"
    words = ["--references", made["references"], "--raw", *QUICKLY]
    local = tmp_path / "a.zarr"
    run("add", local, made["files"][0], *words)
    try:
        assert run("add", path, made["files"][0], *words).stdout == f"{FIRST}\n"
        assert run("add", path, made["files"][0], *words).stdout == f"{NAMES[0]}: already there\n"
        tree, expected = archives.open_archive(path), archives.open_archive(local)
        for name in ("rate", "rateints", "raw"):
            xr.testing.assert_identical(tree[f"{FIRST}/{name}"].to_dataset(), expected[f"{FIRST}/{name}"].to_dataset())
        system = fsspec.filesystem("memory")
        document = json.loads(system.cat_file(f"/bucket/a.zarr/{FIRST}/zarr.json"))
        assert json.loads(document["attributes"]["nsxr_manifest"]) == manifest(local, FIRST)
        assert run("check", path).stdout == ""
        system.rm_file(f"/bucket/a.zarr/{FIRST}/rate/dq/c/0/0")
        assert problems(run, path) == [f"{FIRST}/rate/dq c/0/0: missing"]
        assert run("ls", path).stdout == run("ls", local).stdout
    finally:
        fsspec.filesystem("memory").rm("/bucket", recursive=True)
