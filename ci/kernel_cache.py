"""Start many processes at once on an empty cache of compiled kernels, and on a full one; none may crash or differ.

    python ci/kernel_cache.py [-n 8] [-r 3]

Numba's cache has crashed when several processes shared it (issues 4807 and 10128 of numba). nsxr uses the cache,
because a warm start saves some 20 s, because each file is written under a temporary name and renamed, and because index
and code have a stamp of the source. This program tests it: all commands must succeed with the same pixels. It also
prints the seconds of a first and of a warm command.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from astropy.io import fits
from common import NSXR, make_parser


def digest(path: Path) -> str:
    """Return a checksum of the pixels of a product."""
    with fits.open(path) as file:
        return hashlib.sha256(b"".join(hdu.data.tobytes() for hdu in file[1:5])).hexdigest()


def main() -> None:
    """Run all rounds; exit with 1 if a process failed or differs."""
    parser = make_parser(__doc__)
    parser.add_argument("-n", "--processes", type=int, default=8)
    parser.add_argument("-r", "--rounds", type=int, default=3)
    arguments = parser.parse_args()
    seen, failures = set(), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = ["--subarray", "SUB32", "--groups", "6", "--integrations", "4", "-o", str(folder)]
        subprocess.run([NSXR, "simulate", *words], check=True, stdout=subprocess.DEVNULL)
        raw = next(folder.glob("*_uncal.fits"))
        command = [NSXR, "detector1", str(raw), "--references", str(folder / "references"), "--no-progress", "-o"]
        for turn in range(arguments.rounds):
            environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / f"cache{turn}")}
            for state in ("empty", "full"):
                start = time.perf_counter()
                outputs = [folder / f"{turn}-{state}-{n}" for n in range(arguments.processes)]
                running = [
                    subprocess.Popen([*command, str(output)], env=environment, stdout=subprocess.DEVNULL)
                    for output in outputs
                ]
                failures += sum(process.wait() != 0 for process in running)
                seen |= {digest(path) for output in outputs for path in output.glob("*_rate.fits")}
                seconds = time.perf_counter() - start
                sys.stdout.write(f"round {turn + 1}, {state} cache, {arguments.processes} processes: {seconds:.1f} s\n")
                start = time.perf_counter()
                if state == "full":
                    subprocess.run(
                        [*command, str(folder / f"{turn}-alone")],
                        env=environment,
                        check=True,
                        stdout=subprocess.DEVNULL,
                    )
                    sys.stdout.write(f"  alone, full cache: {time.perf_counter() - start:.1f} s\n")
        start = time.perf_counter()
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "first")}
        subprocess.run([*command, str(folder / "first-out")], env=environment, check=True, stdout=subprocess.DEVNULL)
        sys.stdout.write(f"alone, empty cache: {time.perf_counter() - start:.1f} s\n")
    sys.stdout.write(f"{failures} processes failed, {len(seen)} different results\n")
    sys.exit(int(failures > 0 or len(seen) != 1))


if __name__ == "__main__":
    main()
