"""Compact optics put light where flight optics put it, and close from the detector to the sky and back."""

import numpy as np
import pytest

from nsxr.errors import ParameterError
from nsxr.simulate.compact_optics import TILT_ZERO, write_compact_optics
from tests.optics.exposures import make_rates, optics_of


@pytest.mark.parametrize("grating", ["PRISM", "G395H"])
@pytest.mark.parametrize("newton", [False, True])
def test_detector_to_slit_and_back(grating, newton):
    rates = make_rates("FIXEDSLIT", grating)
    optics = optics_of(rates)
    rng = np.random.default_rng(1)
    low, high = optics.wavelength_range
    slit_y, wavelength = rng.uniform(-0.5, 0.5, 2000), rng.uniform(low + 0.05, high - 0.05, 2000)
    column, row = optics.inverse(slit_y, wavelength, "S200A1", newton=newton)
    seen = optics.forward(column, row, "S200A1")
    again = optics.inverse(seen.slit_y, seen.wavelength, "S200A1", newton=True)
    assert np.abs(again[0] - column).max() < 1e-6
    assert np.abs(again[1] - row).max() < 1e-6
    x, y = optics.sky_to_slit(seen.ra, seen.dec, seen.wavelength, "S200A1")
    np.testing.assert_allclose(y, seen.slit_y, atol=2e-3)
    np.testing.assert_allclose(x, 0, atol=2e-2)


def test_spectra_fall_on_the_rows_that_subarrays_read():
    rates = make_rates("BRIGHTOBJ", "G395H", SUBARRAY="SUB2048")  # rows 962 to 993 of NRS1
    _, row = optics_of(rates).inverse(0.0, np.linspace(2.87, 3.7, 50), "S1600A1")
    assert 965 < row.min() < row.max() < 992


def test_the_wheel_tilt_moves_spectra():
    sensors = dict(zip(("GWA_XTIL", "GWA_YTIL"), TILT_ZERO["PRISM"], strict=True))
    at_zero = optics_of(make_rates("FIXEDSLIT", "PRISM", **sensors)).inverse(0.0, 3.0, "S200A1")
    moved = optics_of(make_rates("FIXEDSLIT", "PRISM", **(sensors | {"GWA_XTIL": 0.3445}))).inverse(0.0, 3.0, "S200A1")
    assert 0.5 < abs(float(moved[0] - at_zero[0])) < 10


def test_a_filter_without_its_grating(tmp_path):
    with pytest.raises(
        ParameterError, match="filter 'CLEAR' with grating 'G395H' is not known, expected one of CLEAR_"
    ):
        write_compact_optics(tmp_path, grating="G395H", filter="CLEAR")
