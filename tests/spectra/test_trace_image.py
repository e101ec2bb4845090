"""The image of the fitted light stays with the slit, and fills its bad pixels."""

import numpy as np
import pytest

import nsxr
from nsxr.errors import ParameterError
from nsxr.model.dq import PixelFlag
from nsxr.model.history import steps
from nsxr.model.variables import check_slit
from nsxr.simulate import simulate_trace
from nsxr.spectra.trace_image import add_trace_model
from nsxr.testing import forbid_computes


def test_bad_pixels_get_the_light_that_they_missed(tmp_path):
    slit, truth = simulate_trace(signal_to_noise=60.0, bad_pixels="clusters")
    slit["wavelength"] = slit["wavelength"].where(slit["wavelength"].notnull(), 1.0)
    with forbid_computes():
        found = nsxr.replace_pixels(add_trace_model(slit.chunk()), algorithm="trace_model")
    found = found.compute()
    check_slit(found, "trace_model", "var_trace_model")
    assert [entry["step"] for entry in steps(found)][-2:] == ["adaptive_trace_model", "pixel_replace"]
    filled = (found["dq"].values & int(PixelFlag.FLUX_ESTIMATED)) > 0
    assert filled.sum() > 30
    assert np.isnan(slit["sci"].values[filled]).any() or ((slit["dq"].values[filled] & 1) > 0).all()
    light = (truth["flux"] * truth["profile"]).transpose("row", "column").values / 1e6
    pull = ((found["sci"].values - light) / np.sqrt(found["var_rnoise"].values))[filled]
    assert 0.5 < 1.4826 * np.median(np.abs(pull)) < 1.5
    kept = ~filled
    np.testing.assert_array_equal(found["sci"].values[kept], slit["sci"].values[kept])
    again = nsxr.open_slits(nsxr.write_slits(found, tmp_path / "x_cal.fits", progress=False))
    (one,) = again.children.values()
    np.testing.assert_array_equal(one["trace_model"], found["trace_model"])
    np.testing.assert_array_equal(one["var_trace_model"], found["var_trace_model"])


def test_without_a_model_nothing_is_filled():
    slit, _ = simulate_trace(columns=64)
    with pytest.raises(ParameterError, match="run adaptive_trace_model before"):
        nsxr.replace_pixels(slit, algorithm="trace_model")
