"""Slits in different layouts: padded and back, one by one."""

import numpy as np
import pytest
import xarray as xr

from nsxr.errors import ModelError
from nsxr.model.dq import PixelFlag
from nsxr.simulate import simulate_trace
from nsxr.slits.collection import as_slit, iterate_slits, map_slits, pad_slits, unpad
from nsxr.testing import forbid_computes

HEADER = "SLTNAME = '{name}'\nSOURCEID= {number}\nSRCYPOS = 0.125\nSHUTSTA = '1x1'"


def slits(number: int = 3) -> dict[str, xr.Dataset]:
    found = {}
    for n in range(number):
        slit, _ = simulate_trace(columns=40 + 7 * n, seed=n)
        slit = slit.isel(cross_dispersion=slice(n, 28))
        slit.attrs |= {"SLTNAME": f"s{n}", "SOURCEID": n, "SRCYPOS": 0.125, "PROGRAM": "01234"}
        slit.attrs["slit_header"] = HEADER.format(name=f"s{n}", number=n)
        found[f"s{n}"] = slit
    return found


def test_padded_and_back() -> None:
    each = slits()
    padded = pad_slits(each)
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
    for name, slit in iterate_slits(padded):
        xr.testing.assert_equal(slit, each[name])
        assert slit["sci"].attrs["units"] == "MJy"
        assert slit.attrs["SOURCEID"] == each[name].attrs["SOURCEID"]
        assert slit.attrs["SLTNAME"] == name
    xr.testing.assert_equal(unpad(padded, "s1"), unpad(padded, 1))


def test_many_stay_lazy() -> None:
    one = slits(1)["s0"].chunk()
    each = {f"s{n}": one.isel(dispersion=slice(0, 20 + n % 20)) for n in range(200)}
    with forbid_computes():
        padded = pad_slits(each)
        assert len(padded["sci"].__dask_graph__()) < 200 * 8
        assert sum(1 for _ in iterate_slits(padded)) == 200
    xr.testing.assert_equal(unpad(padded, 7).compute(), each["s7"].compute())


def test_map_keeps_the_layout() -> None:
    def doubled(slit: xr.Dataset) -> xr.Dataset:
        return slit.assign(sci=slit["sci"] * np.float32(2))

    each = slits()
    padded = map_slits(doubled, pad_slits(each))
    tree = map_slits(doubled, xr.DataTree.from_dict(each))
    alone = map_slits(doubled, each["s1"])
    for found in (unpad(padded, "s1"), tree["s1"].to_dataset(), alone):
        np.testing.assert_array_equal(found["sci"], 2 * each["s1"]["sci"])


def test_spectra_can_be_padded_too() -> None:
    each = {
        name: slit.isel(cross_dispersion=3)[["sci", "dq"]].rename(sci="flux").drop_vars("cross_dispersion")
        for name, slit in slits().items()
    }
    each = {
        name: spectrum.assign_coords(wavelength=("dispersion", np.arange(spectrum.sizes["dispersion"]) / 3))
        for name, spectrum in each.items()
    }
    padded = pad_slits(each)
    assert padded["wavelength"].dims == ("slit", "dispersion")
    for name, spectrum in iterate_slits(padded):
        xr.testing.assert_equal(spectrum, each[name])


def test_rates_as_a_slit() -> None:
    slit, _ = simulate_trace(integrations=2, columns=20)
    rates = slit.rename(cross_dispersion="row", dispersion="column").drop_vars("wavelength")
    rates = rates.assign_coords(amplifier=("row", np.ones(30, dtype=np.int8))).assign_attrs(FXD_SLIT="S1600A1")
    found = as_slit(rates)
    assert found["sci"].dims == ("integration", "cross_dispersion", "dispersion")
    assert found.attrs["SLTNAME"] == "S1600A1"
    with pytest.raises(ModelError, match="expected row and column"):
        as_slit(found)


@pytest.mark.parametrize(
    ("kind", "subarray", "is_one"),
    [
        ("NRS_BRIGHTOBJ", "SUB512S", True),
        ("NRS_FIXEDSLIT", "SUBS400A1", True),
        ("NRS_FIXEDSLIT", "SUB2048", True),
        ("NRS_MSASPEC", "FULL", False),
        ("NRS_FIXEDSLIT", "FULL", False),
        ("NRS_FIXEDSLIT", "ALLSLITS", False),
        ("NRS_BRIGHTOBJ", "FULL", False),
        ("NRS_IFU", "FULL", False),
        ("NRS_DARK", "SUB2048", False),
        ("", "", False),
    ],
)
def test_rates_of_many_slits_are_no_slit(kind: str, subarray: str, is_one: bool) -> None:
    slit, _ = simulate_trace(integrations=2, columns=20)
    rates = slit.rename(cross_dispersion="row", dispersion="column").assign_attrs(EXP_TYPE=kind, SUBARRAY=subarray)
    if is_one:
        assert as_slit(rates).attrs["SLTNAME"] == subarray
    else:
        with pytest.raises(ModelError, match=f"slits cannot be cut out of count rates yet: EXP_TYPE is '{kind}'"):
            as_slit(rates)


def test_refused() -> None:
    each = slits(2)
    with pytest.raises(ModelError, match="there is no slit 'x'; found s0, s1"):
        unpad(pad_slits(each), "x")
    with pytest.raises(ModelError, match="do not all have wavelength"):
        pad_slits([each["s0"], each["s1"].drop_vars("wavelength")])
    with pytest.raises(ModelError, match="no slits"):
        pad_slits([])
