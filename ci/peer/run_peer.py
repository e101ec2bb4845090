"""Run the peer's stage 1 on one NIRSpec exposure, offline, with the references of a folder.

Executed by the Python of the peer's environment (see ``environment.sh``); imports nothing of nsxr.
Prints one JSON line: wall seconds of every step, of the pipeline and of the import, peak memory,
the references and parameters used, and the products written. The peer's own log goes to stderr.

Defaults are those of the peer's code with one operational NIRSpec setting, the search for snowballs
(``jump.expand_large_events=True``); any other is a matter of ``--set STEP.PARAMETER=VALUE``.
"""

import argparse
import ast
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

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
"""Reference types that each step asks for; all get an override, so that no server is asked."""

OFF = ("emicorr", "reset", "rscd", "firstframe", "lastframe", "ipc", "persistence", "charge_migration")
"""Steps for another instrument, or switched off for NIRSpec in operations."""

OPERATIONAL = {"jump": {"expand_large_events": True}}
"""Operational parameters of NIRSpec that differ from the defaults of the code."""

SAVED = ("group_scale", "dq_init", "saturation", "superbias", "refpix", "linearity", "dark_current", "jump")
"""Steps whose output ``--save-steps`` writes."""


def prepare_offline(folder: Path) -> None:
    """Make the reference system believe in an empty, serverless cache; before the peer's import."""
    context = "jwst_0000.pmap"
    config = folder / "config" / "jwst"
    config.mkdir(parents=True)
    config.joinpath("server_config").write_text(
        repr(
            {
                "observatory": "jwst",
                "latest_context": context,
                "operational_context": context,
                "bad_files": "",
                "bad_files_list": [],
                "force_remote_mode": False,
                "last_synced": "never",
                "crds_version": {"str": "0"},
            }
        )
    )
    os.environ["CRDS_PATH"] = str(folder)
    os.environ["CRDS_SERVER_URL"] = "https://crds-serverless-mode.stsci.edu"
    os.environ["CRDS_CONTEXT"] = context
    os.environ["STPIPE_DISABLE_CRDS_STEPPARS"] = "true"


def choose_references(folder: Path, uncal: Path) -> dict[str, str]:
    """Return ``{type: path}`` of the references in a folder that fit an exposure, told by header."""
    from astropy.io import fits

    with fits.open(uncal) as hdus:
        science = hdus[0].header
        if "ASDF" not in hdus:
            raise SystemExit(f"{uncal} has no ASDF extension; the peer opens no file by name without one")

    def fits_exposure(header: fits.Header) -> bool:
        for key in ("DETECTOR", "SUBARRAY", "SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2"):
            found = header.get(key)
            if header["REFTYPE"] != "DARK" and key.startswith("SUB") and header.get("SUBARRAY") in ("FULL", "GENERIC"):
                continue  # the peer cuts these to the subarray
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
            raise SystemExit(f"no {kind} reference for {uncal.name} in {folder}; the peer cannot do without")
    return chosen


def parse_setting(text: str) -> tuple[str, str, object]:
    """Split ``step.parameter=value``; the value is read as a Python literal where it is one."""
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

    def timed(name: str, run):  # noqa: ANN001, ANN202
        def run_timed(self, *arguments, **keywords):  # noqa: ANN001, ANN002, ANN003, ANN202
            start = time.perf_counter()
            try:
                return run(self, *arguments, **keywords)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

        return run_timed

    for name, step in step_classes.items():
        step.run = timed(name, step.run)


def main() -> None:
    """Run the pipeline as the command line says."""
    parser = argparse.ArgumentParser(description="Run the peer's stage 1 offline on one NIRSpec exposure.")
    parser.add_argument("uncal", type=Path)
    parser.add_argument("--references", type=Path, required=True, metavar="DIR")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument("--save-steps", action="store_true", help="also write the output of every step")
    parser.add_argument("--set", action="append", default=[], metavar="STEP.PARAMETER=VALUE", dest="settings")
    parser.add_argument("--skip", action="append", default=[], metavar="STEP")
    arguments = parser.parse_args()

    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="peer-crds-") as cache:
        prepare_offline(Path(cache))
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

        seconds: dict[str, float] = {}
        time_steps(Detector1Pipeline.step_defs, seconds)
        start = time.perf_counter()
        Detector1Pipeline.call(
            str(arguments.uncal), steps=steps, output_dir=str(arguments.output), save_results=True
        )
        pipeline_seconds = time.perf_counter() - start

    root = arguments.uncal.name.removesuffix(".gz").removesuffix(".fits").removesuffix("_uncal")
    report = {
        "uncal": arguments.uncal.name,
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
