"""The documents keep their promises: code runs, commands and tests that they name exist."""

import re
from pathlib import Path

import click
import pytest

from nsxr.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), names)
    if page.name == "README.md":
        assert sorted(path.name for path in (tmp_path / "products").iterdir()) == [
            "jw01234001001_03101_00001_nrs1.zarr",
            "jw01234001001_03101_00001_nrs1_rate.fits",
            "jw01234001001_03101_00001_nrs1_rateints.fits",
        ]


COMMANDS = [
    line
    for page in PAGES
    for block in blocks(page, "console")
    for line in block.splitlines()
    if line.startswith("nsxr ")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_and_options_exist(line):
    words = line.split()
    command = main.commands[words[1]]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words[2:] if word.startswith("-")} <= known
    context = click.Context(command, resilient_parsing=True)
    command.parse_args(context, words[2:])


def test_commands_of_the_readme_are_scripts_that_exist():
    text = "\n".join(blocks(ROOT / "README.md", "console"))
    assert "nsxr demo" in text
    for script in ("ci/tests", "ci/compare"):
        assert f"bash {script}" in text
        assert (ROOT / script).exists()
    assert "bash ci/tests" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_named_tests_exist():
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "differences.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    assert [name for name in named if f"def {name}(" not in tests] == []


def test_map_of_the_readme_is_true():
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    paths = [path for row in rows for path in re.findall(r"`([\w./]+)`", row) if "/" in path or path.endswith(".py")]
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []
