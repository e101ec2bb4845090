"""Check threads, workers and workers that die at full size: seconds, memory, and whether the bytes are the same.

    python ci/cluster.py [--small] [--directory FOLDER]

Simulates a full-frame NRSIRS2RAPID exposure of 20 groups and a bright-object time series in three segments (155
integrations of 70 groups, 32 x 2048). Each is calibrated by the command with one thread, two threads, two workers, four
workers, two workers one of which is killed half-way, and two workers with too little memory (three quarters of the most
that one took). For each run it prints the seconds, the memory of the largest process, and whether the products are
those of one thread, byte for byte except for the date in their headers. With too little memory a run may fail, with one
clear error and no products. All other runs must succeed. --small takes a minute. The whole takes 6 GB of memory, 4 GB
of disk and a quarter of an hour on two cores.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from common import make_parser, write_head, write_row

from nsxr.simulate import simulate_exposure

FULL: dict[str, dict[str, Any]] = {
    "full-frame IRS2, 20 groups": {"readout": "NRSIRS2RAPID", "groups": 20},
    "series, 155 x 70, 3 segments": {
        "readout": "NRSRAPID",
        "subarray": "SUB2048",
        "groups": 70,
        "integrations": 155,
        "segments": 3,
    },
}
SMALL: dict[str, dict[str, Any]] = {
    "full-frame IRS2, 4 groups, 128 columns": {"readout": "NRSIRS2RAPID", "groups": 4, "columns": 128, "scene": "IFU"},
    "series, 60 x 10, 3 segments": {
        "readout": "NRSRAPID",
        "subarray": "SUB512",
        "groups": 10,
        "integrations": 60,
        "segments": 3,
    },
}
LEAST_LIMIT = 512  # MiB, as nsxr.compute.cluster.LEAST_MEMORY


@dataclass(frozen=True)
class Run:
    """Time, memory, status and products of one run of the command."""

    seconds: float
    largest: int  # bytes, of any of its processes
    status: int
    digests: dict[str, str]
    error: str

    @property
    def left(self) -> list[str]:
        """Return the names of the files in the directory of the products."""
        return sorted(self.digests)


def digest(path: Path) -> str:
    """Return the SHA-256 of a product without the card with the date on which it was made."""
    content = bytearray(path.read_bytes())
    at = content.index(b"DATE    =")
    content[at : at + 80] = b" " * 80
    return hashlib.sha256(content).hexdigest()


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """Return the workers that a command has started."""
    found = []
    for child in process.children(recursive=True):
        try:
            if any("spawn_main" in word for word in child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def run(words: list[str], out: Path, threads: int | None = None, kill_after: float | None = None) -> Run:
    """Run nsxr detector1 into a directory; kill a worker ``kill_after`` seconds after the first product is begun."""
    shutil.rmtree(out, ignore_errors=True)
    program = str(Path(sys.executable).with_name("nsxr"))
    environment = os.environ | ({} if threads is None else {"DASK_NUM_WORKERS": str(threads)})
    largest, begun, killed = 0, None, False
    with tempfile.TemporaryFile("w+") as said:
        started = time.monotonic()
        command = subprocess.Popen(
            [program, "detector1", *words, "-o", str(out)], env=environment, stdout=subprocess.DEVNULL, stderr=said
        )
        process = psutil.Process(command.pid)
        while command.poll() is None:
            try:
                family = [process, *process.children(recursive=True)]
            except psutil.NoSuchProcess:
                break
            for member in family:
                try:
                    largest = max(largest, member.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue
            if begun is None and out.is_dir() and any(out.glob(".*.partial")):
                begun = time.monotonic()
            if kill_after is not None and begun is not None and not killed and time.monotonic() > begun + kill_after:
                for worker in workers_of(process)[:1]:
                    worker.kill()
                    killed = True
            time.sleep(0.05)
        command.wait()
        seconds = time.monotonic() - started
        said.seek(0)
        errors = [line.strip() for line in said if line.startswith("Error: ")]
    found = (
        {path.name: digest(path) if path.suffix == ".fits" else "" for path in out.iterdir()} if out.is_dir() else {}
    )
    if kill_after is not None and not killed:
        errors.append("it was done before a worker could be killed")
    return Run(seconds, largest, command.returncode, found, "; ".join(errors))


def table(name: str, words: list[str], folder: Path) -> list[str]:
    """Do all runs of one exposure, print a row for each, and return the problems."""
    problems = []
    expected: dict[str, str] = {}

    def row(kind: str, extra: list[str], may_fail: bool = False, **settings: Any) -> Run:
        done = run([*words, *extra], folder / "out", **settings)
        expected.update(done.digests if not expected else {})
        if done.status == 0 and done.digests == expected and not done.error:
            verdict = "the same"
        elif may_fail and done.status == 1 and done.error and not done.left:
            verdict = f"none, clear error ({done.error.removeprefix('Error: ')})"
        else:
            verdict = f"WRONG: status {done.status}, {done.left}, {done.error or 'no error'}"
            problems.append(f"{name}, {kind}: {verdict}")
        write_row(name, kind, f"{done.seconds:.1f}", f"{done.largest / 2**20:.0f}", verdict)
        return done

    row("1 thread", [], threads=1)
    row("2 threads", [], threads=2)
    two = row("2 workers", ["--workers", "2"])
    row("4 workers", ["--workers", "4"])
    row("2 workers, one killed", ["--workers", "2"], kill_after=max(0.5, (two.seconds - 4) / 2))
    limit = max(LEAST_LIMIT, round(0.75 * two.largest / 2**20))
    row(f"2 workers of {limit} MiB", ["--workers", "2", "--memory-limit", f"{limit}MiB"], may_fail=True)
    return problems


def main() -> int:
    """Run all exposures; return the exit status."""
    parser = make_parser(__doc__)
    parser.add_argument("--small", action="store_true", help="small exposures")
    parser.add_argument("--directory", help="folder for temporary files; default the temporary directory")
    chosen = parser.parse_args()
    problems = []
    write_head("exposure", "run", "seconds", "largest process [MiB]", "bytes")
    for name, settings in (SMALL if chosen.small else FULL).items():
        with tempfile.TemporaryDirectory(dir=chosen.directory) as folder:
            made = simulate_exposure(folder, **settings)
            words = [*map(str, made.uncal), "--references", str(made.references["gain"].parent)]
            problems += table(name, words, Path(folder))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
