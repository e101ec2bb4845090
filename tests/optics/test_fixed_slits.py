"""Fixed slits are chosen by subarray, and the target is where the dither puts it on the sky."""

from dataclasses import replace

import numpy as np
import pytest

import nsxr
from nsxr.errors import DegradedResultWarning, ModelError
from nsxr.model.optics_header import OpticsHeader
from nsxr.optics.fixed_slits import find_fixed_slits, planned_position, primary_slit, slit_names
from nsxr.optics.instrument import Optics
from nsxr.optics.slit import Slit
from tests.optics.exposures import make_rates, optics_of

NAMES = ("S200A1", "S200A2", "S400A1", "S1600A1", "S200B1")
SLITS = {name: Slit(name, 5, 0.0, 0.0, 2e-4, 3e-3, -0.55, 0.55, (0.6, 5.3), -1) for name in NAMES}


@pytest.mark.parametrize(
    ("subarray", "names"),
    [
        *((f"SUB{name}", (name,)) for name in ("S200A1", "S200A2", "S400A1", "S200B1")),
        *((name, ("S1600A1",)) for name in ("SUB2048", "SUB512", "SUB512S", "SUB1024A", "SUB1024B")),
        *((name, NAMES) for name in ("ALLSLITS", "FULL")),
    ],
)
def test_the_subarray_chooses(subarray, names):
    assert slit_names(subarray) == names
    assert [slit.name for slit in find_fixed_slits(SLITS, subarray, None)] == [*names]


def test_slits_of_a_product_are_those_that_it_has():
    some = {name: SLITS[name] for name in ("S200A1", "S400A1")}
    found = find_fixed_slits(some, "FULL", "S400A1")
    assert [(slit.name, slit.source.id) for slit in found] == [("S200A1", 31), ("S400A1", 1)]
    with pytest.raises(ModelError, match="the optics have none of S1600A1: they have S200A1, S400A1"):
        find_fixed_slits(some, "SUB2048", None)


def test_numbers_of_slits_and_sources():
    found = find_fixed_slits(SLITS, "FULL", "S400A1", (0.1, -0.2))
    assert [slit.slitlet_id for slit in found] == [-101, -102, -103, -104, -105]
    assert [slit.source.id for slit in found] == [
        31,
        32,
        1,
        34,
        35,
    ]  # ten times the number of the primary, plus its own
    assert [(slit.source.x, slit.source.y) for slit in found] == [(0, 0), (0, 0), (0.1, -0.2), (0, 0), (0, 0)]
    assert primary_slit("SUBS200B1", "NONE") == "S200B1"
    assert primary_slit("FULL", "NONE") is None


@pytest.fixture(scope="module")
def optics() -> Optics:
    return optics_of(make_rates("FIXEDSLIT", "PRISM"))


def header_at_slit(optics: Optics, slit: str, **others: object) -> dict[str, object]:
    """Return keywords of an exposure whose reference point is the middle of a slit."""
    v2, v3 = optics.for_slit(slit).slit_to_v2v3(0.0, 0.0, 2.0)
    return {"V2_REF": float(v2), "V3_REF": float(v3), "FXD_SLIT": slit, **others}


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.6), (0.0, -1.1), (0.08, 0.0)])
def test_the_target_is_at_the_distance_and_angle_of_the_dither(optics, x, y):
    keywords = header_at_slit(optics, "S200A2", XOFFSET=x, YOFFSET=y)
    rates = make_rates("FIXEDSLIT", "PRISM", rows=(900, 1150), **keywords)
    own = optics_of(rates)
    rays = own.for_slit("S200A2")
    across, along = planned_position(OpticsHeader.from_attributes(rates.attrs), rays)
    ra, dec = rays.slit_to_sky(across, along, 2.0)
    north = (dec - rates.attrs["DEC_REF"]) * 3600
    east = (ra - rates.attrs["RA_REF"]) * 3600 * np.cos(np.deg2rad(rates.attrs["DEC_REF"]))
    # the y axis of an aperture has position angle ROLL_REF + V3I_YANG, the x axis 90 degrees less where VPARITY is -1
    angle = rates.attrs["ROLL_REF"] + rates.attrs["V3I_YANG"]
    expected = [y * function(np.deg2rad(angle)) + x * function(np.deg2rad(angle - 90)) for function in (np.cos, np.sin)]
    # velocity aberration stretches by 1e-5; backward polynomials close to 1e-4 arcsec
    np.testing.assert_allclose((north, east), expected, atol=5e-4)
    slits = nsxr.cut_slits(rates, own, slits=["S200A1", "S200A2"])
    one, other = slits["S200A2"].attrs, slits["S200A1"].attrs
    np.testing.assert_allclose((one["SRCXPOS"], one["SRCYPOS"]), (across, along))
    assert (one["SOURCEID"], other["SOURCEID"]) == (1, 21)
    assert (other["SRCXPOS"], other["SRCYPOS"]) == (0.0, 0.0)


def test_without_the_place_of_the_aperture_the_target_is_in_the_middle(optics):
    header = OpticsHeader.from_attributes({"EXP_TYPE": "NRS_FIXEDSLIT", "YOFFSET": 1.0})
    with pytest.warns(DegradedResultWarning, match="VPARITY is missing, so the dither offsets cannot be used"):
        assert planned_position(header, optics.for_slit("S200A1")) == (0.0, 0.0)
    assert planned_position(replace(header, offset_y=0.0), optics.for_slit("S200A1")) == (0.0, 0.0)
