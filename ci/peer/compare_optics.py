"""Compare wavelengths, sky coordinates, boxes and sources of slits and slices with jwst, and the time for them.

    python ci/peer/compare_optics.py [--short | --speed] [SCENE...] [-o DIR] [--peer FOLDER]

It also compares the steps after that: types of sources, the zero point of wavelengths, pixels that see stuck shutters;
and cut-outs of more wavelengths than those of the filter and the grating.

Both programs read the same count rates, metafiles and references. References are the compact ones of the simulator, or
are made from ESA's flight model; those need NSXR_REAL_DATA. Without it, and with ``--short``, only scenes of compact
references run. Differences are of double precision values at the same pixels. Results go to ``DIR/optics.md`` and
``DIR/optics.json``. ``--speed`` runs exposures with 42 and about 81 slitlets only, and also computes the coordinates of
all pixels of a detector through one slit.

Ends with status 1 if wavelengths differ by more than 1e-9 um (slices of the PRISM: 2e-8), sky coordinates by more than
1e-9 degrees, if a box does not cover that of jwst, if names, sources and states differ, or if a later step differs by
more than ``compare_steps.py`` says. A slitlet with several sources is an exception: jwst may take another source's
shutter as its centre. So are slits of jwst with no pixel in the nominal range of wavelengths, which lie beyond the edge
of the detector, and pixels of slices beyond this range, which only jwst keeps. jwst flags stuck shutters in the margins
of their boxes too, beyond this range. The table counts all of them. In scenes of few slits each program also opens the
product of the other, with the same limits for the coordinates of the gwcs in it, and jwst resamples the slits that nsxr
cut out.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import xarray as xr
from common import PEER, add_choices, add_peer, log_command, make_parser, peer_python, table_head, table_row
from compare_steps import COLUMNS as STEP_COLUMNS
from compare_steps import cases_of, compare_steps, faults, step_cells, widen, write_step_references
from optics_scenes import LONG, SHORT, SPEED, Scene, write_metafile, write_rate

import nsxr
from nsxr.optics.slit_optics import Coordinates
from nsxr.simulate.compact_optics import write_compact_optics
from nsxr.slits.selection import slits_of
from tests.optics.flight_references import write_flight_references

WAVELENGTH = 1e-9
SLICE_OF_PRISM = 2e-8
SKY = 1e-9
SINGLE = 2.5e-7
"""Half of the distance of numbers of single precision near 5 um, as in cut-outs."""
TIMED = ("assign_wcs", "extract_2d", "coordinates of a fifteenth of the pixels")
"""What nsxr does too in the time that the table gives."""
SAME = {"SOURCEID": "source_id", "SRCNAME": "source_name", "SHUTSTA": "shutter_state", "SLITID": "slitlet_id"}
SAME |= {"MSAQUAD": "quadrant", "XCEN": "xcen", "YCEN": "ycen"}
COLUMNS = ("scene", "slits", "pixels", "wavelength [um]", "slit_y", "sky [deg]", "cut-outs [um]", "other NaN")
COLUMNS += (
    "gwcs in products [um]",
    "boxes short by",
    "jwst's centre elsewhere",
    "dark slits of jwst",
    "slice pixels beyond the range",
    "other differences",
    "jwst [s CPU]",
    "nsxr [s CPU], first",
    "again",
)
FRAME = ("slit", "pixels compared", "wavelength [um]", "sky [deg]", "other NaN")
FRAME += ("jwst, 2048 x 2048 pixels [s CPU (s)]", "nsxr", "nsxr, slit of 800 open heights")


def real_data() -> Path | None:
    """Return the folder of real files, if the environment names it."""
    return Path(os.environ["NSXR_REAL_DATA"]) if "NSXR_REAL_DATA" in os.environ else None


def prepare(scene: Scene, folder: Path) -> tuple[Path, dict[str, str], Path | None]:
    """Write the count rates, the references and the metafile of a scene; return their paths.

    The ranges of wavelengths are nominal ones.
    """
    rate, metafile = folder / f"{scene.name}_rate.fits", None
    write_rate(scene, rate)
    kinds = {"shutters": scene.mode in ("MOS", "IFU"), "ifu": scene.mode == "IFU"}
    where, real = folder / "references", real_data()
    if scene.optics == "compact":
        paths = dict(write_compact_optics(where, grating=scene.grating, filter=scene.filter, **kinds))
    else:
        if real is None:
            raise RuntimeError(f"{scene.name} needs NSXR_REAL_DATA")
        kinds["shutters"] = True
        paths = write_flight_references(real, where, grating=scene.grating, filter_name=scene.filter, **kinds)
    if scene.mode == "MOS":
        metafile = folder / f"{scene.name}_msa.fits"
        if scene.metafile.isdecimal():
            write_metafile(metafile, int(scene.metafile))
        elif real is not None:
            (found,) = real.rglob(f"{scene.metafile}.fits*")
            nsxr_copy(found, metafile)
    return rate, {kind: str(path) for kind, path in paths.items()}, metafile


def nsxr_copy(source: Path, target: Path) -> None:
    """Copy a file, unpacked if it is gzipped."""
    if source.suffix != ".gz":
        shutil.copyfile(source, target)
        return
    import gzip

    with gzip.open(source) as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file)


def run_ours(scene: Scene, rate: Path, references: Mapping[str, str], metafile: Path | None) -> dict[str, object]:
    """Do with nsxr what the steps of jwst do; return the results and the processor seconds."""
    begin = time.process_time()
    exposure = nsxr.open_exposure(rate)
    optics = nsxr.open_optics(dict(references), exposure)
    if scene.mode == "IFU":
        slices = nsxr.locate_slices(exposure, optics).compute()
        found: dict[str, object] = {"slices": slices}
    else:
        tree = nsxr.cut_slits(exposure, optics, shutters=metafile, wavelength_range=scene.wider)
        cuts = {name: node.to_dataset() for name, node in tree.children.items()}
        computed = {name: cut["wavelength"].compute() for name, cut in cuts.items()}
        found = {
            "cuts": cuts,
            "wavelength": computed,
            "slits": {s.name: s for s in slits_of(exposure, optics, metafile)},
        }
    return found | {
        "exposure": exposure,
        "optics": optics,
        "range": scene.wider or optics.wavelength_range,
        "seconds": time.process_time() - begin,
    }


def difference(ours: np.ndarray, theirs: np.ndarray, scale: float | np.ndarray = 1.0) -> float:
    """Return the largest difference where both are finite."""
    both = np.isfinite(ours) & np.isfinite(theirs)
    return float((np.abs(ours - theirs) * scale)[both].max(initial=0.0))


def compare_places(seen: object, theirs: Mapping[str, np.ndarray], row: dict[str, float]) -> None:
    """Update the largest differences of a scene with those of one slit."""
    slope = np.cos(np.deg2rad(theirs["dec"]))
    turns = (seen.ra - theirs["ra"] + 180) % 360 - 180
    pairs = {
        "wavelength": (seen.wavelength, theirs["wavelength"], 1.0),
        "slit_y": (seen.slit_y, theirs["slit_y"], 1.0),
        "ra": (turns, np.where(np.isfinite(theirs["ra"]), 0.0, np.nan), slope),
        "dec": (seen.dec, theirs["dec"], 1.0),
    }
    for name, pair in pairs.items():
        row[name] = max(row[name], difference(*pair))
    row["pixels"] += int(np.isfinite(theirs["wavelength"]).sum())
    row["other NaN"] += int((np.isfinite(seen.wavelength) != np.isfinite(theirs["wavelength"])).sum())


def missing_pixels(cut: object, box: Mapping[str, int], start: tuple[int, int]) -> int:
    """Return by how many pixels our box fails to cover that of jwst, at the worst edge."""
    first = {"column": box["xstart"] + start[0] - 2, "row": box["ystart"] + start[1] - 2}
    size = {"column": box["xsize"], "row": box["ysize"]}
    edges = []
    for dim in ("column", "row"):
        labels = cut[dim].to_numpy()
        edges += [labels[0] - first[dim], first[dim] + size[dim] - 1 - labels[-1]]
    return int(max(0, *edges))


def compare_cut(wavelength: xr.DataArray, theirs: Mapping[str, np.ndarray], row: dict[str, float]) -> None:
    """Update the largest difference of a scene with that of the wavelengths of one cut-out, in single precision."""
    labels = {"row": theirs["row"][:, 0].astype(int), "column": theirs["column"][0].astype(int)}
    if all(np.isin(places, wavelength.indexes[dim]).all() for dim, places in labels.items()):
        cut = wavelength.sel(labels).to_numpy().astype(np.float64)
        row["cut-outs"] = max(row["cut-outs"], difference(cut, theirs["wavelength"]))
        row["other NaN"] += int((np.isfinite(cut) != np.isfinite(theirs["wavelength"])).sum())


def compare_slits(ours: Mapping[str, object], theirs: Mapping[str, np.ndarray], row: dict[str, object]) -> None:
    """Compare all slits of a scene."""
    listed = json.loads(str(theirs["attributes"]))["slits"]
    cuts, slits, optics = ours["cuts"], ours["slits"], ours["optics"]
    row["slits"] = len(listed)
    others: list[str] = row["other differences"]
    low, high = ours["range"]
    for name in sorted(set(listed) - set(cuts)):
        wavelength = theirs[f"{name}/wavelength"]
        if ((wavelength >= low) & (wavelength <= high)).any():
            others.append(f"{name}: only jwst")
        else:
            row["dark slits of jwst"] += 1
    others += [f"{name}: only nsxr" for name in sorted(set(cuts) - set(listed))]
    for name in sorted(set(listed) & set(cuts)):
        attrs, expected = cuts[name].attrs, listed[name]
        if (
            name in slits
            and "XCEN" in attrs
            and attrs["XCEN"]
            and (attrs["XCEN"], attrs["YCEN"])
            != (
                expected["xcen"],
                expected["ycen"],
            )
        ):
            if len(slits[name].sources) > 1:
                row["jwst's centre elsewhere"] += 1
            else:
                others.append(
                    f"{name}: centre {attrs['XCEN'], attrs['YCEN']}, jwst {expected['xcen'], expected['ycen']}"
                )
            continue
        for key, peer in SAME.items():
            if key in attrs and attrs[key] != expected[peer] and expected[peer] is not None:
                others.append(f"{name}: {key} {attrs[key]!r}, jwst {expected[peer]!r}")
        start = (int(attrs.get("SUBSTRT1", 1)), int(attrs.get("SUBSTRT2", 1)))
        row["boxes"] = max(row["boxes"], missing_pixels(cuts[name], expected, start))
        each = {key: theirs[f"{name}/{key}"] for key in ("column", "row", "slit_y", "wavelength", "ra", "dec")}
        compare_places(optics.forward(each["column"], each["row"], slits[name]), each, row)
        compare_cut(ours["wavelength"][name], each, row)


def compare_slices(ours: Mapping[str, object], theirs: Mapping[str, np.ndarray], row: dict[str, object]) -> None:
    """Compare all slices: the map, and coordinates at the pixels that jwst gives."""
    each = {key.partition("/")[2]: theirs[key] for key in theirs if key.startswith("slices/")}
    number, optics = ours["slices"]["slice"].to_numpy(), ours["optics"]
    row["slits"] = len(np.unique(each["slice"])) - 1
    low, high = optics.wavelength_range
    unequal = number != each["slice"]
    for index in range(30):
        y, x = np.nonzero(unequal & ((each["slice"] == index + 1) | (number == index + 1)))
        wavelength = optics.forward(x, y, str(index), sky=False).wavelength
        inside = int(((wavelength >= low) & (wavelength <= high)).sum())
        row["slice pixels beyond the range"] += x.size - inside
        if inside:
            row["other differences"].append(f"slice {index}: {inside} pixels in another slice or none")
    place = each["row"].astype(int), each["column"].astype(int)
    for index in range(30):
        inside = (each["slice"][place] == index + 1) & (number[place] == index + 1)
        if inside.any():
            part = {key: value[inside] for key, value in each.items() if key != "slice"}
            compare_places(optics.forward(part["column"], part["row"], str(index)), part, row)


def exchange(
    ours: Mapping[str, object], theirs: Mapping[str, np.ndarray], product: Path, python: Path, log: Path
) -> dict[str, float]:
    """Return the largest differences of coordinates where each program uses the gwcs that the other one wrote."""
    row = dict.fromkeys(("wavelength", "slit_y", "ra", "dec"), 0.0) | {"pixels": 0, "other NaN": 0}
    optics, slits = ours["optics"], ours["slits"]
    written, result = product.with_name("nsxr_cal.fits"), product.with_name("gwcs.npz")
    nsxr.write_slits(xr.DataTree.from_dict(ours["cuts"]), written, optics=optics)
    log_command([str(python), str(PEER / "slit_gwcs.py"), str(written), str(result)], log)
    with np.load(result) as file:
        evaluated = dict(file)
    read = nsxr.open_optics(product)
    for name in read.slits:
        for used, found, slit in ((read, theirs, name), (optics, evaluated, slits[name])):
            each = {key: found[f"{name}/{key}"] for key in ("column", "row", "slit_y", "wavelength", "ra", "dec")}
            compare_places(used.forward(each["column"], each["row"], slit), each, row)
    return row


def compare_frame(
    ours: Mapping[str, object], theirs: Mapping[str, np.ndarray], seconds: Mapping[str, list[float]]
) -> list[object]:
    """Compare the coordinates of all pixels of a detector through one slit; return a row of the table."""
    name = next(iter(json.loads(str(theirs["attributes"]))["slits"]))
    slit, optics = ours["slits"][name], ours["optics"]
    row, column = np.mgrid[:2048, :2048].astype(float)
    times = []
    # pixels outside a slit take less time; a slit of 800 open heights has many inside
    for seen in (slit, replace(slit, slit_y_low=-400.0, slit_y_high=400.0)):
        optics.forward(column[:64], row[:64], seen)
        begin, wall = time.process_time(), time.perf_counter()
        places = optics.forward(column, row, seen)
        times.append(f"{time.process_time() - begin:.2f} ({time.perf_counter() - wall:.2f})")
        if seen is slit:
            mine = Coordinates(*(None if axis is None else axis[:, ::16] for axis in places))
    each = {key: theirs[f"whole/{key}"] for key in ("wavelength", "ra", "dec")} | {
        "slit_y": np.full((2048, 128), np.nan)
    }
    found = dict.fromkeys(("wavelength", "slit_y", "ra", "dec"), 0.0) | {"pixels": 0, "other NaN": 0}
    compare_places(mine, each, found)
    differences = [f"{found['wavelength']:.1e}", f"{max(found['ra'], found['dec']):.1e}", found["other NaN"]]
    return [name, found["pixels"], *differences, "{:.2f} ({:.2f})".format(*seconds["whole frame"]), *times]


def run_scene(scene: Scene, python: Path, log: Path, is_whole: bool) -> dict[str, object]:
    """Run both programs on a scene and compare."""
    row: dict[str, object] = dict.fromkeys(("wavelength", "slit_y", "ra", "dec", "cut-outs"), 0.0)
    row |= dict.fromkeys(("slits", "pixels", "other NaN", "boxes", "jwst's centre elsewhere", "dark slits of jwst"), 0)
    row |= {"scene": scene.name, "slice pixels beyond the range": 0, "other differences": []}
    with TemporaryDirectory(prefix="optics-") as name:
        folder = Path(name)
        rate, references, metafile = prepare(scene, folder)
        first = run_ours(scene, rate, references, metafile)
        references |= write_step_references(scene, first["exposure"], references)
        task, result, cases = folder / "task.json", folder / "jwst.npz", cases_of(scene)
        product = folder / "jwst_cal.fits"
        asked = {"references": dict(references), "cases": cases, "is_whole": is_whole}
        asked["product"] = str(product) if scene.exchanges else ""
        if scene.wider:
            asked["references"]["wavelengthrange"] = widen(references["wavelengthrange"], scene)
        task.write_text(json.dumps(asked), encoding="utf-8")
        log_command([str(python), str(PEER / "run_optics.py"), str(rate), str(result), str(task)], log)
        with np.load(result) as file:
            theirs = dict(file)
        seconds = json.loads(str(theirs["attributes"]))["seconds"]
        again = run_ours(scene, rate, references, metafile)
        (compare_slices if scene.mode == "IFU" else compare_slits)(again, theirs, row)
        steps = compare_steps(again, again["exposure"], references, cases, theirs)
        row["other differences"] += faults(steps, scene)
        row["exchanged"] = exchange(again, theirs, product, python, log) if scene.exchanges else None
        if is_whole:
            row["frame"] = compare_frame(again, theirs, seconds)
    return (
        row
        | {"steps": step_cells(scene, steps, seconds)}
        | {
            "jwst": {step: seconds[step] for step in seconds if step in TIMED},
            "first": first["seconds"],
            "again": again["seconds"],
        }
    )


def is_good(row: Mapping[str, object], scene: Scene) -> bool:
    """Whether a scene agrees within the limits."""
    limit = SLICE_OF_PRISM if scene.mode == "IFU" and scene.grating == "PRISM" else WAVELENGTH
    exact = all(
        part["wavelength"] <= limit and max(part["ra"], part["dec"]) <= SKY and not part["other NaN"] and part["pixels"]
        for part in (row, *([row["exchanged"]] if scene.exchanges else ()))
    )
    return bool(exact and row["cut-outs"] <= SINGLE and row["boxes"] == 0 and not row["other differences"])


def cells(row: Mapping[str, object]) -> list[object]:
    """Return the cells of a row of the table."""
    theirs = ", ".join(f"{step} {cpu:.1f}" for step, (cpu, _) in row["jwst"].items())
    found = [row["scene"], row["slits"], row["pixels"], f"{row['wavelength']:.1e}", f"{row['slit_y']:.1e}"]
    found += [f"{max(row['ra'], row['dec']):.1e}", f"{row['cut-outs']:.1e}" if row["cut-outs"] else ""]
    found += [row["other NaN"], f"{row['exchanged']['wavelength']:.1e}" if row["exchanged"] else ""]
    found += [row["boxes"], row["jwst's centre elsewhere"]]
    found += [row["dark slits of jwst"], row["slice pixels beyond the range"]]
    return [*found, len(row["other differences"]), theirs, f"{row['first']:.2f}", f"{row['again']:.2f}"]


def write_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    return "\n".join([table_head(columns), *map(table_row, rows)]) + "\n"


def main() -> int:
    """Compare the scenes that are asked for."""
    parser = make_parser(__doc__)
    known = {scene.name: scene for scene in (*SHORT, *SPEED, *LONG)}
    add_choices(parser, "scenes", list(known), ())
    parser.add_argument("--short", action="store_true", help="one scene of 8 slitlets with compact references")
    parser.add_argument("--speed", action="store_true", help="42 and about 81 slitlets")
    parser.add_argument("-o", "--output", type=Path, default=Path("."), metavar="DIR")
    add_peer(parser)
    options = parser.parse_args()
    chosen = [known[name] for name in options.scenes] if options.scenes else None
    scenes = chosen or (SHORT if options.short else SPEED if options.speed else LONG)
    if real_data() is None:
        scenes = [scene for scene in scenes if scene.optics == "compact"]
    options.output.mkdir(parents=True, exist_ok=True)
    python, rows, bad = peer_python(options.peer), [], []
    print(table_head(COLUMNS), flush=True)
    for scene in scenes:
        row = run_scene(scene, python, options.output / "optics.log", options.speed)
        rows.append(row)
        print(table_row(cells(row)), flush=True)
        for text in row["other differences"][:8]:
            print("    " + text, flush=True)
        if not is_good(row, scene):
            bad.append(scene.name)
    tables = [write_table(COLUMNS, map(cells, rows)), write_table(STEP_COLUMNS, (row["steps"] for row in rows))]
    if options.speed:
        tables.append(write_table(FRAME, (row["frame"] for row in rows)))
    print("\n" + "\n".join(tables[1:]))
    options.output.joinpath("optics.md").write_text("\n".join(tables), encoding="utf-8")
    options.output.joinpath("optics.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    if bad:
        print(f"outside the limits: {', '.join(bad)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
