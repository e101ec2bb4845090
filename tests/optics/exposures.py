"""Exposures with the headers that the optics need, and compact optics for them."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import xarray as xr

from nsxr.optics.instrument import Optics
from nsxr.references.optics import open_optics
from nsxr.simulate.compact_optics import TILT_ZERO, write_compact_optics

FILTERS = {"PRISM": "CLEAR", "G140M": "F100LP", "G235H": "F170LP", "G395H": "F290LP", "G395M": "F290LP"}

HEADER = {
    "INSTRUME": "NIRSPEC",
    "SUBARRAY": "FULL",
    "GWA_TILT": 36.9,
    "RA_REF": 53.1,
    "DEC_REF": -27.8,
    "ROLL_REF": 40.0,
    "V2_REF": 378.563,
    "V3_REF": -428.403,
    "V3I_YANG": 138.5,
    "VPARITY": -1,
    "VA_SCALE": 1.00001,
    "VELOSYS": 1500.0,
    "PATT_NUM": 1,
    "PROGRAM": "02736",
    "FXD_SLIT": "S1600A1",
    "MSAMETID": 1,
    "filename": "jw02736007001_03101_00001_nrs1_rate.fits",
}


def make_rates(
    mode: str = "FIXEDSLIT",
    grating: str = "PRISM",
    detector: str = "NRS1",
    rows: tuple[int, int] = (0, 2048),
    columns: tuple[int, int] = (0, 2048),
    **header: object,
) -> xr.Dataset:
    """Return count rates whose values are 1000 times the row, plus the column, with one flag and no light."""
    row, column = np.arange(*rows), np.arange(*columns)
    sci = (1000.0 * row[:, np.newaxis] + column).astype(np.float32)
    images = {name: (("row", "column"), sci, {"units": "(DN/s)2"}) for name in ("var_poisson", "var_rnoise")}
    images |= {"sci": (("row", "column"), sci, {"units": "DN/s"})}
    images |= {"dq": (("row", "column"), np.full(sci.shape, 4, np.uint32))}
    attrs = HEADER | {"EXP_TYPE": f"NRS_{mode}", "GRATING": grating, "FILTER": FILTERS[grating], "DETECTOR": detector}
    wheel = TILT_ZERO[grating]
    attrs |= {"GWA_XTIL": wheel[0] + 0.001, "GWA_YTIL": wheel[1] - 0.001}
    attrs |= {"SUBSTRT1": columns[0] + 1, "SUBSTRT2": rows[0] + 1, **header}
    return xr.Dataset(images, coords={"row": row, "column": column}, attrs=attrs)


@cache
def references(grating: str) -> Path:
    """Return a folder of compact optics for a grating, made once for all tests of a process."""
    folder = Path(mkdtemp(prefix="nsxr-optics-"))
    write_compact_optics(folder, grating=grating, filter=FILTERS[grating])
    return folder


def optics_of(exposure: xr.Dataset) -> Optics:
    return open_optics(references(exposure.attrs["GRATING"]), exposure)
