"""One slit and many slits: names, functions of each, count rates as a slit."""

import numpy as np
import pytest
import xarray as xr

from nsxr.errors import DegradedResultWarning, ModelError
from nsxr.simulate import simulate_trace
from nsxr.slits.collection import as_slit, as_tree, iterate_slits, map_slits, warn_of_lost
from tests.products.slit_files import unequal_slits


def test_map_keeps_the_layout() -> None:
    def doubled(slit: xr.Dataset) -> xr.Dataset:
        return slit.assign(sci=slit["sci"] * np.float32(2))

    each = unequal_slits()
    many = xr.DataTree.from_dict(each)
    many.attrs = {"PROGRAM": "01234"}
    tree = map_slits(doubled, many)
    assert tree.attrs == {"PROGRAM": "01234"}
    assert list(tree.children) == list(each)
    for found in (tree["s1"].to_dataset(), map_slits(doubled, each["s1"])):
        np.testing.assert_array_equal(found["sci"], 2 * each["s1"]["sci"])


def test_names_of_a_tree() -> None:
    each = list(unequal_slits(2).values())
    tree = as_tree([*each, each[0]], {"PROGRAM": "1"})
    assert list(tree.children) == ["s0", "s1", "s0-3"]
    assert [name for name, _ in iterate_slits(tree)] == ["s0", "s1", "s0-3"]
    assert [name for name, _ in iterate_slits(each[1])] == ["s1"]
    assert list(as_tree(each, {}, ["a", "b"]).children) == ["a", "b"]


def test_slits_of_one_name_in_two_groups_are_two_unequal_slits() -> None:
    one, other, _ = unequal_slits().values()
    tree = xr.DataTree.from_dict({"a/s": one, "b/s": other})
    assert [name for name, _ in iterate_slits(tree)] == ["a/s", "b/s"]
    assert [name for name, _ in iterate_slits(tree["a"])] == ["s"]
    mapped = map_slits(lambda slit: slit, tree)
    assert mapped["a/s"].to_dataset().identical(one)
    assert mapped["b/s"].to_dataset().identical(other)


def test_rates_as_a_slit() -> None:
    slit, _ = simulate_trace(integrations=2, columns=20)
    rates = slit.drop_vars("wavelength")
    rates = rates.assign_coords(amplifier=("row", np.ones(30, dtype=np.int8))).assign_attrs(FXD_SLIT="S1600A1")
    found = as_slit(rates)
    assert found["sci"].dims == ("integration", "row", "column")
    xr.testing.assert_equal(found, rates.drop_vars("amplifier"))
    assert found.attrs["SLTNAME"] == "S1600A1"
    with pytest.raises(ModelError, match="expected row and column"):
        as_slit(rates.rename(row="cross_dispersion", column="dispersion"))


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
    rates = slit.assign_attrs(EXP_TYPE=kind, SUBARRAY=subarray)
    if is_one:
        assert as_slit(rates).attrs["SLTNAME"] == subarray
    else:
        with pytest.raises(ModelError, match=f"these count rates show no single slit: EXP_TYPE is '{kind}'"):
            as_slit(rates)


def test_slits_without_any_pixel_that_can_be_used() -> None:
    each = unequal_slits()
    warn_of_lost(xr.DataTree.from_dict(each))
    each["s0"] = each["s0"].assign(sci=each["s0"]["sci"] * np.float32(np.nan))
    each["s2"] = each["s2"].assign(dq=each["s2"]["dq"] | np.uint32(1))
    tree = xr.DataTree.from_dict(each)
    warn_of_lost(tree.chunk())
    with pytest.warns(DegradedResultWarning, match="no pixel can be used in s0, s2: all are NaN"):
        warn_of_lost(tree)
