"""Every rule decides the type of the source, and the first that applies wins."""

import numpy as np
import pytest
import xarray as xr

import nsxr
from nsxr.errors import ModelError, ParameterError
from nsxr.testing.assertions import forbid_computes


def data(kind: str, **attrs: object) -> xr.Dataset:
    sci = xr.DataArray(np.ones((2, 3), np.float32), dims=("row", "column"), attrs={"units": "DN/s"})
    return xr.Dataset({"sci": sci}, attrs={"EXP_TYPE": kind, **attrs})


FS, BOTS, IFU, MOS = "NRS_FIXEDSLIT", "NRS_BRIGHTOBJ", "NRS_IFU", "NRS_MSASPEC"
PRIMARY = {"SLTNAME": "S200A1", "FXD_SLIT": "S200A1"}


@pytest.mark.parametrize(
    ("kind", "attrs", "expected"),
    [
        (FS, PRIMARY, "POINT"),
        (FS, PRIMARY | {"SRCTYAPT": "EXTENDED"}, "EXTENDED"),
        (FS, PRIMARY | {"SRCTYAPT": "UNKNOWN", "SRCTYPE": "EXTENDED"}, "POINT"),
        (FS, PRIMARY | {"SRCTYPE": "EXTENDED"}, "EXTENDED"),  # older files have no SRCTYAPT
        (FS, PRIMARY | {"SRCTYAPT": "POINT", "BKGDTARG": True}, "EXTENDED"),
        (FS, PRIMARY | {"SRCTYAPT": "EXTENDED", "TSOVISIT": True, "NINTS": 5}, "POINT"),
        (FS, PRIMARY | {"SRCTYAPT": "EXTENDED", "PATTTYPE": "2-POINT-NOD"}, "EXTENDED"),
        (FS, PRIMARY | {"SLTNAME": "S400A1", "SRCTYAPT": "POINT"}, "EXTENDED"),
        (FS, {"SLTNAME": "S200A1", "SOURCEID": 1}, "POINT"),
        (FS, {"SLTNAME": "S200A2", "SOURCEID": 2}, "EXTENDED"),
        (FS, {"SLTNAME": "S200A1", "SUBARRAY": "SUBS200A1", "FXD_SLIT": "junk", "SOURCEID": 1}, "POINT"),
        (BOTS, {"SRCTYAPT": "EXTENDED", "NINTS": 10}, "POINT"),
        (BOTS, {"SRCTYAPT": "EXTENDED", "NINTS": 1}, "EXTENDED"),
        (BOTS, {"BKGDTARG": "T", "NINTS": 10}, "EXTENDED"),
        (IFU, {}, "EXTENDED"),
        (IFU, {"PATTTYPE": "4-POINT-NOD"}, "POINT"),
        (IFU, {"SRCTYAPT": "POINT"}, "POINT"),
        (MOS, {"STLARITY": 0.76}, "POINT"),
        (MOS, {"STLARITY": 0.75, "SRCTYAPT": "POINT"}, "EXTENDED"),
        (MOS, {"STLARITY": -1.0}, "POINT"),
        (MOS, {"STLARITY": float("nan")}, "POINT"),
        (MOS, {}, "POINT"),
    ],
)
def test_rules(kind, attrs, expected):
    before = data(kind, **attrs)
    after = nsxr.set_source_type(before)
    assert after.attrs["SRCTYPE"] == expected
    assert before.attrs == {"EXP_TYPE": kind, **attrs}


def test_the_argument_wins_except_in_slits_without_the_target():
    primary, other = data(FS, **PRIMARY, BKGDTARG=True), data(FS, SLTNAME="S400A1", FXD_SLIT="S200A1")
    slits = xr.DataTree.from_dict({"S200A1": primary, "S400A1": other})
    slits.attrs = {"EXP_TYPE": FS}
    found = nsxr.set_source_type(slits, source_type="POINT")
    assert [node.attrs["SRCTYPE"] for node in found.children.values()] == ["POINT", "EXTENDED"]
    assert found.attrs["SRCTYPE"] == "POINT"
    assert nsxr.set_source_type(data(MOS, STLARITY=1.0), source_type="EXTENDED").attrs["SRCTYPE"] == "EXTENDED"


def test_an_extended_target_fills_its_slit():
    slit = data(FS, **PRIMARY, SRCTYAPT="EXTENDED", SRCXPOS=0.1, SRCYPOS=-0.2)
    found = nsxr.set_source_type(slit)
    assert (found.attrs["SRCXPOS"], found.attrs["SRCYPOS"]) == (0.0, 0.0)
    assert nsxr.set_source_type(slit, source_type="POINT").attrs["SRCYPOS"] == -0.2


def test_an_exposure_of_shutters_has_no_type_of_its_own():
    slits = xr.DataTree.from_dict({"1": data(MOS, STLARITY=1.0), "2": data(MOS, STLARITY=0.0)})
    slits.attrs = {"EXP_TYPE": MOS, "SRCTYPE": "POINT"}
    found = nsxr.set_source_type(slits)
    assert "SRCTYPE" not in found.attrs
    assert [node.attrs["SRCTYPE"] for node in found.children.values()] == ["POINT", "EXTENDED"]
    assert "srctype" in found["1"].attrs["nsxr_steps"]


def test_no_pixel_is_read():
    with forbid_computes():
        nsxr.set_source_type(data(IFU).chunk(row=1))


def test_bad_input():
    with pytest.raises(ModelError, match="EXP_TYPE is 'NRS_IMAGE'"):
        nsxr.set_source_type(data("NRS_IMAGE"))
    with pytest.raises(ModelError, match="slits are a NoneType, expected a Dataset or a DataTree"):
        nsxr.set_source_type(None)
    with pytest.raises(ParameterError, match="expected 'POINT', 'EXTENDED'"):
        nsxr.set_source_type(data(IFU), source_type="STAR")
