"""Clean differences of groups by the methods of jwst; executed by the Python of jwst's environment.

    python run_flicker.py FOLDER

``FOLDER`` has ``frames.npy`` (frame, row, column) float32, ``mean.npy`` (row, column), ``dark.npy`` (row, column) bool,
True in pixels without light, and ``about.json`` with ``detector``, ``subarray``, ``background`` (``median`` or
``none``) and ``methods``. The program writes the noise that each method subtracts, ``<method>.npy``, and
``seconds.json``, the processor time for a frame.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from offline import offline

ALLSLITS = (150, 200, 49943, 49957)
SUBARRAYS = (1061, 1211, 49943, 49957)


def main() -> None:
    """Run all methods."""
    from jwst.clean_flicker_noise.background_level import clip_to_background
    from jwst.clean_flicker_noise.clean_flicker_noise import _clean_one_image

    folder = Path(sys.argv[1])
    about = json.loads((folder / "about.json").read_text("utf-8"))
    frames, mean, mask = (np.load(folder / f"{name}.npy") for name in ("frames", "mean", "dark"))
    mask &= np.isfinite(mean)
    if about["background"] != "none":
        clip_to_background(mean.astype(np.float32), mask, sigma_upper=2.0)
    seconds = {}
    for method in about["methods"]:
        if method == "channel" and mean.shape != (2048, 2048):
            continue
        noise = np.zeros_like(frames)
        start = time.process_time()
        for out, frame in zip(noise, frames, strict=True):
            cleaned, _, _ = _clean_one_image(
                frame,
                mask.copy(),
                about["background"],
                None,
                2.0,
                "fft" if method == "fft" else "median",
                about["detector"],
                ALLSLITS if about["subarray"] == "ALLSLITS" else SUBARRAYS,
                1,
                method == "channel",
                None,
            )
            out[:] = 0 if cleaned is None else np.nan_to_num(frame - cleaned)
        seconds[method] = (time.process_time() - start) / len(frames)
        np.save(folder / f"{method}.npy", noise)
    (folder / "seconds.json").write_text(json.dumps(seconds), "utf-8")


with offline():
    main()
