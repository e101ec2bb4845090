"""Run jwst's stage 1 on one NIRSpec exposure, offline, with the references of a folder.

Executed by the Python of jwst's environment (see ``environment.sh``); imports nothing of nsxr.
Prints one JSON line: wall seconds of every step, of the pipeline and of the import, peak memory,
the references and parameters used, and the products written. jwst's own log goes to stderr.

Defaults are those of jwst's code with the operational NIRSpec settings of jump detection (``OPERATIONAL``). Other
values are set by ``--set STEP.PARAMETER=VALUE``.
"""

import argparse
import ast
import json
import resource
import shutil
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from offline import offline

START = time.perf_counter()

NEEDS = {
    "dq_init": ["mask"],
    "saturation": ["saturation", "superbias"],
    "ipc": ["ipc"],
    "superbias": ["superbias"],
    "refpix": ["refpix", "sirskernel"],
    "linearity": ["linearity"],
    "dark_current": ["dark"],
    "jump": ["gain", "readnoise"],
    "picture_frame": ["pictureframe"],
    "clean_flicker_noise": ["flat", "pastasoss"],
    "ramp_fit": ["readnoise", "gain"],
    "gain_scale": ["gain"],
}
"""Reference types of each step. All get an override, so that no server is needed."""

OFF = ("emicorr", "reset", "rscd", "firstframe", "lastframe", "ipc", "persistence", "charge_migration")
"""Steps for another instrument, or switched off for NIRSpec in operations."""

OPERATIONAL = {"jump": {"expand_large_events": True, "min_jump_to_flag_neighbors": 30.0}}
"""Operational parameters of NIRSpec that differ from the defaults of the code. A third one, the average dark current of
a detector, comes from the dark reference here, for both programs."""

SAVED = ("group_scale", "dq_init", "saturation", "superbias", "refpix", "linearity", "dark_current", "jump")
"""Steps whose output ``--save-steps`` writes."""


def choose_references(folder: Path, uncal: Path) -> dict[str, str]:
    """Return ``{type: path}`` of the references in a folder that fit an exposure by their headers."""
    from astropy.io import fits

    science = fits.getheader(uncal)

    def fits_exposure(header: fits.Header) -> bool:
        for key in ("DETECTOR", "SUBARRAY", "SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2"):
            found = header.get(key)
            if header["REFTYPE"] != "DARK" and key.startswith("SUB") and header.get("SUBARRAY") in ("FULL", "GENERIC"):
                continue  # jwst cuts full-frame references to the subarray
            if found not in (None, "N/A", "ANY", "GENERIC", science.get(key)):
                return False
        pattern = header.get("READPATT")
        is_irs2 = "IRS2" in str(science["READPATT"])
        return pattern in (None, "N/A", "ANY") or (("IRS2" in str(pattern)) == is_irs2)

    def likeness(header: fits.Header) -> int:
        return sum(header.get(key) == science.get(key) for key in ("SUBARRAY", "READPATT", "SUBSTRT2"))

    candidates: dict[str, list[tuple[int, str]]] = {}
    for path in sorted(folder.glob("*.fits")):
        header = fits.getheader(path)
        if "REFTYPE" in header and fits_exposure(header):
            candidates.setdefault(header["REFTYPE"].strip().lower(), []).append((likeness(header), str(path)))
    chosen = {}
    for kind, found in candidates.items():
        best = max(score for score, _ in found)
        paths = [path for score, path in found if score == best]
        if len(paths) > 1:
            raise SystemExit(f"several {kind} references fit {uncal.name} equally well: {', '.join(paths)}")
        chosen[kind] = paths[0]
    for kind in ("gain", "readnoise"):
        if kind not in chosen:
            raise SystemExit(f"no {kind} reference for {uncal.name} in {folder}; jwst needs one")
    return chosen


def with_asdf(uncal: Path, folder: Path) -> Path:
    """Return the exposure, or a copy with an empty ASDF extension, which jwst needs to open a file by name."""
    from astropy.io import fits

    with fits.open(uncal) as hdus:
        if "ASDF" in hdus:
            return uncal
    copy = folder / uncal.name
    shutil.copyfile(uncal, copy)
    add_asdf(copy)
    return copy


def add_asdf(path: Path) -> None:
    """Append an empty ASDF extension to an exposure."""
    from astropy.io import fits

    tree = b"#ASDF 1.0.0\n#ASDF_STANDARD 1.5.0\n%YAML 1.1\n%TAG ! tag:stsci.edu:asdf/\n--- !core/asdf-1.1.0 {}\n...\n"
    column = fits.Column("ASDF_METADATA", f"{len(tree)}B", array=[list(tree)])
    with fits.open(path, mode="append") as hdus:
        hdus.append(fits.BinTableHDU.from_columns([column], name="ASDF"))


def parse_setting(text: str) -> tuple[str, str, object]:
    """Split ``step.parameter=value``; a value that is a Python literal is read as one."""
    name, equals, value = text.partition("=")
    step, dot, parameter = name.partition(".")
    if not (equals and dot):
        raise SystemExit(f"--set {text!r} is not of the form STEP.PARAMETER=VALUE")
    try:
        return step, parameter, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return step, parameter, value


def time_steps(step_classes: dict[str, type], seconds: dict[str, float]) -> None:
    """Let every step of the pipeline add its wall time to ``seconds``."""

    def timed(name: str, run):
        def run_timed(self, *arguments, **keywords):
            start = time.perf_counter()
            try:
                return run(self, *arguments, **keywords)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

        return run_timed

    for name, step in step_classes.items():
        step.run = timed(name, step.run)


NUDGE = 1e-3
"""The value that ``--nudge-zeros`` adds [DN]: more than the rounding of float32, far less than the noise."""


def nudge_zeros(step: type) -> None:
    """Change samples that equal their mean over groups before the IRS2 reference-pixel step gets them.

    The step takes such a sample for a missing one. It does not restore the baseline of the sample, and fills it in if
    it is a reference pixel, which disturbs its neighbours in time. A nudged sample is treated like any other.
    """
    run = step.run

    def run_nudged(self, model):
        for ramps in model.data if model.data.shape[-2] == 3200 else ():
            zeros = ramps == ramps.sum(axis=0, dtype="f8") / ramps.shape[0]
            ramps[zeros] += NUDGE
        return run(self, model)

    step.run = run_nudged


def main() -> None:
    """Run the pipeline with the options of the command line."""
    parser = argparse.ArgumentParser(description="Run jwst's stage 1 offline on one NIRSpec exposure.")
    parser.add_argument("uncal", type=Path)
    parser.add_argument("--references", type=Path, required=True, metavar="DIR")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument("--save-steps", action="store_true", help="also write the output of every step")
    parser.add_argument("--set", action="append", default=[], metavar="STEP.PARAMETER=VALUE", dest="settings")
    parser.add_argument("--nudge-zeros", action="store_true", help="nudge IRS2 samples that jwst takes for missing")
    parser.add_argument("--skip", action="append", default=[], metavar="STEP")
    arguments = parser.parse_args()

    arguments.output.mkdir(parents=True, exist_ok=True)
    with offline(), TemporaryDirectory(prefix="peer-input-") as scratch:
        import_start = time.perf_counter()
        from jwst.pipeline import Detector1Pipeline

        import_seconds = time.perf_counter() - import_start

        references = choose_references(arguments.references, arguments.uncal)
        steps: dict[str, dict[str, object]] = {name: {"skip": True} for name in OFF}
        for name, kinds in NEEDS.items():
            overrides = {f"override_{kind}": references.get(kind, "N/A") for kind in kinds}
            steps.setdefault(name, {}).update(overrides)
        for name, parameters in OPERATIONAL.items():
            steps.setdefault(name, {}).update(parameters)
        if arguments.save_steps:
            for name in SAVED:
                steps.setdefault(name, {}).update(save_results=True, suffix=name)
        settings = [parse_setting(text) for text in arguments.settings]
        settings += [(name, "skip", True) for name in arguments.skip]
        for name, parameter, value in settings:
            if name not in Detector1Pipeline.step_defs:
                raise SystemExit(f"unknown step {name!r}; known are {', '.join(Detector1Pipeline.step_defs)}")
            steps.setdefault(name, {})[parameter] = value

        if arguments.nudge_zeros:
            nudge_zeros(Detector1Pipeline.step_defs["refpix"])
        seconds: dict[str, float] = {}
        time_steps(Detector1Pipeline.step_defs, seconds)
        uncal = with_asdf(arguments.uncal, Path(scratch))
        start = time.perf_counter()
        Detector1Pipeline.call(str(uncal), steps=steps, output_dir=str(arguments.output), save_results=True)
        pipeline_seconds = time.perf_counter() - start

    root = arguments.uncal.name.removesuffix(".gz").removesuffix(".fits").removesuffix("_uncal")
    report = {
        "uncal": arguments.uncal.name,
        "was_copied": uncal != arguments.uncal,
        "import_seconds": round(import_seconds, 3),
        "steps": {name: round(value, 3) for name, value in seconds.items() if name not in OFF},
        "pipeline_seconds": round(pipeline_seconds, 3),
        "total_seconds": round(time.perf_counter() - START, 3),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "references": {kind: Path(path).name for kind, path in sorted(references.items())},
        "settings": {f"{name}.{key}": value for name, key, value in settings},
        "files": sorted(path.name for path in arguments.output.glob(f"{root}_*.fits")),
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
