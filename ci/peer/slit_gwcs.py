"""Evaluate the gwcs that nsxr wrote with slits, and resample the slits with it: the next steps of jwst rely on both.

    python slit_gwcs.py FILE RESULT.npz

Executed by the Python of jwst's environment; imports nothing of nsxr. FILE has cut-outs of one integration. RESULT has
the coordinates of the slits as ``run_optics.py`` writes them. Ends with status 1 if the resampling fails.
"""

import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
from offline import offline
from run_optics import slits


def main() -> None:
    """Open the file with jwst's data models."""
    from jwst.resample import ResampleSpecStep
    from stdatamodels.jwst import datamodels

    logging.disable(logging.CRITICAL)
    path, result = (Path(argument) for argument in sys.argv[1:])
    begin, arrays = time.process_time(), {}
    with datamodels.open(path) as model:
        seconds = {"open": (time.process_time() - begin, 0.0)}
        attributes = slits(model, arrays, (model.meta.subarray.xstart, model.meta.subarray.ystart))
        status = ResampleSpecStep.call(model).meta.cal_step.resample
    if status != "COMPLETE":
        sys.exit(f"{path}: the resampling ended with status {status}")
    arrays["attributes"] = np.array(json.dumps({"slits": attributes, "seconds": seconds}))
    np.savez(result, **arrays)


if __name__ == "__main__":
    with offline():
        main()
