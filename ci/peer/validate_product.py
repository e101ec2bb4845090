"""Open products strictly with the data models of jwst, and start the next stage of jwst on them.

Executed by the Python of jwst's environment; imports nothing of nsxr. Prints one JSON line per
file and ends with status 1 if any file has a problem.

The spectroscopic stage is started on every ``_rate`` and ``_rateints`` file with all its steps
switched off. This reads the file by name, makes an association of it, chooses the model and checks which steps the
exposure allows. With ``--wcs-references DIR`` (camera, collimator, disperser, ..., distinguished by their metadata) the
first step, the assignment of wavelengths, runs too. Public offline references for it exist only for the IFU.
"""

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from offline import offline

DO_NOT_USE = 1
FLOAT_ARRAYS = ("data", "err", "var_poisson", "var_rnoise")
STATUS = (
    *("group_scale", "dq_init", "saturation", "superbias", "refpix", "linearity"),
    *("dark_sub", "jump", "ramp_fit", "gain_scale"),
)


def open_model(path: Path) -> tuple[object | None, dict[str, object], list[str]]:
    """Open and validate one product; return its data model or None, its metadata by name, and problems."""
    from stdatamodels.jwst import datamodels

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = datamodels.open(path, strict_validation=True, validate_arrays=True)
            model.validate()
            metadata = datamodels.read_metadata(path)  # jwst does this with a file given by name
        except Exception as error:  # whatever jwst raises is the finding
            return None, {}, [f"cannot be opened strictly: {type(error).__name__}: {error}"]
    return model, metadata, [f"warning while opening: {w.category.__name__}: {w.message}" for w in caught]


def check_product(path: Path) -> tuple[dict[str, object], list[str]]:
    """Check one product; return facts about it and its problems."""
    from stdatamodels.jwst import datamodels

    facts: dict[str, object] = {"file": path.name}
    model, metadata, problems = open_model(path)
    if model is None:
        return facts, problems
    facts["model"] = type(model).__name__
    facts["shape"] = list(model.data.shape)
    facts["exposure_type"] = metadata.get("meta.exposure.type")
    if model.meta.model_type != type(model).__name__:
        problems.append(f"DATAMODL is {model.meta.model_type}, opened as {type(model).__name__}")
    expected = "CubeModel" if path.stem.endswith("_rateints") else ("ImageModel", "IFUImageModel")
    if type(model).__name__ not in expected:
        problems.append(f"opened as {type(model).__name__}, expected {expected}")
    for name, dtype in (*((name, np.float32) for name in FLOAT_ARRAYS), ("dq", np.uint32)):
        array = getattr(model, name) if model.hasattr(name) else None
        if array is None:
            problems.append(f"array {name} is missing")
        elif array.dtype.newbyteorder("=") != dtype or array.shape != model.data.shape:
            problems.append(f"array {name} is {array.dtype} {array.shape}")
    if problems:
        return facts, problems

    if (model.meta.bunit_data, model.meta.bunit_err) != ("DN/s", "DN/s"):
        problems.append(f"BUNIT is {model.meta.bunit_data!r} and {model.meta.bunit_err!r}, expected 'DN/s'")
    usable = (model.dq & DO_NOT_USE) == 0
    if not np.isfinite(model.data[usable]).all():
        problems.append(f"{int((~np.isfinite(model.data[usable])).sum())} values without DO_NOT_USE are not finite")
    for name in FLOAT_ARRAYS[1:]:
        values = getattr(model, name)[usable]
        if not (np.isfinite(values) & (values >= 0)).all():
            problems.append(f"{name} has values without DO_NOT_USE that are negative or not finite")
    facts["usable_fraction"] = round(float(usable.mean()), 6)
    if model.data.ndim == 3:
        times = model.int_times
        if times is None or len(times) != model.data.shape[0]:
            rows = "no" if times is None else len(times)
            problems.append(f"INT_TIMES has {rows} rows, the data {model.data.shape[0]} integrations")
    steps = {name: getattr(model.meta.cal_step, name) for name in STATUS}
    facts["steps"] = steps
    missing = [name for name, status in steps.items() if status not in ("COMPLETE", "SKIPPED")]
    if missing:
        problems.append(f"no status for steps {', '.join(missing)}")
    references = model.meta.ref_file.instance
    facts["references"] = {kind: entry["name"] for kind, entry in references.items() if "name" in (entry or {})}
    facts["cal_ver"] = model.meta.calibration_software_version
    if not facts["cal_ver"]:
        problems.append("CAL_VER is missing")

    with tempfile.TemporaryDirectory() as folder:  # a file that jwst writes must be the same
        copy = Path(folder) / path.name
        model.save(copy)
        with datamodels.open(copy, strict_validation=True) as again:
            for name in ("dq", *FLOAT_ARRAYS):
                if not np.array_equal(getattr(again, name), getattr(model, name), equal_nan=name != "dq"):
                    problems.append(f"array {name} changes when jwst saves the model")
    model.close()
    return facts, problems


def start_spec2(path: Path, wcs_references: Path | None, scratch: Path) -> tuple[str, list[str]]:
    """Start the spectroscopic stage of jwst on a product; return how far it went, and problems."""
    from jwst.pipeline import Spec2Pipeline

    steps: dict[str, dict[str, object]] = {name: {"skip": True} for name in Spec2Pipeline.step_defs}
    if wcs_references is not None:
        kinds = Spec2Pipeline.step_defs["assign_wcs"].reference_file_types
        chosen = choose_wcs(wcs_references, path, kinds)
        if chosen["chromcorr"] == "N/A":
            chosen["chromcorr"] = str(write_identity_chromcorr(scratch))
        steps["assign_wcs"] = {f"override_{kind}": name for kind, name in chosen.items()}
    try:
        results = Spec2Pipeline.call(str(path), steps=steps, save_results=False)
    except Exception as error:  # whatever jwst raises is the finding
        return "failed", [f"the spectroscopic stage fails: {type(error).__name__}: {error}"]
    if wcs_references is None:
        return "opened, steps verified, ended before assign_wcs", []
    status = results[0].meta.cal_step.assign_wcs if results else None
    if status != "COMPLETE":
        return "failed", [f"assign_wcs ended with status {status}"]
    return "assign_wcs complete", []


def choose_wcs(folder: Path, path: Path, kinds: list[str]) -> dict[str, str]:
    """Return ``{type: path}`` of the instrument-model references that fit a product."""
    import asdf
    from astropy.io import fits

    header = fits.getheader(path)
    chosen = dict.fromkeys(kinds, "N/A")
    for candidate in sorted(folder.glob("*.asdf")):
        with asdf.open(candidate) as tree:
            meta = tree["meta"]
            kind, instrument = str(meta["reftype"]).lower(), dict(meta.get("instrument", {}))
        fitting = all(instrument.get(key.lower(), header[key]) == header[key] for key in ("GRATING", "FILTER"))
        if kind in chosen and fitting:
            chosen[kind] = str(candidate)
    return chosen


def write_identity_chromcorr(folder: Path) -> Path:
    """Write a chromatic correction that changes nothing, because older public sets of references have none."""
    from astropy.modeling.models import Identity
    from stdatamodels.jwst import datamodels

    unchanged = Identity(3)
    unchanged.inverse = Identity(2)  # jwst adds the third input to the inverse itself
    model = datamodels.ChromCorrModel(model=unchanged)
    model.meta.description = model.meta.author = "identity"
    model.meta.pedigree, model.meta.useafter = "DUMMY", "2022-01-01T00:00:00"
    path = folder / "chromcorr_identity.asdf"
    model.save(path)
    return path


def main() -> None:
    """Check the files of the command line."""
    parser = argparse.ArgumentParser(description="Validate products with jwst's data models.")
    parser.add_argument("products", nargs="+", type=Path)
    parser.add_argument("--wcs-references", type=Path, metavar="DIR")
    parser.add_argument("--no-spec2", action="store_true", help="do not start the next stage")
    arguments = parser.parse_args()
    failed = False
    with offline(), tempfile.TemporaryDirectory() as scratch:
        for path in arguments.products:
            facts, problems = check_product(path)
            if not arguments.no_spec2 and "exposure_type" in facts:
                facts["spec2"], more = start_spec2(path, arguments.wcs_references, Path(scratch))
                problems += more
            failed |= bool(problems)
            sys.stdout.write(json.dumps({**facts, "problems": problems}) + "\n")
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
