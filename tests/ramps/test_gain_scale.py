import numpy as np
import pytest
import xarray as xr

from nsxr.errors import ModelError, ReferenceFileError
from nsxr.model.history import steps
from nsxr.ramps.gain_scale import scale_gain
from nsxr.testing import assert_lazy_and_chunk_invariant, make_rates


@pytest.fixture(params=[("row", "column"), ("integration", "row", "column")])
def rates(request, rng):
    shape = {"integration": 2, "row": 16, "column": 40}
    size = [shape[d] for d in request.param]

    sci, poisson, read = rng.uniform(1, 9, (3, *size))
    return make_rates(sci, poisson, read, rng.integers(0, 9, size), NGROUPS=5)


def gain(**attrs):
    return xr.Dataset(
        {"sci": (("row", "column"), np.ones((16, 40), np.float32))}, attrs={"reference_type": "gain"} | attrs
    )


def test_rates_and_variances_scale(rates):
    chunkings = ({"row": 5}, {"row": 16, "column": -1})
    result = assert_lazy_and_chunk_invariant(scale_gain, rates, gain(gain_factor=2.0), chunkings=chunkings)
    np.testing.assert_array_equal(result["sci"], 2 * rates["sci"])
    np.testing.assert_array_equal(result["var_poisson"], 4 * rates["var_poisson"])
    np.testing.assert_array_equal(result["var_rnoise"], 4 * rates["var_rnoise"])
    np.testing.assert_array_equal(result["dq"], rates["dq"])
    assert {name: array.dtype for name, array in result.items()} == {name: array.dtype for name, array in rates.items()}
    assert result["var_rnoise"].attrs["units"] == "(DN/s)2"
    assert result.attrs["GAINFACT"] == 2.0
    assert steps(result)[-1]["step"] == "gain_scale"


@pytest.mark.parametrize("factor", [{}, {"gain_factor": None}, {"gain_factor": 0.0}, {"gain_factor": float("nan")}])
def test_missing_or_wrong_factor_is_an_error(rates, factor):
    with pytest.raises(ReferenceFileError, match="gain_factor"):
        scale_gain(rates, gain(**factor))


def test_ramps_are_refused(rates):
    rates["sci"].attrs["units"] = "DN"
    with pytest.raises(ModelError, match="units"):
        scale_gain(rates, gain(gain_factor=2.0))
