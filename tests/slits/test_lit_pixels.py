"""Light of slits, shutters, slices and shutters that never close falls inside what the optics tell."""

import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import maximum_filter

import nsxr
from nsxr.errors import InputFileError, ModelError, ParameterError
from nsxr.simulate.instrument import SimulatedInstrument
from nsxr.simulate.sky import Sky
from nsxr.simulate.sky_scene import render_sky
from nsxr.simulate.spectra import PowerLaw, Spectrum
from nsxr.slits.selection import slits_of
from tests.optics.exposures import make_rates, optics_of
from tests.products.metafiles import write_metafile


@pytest.fixture(scope="module")
def metafile(tmp_path_factory):
    return write_metafile(tmp_path_factory.mktemp("msa") / "one_msa.fits")


def landed(optics, slit, wavelengths, ends=(-0.5, 0.5)):
    """Return the pixels that rays from all over a slit fall on."""
    rays = optics.for_slit(slit)
    along = np.linspace(*ends, 41)[:, np.newaxis]
    column, row = rays.inverse(along, np.linspace(*wavelengths, 4000), newton=True)
    return np.round(column).astype(int), np.round(row).astype(int)


def share_inside(light, column, row):
    """Return the share of rays that fall on pixels of an image on pixels that are marked, and their number."""
    rows, columns = light.indexes["row"], light.indexes["column"]
    there = (column >= columns[0]) & (column <= columns[-1]) & (row >= rows[0]) & (row <= rows[-1])
    return light.values[row[there] - rows[0], column[there] - columns[0]].mean(), there.sum()


@pytest.mark.parametrize(
    ("mode", "grating", "first"), [("MSASPEC", "PRISM", 850), ("FIXEDSLIT", "G395H", 850), ("IFU", "G395M", 1200)]
)
def test_simulated_light_is_covered_and_little_else(metafile, mode, grating, first):
    rates = make_rates(mode, grating, rows=(first, first + 250), columns=(1300, 1700))
    optics = optics_of(rates)
    shutters = metafile if mode == "MSASPEC" else None
    slits = [*optics.slits.values()]
    slits += slits_of(rates, optics, shutters) if shutters else []
    rows, columns = rates["row"].values, rates["column"].values
    sky = Sky((), Spectrum(PowerLaw(0.1, 2.0, 0.0)))
    rate = render_sky(sky, optics, slits, SimulatedInstrument.of(optics), (53.1, -27.8), rows, columns).rate
    light = nsxr.locate_light(rates, optics, shutters=shutters)
    lit = rate > 1e-3 * rate.max()
    assert 0.01 < lit.mean() < 0.9
    assert (lit & light.values).sum() >= 0.999 * lit.sum()
    near = maximum_filter(lit, (2 * 4 + 1, 2 * 40 + 1))
    assert (light.values & ~near).sum() < 0.1 * light.values.sum()


@pytest.mark.parametrize(
    ("detector", "slit", "wavelengths"),
    [
        ("NRS1", "S200A1", (0.97, 1.89)),
        ("NRS2", "S200A1", (2.0, 3.0)),  # beyond the nominal range
        ("NRS1", "S200B1", (0.0, 0.001)),  # the zeroth order
    ],
)
def test_light_of_all_orders_and_wavelengths(detector, slit, wavelengths):
    rates = make_rates("FIXEDSLIT", "G140M", detector)
    optics = optics_of(rates)
    light = nsxr.locate_light(rates, optics)
    share, number = share_inside(light, *landed(optics, slit, wavelengths))
    assert number > 1000
    assert share == 1


def test_filters_stop_shorter_wavelengths():
    rates = make_rates("FIXEDSLIT", "G140M", rows=(1000, 1120), columns=(300, 700))
    optics = optics_of(rates)
    light = nsxr.locate_light(rates, optics)
    share, number = share_inside(light, *landed(optics, "S200A1", (0.75, 0.9)))
    assert number > 1000
    assert share < 0.1


def test_stuck_shutters_and_the_fixed_slits_of_other_modes(metafile, tmp_path):
    path = tmp_path / "msaoper.json"
    states = {"state": "open", "TA state": "normal", "Internal state": "normal"}
    path.write_text(json.dumps({"msaoper": [{"Q": 3, "x": 120, "y": 100, **states}]}))
    msaoper = nsxr.open_operability(path)
    for mode, shutters in (("MSASPEC", metafile), ("IFU", None), ("FIXEDSLIT", None)):
        rates = make_rates(mode, "PRISM" if mode != "IFU" else "G395H")
        optics = optics_of(rates)
        stuck = optics.shutter(3, 120 + 365 * 99)
        place = landed(optics, stuck, optics.wavelength_range, (-0.45, 0.45))
        without = nsxr.locate_light(rates, optics, shutters=shutters)
        light = nsxr.locate_light(rates, optics, shutters=shutters, msaoper=msaoper)
        assert share_inside(light, *place)[0] == 1
        assert mode == "IFU" or share_inside(without, *place)[0] < 0.5  # slices may lie there too
        assert (light >= without).all()
        slits = optics_of(make_rates("FIXEDSLIT", rates.attrs["GRATING"]))
        for name in ("S200A1", "S1600A1"):
            assert share_inside(light, *landed(slits, name, optics.wavelength_range))[0] == 1


def test_rows_of_fixed_slits_without_an_msa_reference():
    rates = make_rates("IFU", "G395H", rows=(800, 1200), columns=(0, 50))
    optics = replace(optics_of(rates), quadrants=())
    assert nsxr.locate_light(rates, optics).sel(row=slice(922, 1115)).all()
    assert not nsxr.locate_light(rates, optics).sel(row=[921, 1116]).all()


def test_a_part_has_the_light_of_the_frame_and_irs2_rows_are_those_of_the_detector():
    rates = make_rates("IFU", "PRISM")
    optics = optics_of(rates)
    frame = nsxr.locate_light(rates, optics)
    assert 0.05 < float(frame.mean()) < 0.5
    part = nsxr.locate_light(rates.isel(row=slice(900, 1000), column=slice(300, 400)), optics)
    xr.testing.assert_equal(part, frame.sel(row=part["row"], column=part["column"]))
    raw = xr.Dataset({"sci": (("row", "column"), np.zeros((3200, 2048), "f4"))}, attrs=rates.attrs)
    raw = raw.assign_coords(row=np.arange(3200), column=np.arange(2048), science_row=("row", np.zeros(3200, int)))
    xr.testing.assert_equal(nsxr.locate_light(raw, optics), frame)


def test_bad_input(metafile):
    rates = make_rates("MSASPEC", "PRISM")
    optics = optics_of(rates)
    with pytest.raises(InputFileError, match="needs its MSA metafile"):
        nsxr.locate_light(rates, optics)
    with pytest.raises(ModelError, match="another exposure"):
        nsxr.locate_light(rates.assign_attrs(DETECTOR="NRS2"), optics, shutters=metafile)
    with pytest.raises(ParameterError, match="margin is -1"):
        nsxr.locate_light(rates, optics, shutters=metafile, margin=-1)
    ifu = make_rates("IFU", "PRISM")
    with pytest.raises(ModelError, match="needs no MSA metafile"):
        nsxr.locate_light(ifu, optics_of(ifu), shutters=metafile)
