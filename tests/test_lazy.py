import numpy as np
import pytest
import xarray as xr

from nsxr.errors import ModelError
from nsxr.lazy import map_blocks, map_with_halo
from nsxr.testing import count_computes, forbid_computes

RAMP = ("integration", "group", "row", "column")


@pytest.fixture
def ramps(rng):
    return xr.DataArray(rng.normal(size=(2, 5, 6, 4)).astype(np.float32), dims=RAMP)


def summarize(ramps, image, series, offset):
    assert ramps.ndim == 4
    assert image.ndim == 2
    assert series.ndim == 2
    fit = (ramps.sum(1) + series.sum(-1)[:, None, None]) * image
    return fit + offset, fit.mean(0), np.stack([fit, -fit], 1)


@pytest.mark.parametrize("chunks", [None, {"row": 2}, {"row": 5, "column": 3}])
def test_kernel_sees_dims_in_their_order(ramps, rng, chunks):
    image = xr.DataArray(rng.normal(size=(6, 4)), dims=("row", "column"))
    series = xr.DataArray(rng.normal(size=(2, 5)), dims=("integration", "group"))
    expected = summarize(ramps.values, image.values, series.values, 3.0)
    if chunks:
        ramps, image = ramps.chunk(chunks), image.chunk(chunks)
    with forbid_computes():
        results = map_blocks(
            summarize,
            ramps,
            image,
            series,
            core=("integration", "group"),
            outputs=[
                (("integration", "row", "column"), np.float64),
                (("row", "column"), np.float64),
                (("integration", "sign", "row", "column"), np.float64),
            ],
            sizes={"sign": 2},
            offset=3.0,
        )
    for result, values in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, values)
    assert [r.dims for r in results][2] == ("integration", "sign", "row", "column")


def test_missing_middle_dim_is_not_confused_with_its_neighbour(ramps, rng):
    rates = xr.DataArray(rng.normal(size=(2, 6, 4)), dims=("integration", "row", "column"))

    def check(ramps, rates):
        assert rates.shape == (ramps.shape[0], ramps.shape[2], ramps.shape[3])
        return ramps * rates[:, None]

    (result,) = map_blocks(
        check, ramps.chunk({"integration": 2, "row": 3}), rates.chunk({"row": 3}), core=(), outputs=[(RAMP, np.float64)]
    )
    np.testing.assert_allclose(result, ramps.values * rates.values[:, None])


def test_split_core_dim_is_refused(ramps):
    with pytest.raises(ModelError, match="split along 'group' into chunks"):
        map_blocks(np.copy, ramps.chunk({"group": 2}), core=("group",), outputs=[(RAMP, np.float32)])
    with pytest.raises(ModelError, match=r"without the loop dims \['row'\]"):
        map_blocks(np.copy, ramps, core=("group",), outputs=[(("integration", "column"), np.float32)])


def test_halo_carries_neighbours_across_chunks(rng):
    image = xr.DataArray(rng.integers(0, 9, (7, 5)).astype(np.int16), dims=("row", "column"))

    def above(block):
        return np.roll(block, 1, axis=0)

    expected = np.vstack([np.full((1, 5), -1), image.values[:-1]])
    for array in (image, image.chunk({"row": 3}), image.chunk({"row": 1, "column": 2})):
        result = map_with_halo(above, array, {"row": 1}, boundary=np.int16(-1))
        np.testing.assert_array_equal(result, expected)
        assert result.dtype == np.int16
    with pytest.raises(ModelError, match="shorter than the halo of 2"):
        map_with_halo(above, image.chunk({"row": 1}), {"row": 2}, boundary=np.int16(-1))


def test_counter_counts(ramps):
    with count_computes() as counter:
        ramps.chunk({"row": 2}).sum().compute()
    assert counter.computes == 1
    assert counter.tasks > 1
    with pytest.raises(AssertionError, match="1 computes"), forbid_computes():
        ramps.chunk().compute()
