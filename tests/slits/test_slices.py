"""Slices of the IFU: each pixel sees one slice or none, at the wavelength that the optics give."""

import numpy as np
import pytest
import xarray as xr

import nsxr
from nsxr.errors import ModelError, ParameterError
from nsxr.testing.assertions import forbid_computes
from tests.optics.exposures import make_rates, optics_of, references


@pytest.fixture(scope="module")
def located():
    rates = make_rates("IFU", "G395H", rows=(700, 1400), columns=(1000, 1200))
    optics = optics_of(rates)
    with forbid_computes():
        found = nsxr.locate_slices(rates, optics)
    return optics, found


def test_pixels_of_a_slice(located):
    optics, found = located
    assert found["slice"].chunks is not None
    assert found["slice"].dtype == np.uint8
    image = found.compute()
    for number in np.unique(image["slice"])[1:]:
        rows, columns = np.nonzero(image["slice"].to_numpy() == number)
        row, column = image["row"].to_numpy()[rows], image["column"].to_numpy()[columns]
        seen = optics.forward(column, row, str(number - 1))
        np.testing.assert_array_equal(image["wavelength"].to_numpy()[rows, columns], seen.wavelength.astype("f4"))
        np.testing.assert_array_equal(image["slit_y"].to_numpy()[rows, columns], seen.slit_y.astype("f4"))
        np.testing.assert_array_equal(image["ra"].to_numpy()[rows, columns], seen.ra)
        np.testing.assert_array_equal(image["dec"].to_numpy()[rows, columns], seen.dec)
    assert set(np.unique(image["slice"])) >= {1, 2, 3, 4, 5, 6}
    for name in ("wavelength", "slit_y", "ra", "dec"):
        np.testing.assert_array_equal(np.isnan(image[name]), image["slice"] == 0)


def test_each_coordinate_can_be_asked_for_alone(located):
    optics, found = located
    rates = make_rates("IFU", "G395H", rows=(700, 760), columns=(1000, 1010))
    for name in ("slit_y", "dec"):
        alone = nsxr.locate_slices(rates, optics, coordinates=[name])
        assert set(alone.data_vars) == {"slice", name}
        np.testing.assert_array_equal(alone[name], found[name].sel(row=alone["row"], column=alone["column"]))
    none = nsxr.locate_slices(rates, optics, coordinates=[])
    np.testing.assert_array_equal(none["slice"], found["slice"].sel(row=none["row"], column=none["column"]))


def test_lamps_see_no_sky():
    lamp = make_rates(
        "LAMP", "G395H", rows=(700, 760), columns=(1000, 1010), OPMODE="IFU", LAMP="LINE3", FILTER="OPAQUE"
    )
    files = {path.stem.split("_")[1]: path for path in references("G395H").iterdir()}
    located = nsxr.locate_slices(lamp, nsxr.open_optics(files, lamp)).compute()
    assert np.isfinite(located["wavelength"]).any()
    assert np.isnan(located["ra"]).all()


def test_a_slice_is_one_strip_of_the_sky(located):
    _, found = located
    image = found.compute()
    field = 3.2 / 3600  # 3 arcsec, and the corners
    assert float(np.ptp(image["dec"].to_numpy()[image["slice"] > 0])) < 1.5 * field
    one = image.where(image["slice"] == 3)
    assert (
        2.4
        < 3600 * float(np.hypot(one["dec"].max() - one["dec"].min(), 0.88 * (one["ra"].max() - one["ra"].min())))
        < 3.6
    )


def test_one_coordinate_is_that_of_all():
    rates = make_rates("IFU", "G395H", rows=(800, 880), columns=(1000, 1040))
    optics = optics_of(rates)
    everything = nsxr.locate_slices(rates, optics).compute()
    for name in ("wavelength", "slit_y", "ra", "dec"):
        one = nsxr.locate_slices(rates, optics, coordinates=[name]).compute()
        assert [*one.data_vars] == ["slice", name]
        xr.testing.assert_identical(one[name], everything[name])
    (entry,) = everything.nsxr.steps
    assert entry["step"] == "assign_wcs"
    assert {"camera", "ifuslicer", "ifupost", "disperser"} <= set(entry["references"])


def test_slices_go_on_for_some_columns_as_slits_do():
    rates = make_rates("IFU", "PRISM", rows=(760, 800))
    optics = optics_of(rates)
    image = nsxr.locate_slices(rates, optics, coordinates=["wavelength"]).compute()
    low, high = optics.wavelength_range
    inside = image.where(image["slice"] > 0)
    row = int(np.flatnonzero((image["slice"] > 0).sum("column") > 0)[5])
    wavelength = inside["wavelength"].isel(row=row).dropna("column").to_numpy()
    assert 8 <= (wavelength < low).sum() <= 18  # the box is straight, the slice is tilted
    assert 8 <= (wavelength > high).sum() <= 18  # the box is straight, the slice is tilted
    assert (np.diff(wavelength) > 0).all()


def test_no_slice_and_no_slit():
    rates = make_rates("IFU", "G395H", rows=(0, 30))
    with pytest.raises(ModelError, match="no slice falls on NRS1 with F290LP and G395H"):
        nsxr.locate_slices(rates, optics_of(rates))
    with pytest.raises(ParameterError, match="coordinates speed are not known"):
        nsxr.locate_slices(rates, optics_of(rates), coordinates=["speed"])
    fixed = make_rates("FIXEDSLIT", "G395H", rows=(0, 30))
    with pytest.raises(ModelError, match=r"expected NRS_IFU; use nsxr\.cut_slits"):
        nsxr.locate_slices(fixed, optics_of(fixed))
