"""The documentation: its Python runs, its commands exist, its map is that of the tree, its tests are real.

At the end, the differences from the observatory's pipeline that no other test shows.
"""

import inspect
import re
import shlex
from pathlib import Path

import click
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import nsxr
from nsxr import cli
from nsxr.errors import ParameterError
from nsxr.model.dq import GroupFlag
from nsxr.model.readout import irs2_layout
from nsxr.pipelines.detector1 import DETECTOR1
from nsxr.pipelines.pipeline import Pipeline
from nsxr.ramps.jump import flag_jumps
from nsxr.ramps.reference_pixels.irs2 import subtract_interleaved_reference
from nsxr.simulate import simulate_exposure
from nsxr.simulate.sky import read_sky
from nsxr.testing import forbid_computes

REPOSITORY = Path(__file__).parents[1]
GENERATED = REPOSITORY / "docs" / "parameters.md"  # by ci/docs
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PAGES = [page for page in PAGES if page != GENERATED]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CITED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def blocks(page, language):
    return [text for kind, text in _BLOCK.findall(page.read_text("utf-8")) if kind == language]


def test_the_readme_is_short():
    assert len(PAGES[0].read_text("utf-8").splitlines()) <= 150


def test_the_sky_of_the_page_can_be_read(tmp_path):
    (text,) = blocks(REPOSITORY / "docs" / "getting_started.md", "json")
    (tmp_path / "sky.json").write_text(text, "utf-8")
    sky = read_sky(tmp_path / "sky.json")
    assert [one.name for one in sky.sources] == ["star", "galaxy"]
    assert sky.background is not None
    assert sky.transit is not None


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Return a folder like that of `nsxr demo`: a raw exposure, small, and its references."""
    folder = tmp_path_factory.mktemp("documentation") / "demo"
    made = simulate_exposure(folder, groups=5, columns=16, scene="IFU")
    assert made.uncal[0].name == "jw01234001001_03101_00001_nrs1_uncal.fits"
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_runs(page, demo, tmp_path, monkeypatch):
    plt.switch_backend("agg")
    pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    Path("demo").symlink_to(demo, target_is_directory=True)
    names = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page, "python"), start=1):
        exec(compile(block, f"{page.name}, Python block {number}", "exec"), names)
    plt.close("all")
    if "noise" in names:
        assert ((names["noise"] > 4) & (names["noise"] < 12)).all()  # of a difference [DN]; cosmic rays make hundreds


@pytest.fixture(scope="module")
def example():
    """Return the names that the worked example of CONTRIBUTING.md defines: a correction and its test."""
    names = {"__name__": "example"}
    for block in blocks(REPOSITORY / "CONTRIBUTING.md", "python"):
        exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    return names


def test_the_test_of_the_worked_example_passes(example):
    tests = [function for name, function in example.items() if name.startswith("test_")]
    assert len(tests) == 1
    tests[0]()


def test_the_worked_example_becomes_a_step(example, demo):
    """The pipeline is that of the change in the guide: a line more in the list of steps."""
    (change,) = blocks(REPOSITORY / "CONTRIBUTING.md", "diff")
    before = "".join(f"{line[1:]}\n" for line in change.splitlines() if line[0] == " ")
    assert before in (REPOSITORY / "nsxr" / "pipelines" / "detector1.py").read_text("utf-8")
    (added,) = (line[1:].strip(" ,") for line in change.splitlines() if line[0] == "+")
    last = change.splitlines()[-1].strip(" ,")
    functions = [one.function for name, one in DETECTOR1.steps.items() if name != "ipc"]
    place = [function.__name__ for function in functions].index(last)
    pipeline = Pipeline("detector1", [*functions[:place], example[added], *functions[place:]], products=("rate",))

    settings = pipeline.settings({}, run=["ipc"])
    assert pipeline.filled(settings)["ipc"] == {"coupling": 0.005}
    with pytest.raises(ParameterError, match="coupling"):
        pipeline.settings({"ipc": {"coupling": 0.2}})
    exposure = nsxr.open_exposure(demo / "jw01234001001_03101_00001_nrs1_uncal.fits")
    references = nsxr.open_references(demo / "references", exposure)
    with forbid_computes():
        stages = pipeline.correct(exposure, references, settings, until="jump")
        skipped = pipeline.correct(exposure, references, pipeline.settings(), until="jump")
    assert stages["ipc"].nsxr.steps[-1]["parameters"] == {"coupling": 0.005}
    assert skipped["ipc"].nsxr.steps[-1]["status"] == "SKIPPED"
    last = xr.Dataset({name: stages[name]["sci"].isel(group=-1) for name in ("linearity", "ipc")}).compute()
    assert (last["ipc"] != last["linearity"]).any()
    np.testing.assert_allclose(last["ipc"].sum(), last["linearity"].sum(), rtol=1e-4)  # charge moves between pixels


COMMANDS = [
    part.strip()
    for page in PAGES
    for block in blocks(page, "console")
    for line in block.splitlines()
    for part in line.split("&&")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_exist(line):
    words = shlex.split(line)
    program = Path(words[0]).name
    if words[1:] == ["-m", "venv", ".venv"]:
        assert program == "python3"
    elif program == "nsxr":
        command = cli.main.get_command(None, words[1])
        context = click.Context(command, info_name=words[1])
        command.parse_args(context, words[2:])  # unknown options and values are errors
    elif program in ("bash", "python"):
        assert (REPOSITORY / words[1]).is_file()
    else:
        known = (["python3", "-m", "venv", ".venv"], ["source", ".venv/bin/activate"], ["pip", "install", "."])
        assert words in known


def test_map_is_that_of_the_tree():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8").split("## Where things are\n")[1].split("\n## ")[0]
    folder, named = "", set()
    for word in re.findall(r"`([^`]+)`", text):
        if "/" not in word and (REPOSITORY / folder / word).is_file():
            word = f"{folder}{word}"
        if "/" in word or (REPOSITORY / word).exists():
            assert (REPOSITORY / word).exists(), word
            named.add(word.rstrip("/"))
        if word.endswith("/"):
            folder = word
    files = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "nsxr").rglob("*.py") if path.name[:2] != "__"}
    lost = {str(path) for path in files if not named & {str(path), *(str(p) for p in path.parents if str(p) != "nsxr")}}
    assert not lost, f"not on the map in CONTRIBUTING.md: {sorted(lost)}"
    rooms = [REPOSITORY / "nsxr" / room for room in ("ramps", "slits", "spectra")]
    corrections = {path.name for room in rooms for path in room.rglob("[a-z]*.py")}
    of_steps = {Path(inspect.getfile(step.function)).name for step in DETECTOR1.steps.values()}
    assert corrections - of_steps <= {Path(name).name for name in named}


def test_what_is_said_to_be_there_is_there():
    from nsxr.simulate.configuration import READOUTS, SUBARRAYS

    text = (REPOSITORY / "docs" / "scope.md").read_text("utf-8")
    there = " ".join(line for line in text.splitlines() if "**yes**" in line)
    on = [name for name, step in DETECTOR1.steps.items() if not step.off]  # the page of parameters has all of them
    for name in (*on, *READOUTS, *SUBARRAYS):
        assert re.search(rf"\b{name}\b", there), name
    missing = " ".join(line for line in text.splitlines() if "not yet" in line)
    for step in DETECTOR1.steps.values():
        for parameter in step.parameters:
            assert f"`{parameter}`" not in missing


def test_every_step_of_stage_1_is_explained_in_order():
    explained = re.findall(r"^## (\w+)$", (REPOSITORY / "docs" / "stage1.md").read_text("utf-8"), re.MULTILINE)
    assert explained == [name for name in DETECTOR1.steps if name in explained]
    assert {name for name, step in DETECTOR1.steps.items() if not step.off} <= set(explained)


def test_the_page_of_parameters_has_every_parameter_and_its_commands_exist():
    page = CliRunner().invoke(cli.main, ["parameters", "--markdown"]).stdout
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    for name, step in DETECTOR1.steps.items():
        assert all(f"| `{parameter}` |" in sections[name] for parameter in step.parameters)
    lines = [line for kind, text in _BLOCK.findall(page) if kind == "console" for line in text.splitlines()]
    assert lines
    for line in lines:
        test_commands_exist(line)


def test_the_api_reference_has_every_public_name_once():
    page = (REPOSITORY / "docs" / "api.rst").read_text("utf-8")
    listed = re.findall(r"^   ([A-Za-z]\w*)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(nsxr.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        assert "://" in target or (page.parent / target).is_file(), target
    assert all(picture.stat().st_size < 400_000 for picture in (REPOSITORY / "docs" / "images").iterdir())


def test_differences_name_tests_that_exist():
    text = (REPOSITORY / "docs" / "differences.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| what"))]
    assert len(rows) > 30
    for row in rows:
        assert row.count(" | ") == 4, row
        cited = _CITED.findall(row)
        assert cited, row
        for path, name in cited:
            assert re.search(rf"^def {name}\(", (REPOSITORY / path).read_text("utf-8"), re.MULTILINE), (path, name)


# differences that no other test shows

JUMP = np.uint8(GroupFlag.JUMP_DET.value)
DO_NOT_USE = np.uint8(GroupFlag.DO_NOT_USE.value)


@pytest.fixture
def jumps_of(make_exposure, make_reference):
    """Return a function that gives the places of jumps by differences, 100 electrons a group, read noise 10."""

    def places(sci, groupdq=None, **parameters):
        exposure = make_exposure(sci)
        if groupdq is not None:
            exposure["groupdq"][:] = groupdq
        references = (make_reference(kind, exposure, sci=value) for kind, value in (("readnoise", 10.0), ("gain", 1.0)))
        flags = flag_jumps(exposure, *references, algorithm="two-point", **parameters)["groupdq"].values
        return [tuple(map(int, place)) for place in np.argwhere(flags & JUMP)]

    return places


def test_an_integration_that_is_lost_does_not_stop_the_others(jumps_of):
    sci = np.cumsum(np.full((3, 12, 3, 4), 100.0), axis=1)
    sci[0, 5:, 1, 2] += 300
    groupdq = np.zeros(sci.shape, np.uint8)
    groupdq[1, 2:] = DO_NOT_USE  # two groups are left
    groupdq[2] = DO_NOT_USE
    assert jumps_of(sci, groupdq) == jumps_of(sci) == [(0, 5, 1, 2)]


def test_neighbours_are_flagged_from_thirty_sigma_by_default(jumps_of):
    sigma = np.sqrt(100 + 10**2)
    sci = np.cumsum(np.full((1, 12, 3, 3), 100.0), axis=1)
    sci[0, 5:, 1, 1] += 29 * sigma
    assert len(jumps_of(sci)) == 1
    assert len(jumps_of(sci, min_jump_to_flag_neighbors=10.0)) == 5
    sci[0, 5:, 1, 1] += 2 * sigma
    assert len(jumps_of(sci)) == 5


def test_only_one_of_equal_largest_differences_is_left_out_of_the_location(jumps_of):
    """Of 80, 100, 250, 250 the median without one 250 is 100; without both it would be 90."""
    differences = np.array([80.0, 100.0, 250.0, 250.0])
    sci = np.concatenate([[0.0], np.cumsum(differences)]).reshape(1, 5, 1, 1)
    ratio = 150 / np.sqrt(100 + 10**2)  # of 250 to the location 100; to 90 it would be 11.6
    assert jumps_of(sci, rejection_threshold=1.03 * ratio) == []
    assert len(jumps_of(sci, rejection_threshold=0.97 * ratio)) == 2


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_samples_equal_to_their_mean_are_corrected_too(make_exposure, detector):
    """A drift of whole frames is removed from a pixel whose noise happens to hide it, too."""
    drift = np.array([-3.0, 1.0, 2.0])
    sci = 1000.0 + np.broadcast_to(drift[:, None, None], (1, 3, 3200, 16))
    raw_row = irs2_layout(detector).science_rows_raw[700]
    sci = sci.copy()
    sci[0, :, raw_row, 9] = 1000.0  # equals its mean over groups in every group
    keywords = {"SUBARRAY": "FULL", "READPATT": "NRSIRS2RAPID", "SUBSTRT1": 1, "SUBSTRT2": 1, "NOUTPUTS": 5}
    exposure = make_exposure(sci, DETECTOR=detector, **keywords).assign_attrs(SUBSIZE1=2048, SUBSIZE2=2048)
    nothing = np.zeros((4, 712 * 16), np.complex64)
    dims = ("output", "frequency")
    refpix = xr.Dataset({"alpha": (dims, nothing), "beta": (dims, nothing)}, {"output": [1, 2, 3, 4]})
    refpix.attrs = {"reference_type": "refpix", "filename": "refpix.fits"}
    result = subtract_interleaved_reference(exposure, refpix)["sci"]
    expected = np.full(result.shape, 1000.0)
    expected[0, :, 700, 9] -= drift
    np.testing.assert_allclose(result, expected, atol=1e-3)
