"""Pixels that see a stuck shutter are flagged, and no others."""

import json

import numpy as np
import pytest
import xarray as xr

import nsxr
from nsxr.errors import ModelError, ReferenceFileError
from nsxr.model.dq import PixelFlag
from nsxr.optics.instrument import Optics
from nsxr.optics.slit import Slit
from nsxr.testing.assertions import forbid_computes
from tests.optics.exposures import make_rates, optics_of

FLAG = PixelFlag.MSA_FAILED_OPEN
NORMAL = {"state": "normal", "TA state": "normal", "Internal state": "normal"}


def entry(quadrant: int, x: int, y: int, **states: str) -> dict[str, object]:
    return {"Q": quadrant, "x": x, "y": y, **NORMAL, **states}


@pytest.fixture
def msaoper(tmp_path):
    def make(*entries: dict[str, object]) -> xr.Dataset:
        path = tmp_path / "msaoper.json"
        path.write_text(json.dumps({"msaoper": entries}))
        return nsxr.open_operability(path)

    return make


@pytest.fixture(scope="module")
def shutters() -> tuple[xr.Dataset, Optics]:
    rates = make_rates("MSASPEC", "PRISM")
    return rates, optics_of(rates)


def light_of(optics: Optics, quadrant: int, x: int, y: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels that rays from all over the open area of a shutter fall on."""
    table, number = optics.quadrant(quadrant), x + 365 * (y - 1) - 1
    place = [float(axis[number]) for axis in (table.x, table.y, table.width, table.height)]
    shutter = Slit("one", quadrant, *place, -0.5, 0.5, optics.wavelength_range, optics.order)
    along, lam = np.meshgrid(np.linspace(-0.45, 0.45, 11), np.linspace(*optics.wavelength_range, 2500)[5:-5])
    column, row = optics.inverse(along, lam, shutter, newton=True)
    return np.round(column).astype(int).ravel(), np.round(row).astype(int).ravel()


def test_any_open_state_counts_once(msaoper):
    found = msaoper(
        entry(1, 10, 20),
        entry(2, 30, 40, state="open"),
        entry(3, 50, 60, **{"TA state": "open"}),
        entry(4, 70, 80, **{"Internal state": "open"}),
        entry(4, 70, 80, state="closed", **{"TA state": "open"}),
        {"Q": 1, "x": 365, "y": 171, "state": "open"},
    )
    assert [*zip(found["quadrant"].values, found["xcen"].values, found["ycen"].values, strict=True)] == [
        *((2, 30, 40), (3, 50, 60), (4, 70, 80), (1, 365, 171))
    ]


def test_the_light_of_a_stuck_shutter_is_flagged(shutters, msaoper):
    rates, optics = shutters
    place = (3, 120, 100)
    found = nsxr.flag_stuck_shutters(rates, msaoper(entry(*place, state="open"), entry(3, 121, 50)), optics=optics)
    flagged = (found["dq"].to_numpy() & FLAG) > 0
    column, row = light_of(optics, *place)
    on = (column >= 0) & (column < 2048)
    assert on.any()
    lit = np.zeros_like(flagged)
    lit[row[on], column[on]] = True
    # pixels whose middle sees the shutter; rays near its edges may fall on the neighbours
    assert flagged.sum() > 0.7 * lit.sum()
    assert (lit & flagged).sum() > 0.95 * flagged.sum()
    assert (found["dq"].to_numpy() & 4).all()
    xr.testing.assert_identical(found["sci"], rates["sci"])
    assert not (rates["dq"].to_numpy() & FLAG).any()


def test_the_ifu_sees_stuck_shutters_too(msaoper):
    rates = make_rates("IFU", "G395H")
    optics = optics_of(rates)
    place = (3, 250, 90)
    found = nsxr.flag_stuck_shutters(rates, msaoper(entry(*place, state="open")), optics=optics)
    row, column = np.nonzero(found["dq"].to_numpy() & FLAG)
    assert row.size > 1000
    lit_column, lit_row = light_of(optics, *place)
    middle = np.median(lit_row[np.abs(lit_column - 1000) < 5])
    assert np.median(row[np.abs(column - 1000) < 5]) == pytest.approx(middle, abs=1)


@pytest.mark.parametrize("chunks", [{"row": 100}, {"row": 333, "column": 150}, {"row": -1}])
def test_lazy_and_the_same_for_every_chunking(shutters, msaoper, chunks):
    rates, optics = shutters
    part = rates.isel(row=slice(400, 1600), column=slice(1400, 1800))
    stuck = msaoper(entry(3, 120, 100, state="open"), entry(4, 60, 60, state="open"))
    with forbid_computes():
        lazy = nsxr.flag_stuck_shutters(part.chunk(chunks), stuck, optics=optics)
    whole = nsxr.flag_stuck_shutters(rates, stuck, optics=optics)["dq"]
    expected = whole.sel(row=part["row"], column=part["column"])
    assert (expected.to_numpy() & FLAG).any()
    np.testing.assert_array_equal(lazy["dq"].compute(), expected)


@pytest.mark.parametrize("columns", [[1600], [0], [1500, 1700]])
def test_single_columns_have_the_flags_of_the_frame(shutters, msaoper, columns):
    rates, optics = shutters
    stuck = msaoper(entry(3, 120, 100, state="open"), entry(4, 60, 60, state="open"))
    whole = nsxr.flag_stuck_shutters(rates, stuck, optics=optics)["dq"].isel(column=columns)
    part = nsxr.flag_stuck_shutters(rates.isel(column=columns), stuck, optics=optics)["dq"]
    assert (whole.to_numpy() & FLAG).any() == (columns != [0])
    xr.testing.assert_equal(part, whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"xcen": [-3]}, r"shutter \(-3, 100\) does not exist"),
        ({"ycen": [999]}, r"shutter \(120, 999\) does not exist"),
        ({"quadrant": [9]}, "open them with an msa reference: quadrant 9 of the MSA is unknown"),
        ({"xcen": [1.5]}, "no whole numbers quadrant, xcen, ycen along one dim"),
    ],
)
def test_shutters_that_do_not_exist(shutters, msaoper, changes, message):
    rates, optics = shutters
    stuck = msaoper(entry(3, 120, 100, state="open"))
    wrong = stuck.assign({name: ("shutter", values) for name, values in changes.items()})
    with pytest.raises(ModelError, match=message):
        nsxr.flag_stuck_shutters(rates, wrong, optics=optics)


def test_bad_input(shutters, msaoper, tmp_path):
    rates, optics = shutters
    with pytest.raises(ModelError, match="another exposure"):
        nsxr.flag_stuck_shutters(rates.assign_attrs(DETECTOR="NRS2"), msaoper(), optics=optics)
    with pytest.raises(ModelError, match=r"open it with nsxr\.open_operability"):
        nsxr.flag_stuck_shutters(rates, rates, optics=optics)
    with pytest.raises(ModelError, match="labels of 'row' are missing"):
        nsxr.flag_stuck_shutters(rates.drop_vars("row"), msaoper(), optics=optics)
    with pytest.raises(ReferenceFileError, match=r"entry 0 of msaoper has {'state': 1}, expected a text"):
        msaoper({"Q": 1, "x": 1, "y": 1, "state": 1})
    with pytest.raises(ReferenceFileError, match="embedded null byte"):
        nsxr.open_operability("a\0b")
    with pytest.raises(ReferenceFileError, match="x of entry 0 of msaoper is '366'"):
        msaoper(entry(1, 366, 1))
    with pytest.raises(ReferenceFileError, match="entry 0 of msaoper has no state"):
        msaoper({"Q": 1, "x": 1, "y": 1})
    path = tmp_path / "other.json"
    for text, message in {"{}": "no list of shutters", "[1": "no JSON file"}.items():
        path.write_text(text)
        with pytest.raises(ReferenceFileError, match=message):
            nsxr.open_operability(path)
    with pytest.raises(ReferenceFileError, match="cannot be read"):
        nsxr.open_operability(tmp_path / "absent.json")
