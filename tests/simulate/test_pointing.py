import math
from dataclasses import replace

import pytest
from astropy.coordinates import SkyCoord

from nsxr.errors import ParameterError
from nsxr.simulate.configuration import configure
from nsxr.simulate.headers import Segment, primary_header, science_header
from nsxr.simulate.pointing import APERTURES, Pointing, pointed


@pytest.mark.parametrize("dec", [-69.27, 5.0, 88.0])
@pytest.mark.parametrize("roll", [0.0, 120.0])
def test_the_target_is_where_the_offset_says(dec, roll):
    """V3 is at position angle roll. The y axis of the ideal frame is turned from V3 towards V2."""
    pointing = replace(Pointing(), target=(10.0, dec), roll=roll, offset=(0.0, 3.0), aberration=1.0)
    centre, target = SkyCoord(*pointing.reference, unit="deg"), SkyCoord(10.0, dec, unit="deg")
    assert centre.separation(target).arcsec == pytest.approx(3.0, abs=1e-5)
    expected = (roll + pointing.aperture.ideal_angle) % 360
    assert centre.position_angle(target).deg == pytest.approx(expected, abs=0.02)
    sideways = replace(pointing, offset=(3.0, 0.0))
    centre = SkyCoord(*sideways.reference, unit="deg")
    assert centre.position_angle(target).deg == pytest.approx((expected - 90) % 360, abs=0.02)


def test_without_an_offset_the_target_is_the_reference_point():
    assert Pointing().reference == pytest.approx(Pointing().target, abs=1e-11)


def test_headers_have_the_dither_and_the_aperture():
    made = configure(
        readout="NRS", subarray="FULL", groups=2, integrations=1, detector="NRS1", scene="MOS", dither=2, dithers=3
    )
    header, sci = primary_header(made, Segment(1, 1, 1, 1)), science_header(made)
    assert (header["PATT_NUM"], header["NUMDTHPT"], header["XOFFSET"], header["YOFFSET"]) == (2, 3, 0.0, 0.53)
    assert (header["MSAMETFL"], header["MSAMETID"]) == ("jw01234001001_01_msa.fits", 1)
    assert (header["APERNAME"], header["FXD_SLIT"]) == ("NRS_FULL_MSA", "NONE")
    assert (sci["V2_REF"], sci["V3_REF"]) == (APERTURES["MSA"].v2, APERTURES["MSA"].v3)
    moved = math.hypot((sci["RA_REF"] - header["TARG_RA"]) * math.cos(math.radians(-69.27)), sci["DEC_REF"] + 69.27)
    assert moved * 3600 == pytest.approx(0.53, rel=1e-3)


def test_the_slit_follows_the_subarray():
    settings = {"readout": "NRS", "groups": 2, "integrations": 1, "detector": "NRS1"}
    assert configure(subarray="SUBS400A1", **settings).pointing.aperture == APERTURES["S400A1"]
    assert configure(subarray="SUB512", **settings).pointing.aperture == APERTURES["S1600A1"]
    assert configure(subarray="SUB2048", grating="g140h", **settings).grating == "G140H"
    with pytest.raises(ParameterError, match=r"grating is 'G999'.*dither 4 of 4"):
        configure(subarray="FULL", grating="G999", dither=4, dithers=4, **settings)


def test_offsets_are_halved_in_the_short_slit():
    assert pointed("FS", "S1600A1", 2, 3).offset == (0.0, 0.4)
