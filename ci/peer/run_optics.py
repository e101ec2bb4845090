"""Cut slits out of count rates, or find slices, by jwst; executed by the Python of jwst's environment.

    python run_optics.py RATE RESULT.npz REFERENCES.json

``REFERENCES.json`` has the paths of references by type; all other types are switched off. RESULT has for each slit,
under its name: ``column`` and ``row``, pixels of the whole detector from 0, and what jwst says of them in double
precision: ``slit_y``, ``wavelength`` [um], ``ra``, ``dec`` [degree]. ``attributes`` is a JSON text with the box and the
metadata of each slit, and the seconds of the steps.
"""

import json
import logging
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from offline import offline
from run_peer import with_asdf

STRIDE = 5
"""Every fifth column of a slit is kept."""
KEPT = ("source_id", "source_name", "source_alias", "source_type", "source_xpos", "source_ypos", "slitlet_id")
KEPT += ("quadrant", "xcen", "ycen", "shutter_state", "shutter_id", "xstart", "ystart")


def micrometres(wavelength: np.ndarray) -> np.ndarray:
    """Return wavelengths in micrometres; inside the optics jwst has metres."""
    return wavelength * 1e6


def plain(value: object) -> object:
    """Return a value as JSON knows it."""
    return value.item() if isinstance(value, np.generic) else value


def slits(model: object, arrays: dict[str, np.ndarray], start: tuple[int, int]) -> dict[str, dict[str, object]]:
    """Store the coordinates of slits in ``arrays``; return the attributes by slit."""
    found = {}
    listed = model.slits if hasattr(model, "slits") else [model]
    for slit in listed:
        rows, columns = slit.data.shape[-2:]
        row, column = np.mgrid[:rows, :columns:STRIDE].astype(float)
        _, slit_y, wavelength = slit.meta.wcs.get_transform("detector", "slit_frame")(column, row)
        ra, dec, _ = slit.meta.wcs(column, row, with_bounding_box=False)
        row, column = row + slit.ystart - 1 + start[1] - 1, column + slit.xstart - 1 + start[0] - 1
        values = {"column": column, "row": row, "slit_y": slit_y, "wavelength": micrometres(wavelength)}
        for name, value in (values | {"ra": ra, "dec": dec}).items():
            arrays[f"{slit.name}/{name}"] = value
        found[slit.name] = {name: plain(getattr(slit, name, None)) for name in KEPT}
        found[slit.name] |= {"xsize": columns, "ysize": rows}
    return found


def slices(model: object, arrays: dict[str, np.ndarray]) -> dict[str, dict[str, object]]:
    """Store the map of slices and coordinates of every third row and fifth column."""
    row, column = np.mgrid[:2048:3, :2048:STRIDE].astype(float)
    ra, dec, wavelength = model.meta.wcs(column, row)
    values = {"column": column, "row": row, "ra": ra, "dec": dec, "wavelength": wavelength}
    values["slit_y"] = np.full(row.shape, np.nan)
    values["slice"] = np.asarray(model.regions)
    for name, value in values.items():
        arrays[f"slices/{name}"] = value
    return {"slices": {}}


def main() -> None:
    """Run the steps on one exposure."""
    from jwst.assign_wcs import AssignWcsStep
    from jwst.extract_2d import Extract2dStep
    from jwst.srctype import SourceTypeStep
    from stdatamodels.jwst import datamodels

    logging.disable(logging.CRITICAL)
    rate, result, listed = (Path(argument).resolve() for argument in sys.argv[1:])
    os.chdir(rate.parent)  # where jwst looks for the metafile
    references = json.loads(listed.read_text(encoding="utf-8"))
    overrides = {
        f"override_{kind}": references.get(kind, "N/A")
        for kind in (*AssignWcsStep.reference_file_types, *Extract2dStep.reference_file_types)
    }
    seconds, arrays = {}, {}
    with TemporaryDirectory() as folder, datamodels.open(with_asdf(rate, Path(folder))) as model:
        only_here = {key: value for key, value in overrides.items() if key[9:] in AssignWcsStep.reference_file_types}
        begin, wall = time.process_time(), time.perf_counter()
        model = AssignWcsStep.call(model, **only_here)
        seconds["assign_wcs"] = (time.process_time() - begin, time.perf_counter() - wall)
        if model.meta.cal_step.assign_wcs != "COMPLETE":
            raise SystemExit(f"assign_wcs of {rate.name}: {model.meta.cal_step.assign_wcs}")
        if model.meta.exposure.type == "NRS_IFU":
            begin = time.process_time()
            attributes = slices(model, arrays)
            seconds["coordinates of a fifteenth of the pixels"] = (time.process_time() - begin, 0.0)
        else:
            start = (model.meta.subarray.xstart, model.meta.subarray.ystart)
            only_here = {f"override_{kind}": "N/A" for kind in Extract2dStep.reference_file_types}
            only_here["override_wavelengthrange"] = references["wavelengthrange"]
            begin, wall = time.process_time(), time.perf_counter()
            model = Extract2dStep.call(model, **only_here)
            seconds["extract_2d"] = (time.process_time() - begin, time.perf_counter() - wall)
            model = SourceTypeStep.call(model)
            attributes = slits(model, arrays, start)
    arrays["attributes"] = np.array(json.dumps({"slits": attributes, "seconds": seconds}))
    np.savez(result, **arrays)


if __name__ == "__main__":
    with offline():
        main()
