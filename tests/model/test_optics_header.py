"""What the headers say about the optics is read once, with the keywords of both headers."""

import pytest

import nsxr
from nsxr.errors import InputFileError
from nsxr.model.optics_header import OpticsHeader
from tests.optics.exposures import HEADER, references

SPECTRUM = (
    HEADER
    | {"GWA_XTIL": 0.331, "GWA_YTIL": 0.129}
    | {"DETECTOR": "NRS1", "FILTER": "CLEAR", "GRATING": "PRISM", "EXP_TYPE": "NRS_MSASPEC"}
)


def test_values_of_both_headers():
    text = "RA_REF  = 10.5\nROLL_REF= 20.0\nVELOSYS = -1234.5\nVA_SCALE= 1.00005\nVPARITY = -1"
    plain = {key: value for key, value in SPECTRUM.items() if key not in ("RA_REF", "ROLL_REF", "VELOSYS", "VA_SCALE")}
    header = OpticsHeader.from_attributes(plain | {"sci_header": text, "MSAMETFL": "jw_01_msa.fits", "LAMP": "NONE"})
    assert (header.ra, header.roll, header.velocity, header.aberration) == (10.5, 20.0, -1234.5, 1.00005)
    assert (header.wheel_x, header.wheel_temperature, header.parity) == (0.331, 36.9, -1)
    assert (header.metafile, header.metadata_id, header.dither_point, header.lamp) == ("jw_01_msa.fits", 1, 1, "")
    header.require_spectra()


def test_what_a_header_lacks():
    header = OpticsHeader.from_attributes({"filename": "x_rate.fits", "GRATING": "PRISM", "EXP_TYPE": "NRS_IFU"})
    assert (header.velocity, header.aberration, header.offset_x, header.ra) == (0.0, 1.0, 0.0, None)
    assert header.is_ifu
    with pytest.raises(InputFileError) as error:
        header.require_spectra()
    missing = "DETECTOR, FILTER, GWA_XTIL, GWA_YTIL, GWA_TILT, V2_REF, V3_REF, RA_REF, DEC_REF, ROLL_REF are missing"
    assert f"x_rate.fits: keywords {missing}" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "is_lamp", "is_ifu"),
    [
        ({}, False, False),
        ({"EXP_TYPE": "NRS_IFU"}, False, True),
        ({"FILTER": "OPAQUE"}, True, False),
        ({"EXP_TYPE": "NRS_IFU", "FILTER": "OPAQUE"}, True, True),
        ({"EXP_TYPE": "NRS_LAMP", "OPMODE": "IFU"}, True, True),
        ({"EXP_TYPE": "NRS_AUTOWAVE", "OPMODE": "MSASPEC"}, True, False),
    ],
)
def test_lamps_and_the_ifu(changes, is_lamp, is_ifu):
    header = OpticsHeader.from_attributes(SPECTRUM | changes)
    assert (header.is_lamp, header.is_ifu) == (is_lamp, is_ifu)


@pytest.mark.parametrize(
    "changes",
    [
        {"GWA_XTIL": "much"},
        {"VA_SCALE": 2.0},
        {"DEC_REF": 95.0},
        {"VPARITY": 0},
        {"DETECTOR": "NRS3"},
        {"sci_header": "RA_REF  = 'x"},
        {"EXP_TYPE": "NRS_TACQ"},
        {"EXP_TYPE": "NRS_DARK"},
    ],
)
def test_bad_values_are_refused_in_one_line(changes):
    with pytest.raises(InputFileError) as error:
        OpticsHeader.from_attributes(SPECTRUM | changes).require_spectra()
    assert "\n" not in str(error.value)
    assert HEADER["filename"] in str(error.value)


def test_a_header_alone_opens_optics():
    header = OpticsHeader.from_attributes(SPECTRUM | {"EXP_TYPE": "NRS_FIXEDSLIT"})
    assert nsxr.open_optics(references("PRISM"), header).exposure_type == "NRS_FIXEDSLIT"
