"""Measure the time of the least work of stage 1 on this machine, and print a table for docs/speed.md.

    python ci/benchmarks/floors.py [-n 5]

The least work of an exposure is: read each raw byte once and convert it to float32; do the Fourier transforms of IRS2;
read each sample once for saturation, linearity, jumps and the fit; and write the products. The speeds of these are
measured on one core with the kernels of nsxr, as processor time, best of several. A run takes longer because of
Python's start and imports, the graph, copies, and waiting.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import make_parser, table_head, table_row

from nsxr.formats.pixels import PixelSource
from nsxr.kernels.ramps import irs2
from nsxr.kernels.ramps.jump import JumpSizes, flag_outside
from nsxr.kernels.ramps.jump_limits import find_limits
from nsxr.kernels.ramps.linearity import linearize
from nsxr.kernels.ramps.ramp_fit import fit_slopes
from nsxr.kernels.ramps.ramp_tile import PixelImages, SelectedGroups
from nsxr.kernels.ramps.ramp_weights import weight_tables
from nsxr.kernels.ramps.series_rate import TwoPointSearch
from nsxr.kernels.sorting import Thresholds

EXPOSURES = {
    "NRS1 FULL NRSIRS2RAPID 1 x 20": (1, 20, 2048, 2048),
    "NRS1 FULL NRSRAPID 1 x 20": (1, 20, 2048, 2048),
    "NRS1 SUB2048 NRSRAPID 200 x 10": (200, 10, 32, 2048),
    "NRS1 SUB512 NRSRAPID 200 x 10": (200, 10, 32, 512),
}


def best(function: Callable[[], object], turns: int) -> float:
    """Return the least processor time of a call [s], after a first call that compiles."""
    function()
    least = np.inf
    for _ in range(turns):
        start = time.process_time()
        function()
        least = min(least, time.process_time() - start)
    return float(least)


def rates(turns: int) -> dict[str, float]:
    """Return seconds for each sample, or for each group of a frame, by kind of work."""
    generator = np.random.default_rng(1)
    copy = np.zeros(2**26, np.float32)
    target = np.empty_like(copy)
    found = {"copy float32": best(lambda: np.copyto(target, copy), turns) / copy.size}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raw"
        generator.integers(0, 2**16, (20, 512, 2048), dtype=np.uint16).tofile(path)
        source = PixelSource(str(path), 0, (20, 512, 2048), ">i2", "float32", 32768)
        found["read and convert"] = best(lambda: source.read((slice(None),) * 3), turns) / (20 * 512 * 2048)
    for shape in ((1, 20, 64, 2048), (200, 10, 1, 2048)):
        sci = generator.normal(10, 5, shape).cumsum(axis=1).astype(np.float32)
        flags = np.zeros(shape, np.uint8)
        image, dq = np.ones(shape[2:], np.float32), np.zeros(shape[2:], np.uint32)
        search = TwoPointSearch(1, Thresholds(4.0, 5.0, 6.0), 10, 100, True, 0.5)

        def jumps(sci=sci, flags=flags, image=image, search=search):
            *ordinary, _ = find_limits(sci, flags, image, image, search)
            return flag_outside(sci, flags, image, *ordinary, JumpSizes(np.inf, np.inf, 30.0, 1000.0))

        def fit(sci=sci, flags=flags, image=image, dq=dq):
            images = PixelImages(dq, image, image, 0 * image, image)
            selected = SelectedGroups(10.0, 10.0, 1, 0, sci.shape[1] - 1, True)
            return fit_slopes(sci, flags, images, selected, weight_tables(sci.shape[1]))

        kind = f"{shape[0]} x {shape[1]}"
        found[f"jumps {kind}"] = best(jumps, turns) / sci.size
        found[f"fit {kind}"] = best(fit, turns) / sci.size
    coefficients = np.zeros((5, 64, 2048), np.float32)
    sci, flags = np.ones((1, 20, 64, 2048), np.float32), np.zeros((1, 20, 64, 2048), np.uint8)
    found["linearity"] = best(lambda: linearize(sci, flags, coefficients, np.uint8(2)), turns) / sci.size
    series = generator.normal(size=(irs2.SLOTS, 2048)).astype(np.float32)
    spectrum = irs2.along_lines(series)
    found["rows of a frame"] = best(lambda: irs2.along_lines(series), turns)
    found["columns of a spectrum"] = best(lambda: irs2.across_slots(spectrum.copy()), turns)
    found["rows back"] = best(lambda: irs2.in_time(spectrum.copy(), np.arange(512), 2048), turns)
    return found


def floors(found: dict[str, float]) -> dict[str, dict[str, float]]:
    """Return the processor seconds of the least work of each exposure, by kind of work."""
    table = {}
    for label, shape in EXPOSURES.items():
        samples = float(np.prod(shape))
        is_irs2 = "IRS2" in label
        kind = "1 x 20" if shape[0] == 1 else "200 x 10"
        parts = {
            "read": samples * (3200 / 2048 if is_irs2 else 1) * found["read and convert"],
            # four amplifiers: to the spectrum and back; reference output: to it, three times to it and back, to it
            "transforms": shape[1]
            * (
                4 * (0.2 * found["rows of a frame"] + 2 * found["columns of a spectrum"] + found["rows back"])
                + found["rows of a frame"]
                + 7 * found["columns of a spectrum"]
            )
            if is_irs2
            else 0.0,
            "linearity": samples * found["linearity"],
            "jumps": samples * found[f"jumps {kind}"],
            "fit": samples * found[f"fit {kind}"],
            "differences": 3 * samples * found["copy float32"],  # superbias, reference pixels, dark
        }
        table[label] = parts
    return table


def main() -> None:
    """Print both tables."""
    parser = make_parser(__doc__)
    parser.add_argument("-n", "--turns", type=int, default=5)
    found = rates(parser.parse_args().turns)
    lines = [table_head(["work", "time"])]
    for name, seconds in found.items():
        is_sample = seconds < 1e-5
        lines.append(table_row([name, f"{seconds * 1e9:.2f} ns a sample" if is_sample else f"{seconds * 1e3:.1f} ms"]))
    table = floors(found)
    kinds = list(next(iter(table.values())))
    lines += ["", table_head(["exposure", *kinds, "sum", "on two cores"])]
    for label, parts in table.items():
        total = sum(parts.values())
        cells = [f"{parts[kind]:.2f} s" for kind in kinds]
        lines.append(table_row([label, *cells, f"{total:.2f} s", f"{total / 2:.2f} s"]))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
