"""The true flux in the columns of a spectrum: continua as they are, lines with all their light."""

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from nsxr.errors import ParameterError
from nsxr.simulate import Line, PowerLaw, Spectrum, true_flux
from nsxr.simulate.sky_truth import sky_truth_tables

LINE = Line(2.5, 3e-20, 400.0)


@pytest.fixture
def truth(tmp_path):
    """Return a truth file with two points in one slit, the fainter one with a line."""
    sample = np.linspace(1.0, 4.0, 500)
    words = np.array(["bright", "faint"], dtype="U40")
    values = xr.Dataset(
        {
            "slit_name": ("slit", np.array(["S200A1"], dtype="U40")),
            "source_name": ("source", words),
            "source_extended": ("source", np.array([False, False])),
            "flux": (("source", "sample"), np.array([PowerLaw(f, 2.0, -1.0).at(sample) for f in (2e-6, 1e-6)])),
            "sky": ("sample", np.zeros(500)),
            "sample_wavelength": ("sample", sample),
            "line_source": ("line", words[1:]),
            "line_wavelength": ("line", np.array([LINE.wavelength])),
            "line_flux": ("line", np.array([LINE.flux])),
            "line_fwhm": ("line", np.array([LINE.fwhm])),
            "sighting_source": ("sighting", words),
            "sighting_slit": ("sighting", np.array(["S200A1", "S200A1"], dtype="U40")),
            "sighting_fraction": ("sighting", np.array([0.8, 0.9])),
        }
    )
    path = tmp_path / "truth.fits"
    fits.HDUList([fits.PrimaryHDU(), *sky_truth_tables(values)]).writeto(path)
    return path


def spectrum_of(wavelength, **attributes):
    return xr.Dataset(coords={"wavelength": ("dispersion", wavelength)}, attrs={"SLTNAME": "S200A1", **attributes})


def test_continua_stay_and_lines_keep_their_light(truth):
    wavelength = np.linspace(0.9, 4.1, 700)[::-1] ** 1.1  # columns differ in width
    bright = true_flux(truth, spectrum_of(wavelength))
    assert bright.attrs == {"units": "Jy", "source": "bright"}
    inside = np.isfinite(bright.values)
    assert wavelength[inside].min() > 1.0
    assert wavelength[inside].max() < 4.0
    np.testing.assert_allclose(bright[inside], 4e-6 / wavelength[inside], rtol=1e-4)
    faint = true_flux(truth, spectrum_of(wavelength, SRCALIAS="faint"))
    width = np.abs(np.gradient(wavelength))
    light = ((faint - 2e-6 / wavelength) * width)[inside]
    assert abs(light.sum() / Spectrum.line_integral(LINE) - 1) < 1e-3
    assert abs((light * wavelength[inside]).sum() / light.sum() - LINE.wavelength) < 1e-3


def test_what_has_no_truth_is_refused_by_name(truth, tmp_path):
    wavelength = np.linspace(1.1, 2.0, 20)
    with pytest.raises(ParameterError, match="it has no source 'nobody'; known: bright, faint, sky"):
        true_flux(truth, spectrum_of(wavelength), source="nobody")
    with pytest.raises(ParameterError, match="slit 'S1600A1': the truth has no point in it"):
        true_flux(truth, spectrum_of(wavelength, SLTNAME="S1600A1"))
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "bands.fits")
    with pytest.raises(ParameterError, match="it has no SPECTRA"):
        true_flux(tmp_path / "bands.fits", spectrum_of(wavelength))
