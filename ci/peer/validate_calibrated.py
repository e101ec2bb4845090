"""Open calibrated products strictly with the data models of jwst, and run the third stage of jwst on them.

    python ci/peer/validate_calibrated.py [--spec3] x_cal.fits y_calints.fits ...

Executed by the Python of jwst's environment; imports nothing of nsxr. Prints one JSON line per file and ends with
status 1 if any file has a problem. The data model must be that of the kind of exposure, its arrays must have the dtypes
of the observatory, and ERR must be the sum of the variances. With ``--spec3``, each file of fixed slits or shutters and
a copy of it under another name go through outlier detection, resampling and extraction. Every source must get a
spectrum. This takes about half a minute for five slits.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from offline import offline
from validate_product import open_model

DO_NOT_USE = 1
MODELS = {
    "NRS_FIXEDSLIT": "MultiSlitModel",
    "NRS_MSASPEC": "MultiSlitModel",
    "NRS_BRIGHTOBJ": "SlitModel",
    "NRS_IFU": "IFUImageModel",
}
VARIANCES = ("var_poisson", "var_rnoise", "var_flat")
NO_REFERENCES = ("extract1d", "apcorr", "pastasoss", "specprofile", "speckernel")


def image_problems(image: object, place: str) -> list[str]:
    """Return what is wrong with the arrays of a slit or a frame."""
    problems = []
    usable = (image.dq & DO_NOT_USE) == 0
    for name in ("data", "err", *VARIANCES):
        array = getattr(image, name)
        if array.dtype.newbyteorder("=") != np.float32 or array.shape != image.data.shape:
            problems.append(f"{place}: {name} is {array.dtype} {array.shape}")
        elif not np.isfinite(array[usable]).all() or (name != "data" and (array[usable] < 0).any()):
            problems.append(f"{place}: {name} has values without DO_NOT_USE that are negative or not finite")
    if image.wavelength.shape != image.data.shape[-2:]:
        problems.append(f"{place}: wavelength is {image.wavelength.shape}")
    if not np.allclose(image.err, np.sqrt(sum(getattr(image, name) for name in VARIANCES)), rtol=1e-5, equal_nan=True):
        problems.append(f"{place}: ERR is not the sum of the variances")
    units = image.meta.bunit_data
    if units not in ("MJy", "MJy/sr") or image.meta.bunit_err != units:
        problems.append(f"{place}: BUNIT is {units!r} and {image.meta.bunit_err!r}")
    if not image.meta.photometry.conversion_megajanskys:
        problems.append(f"{place}: PHOTMJSR is missing")
    return problems


def check_product(path: Path) -> tuple[dict[str, object], list[str]]:
    """Check one product; return facts about it and its problems."""
    facts: dict[str, object] = {"file": path.name}
    model, _, problems = open_model(path)
    if model is None:
        return facts, problems
    kind = model.meta.exposure.type
    facts |= {"model": type(model).__name__, "exposure_type": kind}
    if not facts["model"] == model.meta.model_type == MODELS.get(kind):
        problems.append(f"opened as {facts['model']}, DATAMODL is {model.meta.model_type}, expected {MODELS.get(kind)}")
    images = list(model.slits) if hasattr(model, "slits") else [model]
    facts["images"] = len(images)
    for number, image in enumerate(images, start=1):
        problems += image_problems(image, f"image {number}")
        if kind == "NRS_IFU":
            if not image.hasattr("regions") or image.regions.max() > 30:
                problems.append("REGIONS is missing, or has numbers above 30")
        elif image.source_type not in ("POINT", "EXTENDED") or not image.name:
            problems.append(f"image {number}: name {image.name!r} and source type {image.source_type!r}")
        right, wavelength = (np.asarray(one) for one in (image.wavelength, image.meta.wcs(*_grid(image))[2]))
        both = np.isfinite(right) & np.isfinite(wavelength)
        if not both.any() or not np.allclose(right[both], wavelength[both], rtol=0, atol=1e-6):
            problems.append(f"image {number}: the gwcs has other wavelengths than WAVELENGTH")
    steps = model.meta.cal_step.instance
    facts["steps"] = sum(status == "COMPLETE" for status in steps.values())
    facts["references"] = len(model.meta.ref_file.instance)
    missing = [name for name in ("assign_wcs", "srctype", "flat_field", "photom") if steps.get(name) != "COMPLETE"]
    if missing:
        problems.append(f"{', '.join(missing)} are not COMPLETE")
    model.close()
    return facts, problems


def _grid(image: object) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[: image.data.shape[-2], : image.data.shape[-1]]
    return columns, rows


def run_spec3(path: Path, scratch: Path, sources: int) -> list[str]:
    """Run the third stage on a product and a copy of it; return problems."""
    import stpipe.crds_client
    from jwst.pipeline import Spec3Pipeline
    from stdatamodels.jwst import datamodels
    from stpipe.pipeline import Pipeline

    Pipeline._precache_references = lambda self, *given: None  # there is no server, and no reference is needed
    stpipe.crds_client.get_context_used = lambda *given: "jwst_0000.pmap"
    stpipe.crds_client.get_multiple_reference_paths = lambda header, kinds, *given: dict.fromkeys(kinds, "N/A")
    names = []
    for number in (1, 2):
        copy = scratch / f"jw01234001001_03101_0000{number}_nrs1_cal.fits"
        shutil.copy(path, copy)
        names.append(copy.name)
    members = [{"expname": name, "exptype": "science"} for name in names]
    association = {"asn_type": "spec3", "asn_id": "o001", "asn_pool": "none", "program": "01234", "target": "t001"}
    association["products"] = [{"name": "jw01234-o001_{source_id}_nirspec", "members": members}]
    scratch.joinpath("asn.json").write_text(json.dumps(association), encoding="utf-8")
    steps = {"extract_1d": {f"override_{kind}": "N/A" for kind in NO_REFERENCES}}
    try:
        Spec3Pipeline.call(str(scratch / "asn.json"), steps=steps, save_results=True, output_dir=str(scratch))
    except Exception as error:  # whatever jwst raises is the finding
        return [f"the third stage fails: {type(error).__name__}: {error}"]
    problems = []
    spectra = sorted(scratch.glob("*_x1d.fits"))
    if len(spectra) != sources:
        problems.append(f"the third stage makes {len(spectra)} spectra of {sources} sources")
    for spectrum in spectra:
        with datamodels.open(spectrum) as model:
            table = model.spec[0].spec_table
            if not np.isfinite(table["FLUX"] + table["SURF_BRIGHT"]).any():
                problems.append(f"{spectrum.name} has no finite value")
    return problems


def main() -> None:
    """Check the files of the command line."""
    parser = argparse.ArgumentParser(description="Validate calibrated products with jwst.")
    parser.add_argument("products", nargs="+", type=Path)
    parser.add_argument("--spec3", action="store_true", help="run the third stage on fixed slits and shutters")
    arguments = parser.parse_args()
    failed = False
    with offline():
        for path in arguments.products:
            facts, problems = check_product(path)
            if arguments.spec3 and not problems and facts.get("model") == "MultiSlitModel":
                with tempfile.TemporaryDirectory() as scratch:
                    problems += run_spec3(path, Path(scratch), int(str(facts["images"])))
                facts["spec3"] = "failed" if problems else "complete"
            failed |= bool(problems)
            sys.stdout.write(json.dumps({**facts, "problems": problems}) + "\n")
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
