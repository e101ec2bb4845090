"""Write simulated spectra as every kind of product, for other programs to open.

python ci/make_spectra.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import xarray as xr

from nsxr.formats.fits_tables import TIME_COLUMNS
from nsxr.products.spectra_write import write_spectra
from nsxr.spectra.combination import combine_spectra

HEADER = {
    "TELESCOP": "JWST",
    "INSTRUME": "NIRSPEC",
    "DETECTOR": "NRS1",
    "FILTER": "F290LP",
    "GRATING": "G395H",
    "SUBARRAY": "SUB2048",
    "SUBSTRT1": 1,
    "SUBSTRT2": 1025,
    "EFFEXPTM": 100.0,
}
COLUMNS, INTEGRATIONS = 64, 5


def spectrum(rng: np.random.Generator, integrations: int | None = None, **attrs: object) -> xr.Dataset:
    """Return a simulated spectrum or time series: a slope with a line, two missing samples, ends without wavelength."""
    dims = ("dispersion",) if integrations is None else ("integration", "dispersion")
    shape = (COLUMNS,) if integrations is None else (integrations, COLUMNS)
    x = np.arange(COLUMNS)
    truth = 1e-3 * (1 + x / COLUMNS) + 5e-3 * np.exp(-0.5 * ((x - 40) / 1.2) ** 2)
    variances = {"poisson": 1e-9 + 1e-7 * truth, "rnoise": np.full(COLUMNS, 2e-9), "flat": 1e-6 * truth**2}
    flux = truth + rng.normal(size=shape) * np.sqrt(variances["poisson"] + variances["rnoise"])
    flux[..., [20, 21]] = np.nan
    dq = np.isnan(flux).astype(np.uint32)
    variables = {}
    for name, prefix, scale, units in (
        ("flux", "flux", 1.0, "Jy"),
        ("surf_bright", "sb", 30.0, "MJy/sr"),
        ("background", "bkgd", 0.1, "MJy/sr"),
    ):
        variables[name] = (dims, scale * flux, {"units": units})
        for part, values in variables_of(variances, scale, shape).items():
            variables[f"{prefix}_var_{part}"] = (dims, values, {"units": f"({units})2"})
    variables |= {"npixels": (dims, np.full(shape, 5.0)), "coverage": (dims, np.where(dq, 0.3, 1.0))}
    variables["dq"] = (dims, dq)
    variables |= {f"relative_error_{kind}": ("dispersion", np.full(COLUMNS, 0.01)) for kind in ("flat", "photom")}
    wavelength = 2.9 + 0.01 * x
    wavelength[[0, 1, -1]] = np.nan
    coordinates = {
        "dispersion": 500 + x,
        "wavelength": ("dispersion", wavelength, {"units": "um"}),
        "position_planned": 1030.1,
        "position_fitted": 1030.25,
        "position_uncertainty": 0.01,
        "extraction_start": 1028.0,
        "extraction_stop": 1032.5,
    }
    if integrations is not None:
        coordinates["integration"] = np.arange(integrations) + 1
        coordinates |= {name: ("integration", 6e4 + 0.01 * np.arange(integrations)) for name in TIME_COLUMNS}
    slit = {"SLTNAME": "S1600A1", "SRCTYPE": "POINT", "SPORDER": -1, "DISPAXIS": 1, "SLTSTRT1": 501, "SLTSTRT2": 3}
    return xr.Dataset(variables, coordinates, HEADER | slit | attrs)


def variables_of(variances: dict[str, np.ndarray], scale: float, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return scaled variances in the shape of the flux."""
    return {part: np.broadcast_to(scale**2 * values, shape).copy() for part, values in variances.items()}


def main(folder: Path) -> list[Path]:
    """Write one file of each kind, and return them."""
    rng = np.random.default_rng(20261124)
    one, other = spectrum(rng), spectrum(rng, SLTNAME="S200A1", SRCTYPE="EXTENDED")
    tree = xr.DataTree.from_dict({"S1600A1": one, "S200A1": other})
    tree.attrs = dict(HEADER)
    series = spectrum(rng, INTEGRATIONS, EXP_TYPE="NRS_BRIGHTOBJ")
    contents = {
        "one_x1d.fits": one,
        "two_x1d.fits": tree,
        "lazy_x1d.fits": one.assign_coords(wavelength=one["wavelength"].chunk()).chunk(),
        "series_x1dints.fits": series,
        "combined_c1d.fits": combine_spectra([one, spectrum(rng)]),
    }
    return [write_spectra(content, folder / name, overwrite=True) for name, content in contents.items()]


if __name__ == "__main__":
    for path in main(Path(sys.argv[1])):
        print(path)
