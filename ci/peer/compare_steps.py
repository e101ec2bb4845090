"""Compare the steps after assign_wcs and extract_2d with jwst: srctype, wavecorr, msa_flagging.

Used by ``compare_optics.py``; both programs have the same scene, references and cut-outs.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import asdf
import numpy as np
import xarray as xr
from optics_scenes import Scene

import nsxr
from nsxr.model.dq import PixelFlag
from nsxr.optics.instrument import Optics
from nsxr.optics.shutters import shutter_id
from nsxr.optics.slit import Slit
from nsxr.simulate.aperture_references import aperture_references
from nsxr.simulate.instrument import SimulatedInstrument
from nsxr.simulate.shutters import FAILED_OPEN
from nsxr.slits.collection import as_tree

__all__ = ["COLUMNS", "cases_of", "compare_steps", "faults", "step_cells", "widen", "write_step_references"]

ZERO_POINT, OF_PRISM = 1e-6, 3e-5
"""Largest differences of wavelengths after wavecorr [um], in the range of the filter and the grating.

jwst has the dispersion from wavelengths half a pixel before and after each pixel, nsxr from those of neighbours. Where
the edge of a slit crosses a row, jwst leaves that pixel out of the mean dispersion of its column, but not out of the
mean wavelength. For the PRISM, this is up to 2e-5 um, 0.0015 pixel, in a column or two for each row. In the margins of
boxes, below 0.6 um, wavelengths of the PRISM have kinks, because both programs interpolate the refractive index
linearly every 5 nm.
"""

COLUMNS = ("scene", "source types", "differ", "zero points", "of one program", "largest correction [pixel]")
COLUMNS += (
    "difference [um]",
    "[pixel]",
    "pixels above 1e-6 um",
    "of",
    "beyond the range [um]",
    "NaN of one",
    "pixels that see stuck shutters",
    "only nsxr",
    "only jwst",
)
COLUMNS += ("only jwst, beyond the range", "wavecorr of jwst [s CPU]", "msa_flagging of jwst [s CPU]")

Case = tuple[dict[str, object], str | None]
"""Keywords of the header, and the argument ``source_type``."""

CASES: tuple[Case, ...] = (
    ({}, None),
    *(({"SRCTYAPT": kind}, None) for kind in ("POINT", "EXTENDED", "UNKNOWN")),
    ({"SRCTYPE": "EXTENDED"}, None),
    ({"SRCTYAPT": "UNKNOWN", "SRCTYPE": "EXTENDED"}, None),
    *(({"SRCTYAPT": "POINT", "BKGDTARG": flag}, None) for flag in (True, False)),
    *(({"PATTTYPE": pattern}, None) for pattern in ("2-POINT-NOD", "4-POINT-NOD", "CYCLING", "NONE")),
    ({"SRCTYAPT": "EXTENDED", "PATTTYPE": "3-POINT-NOD"}, None),
    ({"SRCTYAPT": "UNKNOWN", "PATTTYPE": "3-POINT-NOD"}, None),
    *(({"SRCTYAPT": "EXTENDED", "TSOVISIT": True, "NINTS": n}, None) for n in (1, 2)),
    ({"SRCTYAPT": "EXTENDED", "TSOVISIT": False, "NINTS": 2}, None),
    ({"BKGDTARG": True, "NINTS": 2}, None),
    ({"SRCTYAPT": "EXTENDED"}, "POINT"),
    ({"BKGDTARG": True}, "POINT"),
    ({"SRCTYAPT": "POINT"}, "EXTENDED"),
)
OF_FIXED_SLITS: tuple[Case, ...] = tuple(
    ({"FXD_SLIT": name, "SRCTYAPT": kind}, wanted)
    for name, kind, wanted in (
        ("S400A1", "POINT", None),
        ("S200B1", "EXTENDED", None),
        ("S1600A1", "UNKNOWN", None),
        ("S200A2", "POINT", "EXTENDED"),
    )
)
OF_SHUTTERS: tuple[Case, ...] = tuple(({"STLARITY": value}, None) for value in (-1.0, 0.0, 0.75, 0.76, 1.0))
"""jwst ignores the argument for shutters, nsxr does not; see ``nsxr.set_source_type``."""

STUCK = (*FAILED_OPEN, (1, 1, 1), (2, 365, 171), (3, 1, 171), (4, 365, 1), (3, 183, 86), (4, 183, 40))
"""Quadrant and number along the dispersion and the slit: those of the simulator, corners, and the middle."""


def cases_of(scene: Scene) -> tuple[Case, ...]:
    """Return the headers for which both programs decide on the type of sources."""
    if scene.mode == "MOS":
        return (*(case for case in CASES if case[1] is None), *OF_SHUTTERS)
    return CASES + (OF_FIXED_SLITS if scene.mode == "FS" else ())


def write_step_references(scene: Scene, exposure: xr.Dataset, references: Mapping[str, str]) -> dict[str, str]:
    """Write wavecorr as the simulator does, and a list of stuck shutters; return their paths by type."""
    optics, folder = nsxr.open_optics(dict(references), exposure), Path(references["camera"]).parent
    written = aperture_references(folder, optics, SimulatedInstrument.of(optics), scene.mode, FAILED_OPEN)
    found = {"wavecorr": str(written["wavecorr"])} if "wavecorr" in written else {}
    if "msaoper" in written and not scene.wider:
        states = ("state", "TA state", "Internal state")
        shutters = [
            {"Q": q, "x": x, "y": y, **dict.fromkeys(states, "closed"), states[number % 3]: "open"}
            for number, (q, x, y) in enumerate(STUCK)
        ]
        shutters.append({"Q": 1, "x": 100, "y": 100, **dict.fromkeys(states, "closed")})
        path = folder / "stuck_shutters.json"
        path.write_text(json.dumps({"msaoper": shutters}), encoding="utf-8")
        found["msaoper"] = str(path)
    return found


def widen(path: str, scene: Scene) -> str:
    """Write a copy of a reference ``wavelengthrange`` with the wider range of a scene and return its path."""
    target = Path(path).with_name("wider_wavelengthrange.asdf")
    with asdf.open(path) as file:
        tree = {key: value for key, value in file.tree.items() if key not in ("asdf_library", "history")}
        number = list(tree["waverange_selector"]).index(f"{scene.filter}_{scene.grating}")
        ranges = [list(map(float, each)) for each in tree["wavelengthrange"]]
        ranges[number] = [end * 1e-6 for end in scene.wider or ()]
        asdf.AsdfFile(tree | {"wavelengthrange": ranges}).write_to(target)
    return str(target)


def compare_steps(
    ours: Mapping[str, object],
    exposure: xr.Dataset,
    references: Mapping[str, str],
    cases: Sequence[Case],
    theirs: Mapping[str, np.ndarray],
) -> dict[str, object]:
    """Compare the steps of a scene; return figures by name."""
    said = json.loads(str(theirs["attributes"]))
    types, slits = said["types"], said["slits"]
    # a slit with the centre elsewhere has another source, see compare_optics.py
    cuts = {name: cut for name, cut in ours.get("cuts", {}).items() if has_centre(cut, slits.get(name))}
    found = compare_types(exposure, cuts, cases, types)
    if "wavecorr" in references:
        found |= compare_zero_points(exposure, cuts, references["wavecorr"], theirs, ours["range"])
    if "msaoper" in references:
        found |= compare_stuck(exposure, ours["optics"], references["msaoper"], theirs["stuck"])
    return found


def has_centre(cut: xr.Dataset, slit: Mapping[str, object] | None) -> bool:
    """Return whether the central shutter of a cut-out is that of jwst. Fixed slits have none."""
    centre = cut.attrs.get("XCEN"), cut.attrs.get("YCEN")
    return slit is not None and (not centre[0] or centre == (slit["xcen"], slit["ycen"]))


def compare_types(
    exposure: xr.Dataset,
    cuts: Mapping[str, xr.Dataset],
    cases: Sequence[Case],
    types: Sequence[Mapping[str, Sequence[object]]],
) -> dict[str, object]:
    """Compare the types of sources, and their positions after that, for each case and slit."""
    pixel = xr.Dataset({"sci": (("row", "column"), np.ones((1, 1), np.float32), {"units": "DN/s"})})
    n, differing = 0, []
    for (keywords, wanted), theirs in zip(cases, types, strict=True):
        header = {**exposure.attrs, **keywords}
        if cuts:
            slits = [pixel.assign_attrs({**cut.attrs, **keywords}) for cut in cuts.values()]
            done = nsxr.set_source_type(as_tree(slits, header), source_type=wanted)
            mine = {"": done.attrs} | {name: node.attrs for name, node in done.children.items()}
        else:
            mine = {"": nsxr.set_source_type(pixel.assign_attrs(header), source_type=wanted).attrs}
        for name, (kind, *position) in theirs.items():
            if name in mine:
                n += 1
                places = (mine[name].get(key) for key in ("SRCXPOS", "SRCYPOS"))
                moved = [a for a, b in zip(places, position, strict=True) if b is not None and abs(a - b) > 1e-7]
                if mine[name]["SRCTYPE"] != kind or moved:
                    differing.append(f"{keywords} {wanted} slit {name}: {mine[name]['SRCTYPE']} {moved}, jwst {kind}")
    return {"types": n, "types differ": differing}


def compare_zero_points(
    exposure: xr.Dataset,
    cuts: Mapping[str, xr.Dataset],
    reference: str,
    theirs: Mapping[str, np.ndarray],
    wavelength_range: tuple[float, float],
) -> dict[str, object]:
    """Compare wavelengths of point sources after the correction; pixels beyond the range have a figure of their own."""
    tree = nsxr.set_source_type(as_tree(list(cuts.values()), exposure.attrs))
    done = nsxr.correct_wavelength_zero_point(tree, nsxr.open_zero_point(reference))
    largest = dict.fromkeys(("zero point [um]", "zero point [pixel]", "correction [pixel]", "beyond [um]"), 0.0)
    counts = dict.fromkeys(("NaN of one", "above", "compared"), 0)
    low, high = wavelength_range
    n, only_one = 0, []
    for name, node in done.children.items():
        expected = theirs.get(f"{name}/corrected")
        if f"{name}/wavelength" in theirs and (expected is not None) != ("wavelength_uncorrected" in node):
            only_one.append(name)
        if expected is None or name in only_one:
            continue
        n += 1
        pixels = {"row": theirs[f"{name}/row"][:, 0].astype(int), "column": theirs[f"{name}/column"][0].astype(int)}
        after, before = (node[key].sel(pixels).to_numpy() for key in ("wavelength", "wavelength_uncorrected"))
        step = np.abs(np.gradient(before, axis=1)) / np.diff(pixels["column"])[0]
        is_inside, difference = (before >= low) & (before <= high), np.abs(after - expected)
        values = {"zero point [um]": difference[is_inside], "zero point [pixel]": (difference / step)[is_inside]}
        values |= {"correction [pixel]": np.abs(after - before)[is_inside] / step[is_inside]}
        values |= {"beyond [um]": difference[np.isfinite(before) & ~is_inside]}
        largest |= {key: max(largest[key], float(np.nanmax(value, initial=0.0))) for key, value in values.items()}
        counts["NaN of one"] += int((np.isfinite(after) != np.isfinite(expected)).sum())
        counts["above"] += int((difference[is_inside] > ZERO_POINT).sum())
        counts["compared"] += int(is_inside.sum())
    return {"corrected": n, "corrected by one": only_one, **largest, **counts}


def compare_stuck(exposure: xr.Dataset, optics: Optics, reference: str, theirs: np.ndarray) -> dict[str, object]:
    """Compare the pixels that see stuck shutters, and count those of one program by what the optics say of them."""
    msaoper = nsxr.open_operability(reference)
    flags = nsxr.flag_stuck_shutters(exposure, msaoper, optics=optics)["dq"].to_numpy()
    mine = (flags.reshape(-1, *flags.shape[-2:])[0] & PixelFlag.MSA_FAILED_OPEN) > 0
    jwst = np.zeros(mine.size, bool)
    jwst[theirs] = True
    jwst = jwst.reshape(mine.shape)
    row, column = np.nonzero(jwst & ~mine)
    inside, beyond = np.zeros(row.size, bool), np.zeros(row.size, bool)
    low, high = optics.wavelength_range
    for q, x, y in STUCK:
        table, number = optics.quadrant(q), shutter_id(x, y) - 1
        place = [float(axis[number]) for axis in (table.x, table.y, table.width, table.height)]
        seen = optics.forward(column, row, Slit("", q, *place, -0.5, 0.5, (low, high), optics.order), sky=False)
        is_inside = (seen.wavelength >= low) & (seen.wavelength <= high)
        inside |= is_inside
        beyond |= np.isfinite(seen.wavelength) & ~is_inside
    counts = {"stuck": jwst & mine, "only nsxr": mine & ~jwst}
    counts |= {"only jwst": inside | ~beyond, "only jwst, beyond": beyond & ~inside}
    return {name: int(np.count_nonzero(pixels)) for name, pixels in counts.items()}


def faults(found: Mapping[str, object], scene: Scene) -> list[str]:
    """Return what differs in the steps without a reason, and what was not compared at all."""
    texts = [f"type of source: {text}" for text in found["types differ"]]
    if "corrected" in found:
        texts += [f"zero point of slit {name}: of one program only" for name in found["corrected by one"]]
        is_real = scene.metafile.startswith("jw")  # these need not have a point
        limit = OF_PRISM if scene.grating == "PRISM" else ZERO_POINT
        if found["zero point [um]"] > limit or found["NaN of one"] or not (found["corrected"] or is_real):
            texts.append(f"zero points of {found['corrected']} slits: {found['zero point [um]']:.1e} um")
    if "stuck" in found and (found["only nsxr"] or found["only jwst"] or not found["stuck"]):
        texts.append(f"stuck shutters: {found['only nsxr']} pixels of nsxr only, {found['only jwst']} of jwst only")
    return texts


def step_cells(scene: Scene, found: Mapping[str, object], seconds: Mapping[str, Sequence[float]]) -> list[object]:
    """Return the cells of a row of the table."""

    def number(name: str) -> str:
        return f"{found[name]:.1e}" if name in found else ""

    cells: list[object] = [scene.name, found["types"], len(found["types differ"]), found.get("corrected", "")]
    cells += [len(found["corrected by one"]) if "corrected" in found else "", number("correction [pixel]")]
    cells += [
        *map(number, ("zero point [um]", "zero point [pixel]")),
        found.get("above", ""),
        found.get("compared", ""),
    ]
    cells += [number("beyond [um]"), found.get("NaN of one", "")]
    cells += [found.get(name, "") for name in ("stuck", "only nsxr", "only jwst", "only jwst, beyond")]
    return cells + [f"{seconds[step][0]:.1f}" if step in seconds else "" for step in ("wavecorr", "msa_flagging")]
