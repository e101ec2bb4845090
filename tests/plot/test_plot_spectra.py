"""Quick look at an extraction: what is drawn is what was found."""

import numpy as np
import pytest
import xarray as xr

from nsxr.plot.spectra import plot_extraction, white_light
from nsxr.simulate import simulate_trace
from nsxr.spectra.extraction import extract_spectrum
from nsxr.spectra.trace_model import fit_trace_model


def axes_by_label(figure):
    return {axes.get_ylabel(): axes for axes in figure.axes if axes.get_ylabel()}


def test_single_exposure(tmp_path):
    slit, _ = simulate_trace(signal_to_noise=40.0, negative_nods=True, bad_pixels="clusters")
    model = fit_trace_model(slit)
    spectrum = extract_spectrum(slit, model)
    figure = plot_extraction(slit.chunk(), model.chunk(), spectrum.chunk())
    axes = axes_by_label(figure)
    lines = {line.get_label(): line for line in axes["detector row"].get_lines()}
    np.testing.assert_allclose(lines["trace"].get_ydata(), model["trace"])
    assert lines["planned"].get_ydata() == pytest.approx(float(model["position_planned"]))
    np.testing.assert_allclose(lines["aperture"].get_ydata(), model["trace"] - 3.0, atol=0.01)
    np.testing.assert_allclose(axes["coverage"].get_lines()[0].get_ydata(), spectrum["coverage"])
    of_flux = axes["flux [µJy]"]
    drawn = of_flux.get_lines()[0].get_ydata()
    good = (spectrum["dq"] == 0).values
    np.testing.assert_allclose(drawn[good], spectrum["flux"].values[good] * 1e6)
    assert np.isnan(drawn[~good]).all()
    flagged = next(line for line in of_flux.get_lines() if line.get_label() == "flagged")
    np.testing.assert_allclose(flagged.get_xdata(), spectrum["wavelength"].values[~good])
    band = np.concatenate([path.vertices[:, 1] for path in of_flux.collections[0].get_paths()])
    deviation = np.sqrt(sum(spectrum[f"flux_var_{part}"] for part in ("poisson", "rnoise", "flat")))
    highest = (spectrum["flux"] + deviation).where(spectrum["dq"] == 0).max()
    assert band.max() == pytest.approx(float(highest) * 1e6)
    assert any("wavelength [µm]" in a.get_xlabel() for a in figure.axes)
    texts = " ".join(text.get_text() for a in figure.axes for text in a.texts)
    assert f"row {float(model['position_fitted']):.3f}" in texts
    assert f"{(~good).sum()} of 420 columns flagged" in texts
    figure.savefig(tmp_path / "extract.png")
    assert (tmp_path / "extract.png").stat().st_size > 20000


def test_series():
    slit, _ = simulate_trace(signal_to_noise=60.0, integrations=12, depth=0.02, columns=100)
    model = fit_trace_model(slit)
    figure = plot_extraction(slit, model, extract_spectrum(slit, model))
    axes = axes_by_label(figure)["white light, relative"]
    time, curve = axes.containers[0].lines[0].get_data()
    np.testing.assert_allclose(np.diff(time), 0.024, rtol=1e-6)
    assert curve[4:8].mean() == pytest.approx(0.98, abs=0.01)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_white_light_of_a_source_and_of_a_subtracted_one(sign):
    ones = np.ones((3, 4))
    flux = sign * np.array([1.0, 2.0, 4.0])[:, np.newaxis] * ones
    dims = ("integration", "dispersion")
    variables = {
        "flux": flux,
        "flux_var_poisson": 3.0 * ones,
        "flux_var_rnoise": 6.0 * ones,
        "dq": np.zeros((3, 4), np.uint32),
    }
    series = xr.Dataset({name: (dims, values) for name, values in variables.items()})
    series["dq"][1, 0] = 1  # a wavelength that one integration lacks is left out of all
    total, error = white_light(series)
    np.testing.assert_allclose(total, [0.5, 1.0, 2.0])
    np.testing.assert_allclose(error, np.sqrt(27.0) / 6.0)


def test_nothing_to_see():
    slit, _ = simulate_trace(columns=64)
    slit = slit.assign(sci=slit["sci"] * np.float32(np.nan))
    model = fit_trace_model(slit)
    figure = plot_extraction(slit, model, extract_spectrum(slit, model))
    assert "no pixel can be used" in [text.get_text() for axes in figure.axes for text in axes.texts]
