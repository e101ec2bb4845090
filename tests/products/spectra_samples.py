"""Small spectra for the tests of reading and writing."""

import numpy as np
import xarray as xr
from astropy.io import fits

from nsxr.formats.fits_tables import TIME_COLUMNS
from nsxr.model.history import record
from nsxr.model.variables import variable_attributes
from nsxr.products.padding import unpad_slits
from nsxr.slits.collection import as_tree

COLUMNS = 12
PRIMARY = {
    "TELESCOP": "JWST",
    "INSTRUME": "NIRSPEC",
    "DETECTOR": "NRS1",
    "SUBSTRT1": 1,
    "SUBSTRT2": 1025,
    "EXP_TYPE": "NRS_FIXEDSLIT",
}
SLIT = {
    "SLTNAME": "S1600A1",
    "SRCTYPE": "POINT",
    "SHUTSTA": "",
    "SRCXPOS": 0.25,
    "SPORDER": -1,
    "DISPAXIS": 1,
    "SLTSTRT1": 501,
    "SLTSTRT2": 3,
}
PARTS = ("poisson", "rnoise", "flat")


def spectrum(rng, dims=("dispersion",), columns=COLUMNS, units="Jy", **attrs):
    """Random numbers in every variable of a spectrum, all wavelengths finite."""
    lengths = {"dispersion": columns, "integration": 4, "slit": 3}
    shape = tuple(lengths[dim] for dim in dims)
    bright = "MJy/sr" if units == "Jy" else units
    data = {}
    for name, prefix, unit in (("flux", "flux", units), ("surf_bright", "sb", bright), ("background", "bkgd", bright)):
        data[name] = (dims, rng.normal(size=shape), variable_attributes(name) | {"units": unit})
        for part in PARTS:
            variance = f"{prefix}_var_{part}"
            data[variance] = (dims, rng.uniform(size=shape), variable_attributes(variance) | {"units": f"({unit})2"})
        if name == "surf_bright":
            data["dq"] = (dims, rng.integers(0, 2**32, shape, dtype=np.uint32), variable_attributes("dq"))
    data["npixels"] = (dims, rng.uniform(3, 5, shape), variable_attributes("npixels"))
    data["coverage"] = (dims, rng.uniform(size=shape), variable_attributes("coverage"))
    for name in ("relative_error_flat", "relative_error_photom"):
        kept = tuple(dim for dim in dims if dim != "integration")
        values = rng.uniform(0, 0.02, tuple(lengths[dim] for dim in kept))
        data[name] = (kept, values, variable_attributes(name))
    coords = {
        "dispersion": 500 + np.arange(columns),
        "wavelength": ("dispersion", 1.0 + np.sort(rng.uniform(size=columns)), wavelength_attributes()),
        "extraction_start": 1027.25,
        "extraction_stop": 1031.5,
        "position_planned": 1029.123456789,
        "position_fitted": 1029.2,
        "position_uncertainty": 0.0123,
    }
    if "integration" in dims:
        coords["integration"] = np.arange(lengths["integration"]) + 3
        coords |= {n: ("integration", 6e4 + i + rng.uniform(size=4)) for i, n in enumerate(TIME_COLUMNS)}
    dataset = xr.Dataset(data, coords, PRIMARY | SLIT | attrs)
    return record(dataset, "extract_1d", parameters={"method": "profile"})


def wavelength_attributes():
    return {"units": "um"} | variable_attributes("wavelength")


def slitlets(rng):
    """Return the spectra of three slitlets."""
    return as_tree(list(unpad_slits(padded_slitlets(rng)).values()), {})


def padded_slitlets(rng):
    """Return the spectra of three slitlets in one padded Dataset, as in older stores."""
    dataset = spectrum(rng, ("slit", "dispersion"), EXP_TYPE="NRS_MSASPEC").drop_vars("dispersion")
    lengths = np.array([12, 7, 10])
    inside = xr.DataArray(np.arange(COLUMNS) < lengths[:, None], dims=("slit", "dispersion"))
    fills = {"dq": np.uint32(513), "npixels": 0.0, "coverage": 0.0}
    padded = {name: array.where(inside, fills.get(name, np.nan)) for name, array in dataset.data_vars.items()}
    padded = {
        name: array.astype(dataset[name].dtype).assign_attrs(dataset[name].attrs) for name, array in padded.items()
    }
    dataset = dataset.assign(padded).drop_vars([name for name in dataset.coords if name != "wavelength"])
    wavelength = (dataset["wavelength"] + 0.01 * xr.DataArray([0, 1, 2], dims="slit")).transpose("slit", "dispersion")
    starts = [37, 501, 202]
    names, types = np.array(["5", "30", "31"]), np.array(["POINT", "EXTENDED", "POINT"])
    headers = [
        fits.Header({"SLTNAME": n, "SLITID": int(n), "SRCTYPE": t, "SRCRA": 150.25, "SLTSTRT1": s + 1, "SLTSTRT2": 9})
        for n, t, s in zip(names, types, starts, strict=True)
    ]
    attrs = {key: value for key, value in dataset.attrs.items() if key not in SLIT}
    dataset = dataset.assign_coords(
        wavelength=wavelength.where(inside).assign_attrs(wavelength_attributes()),
        column=(("slit", "dispersion"), (np.array(starts)[:, None] + np.arange(COLUMNS)).astype(np.int32)),
        slit=names,
        slit_id=("slit", names.astype(int)),
        source_type=("slit", types),
        source_ra=("slit", np.full(3, 150.25)),
        n_columns=("slit", lengths.astype(np.int32)),
        slit_header=("slit", np.array([header.tostring(sep="\n") for header in headers])),
        position_fitted=("slit", np.array([1040.5, 1050.25, 1061.125])),
        extraction_start=("slit", np.array([1038.0, 1048.0, 1058.0])),
    )
    dataset.attrs = attrs
    return dataset
