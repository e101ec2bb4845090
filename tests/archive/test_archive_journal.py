"""Plans and claims that nsxr has not written: nothing outside an exposure is touched, and the others go on."""

import json
import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from nsxr import archive as archives
from nsxr.archive import writer
from nsxr.archive.journal import Plan
from nsxr.archive.layout import is_archive, make_archive
from nsxr.archive.nodes import is_node, node_path, plan_key
from nsxr.cli import main
from nsxr.errors import ArchiveInUseError, InputFileError
from nsxr.simulate import simulate_exposure
from nsxr.storage.folder import Folder
from nsxr.storage.urls import receivers, shown, without_secrets

NODE, OTHER = "01234/001/001_03101_00001/nrs1", "01234/001/001_03101_00002/nrs1"


LEFT_OUT = ["superbias", "refpix", "linearity", "dark_current", "clean_flicker_noise"]
"""Steps that do not matter for the journal; without them graphs are built faster."""


def content(node=NODE, **changes):
    recipe = {"references": "/nowhere", "named": {}, "parameters": {}, "skip": [], "earlier": []}
    return {"node": node, "sources": ["/nowhere/x_uncal.fits"], "recipe": recipe, "raw": False} | changes


@pytest.fixture
def folder(tmp_path):
    """An archive with nothing in it, beside a directory that must stay, and one of an exposure not complete."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "precious").write_text("x")
    found = Folder.at(tmp_path / "a.zarr")
    make_archive(found)
    (tmp_path / "a.zarr" / OTHER / "rate").mkdir(parents=True)
    (tmp_path / "a.zarr" / ".nsxr").mkdir()
    return found


def listed(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if ".nsxr" not in path.parts)


def put(folder, plan, key=None):
    key = key or plan_key(plan["node"])
    path = Path(folder.root, ".nsxr", Path(key).name)
    path.write_text(plan if isinstance(plan, str) else json.dumps(plan))
    return f".nsxr/{path.name}"


def test_another_process_makes_the_archive_between_two_looks(tmp_path, monkeypatch):
    folder, list_names = Folder.at(tmp_path / "a.zarr"), Folder.names

    def names_after_another_made_it(self, key):
        monkeypatch.setattr(Folder, "names", list_names)
        make_archive(folder)
        return self.names(key)

    monkeypatch.setattr(Folder, "names", names_after_another_made_it)
    make_archive(folder)
    assert is_archive(folder)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "precious").write_text("x")
    with pytest.raises(InputFileError, match="foreign is no archive: it has precious"):
        make_archive(Folder.at(foreign))
    assert listed(foreign) == ["precious"]


WRONG = [
    *("../victim", "", ".", "/", "01234", "01234/001/001_03101_00001", f"{NODE}/rate", f"../a.zarr/{NODE}", f"/{NODE}"),
    *(f"{NODE}/", "01234/001/../001_03101_00001/nrs1", ".nsxr", NODE.upper(), f"{NODE}\n", None, 7, [NODE]),
]


@pytest.mark.parametrize("node", WRONG, ids=repr)
def test_plans_of_other_nodes_than_nsxr_writes_are_refused_and_nothing_is_removed(folder, node):
    for key in ("a.json", Path(plan_key(node)).name if isinstance(node, str) and len(node) > 1 else "b.json"):
        put(folder, content(node), key)
    before = listed(Path(folder.root).parent)
    result = archives.resume_archive(folder.root, progress=False)
    assert result.failed
    assert not result.finished
    assert all("is no plan of nsxr" in str(error) for error in result.failed.values())
    assert listed(Path(folder.root).parent) == before


def test_a_plan_in_the_file_of_another_node_is_refused(folder):
    key = put(folder, content(OTHER), plan_key(NODE))
    (error,) = archives.resume_archive(folder.root, progress=False).failed.values()
    assert f"{key} is no plan of nsxr (it is for {OTHER}" in str(error)
    assert Path(folder.root, OTHER, "rate").is_dir()


DEEP = '{"a":' * 50_000 + "1" + "}" * 50_000


@pytest.mark.parametrize(
    "plan",
    [
        *("", "[]", "7", "null", '"x"', "{}", DEEP, "\x00", "{"),
        *(content(sources="abc"), content(sources=[]), content(sources=[1]), content(raw="no"), content(planned=1)),
        *(content(recipe=[]), content(recipe={"skip": ["nothing"]}), content(recipe={"named": {"gain": 1}})),
        *(content(recipe={"named": []}), content(recipe={"parameters": 3}), content(recipe={"earlier": [7]})),
        *(content(recipe={"parameters": {"jump": 5}}), content(recipe={"unknown": 1}), content(more=1)),
        *(content(recipe={"references": 5}), content(recipe={"earlier": [{"paths": [3]}]}), content(recipe=None)),
    ],
    ids=lambda plan: repr(plan)[:60],
)
def test_what_is_no_plan_is_named_listed_and_stops_nothing(folder, plan):
    key = put(folder, plan, plan_key(NODE))
    with pytest.raises(InputFileError, match="is no plan of nsxr"):
        Plan.read(folder, key)
    put(folder, content(OTHER))
    result = archives.resume_archive(folder.root, progress=False)
    assert list(result.failed) == [key, OTHER]
    assert "no such file" in str(result.failed[OTHER])  # its turn came
    states = {e.path: e.state for e in archives.list_exposures(folder.root)}
    assert states == {key: "no plan", OTHER: "interrupted"}
    problems = list(archives.check_archive(folder.root))
    assert any(line.startswith(f"{key}: is no plan of nsxr (") for line in problems)
    assert all("\n" not in line for line in problems)


def test_plans_of_earlier_versions_without_a_token_are_read(folder):
    key = put(folder, content(planned="2026-01-01T00:00:00+00:00", version="0.0.9"))
    plan = Plan.read(folder, key)
    assert plan.token == ""
    assert plan.is_same({"planned": plan.planned})
    assert not plan.is_same({"planned": plan.planned, "token": "x"})


def test_nodes_are_what_headers_make(folder):
    keys = ("PROGRAM", "OBSERVTN", "VISIT", "VISITGRP", "SEQ_ID", "ACT_ID", "EXPOSURE", "DETECTOR")
    header = dict(zip(keys, ("1234", "1", "001", "03", "1", "0A", "12", "NRS2"), strict=True))
    assert is_node(node_path(header))
    assert is_node(node_path({**header, "INTSTART": 2, "INTEND": 3, "NINTS": 9}))
    for wrong in ("x/../../ESCAPED", "a\0b", "a" * 300, "é", "", "a b", "..", "a\nb"):
        with pytest.raises(InputFileError, match="letters and digits"):
            node_path({**header, "PROGRAM": wrong})
    with pytest.raises(InputFileError, match="INTSTART is -5"):
        node_path({**header, "INTSTART": -5, "INTEND": 3, "NINTS": 9})


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/x", "a//b", "./a", "a/.", "a\0b"])
def test_keys_do_not_leave_a_folder(folder, key):
    for act in (folder.read, folder.remove, folder.files, folder.names, lambda k: folder.put(k, b"")):
        with pytest.raises(InputFileError, match="is not a path below it"):
            act(key)


def test_a_folder_is_never_removed_itself(folder):
    with pytest.raises(InputFileError, match="below"):
        folder.remove("")
    assert Path(folder.root).is_dir()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return simulate_exposure(
        tmp_path_factory.mktemp("made"), readout="NRSRAPID", subarray="SUB32", groups=3, integrations=2
    )


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a.zarr"
    archives.add_exposure(
        path, made.uncal[0], made.references["gain"].parent, skip=["jump", "linearity"], progress=False
    )
    return path


@pytest.fixture
def copied(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy.zarr"))


@pytest.mark.parametrize(
    "junk",
    ["junk", "", "[]", '{"host": 5, "pid": 1}', json.dumps({"host": socket.gethostname(), "pid": "x"}), DEEP, "{}"]
    + [json.dumps({"host": host, "pid": 1, "started": "1", "since": "-"}) for host in ("elsewhere", "")],
    ids=lambda text: text[:30],
)
def test_claims_hide_no_damage(copied, made, junk):
    (copied / ".nsxr").mkdir(exist_ok=True)
    claim = copied / ".nsxr" / f"{NODE.replace('/', '-')}.claim1"
    claim.write_text(junk)
    file = next(f for f in sorted((copied / NODE / "rate" / "sci").rglob("c/**/*")) if f.is_file())
    file.write_bytes(b"x" + file.read_bytes()[1:])
    problems = list(archives.check_archive(copied))
    assert any("stored bytes changed" in line for line in problems)
    assert [e.state for e in archives.list_exposures(copied)] == ["complete"]
    with pytest.raises(ArchiveInUseError, match="force"):
        archives.add_exposure(copied, made.uncal[0], made.references["gain"].parent, overwrite=True, skip=LEFT_OUT)


def test_a_pipe_in_the_journal_is_no_plan(folder):
    os.mkfifo(Path(folder.root, ".nsxr", Path(plan_key(NODE)).name))
    (error,) = archives.resume_archive(folder.root, progress=False).failed.values()
    assert "pipe" in str(error)


def test_two_plans_of_the_same_instant_are_two(copied, made):
    references = made.references["gain"].parent
    for setting in (4.0, 400.0):
        with writer.taking_in(Folder.at(copied)) as jobs:
            recipe = writer.Recipe(str(references), {}, {"jump": {"rejection_threshold": setting}})
            jobs.append(writer.plan_exposure(Folder.at(copied), [made.uncal[0]], recipe, overwrite=True))
            plan = replace(jobs[0].plan, planned="2026-01-01T00:00:00")
            writer.carry_out(replace(jobs[0], plan=plan), progress=False)
        records = json.loads(archives.open_archive(copied)[f"{NODE}/rate"].attrs["nsxr_steps"])
        used = [record["parameters"] for record in records if record["step"] == "jump"]
        assert used[0]["rejection_threshold"] == setting


# --- secrets

SECRET = "https://user:p%40ss@data.example.org/x_uncal.fits?X-Amz-Signature=SIGNED&token=SIGNED#SIGNED"


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f"cannot open {SECRET}: 403",
        f"URL('{SECRET}')",
        f"simplecache::{SECRET}",
        "Max retries exceeded with url: /x_uncal.fits?X-Amz-Signature=SIGNED&a=b (Caused by p)",
        "https://user:p@ss@data.example.org/a@b",
        "HTTPS://user:pass@data.example.org",
    ],
)
def test_what_is_shown_has_no_secrets(text):
    found = without_secrets(text)
    assert not any(word in found for word in ("SIGNED", "user:", "ss@", "pass"))
    assert "example.org" in found or "x_uncal" in found
    if text.startswith("http"):
        assert shown(text) == found


def test_hosts_that_urls_name():
    assert receivers(SECRET) == {"https://data.example.org"}
    assert receivers("simplecache::http://a.org:81/x") == {"http://a.org:81"}
    assert receivers("https://a.org@b.org/x") == {"https://b.org"}
    assert receivers("https://a.org?@b.org/x") == {"https://a.org"}
    assert receivers("s3://bucket/x") == receivers("memory://x") == receivers("/local/x") == set()


def test_storage_options_go_to_named_hosts_only(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(writer, "carry_out", lambda job, progress: asked.append(job.plan.node))
    earlier = {"paths": ["https://evil.example.org/x_uncal.fits"], "references": None, "named": {}}
    recipe = content()["recipe"]
    put(folder, content(NODE, sources=["https://evil.example.org/x_uncal.fits"]))
    put(folder, content(OTHER, recipe=recipe | {"earlier": [earlier]}))
    options = {"client_kwargs": {"headers": {"Authorization": "SIGNED"}}}
    for given in (options, {"https": options}):
        result = archives.resume_archive(folder.root, storage_options=given, progress=False)
        assert sorted(result.failed) == [NODE, OTHER]
        assert all("--host https://evil.example.org" in str(error) for error in result.failed.values())
        assert "SIGNED" not in str(result.failed)
    assert asked == []
    for settings in (
        {"storage_options": options, "hosts": ["https://evil.example.org"]},
        {"storage_options": {"s3": {"anon": True}}},
        {},
    ):
        archives.resume_archive(folder.root, progress=False, **settings)
    assert asked == [NODE, OTHER] * 3
    line = ["archive", "resume", folder.root, "--storage", "token=SIGNED"]
    assert "--host" in CliRunner().invoke(main, line).output


def test_public_plans_have_no_secrets():
    earlier = {"paths": [SECRET], "references": SECRET, "named": {"gain": SECRET}}
    recipe = {"references": SECRET, "named": {"gain": SECRET}, "parameters": {}, "skip": [], "earlier": [earlier]}
    text = json.dumps(writer._without_secrets(Plan(NODE, (SECRET,), recipe)))
    assert text.count("https://data.example.org/x_uncal.fits") == 6
    assert "SIGNED" not in text
    assert "user" not in text
