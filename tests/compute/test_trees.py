import numpy as np
import xarray as xr

from nsxr.compute.trees import compute_tree
from nsxr.testing import count_computes


def test_a_tree_is_computed_as_xarray_does_it(rng):
    lazy = xr.Dataset(
        {"sci": (("row", "column"), rng.normal(size=(6, 4)), {"units": "MJy"}), "n": 3},
        coords={"row": np.arange(6), "wavelength": (("row", "column"), rng.normal(size=(6, 4)))},
        attrs={"SLTNAME": "1"},
    ).chunk({"row": 2})
    tree = xr.DataTree.from_dict({"cal/1": lazy, "cal/2": lazy * 2, "x1d/1": lazy.sum("row"), "whole": lazy.compute()})
    with count_computes() as counted:
        done = compute_tree(tree)
    assert counted.computes == 1
    xr.testing.assert_identical(done, tree.compute())
    assert all(variable.chunks is None for node in done.subtree for variable in node.variables.values())
    assert tree["cal/1/sci"].chunks is not None
    assert tree["cal/1/wavelength"].chunks is not None
    xr.testing.assert_identical(compute_tree(done), done)
