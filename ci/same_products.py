"""Calibrate the same exposures with two versions of nsxr, and list all differences between their products.

    python ci/same_products.py COMMIT [-o FOLDER] [--real FOLDER] [--demo] [--only NAME]...

Exposures are simulated once, by this checkout: the five configurations of ``ci/compare --short`` and, with ``--demo``,
the exposure of ``nsxr demo``. Real nods come from the folder ``--real`` or, without it, NSXR_REAL_DATA. COMMIT is
checked out beside this checkout and runs with the same libraries. Both versions calibrate the raw exposures to FITS and
Zarr, add one to an archive, and extract the nods. Pixels and tables are compared bit for bit. Extensions, variables,
keywords and attributes that only one version has, or that have other values, are listed. Ends with status 1 if pixels
or tables differ. Products of COMMIT that are in FOLDER from an earlier run are used again.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from astropy.io import fits

sys.path.insert(0, str(Path(__file__).resolve().parent / "peer"))

from common import CI, make_parser
from configurations import SHORT, Configuration, Paths

HERE = CI.parent
DEMO = Configuration("demo", "NRSIRS2RAPID", "FULL", 20)
NODS = {"mos_jw02565": "jw*_nrs?_cal.fits", "mos_jw04233": "*_phot.*.fits"}
NEVER_THE_SAME = {"DATE", "CHECKSUM", "DATASUM", "CAL_VER", "CAL_VCS", "NSXR_VER", "NSXR_SFT"}
NEVER_THE_SAME |= {"nsxr_manifest", "nsxr_plan"}
"""Keywords and attributes that say when, where and by which software a file was made."""
PROVENANCE = "NSXR_PROVENANCE"
"""Extension with versions of software, which may differ, and with inputs, references and recipe, which may not."""


def run(code: Path, *arguments: object) -> None:
    """Run the ``nsxr`` command of a checkout."""
    program = "import sys; sys.argv[0] = 'nsxr'; from nsxr.cli import run; run()"
    # without -P, Python would import the nsxr of the working directory, whatever PYTHONPATH says
    command = [sys.executable, "-P", "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(code)}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"{code.name}: nsxr {' '.join(map(str, arguments))} ended with {done.returncode}\n{done.stderr}"
        )


def simulate(configuration: Configuration, folder: Path) -> Paths:
    """Simulate an exposure with its references, unless it exists already."""
    if not folder.is_dir():
        options = {
            "readout": configuration.readout,
            "subarray": configuration.subarray,
            "groups": configuration.groups,
            "integrations": configuration.integrations,
            "detector": configuration.detector,
            "seed": configuration.seed,
            "scene": configuration.scene,
        }
        run(HERE, "simulate", "-o", folder, *(part for key, value in options.items() for part in (f"--{key}", value)))
    return Paths.find(folder)


def make(code: Path, exposures: Mapping[str, tuple[Configuration, Paths]], nods: Sequence[Path], output: Path) -> None:
    """Make all products with the ``nsxr`` command of a checkout."""
    for name, (configuration, paths) in exposures.items():
        settings = [part for setting in configuration.settings for part in ("--set", setting)]
        given = [paths.uncal, "--references", paths.references, *settings]
        run(code, "detector1", *given, "-o", output / name, "--format", "both", "--overwrite")
    if exposures:
        name, (_, paths) = next(iter(exposures.items()))
        archive = output / "archive.zarr"
        run(code, "archive", "add", archive, paths.uncal, "--references", paths.references, "--raw", "--overwrite")
    for folder in nods:
        files = sorted(folder.glob(NODS[folder.name]))
        run(code, "extract", *files, "-o", output / folder.name, "--format", "both", "--overwrite")


def contents(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return pixels and tables, and keywords or attributes, of a FITS file or a Zarr store, by name."""
    arrays: dict[str, np.ndarray] = {}
    words: dict[str, Any] = {}
    if path.suffix == ".zarr":
        store = zarr.open_group(path, mode="r")
        words |= {f"/{key}": value for key, value in store.attrs.items()}
        for name, member in store.members(max_depth=None):
            words |= {f"{name}/{key}": value for key, value in member.attrs.items()}
            if isinstance(member, zarr.Array):
                arrays[name] = np.asarray(member[...])
        return arrays, words
    with fits.open(path, memmap=False) as hdus:
        for number, hdu in enumerate(hdus):
            label = f"{hdu.name},{hdu.ver}" if number else "PRIMARY"
            words |= {f"{label}/{card.keyword}": card.value for card in hdu.header.cards if card.keyword.strip()}
            if hdu.name == PROVENANCE:
                words |= {f"{label}/{row['KEY']}": row["VALUE"] for row in hdu.data if row["KEY"] != "software"}
            elif hdu.data is not None:
                arrays[label] = np.asarray(hdu.data)
    return arrays, words


def without_versions(value: Any) -> Any:
    """Return an attribute; if it is the record of provenance, without the versions of software."""
    try:
        known = json.loads(value)
    except (TypeError, ValueError):
        return value
    return {key: part for key, part in known.items() if key != "software"} if isinstance(known, dict) else known


def is_same(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two arrays have the same type, shape and bytes; objects are compared by value."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.hasobject:
        return bool((one == other).all())
    return one.tobytes() == other.tobytes()


def apart(one: np.ndarray, other: np.ndarray) -> str:
    """Say how two arrays differ."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"{one.dtype} {one.shape} was, {other.dtype} {other.shape} is"
    if one.dtype.kind not in "fiu":
        return "differs"
    differs = (one != other) & ~(np.isnan(one.astype(float)) & np.isnan(other.astype(float)))
    if one.dtype.kind != "f":
        return f"{differs.sum()} of {one.size} values differ"
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.abs(other - one)[differs] / np.abs(one)[differs]
    size = np.nanmedian(relative) if np.isfinite(relative).any() else np.nan
    return f"{differs.sum()} of {one.size} values differ, by {size:.2g} in the median"


def differences(before: Path, after: Path) -> Iterator[tuple[bool, str]]:
    """Yield, for two products of one name, whether pixels or tables differ, and what differs."""
    (old, old_words), (new, new_words) = contents(before), contents(after)
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in new:
            yield True, f"{name} is gone"
        elif name not in old:
            yield False, f"{name} is new"
        elif not is_same(old[name], new[name]):
            yield True, f"{name}: {apart(old[name], new[name])}"
    for key in [*old_words, *(key for key in new_words if key not in old_words)]:
        one, other = (without_versions(words.get(key)) for words in (old_words, new_words))
        if key.rpartition("/")[2] in NEVER_THE_SAME or one == other:
            continue
        was, found = (str(words.get(key, "nothing"))[:60] for words in (old_words, new_words))
        yield False, f"{key}: {was} was, {found} is"


def compare(before: Path, after: Path, shown: int) -> bool:
    """Print how the products of two folders differ; return whether all pixels and tables are the same."""
    products = sorted(
        path.relative_to(folder)
        for folder in (before, after)
        for pattern in ("**/*.fits", "**/*.zarr")
        for path in folder.glob(pattern)
    )
    same = True
    for product in dict.fromkeys(products):
        if not (after / product).exists() or not (before / product).exists():
            print(f"{product}: {'new' if (after / product).exists() else 'gone'}")
            same &= (after / product).exists()
            continue
        found = list(differences(before / product, after / product))
        changed = any(is_data for is_data, _ in found)
        same &= not changed
        others = sum(not is_data for is_data, _ in found)
        print(f"{product}: pixels and tables {'DIFFER' if changed else 'the same'}, {others} other differences")
        for is_data, text in sorted(found, key=lambda entry: not entry[0])[:shown]:
            print(f"  {'!' if is_data else '-'} {text}")
    return same


def main() -> int:
    """Make the products with both versions and compare them."""
    parser = make_parser(__doc__)
    parser.add_argument("commit", help="the version to compare with")
    parser.add_argument("-o", "--output", type=Path, help="keep exposures and products there")
    parser.add_argument("--real", type=Path, default=os.environ.get("NSXR_REAL_DATA"), help="folder of real products")
    parser.add_argument("--demo", action="store_true", help="also the full frame of nsxr demo")
    parser.add_argument("--only", action="append", help="only these configurations, or 'nods'")
    parser.add_argument("--shown", type=int, default=12, help="differences printed for each product")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.output or Path(scratch)).resolve()
        code = Path(scratch) / "before"
        asked = ["git", "-C", HERE, "rev-parse", "--short", arguments.commit]
        commit = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
        subprocess.run(["git", "-C", HERE, "worktree", "add", "--detach", "-q", code, commit], check=True)
        try:
            only = arguments.only
            chosen = [c for c in (*SHORT, *([DEMO] if arguments.demo else [])) if not only or c.name in only]
            exposures = {c.name: (c, simulate(c, folder / "exposures" / c.name)) for c in chosen}
            wants_nods = arguments.real and (not only or "nods" in only)
            nods = [Path(arguments.real) / name for name in NODS] if wants_nods else []
            before, after = folder / f"before-{commit}", folder / "after"
            done = before / "complete"
            if not done.exists() or only:
                make(code, exposures, nods, before)
                done.touch()
            make(HERE, exposures, nods, after)
            return 0 if compare(before, after, arguments.shown) else 1
        finally:
            subprocess.run(["git", "-C", HERE, "worktree", "remove", "--force", code], check=True)


if __name__ == "__main__":
    sys.exit(main())
