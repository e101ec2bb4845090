"""Replace missing pixels of slits by the step of jwst; executed by the Python of jwst's environment.

    python run_spectra.py FOLDER

``FOLDER/slits.npz`` has ``sci``, ``dq``, ``var_poisson``, ``var_rnoise``, ``inside`` (slit, row, column) and ``trace``
(slit, column), the row of the source. Coordinates are exact: the trace model of jwst gets the true position of the
trace. ERR is the same everywhere, since the trace model takes flanks of a trace, with larger errors and little signal,
for edges of the slit. The program writes ``<algorithm>.npz`` with the first four arrays after the step, and
``seconds``, the processor time for a slit.
"""

import logging
import sys
import time
from pathlib import Path

import numpy as np
from offline import offline

ROWS_A_UNIT = 4.4


def coordinates(trace: np.ndarray, inside: np.ndarray) -> object:
    """Return coordinates of a slit: columns and rows to position in the slit, NaN outside, and wavelength."""
    import gwcs
    from astropy import units as u
    from astropy.modeling.models import Const1D, Identity, Mapping, Polynomial2D, Tabular2D
    from gwcs import coordinate_frames as frames

    n_rows, n_columns = inside.shape
    place = np.where(inside, (trace - np.arange(n_rows)[:, None]) / ROWS_A_UNIT, np.nan)
    along = Tabular2D((np.arange(n_columns), np.arange(n_rows)), lookup_table=place.T, bounds_error=False)
    wavelength = Polynomial2D(1, c0_0=0.6, c1_0=4.6 / n_columns)
    transform = Mapping((0, 0, 1, 0, 1)) | Const1D(0.0) & along & wavelength
    three = {"naxes": 3, "axes_type": ("SPATIAL", "SPATIAL", "SPECTRAL"), "axes_order": (0, 1, 2)}
    detector = frames.Frame2D(name="detector", axes_order=(0, 1), unit=(u.pix, u.pix))
    slit = frames.CoordinateFrame(**three, unit=(u.pix, u.pix, u.um), name="slit_frame")
    world = frames.CoordinateFrame(**three, unit=(u.deg, u.deg, u.um), name="world")
    wcs = gwcs.WCS([(detector, transform), (slit, Identity(3)), (world, None)])
    wcs.bounding_box = ((-0.5, n_columns - 0.5), (-0.5, n_rows - 0.5))
    return wcs


def main() -> None:
    """Run all algorithms on all slits."""
    from jwst.pixel_replace import PixelReplaceStep
    from stdatamodels.jwst import datamodels

    logging.disable(logging.CRITICAL)
    folder = Path(sys.argv[1])
    slits = dict(np.load(folder / "slits.npz"))
    names = ("sci", "dq", "var_poisson", "var_rnoise")
    for algorithm in ("mingrad", "fit_profile", "trace_model"):
        found = {name: slits[name].copy() for name in names}
        start = time.process_time()
        for number, trace in enumerate(slits["trace"]):
            sci, dq, poisson, read = (slits[name][number] for name in names)
            model = datamodels.SlitModel(data=sci, dq=dq, var_poisson=poisson, var_rnoise=read)
            model.err = np.full_like(sci, np.sqrt(np.nanmedian(poisson + read)))
            model.var_flat = np.zeros_like(sci)
            model.meta.instrument.name, model.meta.instrument.detector = "NIRSPEC", "NRS1"
            model.meta.instrument.filter, model.meta.instrument.grating = "CLEAR", "PRISM"
            model.meta.exposure.type = "NRS_MSASPEC"
            model.meta.observation.date, model.meta.observation.time = "2024-01-01", "00:00:00"
            model.meta.wcsinfo.dispersion_direction = 1
            model.meta.wcs = coordinates(trace, slits["inside"][number])
            result = PixelReplaceStep.call(model, skip=False, algorithm=algorithm)
            if result.meta.cal_step.pixel_replace != "COMPLETE":
                raise RuntimeError(f"{algorithm}: the step says {result.meta.cal_step.pixel_replace}")
            if algorithm == "trace_model" and result.meta.cal_step.adaptive_trace_model != "COMPLETE":
                raise RuntimeError("trace_model: no trace model was made")
            for name, array in zip(names, (result.data, result.dq, result.var_poisson, result.var_rnoise), strict=True):
                found[name][number] = array
        seconds = (time.process_time() - start) / len(slits["trace"])
        np.savez(folder / f"{algorithm}.npz", seconds=seconds, **found)


if __name__ == "__main__":
    with offline():
        main()
