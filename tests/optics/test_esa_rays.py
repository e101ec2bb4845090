"""The light path against rays that ESA's own model of NIRSpec traced, plane by plane, with ground references.

The four tables in ``esa_rays`` are from spacetelescope/jwst, ``jwst/assign_wcs/tests/data/*_functional_ESA_*.txt``,
licence BSD-3 (Copyright 2020 Association of Universities for Research in Astronomy). Each has five rays of one slit,
for G395H or PRISM.
"""

import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from nsxr.kernels.optics.stages import apply_affine, camera_angles, distort, emerging_angle, unit_vector, wavelength_at
from nsxr.references.optics import open_optics
from tests.optics.exposures import make_rates

RAYS = Path(__file__).parent / "esa_rays"
SHARED = {
    "fpa": "fpa_0005",
    "camera": "camera_0004",
    "collimator": "collimator_0004",
    "ote": "ote_0005",
    "ifufore": "ifufore_0003",
    "ifuslicer": "ifuslicer_0003",
    "ifupost": "ifupost_0004",
    "wavelengthrange": "wavelengthrange_0004",
}
WHEEL = {"GWA_XTIL": 0.35986012, "GWA_YTIL": 0.13448857, "GWA_TILT": 37.1}
AT_REST = {"GWA_XTIL": 0.323275774717, "GWA_YTIL": 0.1448970586, "GWA_TILT": 37.1}
"""Readings for which the angles of the grating are those of its reference: that of G395H."""

WHEELS = {"shutter": AT_REST, "fixed_slit": {"GWA_XTIL": 0.3316612243652344, "GWA_YTIL": 0.1260581910610199}}
"""Readings that ESA used for the other tables."""

DISPERSER = {"G395H": "disperser_0035", "PRISM": "disperser_0034", "G140M": "disperser_0032"}
FORE = {"G395H": "fore_0022", "PRISM": "fore_0028", "G140M": "fore_0023"}


def rays(name):
    return np.genfromtxt(RAYS / f"{name}.txt", names=True, dtype=None, encoding="utf-8", comments="%", deletechars="#")


def ground_optics(real_data, grating, detector="NRS1", **header):
    every = {"VELOSYS": 0.0, "VA_SCALE": 1.0} | WHEEL | header
    return read_once(real_data, grating, detector, tuple(sorted(every.items())))


@cache
def read_once(real_data, grating, detector, header):
    names = SHARED | {"disperser": DISPERSER[grating], "fore": FORE[grating]}
    paths = {kind: real_data / "crds_refs" / f"jwst_nirspec_{name}.asdf" for kind, name in names.items()}
    return open_optics(paths, make_rates("IFU", grating, detector, **dict(header)))


def each(function, *columns):
    """Return the results of a function of one ray for columns of rays."""
    return list(np.array([function(*ray) for ray in zip(*columns, strict=True)]).T)


def close(found, expected, scale=1.0, digits=1e-12):
    np.testing.assert_allclose(found, expected, rtol=0, atol=digits * scale)


@pytest.mark.parametrize("name", ["fixed_slit", "shutter", "slice_grating", "slice_prism"])
def test_every_plane_between_slit_and_pixels(real_data, name):
    ray, grating = rays(name), "PRISM" if name == "slice_prism" else "G395H"
    path = ground_optics(real_data, grating, **WHEELS.get(name, WHEEL)).path
    disperser = path.disperser
    if "slice" not in name:  # the slicer's light depends on the wavelength, see the next test
        collimator = path.collimator.backward.numbers
        found = each(lambda x, y: distort(collimator, x, y, 0.0), ray["xmsapos"], ray["ymaspos"])
        close(found, [ray["xcoll"], ray["ycoll"]])
    found = each(lambda x, y: unit_vector(disperser.rotation, x, y), ray["xcoll"], ray["ycoll"])
    close(found, [ray["xdispIn"], ray["ydispIn"]])
    index = disperser.refractive_index(ray["wavelength"]) if disperser.is_prism else ray["wavelength"]
    law = (disperser.numbers, ray["xdispIn"], ray["ydispIn"], ray["wavelength"], index)
    close([emerging_angle(law[0], *one) for one in zip(*law[1:], strict=True)], ray["xdispLaw"])
    close(-ray["ydispIn"], ray["ydispLaw"])
    angles = (ray["xdispIn"], ray["ydispIn"], ray["xdispLaw"])
    if not disperser.is_prism:
        back = [wavelength_at(disperser.numbers, *one) for one in zip(*angles, strict=True)]
        close(back, ray["wavelength"], scale=1e-6)
    found = each(lambda a, b: camera_angles(disperser.rotation, a, b), ray["xdispLaw"], ray["ydispLaw"])
    close(found, [ray["xcamCosi"], ray["ycamCosi"]])
    camera = path.camera.backward.numbers
    found = each(lambda x, y: distort(camera, x, y, 0.0), ray["xcamCosi"], ray["ycamCosi"])
    close(found, [ray["xfpapos"], ray["yfpapos"]], scale=0.04)


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_pixels_of_both_detectors(real_data, detector):
    for name in ("fixed_slit", "shutter", "slice_grating", "slice_prism"):
        ray = rays(name)
        ray = ray[ray["SCA"] == {"NRS1": "SCA491", "NRS2": "SCA492"}[detector]]
        plane = ground_optics(real_data, "G395H", detector).path.focal_plane
        own = each(lambda x, y, map=plane.inverse: apply_affine(map, x, y), ray["xfpapos"], ray["yfpapos"])
        if ray.size:
            close([own[0] + 1, own[1] + 1], [ray["i"], ray["j"]], scale=2048)  # the table counts from 1
            science = each(lambda x, y, map=plane.to_pixels: apply_affine(map, x, y), ray["xfpapos"], ray["yfpapos"])
            expected = [ray["i"] - 1, ray["j"] - 1]
            close(science, expected if detector == "NRS1" else [2047 - one for one in expected], scale=2048)


@pytest.mark.parametrize("name", ["fixed_slit", "shutter"])
def test_fore_optics_and_telescope(real_data, name):
    ray, path = rays(name), ground_optics(real_data, "G395H").path
    place = (ray["xmsapos"], ray["ymaspos"], ray["wavelength"] * 1e6)
    close(path.outwards(None, 1, *place), [ray["xOTEIP"], ray["yOTEIP"]], scale=0.1)
    close(np.divide(path.outwards(None, 2, *place), 3600), [ray["xV2V3"], ray["yV2V3"]], scale=0.1)


@pytest.mark.parametrize(("name", "grating"), [("slice_grating", "G395H"), ("slice_prism", "PRISM")])
def test_a_slice_from_slit_to_sky_and_to_the_wheel(real_data, name, grating):
    ray, optics = rays(name), ground_optics(real_data, grating).for_slit("0")
    place = (0.0, ray["yslitpos"], ray["wavelength"] * 1e6)
    close(np.divide(optics.slit_to_v2v3(*place), 3600), [ray["xV2V3"], ray["yV2V3"]], scale=0.1)
    # coefficients of the slicer reach 2e16: double precision ends at 1e-10
    close(optics.to_wheel(*place), [ray["xdispIn"], ray["ydispIn"]], digits=5e-11)
    column, row = optics.inverse(*place[1:])
    own = ray["SCA"] == "SCA491"
    close([column[own] + 1, row[own] + 1], [ray["i"][own], ray["j"][own]], digits=1e-6)


def test_wavelengths_of_a_real_exposure_of_a_lamp(real_data):
    """ESA's extraction of slice 0, with the wavelength of its own model for each pixel."""
    name = "Trace_IFU_Slice_00_SMOS-MOD-G1M-17-5344175105_30192_JLAB88.fits"
    wheel = {"GWA_XTIL": 0.3318742513656616, "GWA_YTIL": 0.1258982867002487}
    optics = ground_optics(real_data, "G140M", FILTER="OPAQUE", LAMP="N/A", **wheel)
    assert not optics.has_sky
    with fits.open(real_data / "esa_truth" / name) as hdus, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        slit_y, wavelength, world = hdus["SLITY1"].data, hdus["LAMBDA1"].data, WCS(hdus["SLITY1"].header)
        row, column = np.nonzero(np.abs(slit_y) < 0.5)
        expected_y, expected = slit_y[row, column], wavelength[row, column].astype(float)
        x, y = world.wcs_pix2world(column, row, 0)
    found = optics.forward(x - 1, y - 1, "0")
    assert row.size > 40_000
    assert found.ra is None
    close(found.wavelength * 1e-6, expected, digits=7e-14)  # m, half of the last digit of float32 in the file
    np.testing.assert_allclose(found.slit_y, expected_y, rtol=0, atol=1e-7)


def test_the_tilt_of_the_wheel_turns_the_grating(real_data):
    """Numbers of an example by ESA: half of the change of the sensor's polynomial, in arcsec."""
    at_rest = ground_optics(real_data, "G395H", **AT_REST).path.disperser
    tilted = ground_optics(real_data, "G395H").path.disperser
    assert at_rest.theta_y == -0.03089246914388889
    change = 0.5 * -8196.032 * (0.35986012 - 0.323275774717) / 3600
    assert tilted.theta_y - at_rest.theta_y == pytest.approx(change, rel=1e-12)
    assert tilted.theta_x == at_rest.theta_x
