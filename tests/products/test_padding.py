"""Slits that are padded for storage, and cut again."""

import numpy as np
import pytest
import xarray as xr

from nsxr.errors import ModelError
from nsxr.model.dq import PixelFlag
from nsxr.products.padding import pad_slits, unpad_slits
from nsxr.testing import forbid_computes
from tests.products.slit_files import unequal_slits

HEADER = "SLTNAME = '{name}'\nSOURCEID= {number}\nSRCYPOS = 0.125\nSHUTSTA = '1x1'"


def slits(number: int = 3) -> dict[str, xr.Dataset]:
    """Return slits with headers of their own."""
    each = enumerate(unequal_slits(number).items())
    return {name: slit.assign_attrs(slit_header=HEADER.format(name=name, number=n)) for n, (name, slit) in each}


def test_padded_and_back() -> None:
    each = slits()
    padded = pad_slits(xr.DataTree.from_dict(each))
    assert padded["sci"].dims == ("slit", "cross_dispersion", "dispersion")
    assert dict(padded.sizes) == {"slit": 3, "cross_dispersion": 28, "dispersion": 54}
    assert padded["source_id"].values.tolist() == [0, 1, 2]
    assert padded["source_y"].values.tolist() == [0.125] * 3
    assert "SRCYPOS" not in padded.attrs
    assert padded.attrs["PROGRAM"] == "01234"
    assert np.isnan(padded["sci"][0, :, 40:]).all()
    assert (padded["dq"][2, 26:] == PixelFlag.DO_NOT_USE | PixelFlag.NON_SCIENCE).all()
    assert padded["row"][1, 0] == 201
    assert padded["column"][2, 50] == 650
    for name, slit in unpad_slits(padded).items():
        xr.testing.assert_equal(slit, each[name])
        assert slit["sci"].dims == ("row", "column")
        assert slit["sci"].attrs["units"] == "MJy"
        assert slit.attrs["SOURCEID"] == each[name].attrs["SOURCEID"]
        assert slit.attrs["SLTNAME"] == name


def test_resampled_slits_keep_their_dims() -> None:
    each = {
        name: slit.rename(row="cross_dispersion", column="dispersion").assign_attrs(S_RESAMP="COMPLETE")
        for name, slit in slits(2).items()
    }
    for name, slit in unpad_slits(pad_slits(xr.DataTree.from_dict(each))).items():
        xr.testing.assert_equal(slit, each[name])


def test_many_stay_lazy() -> None:
    one = slits(1)["s0"].chunk()
    each = {f"s{n}": one.isel(column=slice(0, 20 + n % 20)) for n in range(40)}
    with forbid_computes():
        padded = pad_slits(xr.DataTree.from_dict(each))
        assert len(padded["sci"].__dask_graph__()) < 40 * 8
        again = unpad_slits(padded)
    assert len(again) == 40
    xr.testing.assert_equal(again["s7"].compute(), each["s7"].compute())


def test_refused() -> None:
    each = slits(2)
    with pytest.raises(ModelError, match="do not all have wavelength"):
        pad_slits(xr.DataTree.from_dict({"a": each["s0"], "b": each["s1"].drop_vars("wavelength")}))
    with pytest.raises(ModelError, match="no slits"):
        pad_slits(xr.DataTree())
