"""Errors of spectra from pixels that share noise, against drawn noise."""

import numpy as np
import pytest
import xarray as xr

from nsxr.kernels.ramps.lag_covariance import LAGS
from nsxr.spectra.box_extraction import extract_box
from nsxr.spectra.extraction import extract_spectrum
from nsxr.testing import forbid_computes, make_slit

ROWS, COLUMNS = 24, 700
FRAME = {"DETECTOR": "NRS1", "READPATT": "NRSRAPID", "SUBARRAY": "FULL", "NOUTPUTS": 4}
FRAME |= {"SUBSTRT1": 1, "SUBSTRT2": 1, "SUBSIZE1": 2048, "SUBSIZE2": 2048}


def draw(is_used, seed=1):
    """A slit with a source of 200 per column, with noise that pixels of a column share, and a table that says so."""
    random = np.random.default_rng(seed)
    line, slot = LAGS.T
    alike = np.where(line == 0, 0.3 * np.exp(-np.abs(slot) / 20), 0)
    table = np.array([line, slot, -0.12 * alike, alike, 0 * alike], np.float32).T
    kinds = table[:ROWS, 2 if is_used else 3].astype(float)
    covariance = kinds[np.abs(np.arange(ROWS)[:, None] - np.arange(ROWS))]
    np.fill_diagonal(covariance, 1)
    noise = np.linalg.cholesky(covariance) @ random.standard_normal((ROWS, COLUMNS))
    profile = np.exp(-0.5 * ((np.arange(ROWS) - 11.6) / 1.8) ** 2)
    sci = 200 * profile[:, None] / profile.sum() + noise
    slit = make_slit(sci, (1e-9, 1.0, 0.0), row_start=1100, **FRAME)
    used = np.full((ROWS, COLUMNS), is_used, np.uint8)
    return slit.assign(noise_used=(("row", "column"), used), noise_correlation=(("lag", "kind"), table))


def extract(slit, how):
    if how == "observatory":
        return extract_box(slit, {"ystart": 4, "ystop": 19, "use_source_posn": False})
    if how == "observatory with background":
        background = {"bkg_coeff": [[-0.5], [4.5], [18.5], [23.5]], "bkg_fit": "poly", "bkg_order": 0}
        return extract_box(slit, {"ystart": 7, "ystop": 16, "use_source_posn": False, **background})
    background = "constant" if how == "local background" else "none"
    weighting = "box" if how == "box" else "profile"
    return extract_spectrum(slit, weighting=weighting, background=background, rescale_noise=False)


def pulls(spectrum):
    variance = sum(spectrum[f"flux_var_{part}"] for part in ("poisson", "rnoise", "flat"))
    return float(((spectrum["flux"] - spectrum["flux"].median()) / np.sqrt(variance)).std())


@pytest.mark.parametrize("how", ["observatory", "observatory with background", "box", "profile", "local background"])
@pytest.mark.parametrize("is_used", [0, 1])
def test_scatter_of_fluxes_is_what_their_errors_say(how, is_used):
    slit = draw(is_used)
    spectrum = extract(slit, how)
    alone = extract(slit.drop_vars("noise_correlation"), how)
    np.testing.assert_array_equal(spectrum["flux"], alone["flux"])
    assert pulls(spectrum) == pytest.approx(1, abs=0.06)
    if "background" not in how:
        assert abs(pulls(alone) - 1) > 0.06
    assert not {"noise_correlation", "noise_used", "kind"} & set(spectrum.variables)


def test_extractions_are_lazy_and_do_not_depend_on_chunks():
    slit = draw(0)
    series = xr.concat([slit["sci"], slit["sci"] + 1, slit["sci"] + 2], "integration")
    for how in ("observatory", "profile"):
        whole = extract(slit, how)
        with forbid_computes():
            lazy = extract(slit.chunk(), how)
        np.testing.assert_array_equal(lazy["flux_var_rnoise"], whole["flux_var_rnoise"])
    names = ("sci", "dq", "var_poisson", "var_rnoise", "var_flat")
    of_series = {name: slit[name].broadcast_like(series) for name in names} | {"sci": series}
    many = slit.assign(of_series).assign_coords(integration=[1, 2, 3])
    expected = extract(many, "observatory")["flux_var_rnoise"]
    np.testing.assert_array_equal(extract(many.chunk(integration=1), "observatory")["flux_var_rnoise"], expected)
    np.testing.assert_array_equal(expected[1], extract(slit, "observatory")["flux_var_rnoise"])
