"""Compare two ways to hold the slits of a shutter exposure in memory, and print a table in Markdown.

    python ci/benchmarks/slits.py [--slits 200] [--grating PRISM|G395H] [--extraction box|profile]

One rate image is cut lazily into slitlets of unequal sizes: 25 to 40 rows by 300 to 500 columns for PRISM, 40 rows by
2048 columns for G395H. Every slitlet is divided by a flat field that has a variance, and its spectrum is extracted.
``tree``: a DataTree with one node for each slit. ``padded``: one Dataset with ``slit`` as first dim, padded to the size
of the largest slit. Each way runs in a process of its own, which is measured from outside, so peak memory includes the
rate image and the libraries. The padded way has no extraction with profiles, because profiles are fitted slit by slit.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from measure import measure

from nsxr.compute.blocks import Output, map_blocks, unlabelled
from nsxr.compute.layouts import one_chunk
from nsxr.kernels.spectra.box_extraction import box_weights, sum_box
from nsxr.model.history import record
from nsxr.products.padding import pad_slits
from nsxr.slits.collection import map_slits
from nsxr.spectra.box_extraction import extract_box
from nsxr.spectra.extraction import extract_spectrum

SIZES = {"PRISM": ((25, 41), (300, 501)), "G395H": ((40, 41), (2048, 2049))}
"""Rows and columns of a slitlet: from, and up to but not including."""
WIDTH, CENTER = 6.0, 12.0


def rate_image(grating: str) -> xr.Dataset:
    """Return a lazy rate image with attributes like those of a real one."""
    random, shape, dims = np.random.default_rng(1), (2048, 2048), ("row", "column")
    values = {name: random.normal(level, level / 10, shape).astype(np.float32) for name, level in LEVELS.items()}
    variables = {name: (dims, array, {"units": UNITS[name]}) for name, array in values.items()}
    exposure = xr.Dataset(
        {**variables, "dq": (dims, np.zeros(shape, np.uint32))},
        coords={dim: np.arange(2048) for dim in dims},
        attrs={"DETECTOR": "NRS1", "EXP_TYPE": "NRS_MSASPEC", "FILTER": "CLEAR", "GRATING": grating}
        | {f"KEY{number}": number for number in range(250)}
        | {"fits_header": "KEYWORD = 'value' / comment\n" * 300, "filename": "simulated_rate.fits"},
    )
    return exposure.chunk({"row": 512})


LEVELS = {"sci": 1.0, "var_poisson": 0.01, "var_rnoise": 0.01}
UNITS = {"sci": "DN/s", "var_poisson": "(DN/s)2", "var_rnoise": "(DN/s)2"}


def cut_slits(rates: xr.Dataset, number: int, grating: str) -> xr.DataTree:
    """Cut boxes out of a rate image, with wavelengths, labelled with detector rows and columns."""
    random, nodes = np.random.default_rng(2), {}
    for k in range(number):
        n_rows, n_columns = (int(random.integers(*limits)) for limits in SIZES[grating])
        row, column = int(random.integers(0, 2049 - n_rows)), int(random.integers(0, 2049 - n_columns))
        slit = rates.isel(row=slice(row, row + n_rows), column=slice(column, column + n_columns))
        wavelength = np.broadcast_to(np.linspace(0.6, 5.3, n_columns, dtype=np.float32), (n_rows, n_columns))
        slit = slit.assign(wavelength=(("row", "column"), wavelength, {"units": "um"}))
        slit = slit.chunk({"row": -1, "column": -1})
        slit.attrs |= {"SLTNAME": f"{k + 1}", "SLITID": k + 1, "SOURCEID": k + 1, "SRCNAME": f"1_{k + 1}"}
        slit.attrs |= {"SRCTYPE": "POINT", "SHUTSTA": "11x11", "SRCXPOS": 0.0, "SRCYPOS": 0.0, "PIXAR_SR": 4.8e-13}
        nodes[f"{k + 1}"] = slit
    return xr.DataTree.from_dict(nodes)


def divide_by_flat(slit: xr.Dataset) -> xr.Dataset:
    """Divide by a flat field that depends on wavelength and has a variance."""
    names = ("sci", "wavelength", "var_poisson", "var_rnoise")
    changed = ("sci", "var_poisson", "var_rnoise", "var_flat")
    dims = tuple(map(str, slit["sci"].dims))
    outputs: dict[str, Output] = dict.fromkeys(changed, (dims, np.float32))
    found = map_blocks(divided, *(slit[name] for name in names), core=(), outputs=outputs)
    return record(slit, "flat_field", units={"var_flat": "(DN/s)2"}, **found)


def divided(sci: np.ndarray, wavelength: np.ndarray, *variances: np.ndarray) -> tuple[np.ndarray, ...]:
    """Divide pixels and their variances by a flat field; also return the variance of the flat field."""
    flat = 1 + np.float32(0.01) * wavelength
    sci = sci / flat
    return (sci, *(variance / flat**2 for variance in variances), sci**2 * np.float32(1e-4))


def extract(slit: xr.Dataset, kind: str) -> xr.Dataset:
    """Return the spectrum of a slit, without the variables of its pixels."""
    if kind == "box":
        return extract_box(slit, {"extract_width": WIDTH}, center=CENTER)
    return extract_spectrum(slit)[["flux", "flux_var_poisson", "flux_var_rnoise", "flux_var_flat", "dq"]]


def extract_padded(slits: xr.Dataset) -> xr.Dataset:
    """Sum all slits of a padded Dataset over boxes, by the kernels of :func:`nsxr.extract_box`."""
    dims, lead = ("slit", "cross_dispersion", "dispersion"), ("slit", "dispersion")
    rows, columns = (slits[name] - 1.0 for name in ("n_rows", "n_columns"))
    limits = [xr.zeros_like(rows), rows, xr.zeros_like(rows), columns, (columns / 2).round()]
    of_limits = dict.fromkeys(("start", "stop"), (("slit",), np.float64))
    boxes = map_blocks(
        box_weights,
        one_chunk(unlabelled(slits["wavelength"]), *dims[1:]),
        unlabelled(xr.concat(limits, "limit").transpose(..., "limit")).chunk({"slit": 1}),
        xr.DataArray(np.full((slits.sizes["slit"], slits.sizes["dispersion"]), CENTER), dims=lead).chunk({"slit": 1}),
        core=(*dims[1:], "limit"),
        outputs={
            "weights": (dims, np.float64),
            "around": (dims, np.float64),
            "wavelength": (lead, np.float64),
            **of_limits,
        },
        extract_width=WIDTH,
        src_coeff=None,
        bkg_coeff=None,
        by_wavelength=False,
        position_offset=0.0,
        whole_background=False,
    )
    names = ("var_poisson", "var_rnoise", "var_flat")
    others = [f"{part}_of_background" for part in names]
    names_of_sums = ["flux", "background", "npixels", "coverage", *names, *others]
    sums = map_blocks(
        sum_box,
        *(unlabelled(slits[name]) for name in ("sci", "dq")),
        boxes["weights"],
        boxes["around"],
        *(unlabelled(slits[name]) for name in names),
        core=dims[1:],
        outputs={**dict.fromkeys(names_of_sums, (lead, np.float64)), "dq": (lead, np.uint32)},
        fit=None,
        order=0,
        smoothing_length=0,
    )
    return xr.Dataset({name: sums[name] for name in ("flux", *names, "dq")})


def run(way: str, number: int, grating: str, kind: str) -> dict[str, float]:
    """Build and compute one way; return seconds, tasks and bytes of padding."""
    warnings.simplefilter("ignore")
    rates = rate_image(grating)
    warm_up = cut_slits(rates, 2, grating)
    map_slits(lambda slit: extract(divide_by_flat(slit), kind), warm_up).compute()
    if way == "padded":
        extract_padded(divide_by_flat(pad_slits(warm_up)))["flux"].compute()
    found: dict[str, float] = {}
    start = last = time.process_time()

    def took(name: str) -> None:
        nonlocal last
        found[name], last = time.process_time() - last, time.process_time()

    tree = cut_slits(rates, number, grating)
    took("cut [s CPU]")
    pixels = sum(node[name].nbytes for node in tree.leaves for name in node.data_vars)
    slits = pad_slits(tree) if way == "padded" else tree
    took("pad [s CPU]")
    flat = divide_by_flat(slits) if way == "padded" else map_slits(divide_by_flat, slits)
    took("flat [s CPU]")
    spectra = extract_padded(flat) if way == "padded" else map_slits(lambda slit: extract(slit, kind), flat)
    took("extract [s CPU]")
    found["graph [s CPU]"] = last - start
    parts = [spectra] if way == "padded" else [node.to_dataset() for node in spectra.leaves]

    found["tasks"] = len({key for part in parts for key in part.__dask_graph__()})
    found["padding [MB]"] = ((slits.nbytes if way == "padded" else pixels) - pixels) / 1e6
    last = time.process_time()
    spectra.compute()
    took("compute [s CPU]")
    return found


def main() -> None:
    """Run both ways and print their times, tasks and memory."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slits", type=int, default=200)
    parser.add_argument("--grating", choices=sorted(SIZES), default="PRISM")
    parser.add_argument("--extraction", choices=["box", "profile"], default="box")
    parser.add_argument("--way", choices=["tree", "padded"], help="Only this way, in this process; prints JSON.")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(run(options.way, options.slits, options.grating, options.extraction)))
        return
    table: dict[str, dict[str, float]] = {}
    for way in ("tree", "padded"):
        if way == "padded" and options.extraction == "profile":
            continue
        command = [sys.executable, __file__, "--way", way, "--slits", str(options.slits)]
        command += ["--grating", options.grating, "--extraction", options.extraction]
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "out"
            measured = measure(["bash", "-c", f'"$@" > {report}', "bash", *command])
            if measured["status"]:
                raise subprocess.CalledProcessError(int(str(measured["status"])), command)
            table[way] = json.loads(report.read_text())
        table[way]["peak [MB]"] = float(str(measured["peak_bytes"])) / 1e6
    print(f"{options.slits} slitlets, {options.grating}, {options.extraction}\n")
    print(f"| | {' | '.join(table)} |\n|---|{'---|' * len(table)}")
    for name in table["tree"]:
        print(f"| {name} | {' | '.join(f'{found[name]:.4g}' for found in table.values())} |")


if __name__ == "__main__":
    main()
