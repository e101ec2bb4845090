"""Calibrate bright-object time series of any length, and show that memory does not grow with the length.

    python ci/series.py [--small] [-o DIR]

Simulates time series in segments: 155 integrations of 70 groups of 32 x 2048, and SUB512 of 5 groups with 1000, 3000
and 10000 integrations. Builds the graph of each, and runs the whole command. Prints integrations, seconds to build the
graph, and seconds and peak memory of the command. ``--small`` takes a hundredth of the integrations.
"""

import shutil
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

from common import NSXR, make_parser, measure_command, write_head, write_row

import nsxr.errors


def simulate(folder: Path, subarray: str, groups: int, integrations: int, segments: int) -> None:
    """Simulate a time series with its references."""
    options = {"subarray": subarray, "groups": groups, "integrations": integrations, "segments": segments}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    subprocess.run([NSXR, "simulate", "-o", str(folder), *words], check=True, stdout=subprocess.DEVNULL)


def measure_series(folder: Path, files: list[Path], output: Path) -> None:
    """Build the graph, run the command, and print a row of the table."""
    warnings.simplefilter("ignore", nsxr.errors.DegradedResultWarning)  # only parts of a time series are opened
    start = time.perf_counter()
    exposure = nsxr.open_exposure(files)
    opened = time.perf_counter()
    nsxr.detector1(exposure, nsxr.open_references(folder / "references", exposure))
    built = time.perf_counter()
    command = [NSXR, "detector1", *map(str, files), "--references", str(folder / "references"), "-o", str(output)]
    report = measure_command([*command, "--overwrite", "--no-progress"], folder / "nsxr.log")
    label = f"{exposure.attrs['SUBARRAY']} {exposure.sizes['integration']} x {exposure.sizes['group']}"
    size = exposure["sci"].size * 2 / 1e9
    times = f"{opened - start:.2f} s", f"{built - opened:.2f} s", f"{report['seconds']:.1f} s"
    write_row(label, f"{size:.2f} GB", *times, f"{report['peak_bytes'] / 1e9:.2f} GB")


def main() -> None:
    """Run all time series."""
    parser = make_parser(__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("-o", "--output", type=Path, help="folder for the exposures; default: a temporary one")
    arguments = parser.parse_args()
    folder = arguments.output or Path(tempfile.mkdtemp(prefix="nsxr-series-"))
    share = 100 if arguments.small else 1
    write_head("exposure", "raw", "open", "graph", "whole command", "peak memory")
    try:
        long, short = folder / "sub2048", folder / "sub512"
        simulate(long, "SUB2048", 70 // min(share, 7), 155 // min(share, 15), 3)
        measure_series(long, sorted(long.glob("*_uncal.fits")), folder / "products")
        simulate(short, "SUB512", 5, 10000 // share, 10)
        files = sorted(short.glob("*_uncal.fits"))
        for number in (1, 3, 10):
            measure_series(short, files[:number], folder / "products")
    finally:
        if arguments.output is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
