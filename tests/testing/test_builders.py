"""The builders that other people's tests use: their examples, and what they make passes the checks of nsxr."""

import doctest

import numpy as np
import pytest
from hypothesis import given, settings

import nsxr
from nsxr.model.dq import GroupFlag
from nsxr.model.readout import Readout
from nsxr.testing import (
    FULL_FRAME,
    exposures,
    make_exposure,
    make_noise_references,
    make_rates,
    make_reference,
    make_slit,
    make_spectrum,
    make_times,
    slits,
    strategies,
)


@pytest.mark.parametrize("module", [exposures, slits])
def test_examples_of_the_builders(module):
    result = doctest.testmod(module, extraglobs={"np": np})
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("keywords", [{}, FULL_FRAME, {"NFRAMES": 4, "DETECTOR": "NRS2"}])
def test_exposures_are_calibrated_with_references_of_numbers(keywords):
    sci = 100 + 20.0 * np.arange(5)[:, None, None] * np.ones((2, 5, 3, 4))
    exposure = make_exposure(sci, pixeldq=np.full((3, 4), 4096), **keywords).assign_coords(
        make_times(6e4, 2, 10.0, 1.0)
    )
    flagged = nsxr.flag_jumps(exposure, *make_noise_references(exposure, 10.0, 1.5, margin=2))
    rate = nsxr.fit_ramps(flagged, *make_noise_references(exposure, 10.0, np.full((3, 4), 1.5)))["rate"]
    np.testing.assert_allclose(rate["sci"], 20 / Readout.of(exposure).group_time, rtol=1e-6)
    assert (rate["dq"].values & 4096).all()
    assert exposure["int_start_MJD_UTC"].values[1] == pytest.approx(6e4 + 11 / 86400, abs=1e-9)


def test_flags_given_to_a_builder_are_copied():
    flags = np.zeros((1, 2, 3, 4), np.uint8)
    exposure = make_exposure(np.zeros(flags.shape), flags)
    exposure["groupdq"][:] = np.uint8(1)
    assert not flags.any()


def test_references_have_labels_of_the_exposure_and_cubes_their_own_first_dim():
    exposure = make_exposure(np.zeros((1, 2, 3, 4)))
    reference = make_reference("linearity", exposure, coefficients=np.zeros((5, 3, 4)), attrs={"filename": "x.fits"})
    assert reference["coefficients"].dims == ("order", "row", "column")
    assert reference["row"].values.tolist() == exposure["row"].values.tolist()
    assert reference.attrs == {"reference_type": "linearity", "filename": "x.fits"}
    assert make_reference("dark", exposure, sci=np.zeros((7, 3, 4)))["sci"].dims == ("group", "row", "column")


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_rates_have_units_and_variances(shape):
    rates = make_rates(np.ones(shape), var_poisson=0.5, EFFEXPTM=10.0)
    assert rates["sci"].dims == ("integration", "row", "column")[-len(shape) :]
    assert rates["var_poisson"].attrs["units"] == "(DN/s)2"
    assert rates["var_rnoise"].dtype == np.float32
    assert rates["dq"].dtype == np.uint32


def test_slits_are_extracted_and_spectra_combined():
    slit = make_slit(np.ones((2, 12, 20)), units="MJy")
    spectrum = nsxr.extract_box(slit, {"ystart": 2, "ystop": 5}, use_source_posn=False)
    assert spectrum["flux"].dims == ("integration", "dispersion")
    combined = nsxr.combine_spectra([make_spectrum(np.full(30, 2.0), 1.0), make_spectrum(np.full(30, 4.0), 1.0)])
    np.testing.assert_allclose(combined["flux"], 3.0)


@settings(max_examples=10, deadline=None)
@given(exposure=strategies.exposures())
def test_flags_that_were_set_are_never_cleared(exposure):
    flagged = nsxr.flag_jumps(exposure, *make_noise_references(exposure, 14.0))
    assert not (exposure["groupdq"].values & ~flagged["groupdq"].values).any()
    saturated = (exposure["groupdq"].values & np.uint8(GroupFlag.SATURATED.value)) != 0
    assert (np.diff(saturated.astype(int), axis=1) >= 0).all()
