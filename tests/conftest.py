"""Small exposures and references in memory, for every test."""

import numpy as np
import pytest
import xarray as xr

from nsxr.model.readout import Readout

IMAGE = ("row", "column")
RAMP = ("integration", "group", "row", "column")


@pytest.fixture
def rng():
    return np.random.default_rng(20261123)


@pytest.fixture
def header():
    """Return a function that makes the header keywords of a readout."""

    def make(rows=16, columns=40, integrations=3, groups=6, **changes):
        keywords = {
            "DETECTOR": "NRS1",
            "READPATT": "NRSRAPID",
            "SUBARRAY": "SUB512S",
            "SUBSTRT1": 1025,
            "SUBSTRT2": 965,
            "SUBSIZE1": columns,
            "SUBSIZE2": rows,
            "NINTS": integrations,
            "NGROUPS": groups,
            "NFRAMES": 1,
            "GROUPGAP": 0,
            "FRMDIVSR": 1,
            "TFRAME": 2.0,
            "NOUTPUTS": 1,
        } | changes
        if "TGROUP" not in changes:
            keywords["TGROUP"] = (keywords["NFRAMES"] + (keywords["GROUPGAP"] or 0)) * keywords["TFRAME"]
        return keywords

    return make


@pytest.fixture
def make_exposure(header):
    """Return a function that makes an exposure from an array of samples; DQ is all good."""

    def make(sci, columns=None, **changes):
        integrations, groups, rows, n_columns = sci.shape
        keywords = header(min(rows, 2048), n_columns, integrations, groups, **changes)  # 3200 rows hold 2048
        readout = Readout.from_header(keywords)
        labels = readout.column_start + np.arange(n_columns) if columns is None else columns
        coordinates = {
            **readout.row_coordinates(rows),
            "column": labels,
            "integration": np.arange(1, integrations + 1),
            "group": np.arange(1, groups + 1),
        }
        return xr.Dataset(
            {
                "sci": (RAMP, np.asarray(sci, dtype=np.float32), {"units": "DN"}),
                "pixeldq": (IMAGE, np.zeros(sci.shape[2:], np.uint32)),
                "groupdq": (RAMP, np.zeros(sci.shape, np.uint8)),
            },
            coords=coordinates,
            attrs=keywords,
        )

    return make


@pytest.fixture
def make_reference():
    """Return a function that makes a reference on the pixels of an exposure."""

    def make(kind, exposure, dq=None, **variables):
        attrs = variables.pop("attrs", {})
        shape = tuple(exposure.sizes[d] for d in IMAGE)
        contents = {}
        for name, values in variables.items():
            values = np.asarray(values, dtype=np.float32)
            first = {"coefficients": "order", "inverse_coefficients": "inverse_order"}.get(name, "group")
            contents[name] = ((first, *IMAGE) if values.ndim == 3 else IMAGE, np.broadcast_to(values, values.shape))
            if values.ndim == 0:
                contents[name] = (IMAGE, np.full(shape, values))
        contents["dq"] = (IMAGE, np.zeros(shape, np.uint32) if dq is None else np.asarray(dq, np.uint32))
        coordinates = {c: exposure[c] for c in ("row", "column", "science_row", "amplifier") if c in exposure.coords}
        return xr.Dataset(
            contents, coords=coordinates, attrs={"reference_type": kind, "filename": f"{kind}.fits"} | attrs
        )

    return make


CHUNKINGS = (
    {"integration": 1, "row": 6},
    {"integration": 2, "group": 2, "row": 7},
    {"integration": -1, "group": -1, "row": -1},
)


@pytest.fixture
def chunkings():
    return CHUNKINGS
