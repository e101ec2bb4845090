"""Cut-outs know where all sources were planned along their slits, and where subtracted nods left negative traces."""

import json

import numpy as np
from astropy.io import fits

import nsxr
from nsxr.kernels.spectra.slit_places import rows_of
from nsxr.model.slit_header import SlitHeader
from tests.optics.exposures import make_rates, optics_of
from tests.products.metafiles import write_metafile

PITCH = 1.15  # open heights


def subtracted(*headers, **header):
    """Return count rates from which exposures with these headers were subtracted."""
    one = make_rates(rows=(900, 1150), filename="science", **header)
    others = [one.assign_attrs(filename=f"nod {number}", **changed) for number, changed in enumerate(headers, start=1)]
    return nsxr.subtract_background(one, others), one


def test_nods_of_fixed_slits_are_as_far_as_their_offsets():
    offset = {"XOFFSET": 0.0, "YOFFSET": 0.5}
    nodded, rates = subtracted(offset, {"BKGDTARG": 1}, FXD_SLIT="S200A1", XOFFSET=0.0, YOFFSET=0.1)
    optics = optics_of(rates)
    slit = nsxr.cut_slits(nodded, optics)["S200A1"].to_dataset()
    own, moved = (
        nsxr.cut_slits(one, optics)["S200A1"].attrs["SRCYPOS"] for one in (rates, rates.assign_attrs(**offset))
    )
    shift, background = json.loads(slit.attrs["nod_shifts"])
    assert background is None
    assert abs(moved - own) > 0.1
    np.testing.assert_allclose(shift, moved - own, rtol=1e-12)
    assert SlitHeader.of(slit).nods == (shift, None)
    assert SlitHeader.of(slit).places == (own,)
    assert "nod_shifts" not in nsxr.cut_slits(rates, optics)["S200A1"].attrs


def test_nods_of_other_targets_are_not_known():
    nodded, rates = subtracted({"TARGPROP": "SKY"}, FXD_SLIT="S200A1", TARGPROP="STAR")
    assert "nod_shifts" not in nsxr.cut_slits(nodded, optics_of(rates))["S200A1"].attrs


def test_nods_of_shutters_are_those_of_the_metafile(tmp_path):
    path = write_metafile(tmp_path / "jw_msa.fits")
    with fits.open(path) as file:
        rows = np.array(file["SHUTTER_INFO"].data)
        there = rows.copy()
        there["dither_point_index"] = 2
        # the source is one shutter farther, and a tenth lower in it
        there["source_id"][:3], there["primary_source"][:3] = [0, 0, 5], [b"N", b"N", b"Y"]
        there["background"][:3] = [b"Y", b"Y", b"N"]
        there["estimated_source_in_shutter_x"][:3] = [np.nan, np.nan, 0.3]
        there["estimated_source_in_shutter_y"][:3] = [np.nan, np.nan, 0.5]
        second = rows.copy()[:1]  # another source in the lowest shutter
        second["source_id"], second["background"] = 6, b"N"
        second["estimated_source_in_shutter_y"] = 0.5
        file["SHUTTER_INFO"].data = np.concatenate([second, rows[1:], there])
        file.writeto(tmp_path / "two.fits")
    shutters = {"MSAMETFL": "two.fits"}
    one = make_rates("MSASPEC", rows=(1000, 2048), filename="science", **shutters)
    nodded = nsxr.subtract_background(one, [one.assign_attrs(filename="nod", PATT_NUM=2)])
    slits = nsxr.cut_slits(nodded, optics_of(one), shutters=tmp_path / "two.fits", coordinates=["slit_y"])
    first = slits["1"].to_dataset()
    np.testing.assert_allclose(json.loads(first.attrs["nod_shifts"]), [0.9 * PITCH], rtol=1e-3)
    np.testing.assert_allclose(json.loads(first.attrs["source_places"]), [0.1 * PITCH, -PITCH], rtol=1e-3)
    assert json.loads(slits["2"].attrs["source_places"]) == []
    assert "nod_shifts" not in slits["2"].attrs
    for number in ("N/A", np.nan):
        nodded = nsxr.subtract_background(one, [one.assign_attrs(filename="nod", PATT_NUM=number)])
        slits = nsxr.cut_slits(nodded, optics_of(one), shutters=tmp_path / "two.fits")
        assert "nod_shifts" not in slits["1"].attrs


def test_places_along_a_slit_fall_on_the_rows_of_the_optics():
    rates = make_rates(rows=(900, 1150), FXD_SLIT="S200A1")
    optics = optics_of(rates)
    slit = nsxr.cut_slits(rates, optics, coordinates=["slit_y"])["S200A1"].to_dataset()
    wavelength = np.linspace(1.0, 5.0, 400)
    for place in (0.0, 0.3, -0.8):
        column, row = optics.inverse(place, wavelength, "S200A1", newton=True)
        found = rows_of(slit["slit_y"].to_numpy(), place) + int(slit["row"][0])
        at = np.argsort(column)
        expected = np.interp(slit["column"], column[at], row[at], left=np.nan, right=np.nan)
        assert np.nanmax(np.abs(found - expected)) < 0.005
    assert rows_of(np.full((4, 9), np.nan), 0.0) is None
