"""Clean ramps by other methods than those of jwst's 1/f step; executed by the Python of jwst's environment.

    python run_rivals.py FOLDER

``FOLDER`` has ``ramps.npy`` (integration, group, row, column) float32 of full frames of NRS1, and ``dark.npy`` (row,
column) bool, True in pixels without light. The program writes the ramps that each method makes, ``<method>.npy``, and
``seconds.json``, the processor time for a difference of groups.

``snowblind``: the Wiener filter of snowblind, if ``about.json`` names the folder of the package. It is called on
arrays, because the step itself takes NIRCam and NIRISS only. The options are the defaults of the step, but the first
group is left as it is.

``sirs``: the filter of side reference pixels of jwst's refpix step, if there are ``levels.npy``, ramps without levels
of amplifiers, and ``kernels.npy`` (output, side, tap).
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from offline import offline

FAST_AXIS, SLOW_AXIS = 2, 1


def wiener(ramps: np.ndarray, dark: np.ndarray) -> np.ndarray:
    """Return ramps cleaned by snowblind."""
    from snowblind.stream_clean import clean_ramp, exclude_reference_border

    cleaned = clean_ramp(
        ramps,
        np.zeros(ramps.shape, np.uint8),
        exclude_reference_border(dark),
        FAST_AXIS,
        SLOW_AXIS,
        fit_method="wiener",
        background_method="median",
        min_period=300,
        even_odd_columns=True,
        column_offsets=True,
        anchor_mean=True,
    )
    return np.asarray(cleaned)


def sirs(ramps: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    """Return ramps less the filtered signal of their side reference pixels."""
    from jwst.refpix.optimized_convolution import apply_conv_kernel

    pairs = [[taps[side] for taps in kernels] for side in range(2)]
    out = np.empty_like(ramps)
    for target, frame in zip(out.reshape(-1, *ramps.shape[2:]), ramps.reshape(-1, *ramps.shape[2:]), strict=True):
        target[:] = apply_conv_kernel(frame.T, pairs).T
    return out


def main() -> None:
    """Run all methods."""
    folder = Path(sys.argv[1])
    about = json.loads((folder / "about.json").read_text("utf-8"))
    ramps = np.load(folder / "ramps.npy")
    seconds = {}
    for name, wanted in (("snowblind", about["snowblind"]), ("sirs", (folder / "levels.npy").exists())):
        if not wanted:
            continue
        if name == "snowblind":
            sys.path.insert(0, about["snowblind"])
        start = time.process_time()
        if name == "sirs":
            made = sirs(np.load(folder / "levels.npy"), np.load(folder / "kernels.npy"))
        else:
            made = wiener(ramps, np.load(folder / "dark.npy"))
        seconds[name] = (time.process_time() - start) / (ramps.shape[0] * (ramps.shape[1] - 1))
        np.save(folder / f"{name}.npy", made)
    (folder / "seconds.json").write_text(json.dumps(seconds), "utf-8")


with offline():
    main()
