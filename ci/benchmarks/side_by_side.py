"""Time nsxr and jwst: whole commands, in turn; print the table of medians for the README.

    python ci/benchmarks/side_by_side.py [CONFIGURATION...] [-n 3] [-o DIR] [--peer FOLDER]

Each configuration of ``ci/peer/configurations.py`` is simulated once. Then the programs run in turn,
jwst, nsxr, jwst, nsxr, ..., each as a fresh process that starts Python, imports, reads, calibrates and writes both
products. Before the first turn all input files are read once, so that the file cache is warm for both. Then nsxr runs
once with an empty cache of kernels. This run compiles the kernels and has a column of its own. Nothing else should run
on the machine during the measurement.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "peer"))

from common import (
    add_choices,
    add_peer,
    log_command,
    make_parser,
    measure_command,
    peer_python,
    table_head,
    table_row,
)
from configurations import (
    CONFIGURATIONS,
    Configuration,
    Paths,
    nsxr_command,
    peer_command,
    simulate_command,
)

DEFAULT = ("irs2-nrs1", "full-nrs1", "allslits-nrs1", "sub2048-nrs1", "sub512-nrs1")


def warm_cache(folder: Path) -> None:
    """Read all files of a folder once."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(2**24):
                    pass


def time_configuration(configuration: Configuration, folder: Path, python: Path, turns: int) -> dict[str, object]:
    """Return the measurements of every turn of both programs on one configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    log_command(simulate_command(configuration, folder / "exposure"), folder / "simulate.log")
    paths = Paths.find(folder / "exposure")
    commands = {
        "peer": peer_command(configuration, paths, folder / "peer", python),
        "nsxr": nsxr_command(configuration, paths, folder / "nsxr"),
    }
    return {
        "configuration": configuration.name,
        "label": configuration.label,
        **time_commands(commands, folder, turns),
    }


def time_commands(commands: Mapping[str, list[str]], folder: Path, turns: int) -> dict[str, object]:
    """Return the measurements of every turn of the programs, and of the first run of nsxr, which compiles kernels.

    Inputs are in ``folder / "exposure"``. Each program writes to the folder of its name.
    """
    warm_cache(folder / "exposure")
    shutil.rmtree(folder / "kernels", ignore_errors=True)
    os.environ["NUMBA_CACHE_DIR"] = str(folder / "kernels")
    first = measure_command(commands["nsxr"], folder / "nsxr.log")
    turns_of: dict[str, list[dict[str, float]]] = {program: [] for program in commands}
    for _ in range(turns):
        for program, command in commands.items():
            shutil.rmtree(folder / program, ignore_errors=True)
            turns_of[program].append(measure_command(command, folder / f"{program}.log"))
    return {"first_nsxr": first, **turns_of}


def table(results: Sequence[dict[str, object]]) -> str:
    """Return the measurements as a Markdown table: medians, and the ratio of medians."""
    header = ("exposure (integrations x groups)", "jwst", "nsxr", "faster")
    header += ("jwst memory", "nsxr memory", "share", "first nsxr run")
    lines = [table_head(header)]
    for result in results:
        seconds, memory = (
            {
                program: median(turn[key] for turn in result[program])
                for program in ("peer", "nsxr")
                if program in result
            }
            for key in ("seconds", "peak_bytes")
        )
        has_peer = "peer" in seconds
        cells = [
            result["label"],
            f"{seconds['peer']:.1f} s" if has_peer else "",
            f"{seconds['nsxr']:.1f} s",
            f"{seconds['peer'] / seconds['nsxr']:.1f} times" if has_peer else "",
            f"{memory['peer'] / 1e9:.2f} GB" if has_peer else "",
            f"{memory['nsxr'] / 1e9:.2f} GB",
            f"{memory['nsxr'] / memory['peer']:.2f}" if has_peer else "",
            f"{result['first_nsxr']['seconds']:.1f} s",
        ]
        lines.append(table_row(cells))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Time the configurations of the command line."""
    parser = make_parser(__doc__)
    add_choices(parser, "configurations", list(CONFIGURATIONS), DEFAULT)
    parser.add_argument("-n", "--turns", type=int, default=3, help="runs of each program (default 3)")
    parser.add_argument("-o", "--output", type=Path, default=Path(".ci/build/side_by_side"), metavar="DIR")
    add_peer(parser)
    parser.add_argument("--keep", action="store_true", help="keep exposures and products")
    arguments = parser.parse_args()
    python = peer_python(arguments.peer)
    results = []
    for name in arguments.configurations:
        folder = arguments.output / name
        shutil.rmtree(folder, ignore_errors=True)
        results.append(time_configuration(CONFIGURATIONS[name], folder, python, arguments.turns))
        text = table(results)
        (arguments.output / "side_by_side.md").write_text(text, encoding="utf-8")
        (arguments.output / "side_by_side.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
        if not arguments.keep:
            for part in ("exposure", "peer", "nsxr"):
                shutil.rmtree(folder / part, ignore_errors=True)
    version = subprocess.run(
        [str(python), "-c", "import jwst; print(jwst.__version__)"], capture_output=True, text=True
    )
    sys.stdout.write(text)
    sys.stdout.write(
        f"\nMedians of {arguments.turns} runs in turn; {os.cpu_count()} processors, {platform.machine()}, "
        f"Python {platform.python_version()}; jwst {version.stdout.strip()}.\n"
    )


if __name__ == "__main__":
    main()
