"""Functions that the programs in ci/ share: options, tables, commands, and the environment of jwst.

A program in ci/ imports this file directly. A program in a folder below puts ci/ on its path first. The observatory's
own pipeline, jwst, is called "peer" in names of files, functions and options. It runs in an environment of its own; see
``ci/peer/environment.sh``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "CI",
    "NSXR",
    "PEER",
    "add_choices",
    "add_peer",
    "call_peer",
    "fit_by_peer",
    "log_command",
    "make_parser",
    "measure_command",
    "peer_python",
    "table_head",
    "table_row",
    "write_head",
    "write_row",
]

CI = Path(__file__).resolve().parent
PEER = CI / "peer"
NSXR = str(Path(sys.executable).with_name("nsxr"))
"""The command of the environment that runs the program."""


class _Choices(argparse.Action):
    """Take names from a list; for a name that is not in the list, the error shows the list."""

    def __init__(self, *args: Any, known: Sequence[str] = (), what: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.known, self.what = known, what

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        """Check the names and store them; without names, store the default."""
        unknown = sorted(set(values) - set(self.known))
        if unknown:
            parser.error(f"unknown {self.what} {', '.join(unknown)}; known are {', '.join(self.known)}")
        setattr(namespace, self.dest, values or self.default)


def make_parser(text: str | None) -> argparse.ArgumentParser:
    """Make a parser whose help shows the docstring of a program as it is written."""
    return argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_choices(
    parser: argparse.ArgumentParser, what: str, known: Sequence[str], default: Sequence[str] | None = None
) -> None:
    """Add an argument that takes some of the names that a program knows; without names, all of them."""
    chosen = list(known if default is None else default)
    help_text = f"of {', '.join(known)}; default: {'all' if default is None else ', '.join(chosen) or 'none'}"
    options: dict[str, Any] = {"action": _Choices, "known": list(known), "what": what, "default": chosen}
    parser.add_argument(what, nargs="*", metavar=what[:-1].upper(), help=help_text, **options)


def add_peer(parser: argparse.ArgumentParser, is_optional: bool = False) -> None:
    """Add the option with the folder of the environment of jwst, and an option that leaves jwst out."""
    parser.add_argument("--peer", type=Path, metavar="FOLDER", help="environment of jwst; made if it is missing")
    if is_optional:
        parser.add_argument("--no-peer", action="store_true", help="nsxr alone")


def peer_python(folder: Path | None) -> Path:
    """Return the Python of jwst's environment, making the environment if it is missing."""
    command = [str(PEER / "environment.sh"), *([str(folder)] if folder else [])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip().splitlines()[-1])


def call_peer(python: Path, script: str, *arguments: object, quiet: bool = False) -> None:
    """Run a script of ci/peer with the Python of jwst's environment."""
    command = [str(python), str(PEER / script), *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=quiet)


def fit_by_peer(python: Path, arrays: Mapping[str, Any], *options: str) -> dict[str, np.ndarray]:
    """Find jumps in ramps and fit the ramps by jwst, with arrays and results as in ``ci/peer/fit_arrays.py``."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "ramps.npz", Path(folder) / "rates.npz"
        np.savez(given, **arrays)
        call_peer(python, "fit_arrays.py", given, made, *options, quiet=True)
        with np.load(made) as results:
            return dict(results)


def log_command(command: Sequence[str], log: Path) -> None:
    """Run a command with its output in a log file; if it fails, raise an error with the end of the file."""
    with log.open("a", encoding="utf-8") as file:
        file.write(" ".join(command) + "\n")
        file.flush()
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
        raise RuntimeError(f"status {status} from {' '.join(command)}\n{tail}")


def measure_command(command: Sequence[str], log: Path) -> dict[str, float]:
    """Run a command by ``ci/benchmarks/measure.py``, with its output in a log file; return seconds and memory."""
    report = log.with_suffix(".measured.json")
    log_command([sys.executable, str(CI / "benchmarks" / "measure.py"), str(report), *command], log)
    return dict(json.loads(report.read_text(encoding="utf-8")))


def table_row(cells: Sequence[object]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def table_head(names: Sequence[str]) -> str:
    """Return the first two lines of a Markdown table."""
    return table_row(names) + "\n|" + " --- |" * len(names)


def write_row(*cells: object) -> None:
    """Print a row of a Markdown table at once."""
    print(table_row(cells), flush=True)


def write_head(*names: str) -> None:
    """Print the first two lines of a Markdown table."""
    print(table_head(names), flush=True)
