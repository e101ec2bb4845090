"""Spectra of points beside the middle of a slit get the wavelengths that the references say."""

from contextlib import nullcontext

import numpy as np
import pytest
import xarray as xr
from scipy.interpolate import RegularGridInterpolator

import nsxr
from nsxr.errors import DegradedResultWarning, ModelError
from nsxr.optics.parts import shutter_id
from nsxr.testing.assertions import forbid_computes
from tests.optics.exposures import make_rates, optics_of

BLUE, STEP, TILT = 1.0, 0.005, 0.4  # um, um a column, columns a row


def make_slit(**attrs: object) -> xr.Dataset:
    row, column = np.arange(100, 106), np.arange(50, 90)
    lam = BLUE + STEP * (column + TILT * (row[:, None] - 100) - 50)
    lam = np.where((lam > 1.005) & (lam < 1.19), lam, np.nan).astype(np.float32)
    variables = {
        "sci": (("row", "column"), np.ones_like(lam), {"units": "DN/s"}),
        "wavelength": (("row", "column"), lam, {"units": "um"}),
    }
    header = {"EXP_TYPE": "NRS_MSASPEC", "SRCTYPE": "POINT", "SRCXPOS": 0.25, "SLTNAME": "30", **attrs}
    return xr.Dataset(variables, {"row": row, "column": column}, header)


def make_reference(offset=None, name="MOS", beyond="line") -> xr.Dataset:
    lam, x = np.linspace(0.6, 5.3, 8), np.linspace(-0.5, 0.5, 11)
    values = np.broadcast_to(0.8 * x, (8, 11)) if offset is None else offset(lam[:, None], x[None, :])
    dims = (f"wavelength_{name}", f"x_{name}")
    table = xr.DataArray(np.array(values), {dims[0]: lam, dims[1]: x}, dims)
    attrs = {"reference_type": "wavecorr", "filename": f"{name}.asdf", "beyond": beyond}
    return xr.Dataset({f"offset_{name}": table}, attrs=attrs)


def test_a_constant_dispersion_moves_by_whole_pixels():
    slit = make_slit()
    found = nsxr.correct_wavelength_zero_point(slit, make_reference())
    expected = slit["wavelength"] + 0.8 * 0.25 * STEP
    np.testing.assert_allclose(found["wavelength"], expected, atol=3e-7)
    np.testing.assert_array_equal(found["wavelength_uncorrected"], slit["wavelength"])
    assert found["wavelength"].dtype == np.float32
    assert found["wavelength"].attrs["units"] == found["wavelength_uncorrected"].attrs["units"] == "um"
    assert "wavelength_uncorrected" not in slit
    assert found.attrs["WAVECOR"] == 1  # as the observatory's pipeline says it


def test_the_peers_formula_in_other_words():
    def offset(lam, x):
        return x + 0.1 * lam * x + 0.2 * lam

    slit, reference = make_slit(), make_reference(offset)
    found = nsxr.correct_wavelength_zero_point(slit, reference)["wavelength"]
    table = reference["offset_MOS"]
    at = RegularGridInterpolator([table[dim].to_numpy() for dim in table.dims], table.to_numpy())
    lam = slit["wavelength"].to_numpy().astype(float)
    has = np.isfinite(lam).any(axis=0)
    mean = np.nanmean(lam[:, has], axis=0)
    moved = mean + at(np.stack([mean, np.full_like(mean, 0.25)], axis=1)) * STEP
    inside = np.isfinite(lam) & (lam >= mean[0]) & (lam <= mean[-1])
    np.testing.assert_allclose(found.to_numpy()[inside], np.interp(lam[inside], mean, moved), atol=1e-6)
    assert np.isfinite(found.to_numpy()).sum() == np.isfinite(lam).sum()


def test_a_dispersion_that_changes_is_that_of_each_pixel():
    """The peer takes the wavelengths half a pixel before and after the middle of each pixel, at the ends too."""

    def lam(column):
        u = (column - 70) / 20
        return 1.0 + 0.1 * u + 0.02 * u**2 + 0.03 * u**3

    slit = make_slit()
    column = slit["column"].to_numpy().astype(float)
    slit["wavelength"] = slit["wavelength"].copy(data=np.tile(lam(column), (6, 1)).astype(np.float32))
    found = nsxr.correct_wavelength_zero_point(slit, make_reference())["wavelength"]
    expected = lam(column) + 0.8 * 0.25 * (lam(column + 0.5) - lam(column - 0.5))
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=2.5e-7)


@pytest.mark.parametrize(("quadrant", "i", "j"), [(1, 30, 30), (4, 335, 140)])
def test_shifts_are_those_of_the_shutter_itself(quadrant, i, j):
    """A table that holds in the middle of the MSA, and a slit whose light passes at one place of its width."""
    optics = optics_of(make_rates("MSASPEC", "PRISM", rows=(0, 10)))
    table, x = make_reference()["offset_MOS"], 0.4
    lam, offset = (table[dim].to_numpy() for dim in table.dims)
    quad, shutter = optics.quadrant(quadrant), optics.shutter(quadrant, shutter_id(i, j))
    pitch = float(quad.x[1] - quad.x[0])  # m
    middle, _ = optics.msa_to_detector(offset * pitch, 0.0, lam[:, None])
    reference = make_reference(lambda *_: middle[:, 5:6] - middle)
    slit = make_slit(SRCXPOS=x, MSAQUAD=quadrant, XCEN=i, YCEN=j)
    nodes = np.linspace(1.3, 4.0, 200)
    there, _ = optics.inverse(0.0, nodes, shutter)
    column = np.arange(np.ceil(there.min()), there.max())
    at = np.argsort(there)
    values = np.interp(column, there[at], nodes[at])
    slit = slit.isel(column=[0] * column.size).assign_coords(column=column)
    slit["wavelength"] = slit["wavelength"].copy(data=np.tile(values.astype(np.float32), (slit.sizes["row"], 1)))
    moved, _ = optics.inverse(0.0, nodes, shutter, slit_x=x * pitch / shutter.width)
    truth = np.interp(column, moved[at], nodes[at])
    pixel = np.gradient(values)
    errors = {}
    for name, given in (("with", {"optics": optics}), ("without", {})):
        found = nsxr.correct_wavelength_zero_point(slit, reference, **given)["wavelength"][0].to_numpy()
        errors[name] = np.abs((found - truth) / pixel)[5:-5].max()
    assert errors["with"] < 0.005  # the table has 8 wavelengths
    assert errors["without"] > 0.02


def test_two_references_add_up():
    slit, one = make_slit(), make_reference()
    twice = nsxr.correct_wavelength_zero_point(slit, one, added=make_reference(beyond="hold"))["wavelength"]
    np.testing.assert_allclose(twice, slit["wavelength"] + 2 * 0.8 * 0.25 * STEP, atol=3e-7)


@pytest.mark.parametrize(("beyond", "shift"), [("line", 0.8 * 0.7), ("hold", 0.8 * 0.5)])
def test_sources_beyond_the_table(beyond, shift):
    found = nsxr.correct_wavelength_zero_point(make_slit(SRCXPOS=0.7), make_reference(beyond=beyond))
    np.testing.assert_allclose(
        found["wavelength"] - make_slit()["wavelength"], shift * STEP + 0 * found["wavelength"], atol=3e-7
    )


@pytest.mark.parametrize(
    ("attrs", "reason"),
    [
        ({"SRCTYPE": "EXTENDED"}, "not a point"),
        ({"SRCTYPE": None}, "not a point"),
        ({"SRCXPOS": None}, "not known"),
        ({"SRCXPOS": -1.2}, "outside of the slit"),
        ({"EXP_TYPE": "NRS_FIXEDSLIT", "SLTNAME": "S400A1"}, "aperture S400A1"),
        ({"MSAQUAD": 5, "SLTNAME": "S200A1"}, "aperture S200A1"),
    ],
)
def test_slits_that_are_skipped_say_why(attrs, reason):
    slit = make_slit(**attrs)
    is_degraded = reason.startswith("aperture")
    with pytest.warns(DegradedResultWarning, match=f"no reference has the {reason}") if is_degraded else nullcontext():
        found = nsxr.correct_wavelength_zero_point(slit, make_reference())
    xr.testing.assert_equal(found, slit)
    assert reason in found.attrs["nsxr_steps"]
    assert found.attrs["WAVECOR"] == 0


def test_a_slit_of_one_column_is_skipped():
    slit = make_slit().isel(column=[20])
    found = nsxr.correct_wavelength_zero_point(slit, make_reference())
    xr.testing.assert_equal(found, slit)
    assert "the slit has one column" in found.attrs["nsxr_steps"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (make_slit(), "the reference has sci, wavelength, expected offset_NAME for each aperture"),
        (make_reference(lambda lam, x: np.where(x > 0, np.nan, lam)), "offset_MOS of the reference is no table of"),
        (make_reference().isel(x_MOS=[0]), "offset_MOS of the reference is no table of"),
    ],
)
def test_references_without_tables_are_refused(reference, message):
    for slit in (make_slit(), make_slit(SRCTYPE="EXTENDED")):
        with pytest.raises(ModelError, match=message):
            nsxr.correct_wavelength_zero_point(slit, reference)
        with pytest.raises(ModelError, match=message):
            nsxr.correct_wavelength_zero_point(slit, make_reference(), added=reference)


def test_fixed_slits_have_their_own_tables():
    slit = make_slit(EXP_TYPE="NRS_BRIGHTOBJ", SLTNAME="S1600A1", SRCXPOS=-0.1)
    found = nsxr.correct_wavelength_zero_point(slit, make_reference(name="S1600A1"))
    np.testing.assert_allclose(found["wavelength"], slit["wavelength"] - 0.08 * STEP, atol=3e-7)


def test_wavelengths_that_would_not_increase_stay():
    jump = make_reference(lambda lam, x: np.where(lam > 1.0, -200.0, 200.0) + 0 * x)
    slit = make_slit()
    found = nsxr.correct_wavelength_zero_point(slit, jump)
    np.testing.assert_array_equal(found["wavelength"], slit["wavelength"])
    np.testing.assert_array_equal(found["wavelength_uncorrected"], slit["wavelength"])


@pytest.mark.parametrize("chunks", [{"row": 1}, {"column": 7}, {"row": 4, "column": 13}])
def test_lazy_and_the_same_for_every_chunking(chunks):
    slit, reference = make_slit(), make_reference()
    with forbid_computes():
        lazy = nsxr.correct_wavelength_zero_point(slit.chunk(chunks), reference)
    expected = nsxr.correct_wavelength_zero_point(slit, reference)
    np.testing.assert_array_equal(lazy["wavelength"].compute(), expected["wavelength"])


def test_twice_is_an_error():
    once = nsxr.correct_wavelength_zero_point(make_slit(), make_reference())
    with pytest.raises(ModelError, match="before"):
        nsxr.correct_wavelength_zero_point(once, make_reference())
