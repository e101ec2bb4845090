"""Compare the steps from count rates to flux with jwst, on simulated references of all modes.

    python ci/peer/compare_flux.py [--short] [SCENE...] [--steps STEP...] [-o DIR] [--peer FOLDER]

Both programs read the same noisy count rates, metafiles and references, cut out slits, correct the wavelengths of
points, and run the steps of :data:`STEPS` in their order. The steps of nsxr start from jwst's wavelengths. After each
step the pixels are compared where the cut-outs overlap. Results go to ``DIR/flux.md`` and ``DIR/flux.json``.

A difference is relative to jwst's value. ``repaired``: pixels that differ because nsxr repairs what jwst does, in this
step or before; they count as pixels, but not as differences. The repairs: the width of a pixel at the edge of a slit
comes from its own row (flat field); sources outside of the grid of the path loss are corrected; the last piece of a bar
shadow begins in the middle of its shutter. Pixels of slices beyond the wavelengths of the sensitivity have no value and
are left out; jwst takes the sensitivity at the end. Ends with status 1 if fewer than 99.9 % of the pixels of a step
agree within 1e-5, if flags differ, or if a pixel has a value in one of the two programs only.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import xarray as xr
from common import PEER, add_choices, add_peer, log_command, make_parser, peer_python, table_head, table_row
from flux_scenes import SCENES, SHORT, References, Tree, cut_out, prepare
from optics_scenes import Scene

import nsxr
from nsxr.slits.collection import iterate_slits

WITHIN, SHARE, WITHIN_VARIANCE = 1e-5, 0.999, 3e-5
HALF_SLIT, JWST_OFF = 0.5, 0.002
MODES = ("FS", "MOS", "IFU", "BOTS")
COLUMNS = ("scene", "step", "slits", "pixels", "within 1e-5", "largest difference", "repaired", "value in one only")
COLUMNS += ("flags that differ", "stored factors within 1e-5", "variances within 3e-5", "var_flat within 1e-3")
COLUMNS += ("jwst [s CPU]", "nsxr [s CPU]")


def flat_field(slits: Tree, references: References) -> Tree:
    """Divide by the flat field."""
    return nsxr.correct_flat_field(slits, *(nsxr.open_flat(references[kind]) for kind in ("fflat", "sflat", "dflat")))


def path_loss(slits: Tree, references: References) -> Tree:
    """Correct for the path loss."""
    return nsxr.correct_path_loss(slits, nsxr.open_path_loss(references["pathloss"]), interpolation="linear")


def bar_shadow(slits: Tree, references: References) -> Tree:
    """Correct for the bar shadow."""
    return nsxr.correct_bar_shadow(slits, nsxr.open_bar_shadow(references["barshadow"]))


def photom(slits: Tree, references: References) -> Tree:
    """Multiply by the sensitivity."""
    photometry, area = nsxr.open_photometry(references["photom"]), nsxr.open_pixel_area(references["area"])
    return nsxr.calibrate_flux(slits, photometry, area)


def outside(slit: xr.Dataset) -> np.ndarray:
    """Return all pixels of a fixed slit whose source is outside of the path losses: jwst does not correct it."""
    places = [abs(float(slit.attrs.get(key) or 0)) for key in ("SRCXPOS", "SRCYPOS")]
    is_outside = not slit.attrs.get("SHUTSTA") and max(places) >= HALF_SLIT
    return np.full(slit["wavelength"].shape, is_outside)


def upper_end(slit: xr.Dataset) -> np.ndarray:
    """Return the pixels of extended sources above the middle of the last shutter, where jwst is 0.002 pitch off."""
    states = str(slit.attrs["SHUTSTA"])
    source = states.find("x") if "x" in states else (len(states) - 1) // 2
    last = (len(states) - 1 - source - 2 * JWST_OFF) * float(slit.attrs["SLTYSCL"])
    return (slit["slit_y"].to_numpy() > last) & (slit.attrs["SRCTYPE"] == "EXTENDED")


def at_edges(slit: xr.Dataset) -> np.ndarray:
    """Return the pixels beside the end of their row of a slit, whose width jwst takes from other rows."""
    inside = np.isfinite(slit["wavelength"].to_numpy())
    ends = np.zeros_like(inside)
    ends[:, :-1] = inside[:, :-1] & ~inside[:, 1:]
    ends[:, -1] = inside[:, -1]
    return ends


def beyond(slit: xr.Dataset) -> np.ndarray:
    """Return the pixels of slices without a sensitivity, for which jwst takes that at the nearest wavelength."""
    return (slit["photom_uniform"].to_numpy() == 0) & ("slice" in slit)


def nowhere(slit: xr.Dataset) -> np.ndarray:
    """Return no pixel."""
    return np.zeros(slit["wavelength"].shape, bool)


@dataclass(frozen=True)
class Step:
    """A step to compare.

    Attributes
    ----------
    ours : callable
        Does with nsxr what the step of jwst does, on all slits.
    stored : tuple of str
        Factors that both programs store in a slit.
    repaired : callable
        Returns the pixels (row, column) of a slit of nsxr where a listed repair changes the result.
    modes : tuple of str
        Modes that have this step.
    lost : callable
        Returns the pixels (row, column) of a slit of nsxr that have a value in jwst only.
    """

    ours: Callable[[Tree, References], Tree]
    stored: tuple[str, ...]
    repaired: Callable[[xr.Dataset], np.ndarray] = nowhere
    modes: tuple[str, ...] = MODES
    lost: Callable[[xr.Dataset], np.ndarray] = nowhere


STEPS: Mapping[str, Step] = {
    "flat_field": Step(flat_field, ("flatfield_point", "flatfield_uniform"), at_edges),
    "pathloss": Step(path_loss, ("pathloss_point", "pathloss_uniform"), outside, ("FS", "MOS", "IFU")),
    "barshadow": Step(bar_shadow, ("barshadow",), upper_end, ("MOS",)),
    "photom": Step(photom, ("photom_point",), nowhere, MODES, beyond),
}
"""The steps, by their names in jwst, in their order. ``run_flux.py`` knows the classes of jwst."""


class Tally:
    """What a step has in common with jwst, over all slits of a scene."""

    def __init__(self) -> None:
        self.slits = self.repaired = self.in_one = self.flags = 0
        self.largest = 0.0
        self.counts = dict.fromkeys(("sci", "stored", "variances", "var_flat"), (0, 0))

    def add(self, kind: str, difference: np.ndarray, within: float) -> None:
        """Count differences that are within a limit."""
        agreed, total = self.counts[kind]
        self.counts[kind] = (agreed + int((difference <= within).sum()), total + difference.size)

    def share(self, kind: str) -> float:
        """Return which part agrees."""
        agreed, total = self.counts[kind]
        return agreed / total if total else 1.0

    @property
    def is_good(self) -> bool:
        """Whether the step agrees within the limits."""
        shares = min(self.share(kind) for kind in ("sci", "stored", "variances"))
        return bool(self.counts["sci"][1] and shares >= SHARE and not self.in_one and not self.flags)


def overlap(slit: xr.Dataset, place: Mapping[str, int], shape: Sequence[int]) -> tuple[tuple[slice, slice], ...]:
    """Return the rows and columns that both programs have: their positions in our arrays, and in those of jwst."""
    ours, theirs = [], []
    for dim, size in zip(("row", "column"), shape[-2:], strict=True):
        first = int(slit[dim][0])
        low, high = max(first, place[dim]), min(first + slit.sizes[dim], place[dim] + size)
        ours.append(slice(low - first, high - first))
        theirs.append(slice(low - place[dim], high - place[dim]))
    return tuple(ours), tuple(theirs)


def with_wavelengths(slits: Tree, theirs: Mapping[str, np.ndarray], places: Mapping[str, Mapping]) -> Tree:
    """Return slits with the wavelengths of jwst where it has any, so that only the steps are compared."""

    def replaced(slit: xr.Dataset) -> xr.Dataset:
        name = str(slit.attrs.get("SLTNAME"))
        found = theirs.get(f"wavecorr/{name}/wavelength")
        if found is None:
            return slit
        here, there = overlap(slit, places[name], found.shape)
        values = slit["wavelength"].to_numpy().copy()
        values[here] = np.where(np.isfinite(found[there]), found[there], values[here])
        return slit.assign(wavelength=slit["wavelength"].copy(data=values))

    return nsxr.map_slits(replaced, slits)


def compare_slit(
    slit: xr.Dataset, theirs: Mapping[str, np.ndarray], place: Mapping, done: Sequence[Step], tally: Tally
) -> None:
    """Add one slit to the tally of the last of the steps that are done. Slits that are repaired as a whole are left."""
    here, there = overlap(slit, place, theirs["sci"].shape)
    mine = {name: slit[name].to_numpy()[(..., *here)] for name in ("dq", *theirs) if name in slit}
    other = {name: values[(..., *there)] for name, values in theirs.items()}
    inside = np.isfinite(slit["wavelength"].to_numpy()[here])
    if "slice" in other:  # boxes of jwst are two columns smaller on one side
        inside &= other.pop("slice") > 0
    step, repaired = done[-1], np.any([one.repaired(slit) for one in done], axis=0)[here]
    inside &= ~step.lost(slit)[here]
    tally.slits += 1
    if repaired.all():
        tally.repaired += int(inside.sum())
        return
    for name in other:
        if name == "dq" or name not in mine:
            continue
        kind = name if name in ("sci", "var_flat") else "stored" if name in step.stored else "variances"
        a, b = mine[name], other[name]
        both = np.isfinite(a) & np.isfinite(b) & inside
        with np.errstate(all="ignore"):
            difference = np.where(a == b, 0.0, np.abs(a / b - 1))
        within = {"variances": WITHIN_VARIANCE, "var_flat": 1e-3}.get(kind, WITHIN)
        if name == "sci":
            tally.in_one += int(((np.isfinite(a) != np.isfinite(b)) & inside).sum())
            tally.repaired += int((both & repaired & (difference > within)).sum())
            tally.largest = max(tally.largest, float(difference[both & ~repaired].max(initial=0.0)))
        difference = np.where(repaired, 0.0, difference)
        tally.add(kind, difference[both], within)
    tally.flags += int(((mine["dq"] != other["dq"]) & inside).sum())


def run_scene(scene: Scene, steps: Sequence[str], python: Path, log: Path) -> list[dict[str, object]]:
    """Run both programs on a scene and compare them after each step; return a row for each step."""
    rows, done = [], []
    steps = [step for step in steps if scene.mode in STEPS[step].modes]
    if not steps:
        return rows
    with TemporaryDirectory(prefix="flux-") as name:
        folder = Path(name)
        rate, references, metafile = prepare(scene, folder)
        listed, result = folder / "references.json", folder / "jwst.npz"
        listed.write_text(json.dumps(references), encoding="utf-8")
        log_command([str(python), str(PEER / "run_flux.py"), str(rate), str(result), str(listed), *steps], log)
        with np.load(result) as file:
            theirs = dict(file)
        attributes = json.loads(str(theirs["attributes"]))
        slits = cut_out(scene, rate, references, metafile).compute()
        slits = with_wavelengths(slits, theirs, attributes["slits"])
        for step in steps:
            begin = time.process_time()
            slits = STEPS[step].ours(slits, references).compute()
            seconds = time.process_time() - begin
            done.append(STEPS[step])
            tally = Tally()
            for _, slit in iterate_slits(slits):
                key = "slices" if scene.mode == "IFU" else str(slit.attrs["SLTNAME"])
                prefix = f"{step}/{key}/"
                found = {one.removeprefix(prefix): values for one, values in theirs.items() if one.startswith(prefix)}
                if found:
                    compare_slit(slit, found, attributes["slits"][key], done, tally)
            rows.append(
                {
                    "scene": scene.name,
                    "step": step,
                    "slits": tally.slits,
                    "pixels": tally.counts["sci"][1],
                    "within": tally.share("sci"),
                    "largest": tally.largest,
                    "repaired": tally.repaired,
                    "in one": tally.in_one,
                    "flags": tally.flags,
                    "stored": tally.share("stored"),
                    "variances": tally.share("variances"),
                    "var_flat": tally.share("var_flat"),
                    "jwst": attributes["seconds"][step],
                    "nsxr": seconds,
                    "is good": tally.is_good,
                }
            )
    return rows


def cells(row: Mapping[str, object]) -> list[object]:
    """Return the cells of a row of the table."""
    found = [row[key] for key in ("scene", "step", "slits", "pixels")]
    found += [f"{row['within']:.5f}", f"{row['largest']:.1e}", row["repaired"], row["in one"], row["flags"]]
    return [*found, *(f"{row[key]:.5f}" for key in ("stored", "variances", "var_flat")), *_seconds(row)]


def _seconds(row: Mapping[str, object]) -> list[str]:
    return [f"{row[key]:.2f}" for key in ("jwst", "nsxr")]


def main() -> int:
    """Compare the scenes that are asked for."""
    parser = make_parser(__doc__)
    known = {scene.name: scene for scene in SCENES}
    add_choices(parser, "scenes", list(known), ())
    parser.add_argument("--short", action="store_true", help="one scene of 8 slitlets")
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS), help="default: all")
    parser.add_argument("-o", "--output", type=Path, default=Path("."), metavar="DIR")
    add_peer(parser)
    options = parser.parse_args()
    scenes = [known[name] for name in options.scenes] or (SHORT if options.short else SCENES)
    steps = [step for step in STEPS if step in options.steps]
    options.output.mkdir(parents=True, exist_ok=True)
    python, rows = peer_python(options.peer), []
    print(table_head(COLUMNS), flush=True)
    for scene in scenes:
        for row in run_scene(scene, steps, python, options.output / "flux.log"):
            rows.append(row)
            print(table_row(cells(row)), flush=True)
    table = "\n".join([table_head(COLUMNS), *(table_row(cells(row)) for row in rows)])
    options.output.joinpath("flux.md").write_text(table + "\n", encoding="utf-8")
    options.output.joinpath("flux.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    bad = [f"{row['scene']} {row['step']}" for row in rows if not row["is good"]]
    if bad:
        print(f"outside the limits: {', '.join(bad)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
