"""Evaluate the gwcs in products of slits with jwst, and resample the slits with it: jwst's next steps rely on both.

python ci/peer/slit_gwcs.py FILE...

Executed by the Python of jwst's environment; imports nothing of nsxr. The files have cut-outs written with
``nsxr.write_slits(slits, path, optics=optics)`` from an exposure whose header is complete. Ends with status 1 if the
gwcs gives other wavelengths than the file has, or if the resampling fails.
"""

import sys
import time
from pathlib import Path

import numpy as np
from offline import offline

FLOAT32 = 3e-7  # um, rounding of the stored wavelengths


def main() -> None:
    """Check the files of the command line."""
    with offline():
        from jwst.resample import ResampleSpecStep
        from stdatamodels.jwst import datamodels

        for path in map(Path, sys.argv[1:]):
            start = time.perf_counter()
            with datamodels.open(path) as model:
                slits = list(model.slits) if hasattr(model, "slits") else [model]
                opened = time.perf_counter() - start
                worst = 0.0
                for slit in slits:
                    row, column = np.mgrid[: slit.data.shape[0], : slit.data.shape[1]]
                    difference = np.abs(slit.meta.wcs(column, row)[2] - slit.wavelength)
                    worst = max(worst, float(np.nanmax(difference)))
                if worst > FLOAT32:
                    sys.exit(f"{path}: wavelengths of the gwcs differ by {worst:.2g} um")
                status = ResampleSpecStep.call(model).meta.cal_step.resample
                if status != "COMPLETE":
                    sys.exit(f"{path}: the resampling ended with status {status}")
            print(f"{path.name}: {len(slits)} slits, opened in {opened:.1f} s, within {worst:.1g} um, resampled")


if __name__ == "__main__":
    main()
