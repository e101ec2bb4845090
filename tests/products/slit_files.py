"""FITS files of slits as the observatory's pipeline writes them, for tests."""

from pathlib import Path

import numpy as np
import xarray as xr
from astropy.io import fits

from nsxr.formats.zarr import create_zarr
from nsxr.products.write import write_whole
from nsxr.simulate import simulate_trace

EXTENSIONS = {
    "DQ": "dq",
    "ERR": None,
    "WAVELENGTH": "wavelength",
    "VAR_POISSON": "var_poisson",
    "VAR_RNOISE": "var_rnoise",
}


def simulated_slits(number: int = 3, **parameters: object) -> list[xr.Dataset]:
    """Return slits of different sizes, each with a name and a place of its own."""
    found = []
    for n in range(number):
        slit, _ = simulate_trace(columns=60 + 5 * (n % 4), seed=n, **parameters)  # type: ignore[arg-type]
        slit = slit.isel(row=slice(n % 3, None))
        slit.attrs |= {"SLTNAME": str(n + 1), "SOURCEID": 100 + n, "SRCNAME": f"1234_{100 + n}", "SLITID": n + 1}
        slit.attrs |= {"SLTSTRT1": 11 + n, "SLTSTRT2": 21 + 40 * n}
        slit = slit.assign_coords(
            column=10 + n + np.arange(slit.sizes["column"]),
            row=20 + 40 * n + np.arange(slit.sizes["row"]),
        )
        found.append(slit)
    return found


def unequal_slits(number: int = 3) -> dict[str, xr.Dataset]:
    """Return slits by name, each with fewer rows and more columns than the one before."""
    found = {}
    for n in range(number):
        slit, _ = simulate_trace(columns=40 + 7 * n, seed=n)
        slit = slit.isel(row=slice(n, 28))
        slit.attrs |= {"SLTNAME": f"s{n}", "SOURCEID": n, "SRCYPOS": 0.125, "PROGRAM": "01234"}
        found[f"s{n}"] = slit
    return found


def write_groups(path: Path, groups: dict[str, xr.Dataset]) -> Path:
    """Write Datasets as groups of a Zarr store, as they are: what older versions wrote."""
    write_whole([path], lambda partials: list(create_zarr(partials[0], groups)), path.parent, path.name, False, False)
    return path


def write_cal(path: Path, slits: list[xr.Dataset], model: str = "MultiSlitModel", **primary: object) -> Path:
    """Write slits with astropy, by the book and not by nsxr."""
    first = slits[0].attrs
    keys = ("TELESCOP", "INSTRUME", "DETECTOR", "EXP_TYPE", "FILTER", "GRATING")
    hdus = fits.HDUList([fits.PrimaryHDU()])
    hdus[0].header.update({key: first[key] for key in keys})
    hdus[0].header.update({"SUBSTRT1": 1, "SUBSTRT2": 1, "DATAMODL": model, "S_BKDSUB": "COMPLETE", **primary})
    hdus[0].header.add_history("made for a test")
    for version, slit in enumerate(slits, start=1):
        sci = fits.ImageHDU(slit["sci"].values, name="SCI", ver=version)
        for key in ("SLTNAME", "SLTSTRT1", "SLTSTRT2", "SRCTYPE", "SRCNAME", "SOURCEID", "SRCXPOS", "SRCYPOS"):
            sci.header[key] = slit.attrs[key]
        sci.header["SHUTSTA"] = slit.attrs["SHUTSTA"]
        sci.header["PIXAR_SR"] = (slit.attrs["PIXAR_SR"], "Nominal pixel area in steradians")
        sci.header["BUNIT"] = slit["sci"].attrs["units"]
        hdus.append(sci)
        for name, variable in EXTENSIONS.items():
            if variable is None:
                values = np.sqrt(slit["var_poisson"].values + slit["var_rnoise"].values)
            elif variable in slit:
                values = slit[variable].values
            else:
                continue
            hdus.append(fits.ImageHDU(values, name=name, ver=version))
    if "integration" in slits[0].dims:
        number = slits[0].sizes["integration"]
        names = ["integration_number", "int_start_MJD_UTC", "int_mid_MJD_UTC", "int_end_MJD_UTC"]
        names += ["int_start_BJD_TDB", "int_mid_BJD_TDB", "int_end_BJD_TDB"]
        rows = np.zeros(number, dtype=[(name, "i4" if name == names[0] else "f8") for name in names])
        rows["integration_number"] = 1 + np.arange(number)
        for k, name in enumerate(names[1:]):
            rows[name] = 60000 + k + np.arange(number) / 100
        hdus.append(fits.BinTableHDU(rows, name="INT_TIMES"))
    hdus.writeto(path)
    return path
