"""Cut slits out of count rates, or find slices, by jwst; executed by the Python of jwst's environment.

    python run_optics.py RATE RESULT.npz TASK.json

``TASK.json`` has ``references``, paths by type; all other types are switched off. It has ``cases`` of source types,
each some keywords and the argument ``source_type``, and says by ``is_whole`` whether to measure a whole frame. If it
has ``product``, a path, the slits are saved there.

RESULT has for each slit, under its name: ``column`` and ``row``, pixels of the whole detector from 0, and what jwst
says of them in double precision: ``slit_y``, ``wavelength`` [um], ``ra``, ``dec`` [degree]; and ``corrected``, the
wavelengths after the step wavecorr [um], if it changed them. ``stuck`` has the pixels, counted by rows, that see
failed-open shutters. ``attributes`` is a JSON text with the box and the metadata of each slit, its source types, and
the seconds of the steps.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from offline import offline
from run_peer import with_asdf

STRIDE = 5
"""Every fifth column of a slit is kept."""
KEPT = ("source_id", "source_name", "source_alias", "source_type", "source_xpos", "source_ypos", "slitlet_id")
KEPT += ("quadrant", "xcen", "ycen", "shutter_state", "shutter_id", "xstart", "ystart")
READ = ("EXP_TYPE", "FXD_SLIT", "NINTS")
"""Keywords that decide on the type of a source, besides those of a case."""


@contextmanager
def timed(seconds: dict[str, tuple[float, float]], step: str) -> Iterator[None]:
    """Note the seconds of processors and of the clock that a step takes."""
    begin, wall = time.process_time(), time.perf_counter()
    yield
    seconds[step] = (time.process_time() - begin, time.perf_counter() - wall)


def micrometres(wavelength: np.ndarray) -> np.ndarray:
    """Return wavelengths in micrometres; inside the optics jwst has metres."""
    return wavelength * 1e6


def plain(value: object) -> object:
    """Return a value as JSON knows it."""
    return value.item() if isinstance(value, np.generic) else value


def slits_in(model: object) -> list[object]:
    """Return the slits of a model; a time series is one slit itself."""
    return list(model.slits) if hasattr(model, "slits") else [model]


def slits(model: object, arrays: dict[str, np.ndarray], start: tuple[int, int]) -> dict[str, dict[str, object]]:
    """Store the coordinates of slits in ``arrays``; return the attributes by slit."""
    found = {}
    for slit in slits_in(model):
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


def header_path(model: object, keyword: str) -> str:
    """Return the path of a keyword of the primary header; slits may have the same keyword."""
    return next(path for path in model.find_fits_keyword(keyword) if path.startswith("meta."))


def source_types(model: object, cases: list[tuple[dict[str, object], str | None]]) -> list[dict[str, list[object]]]:
    """Return for each case the type and the position of the source by slit, from models without pixels."""
    from jwst.srctype import SourceTypeStep

    found = []
    for keywords, wanted in cases:
        light = type(model)()
        header = {keyword: model[header_path(model, keyword)] for keyword in READ} | keywords
        for keyword, value in header.items():
            if keyword != "STLARITY":
                light[header_path(model, keyword)] = value
        if hasattr(light, "slits"):
            for slit in model.slits:
                light.slits.append(light.slits.item(name=slit.name, source_xpos=slit.source_xpos))
                light.slits[-1].source_ypos = slit.source_ypos
                light.slits[-1].stellarity = keywords.get("STLARITY", slit.stellarity)
        done = SourceTypeStep.call(light, source_type=wanted)
        if hasattr(done, "slits"):
            each = {slit.name: [slit.source_type, slit.source_xpos, slit.source_ypos] for slit in done.slits}
        else:
            each = {"": [done.meta.target.source_type, None, None]}
        found.append({name: [plain(value) for value in values] for name, values in each.items()})
    return found


def corrected(model: object, reference: str, arrays: dict[str, np.ndarray]) -> None:
    """Store the wavelengths of the slits that the step wavecorr changes."""
    from jwst.wavecorr import WavecorrStep

    done = WavecorrStep.call(model, override_wavecorr=reference)
    is_series = not hasattr(done, "slits")
    for slit in slits_in(done):
        if done.meta.cal_step.wavecorr == "COMPLETE" if is_series else slit.wavelength_corrected:
            arrays[f"{slit.name}/corrected"] = np.asarray(slit.wavelength)[:, ::STRIDE]


def stuck(model: object, reference: str) -> np.ndarray:
    """Return the pixels, counted by rows, that the step msa_flagging flags."""
    from jwst.msaflagopen import MSAFlagOpenStep
    from stdatamodels.jwst.datamodels import dqflags

    done = MSAFlagOpenStep.call(model, override_msaoper=reference)
    return np.flatnonzero(np.asarray(done.dq) & dqflags.pixel["MSA_FAILED_OPEN"])


def whole_frame(slit: object, start: tuple[int, int], arrays: dict[str, np.ndarray]) -> None:
    """Store the coordinates of every sixteenth column of the detector through one slit; all pixels are computed."""
    row, column = np.mgrid[:2048, :2048].astype(float)
    row, column = row - (slit.ystart - 1 + start[1] - 1), column - (slit.xstart - 1 + start[0] - 1)
    ra, dec, wavelength = slit.meta.wcs(column, row, with_bounding_box=False)
    for name, value in {"ra": ra, "dec": dec, "wavelength": wavelength}.items():
        arrays[f"whole/{name}"] = value[:, ::16]


def main() -> None:
    """Run the steps on one exposure."""
    from jwst.assign_wcs import AssignWcsStep
    from jwst.extract_2d import Extract2dStep
    from jwst.srctype import SourceTypeStep
    from stdatamodels.jwst import datamodels

    logging.disable(logging.CRITICAL)
    rate, result, task = (Path(argument).resolve() for argument in sys.argv[1:])
    os.chdir(rate.parent)  # where jwst looks for the metafile
    asked = json.loads(task.read_text(encoding="utf-8"))
    references = asked["references"]
    seconds, arrays, types = {}, {}, []
    with TemporaryDirectory() as folder, datamodels.open(with_asdf(rate, Path(folder))) as model:
        only_here = {f"override_{kind}": references.get(kind, "N/A") for kind in AssignWcsStep.reference_file_types}
        with timed(seconds, "assign_wcs"):
            model = AssignWcsStep.call(model, **only_here)
        if model.meta.cal_step.assign_wcs != "COMPLETE":
            raise SystemExit(f"assign_wcs of {rate.name}: {model.meta.cal_step.assign_wcs}")
        if "msaoper" in references:
            with timed(seconds, "msa_flagging"):
                arrays["stuck"] = stuck(model, references["msaoper"])
        if model.meta.exposure.type == "NRS_IFU":
            with timed(seconds, "coordinates of a fifteenth of the pixels"):
                attributes = slices(model, arrays)
            types = source_types(model, asked["cases"])
        else:
            start = (model.meta.subarray.xstart, model.meta.subarray.ystart)
            only_here = {f"override_{kind}": "N/A" for kind in Extract2dStep.reference_file_types}
            only_here["override_wavelengthrange"] = references["wavelengthrange"]
            with timed(seconds, "extract_2d"):
                model = Extract2dStep.call(model, **only_here)
            types = source_types(model, asked["cases"])
            model = SourceTypeStep.call(model)
            attributes = slits(model, arrays, start)
            if asked["product"]:
                model.save(asked["product"])
            if asked["is_whole"]:
                with timed(seconds, "whole frame"):
                    whole_frame(slits_in(model)[0], start, arrays)
            if "wavecorr" in references:
                with timed(seconds, "wavecorr"):
                    corrected(model, references["wavecorr"], arrays)
    arrays["attributes"] = np.array(json.dumps({"slits": attributes, "types": types, "seconds": seconds}))
    np.savez(result, **arrays)


if __name__ == "__main__":
    with offline():
        main()
