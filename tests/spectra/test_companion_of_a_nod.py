"""A companion beside the negative trace of a subtracted nod, in a fixed slit whose background is not zero."""

import json

import numpy as np
import pytest
import xarray as xr

from nsxr.simulate import simulate_trace
from nsxr.spectra.extraction import extract_spectrum
from nsxr.spectra.trace_model import fit_trace_model

ROWS, HEIGHT, ELECTRON = 44, 32.0, 1e-15  # rows of the cut-out, of the slit; MJy
SHIFT = -7.6  # rows, of the nod that is subtracted


def light_of(offset: float) -> tuple[np.ndarray, xr.Dataset]:
    """Return the mean electrons of a source (row, column), and its truth."""
    _, truth = simulate_trace(bad_pixels="none", rows=ROWS, fwhm=1.3, signal_to_noise=70.0, offset=offset)
    return (truth["profile"] * truth["flux"]).values / 1e6 / ELECTRON, truth


def nods(distance: float, brightness: float, level: float) -> tuple[xr.Dataset, xr.Dataset]:
    """Return the difference of two nods of a source with a companion, plus a level [electron], and its truth."""
    random, here = np.random.default_rng(1), -SHIFT / 2

    def observed(place: float) -> np.ndarray:
        mean = light_of(place)[0] + brightness * light_of(place + distance)[0]
        return np.asarray(random.poisson(mean) + 8.0 * random.normal(size=mean.shape))

    first, second = observed(here), observed(here + SHIFT)
    _, truth = light_of(here)
    middle = light_of(0.0)[1]["trace"].values
    row, column = truth["row"].values, np.arange(first.shape[1])
    signal, photons = first - second + level, np.maximum(first, 0.0) + np.maximum(second, 0.0)
    images = {"sci": signal * ELECTRON, "var_poisson": photons * ELECTRON**2}
    images |= {"var_rnoise": np.full_like(signal, 2 * 64.0 * ELECTRON**2)}
    images |= {"wavelength": np.broadcast_to(0.6 + 4.6 * column / column.size, signal.shape)}
    images |= {"slit_y": (row[:, None] - middle) / HEIGHT}
    slit, _ = simulate_trace(bad_pixels="none", rows=ROWS)
    for name, values in images.items():
        slit[name] = (("row", "column"), values.astype(np.float32), slit[name].attrs if name in slit else {})
    slit["dq"] = xr.zeros_like(slit["dq"])
    slit.attrs |= {"EXP_TYPE": "NRS_FIXEDSLIT", "S_BKDSUB": "COMPLETE", "SLTNAME": "S200A1"}
    slit.attrs |= {"source_places": json.dumps([here / HEIGHT]), "nod_shifts": json.dumps([SHIFT / HEIGHT])}
    del slit.attrs["SHUTSTA"]
    return slit, truth


@pytest.mark.parametrize(("distance", "brightness"), [(-9.1, 0.14), (-9.3, 0.12), (-9.6, 0.5), (-10.6, 0.03)])
def test_companion_of_a_nod_is_not_background(distance: float, brightness: float) -> None:
    slit, truth = nods(distance, brightness, level=-50.0)
    model = fit_trace_model(slit)
    spectrum = extract_spectrum(slit, model)
    wanted = (truth["flux"] * (truth["profile"] * model["aperture"]).sum("row")).values
    error = np.sqrt(sum(spectrum[f"flux_var_{part}"].values for part in ("poisson", "rnoise", "flat")))
    assert int(model["background_terms"]) == 1
    assert float(spectrum["flux"].sum() / wanted.sum()) == pytest.approx(1.0, abs=0.006)
    assert np.sqrt(np.mean(((spectrum["flux"].values - wanted) / error) ** 2)) < 1.1


@pytest.mark.parametrize("level", [-60.0, -30.0, -20.0, 30.0])
def test_a_level_in_a_short_slit_is_no_row_of_companions(level: float) -> None:
    """A level of stage 1 differs from nod to nod. Without a level in the model, five companions would describe it."""
    rows = {"row": slice(12, 36)}
    slit, truth = (each.isel(rows) for each in nods(5.0, 0.0, level))
    model = fit_trace_model(slit)
    spectrum = extract_spectrum(slit, model)
    wanted = (truth["flux"] * (truth["profile"] * model["aperture"]).sum("row")).values
    assert int(model["background_terms"]) == 1
    assert float(spectrum["flux"].sum() / wanted.sum()) == pytest.approx(1.0, abs=0.006)
