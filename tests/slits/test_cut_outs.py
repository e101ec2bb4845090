"""Cut-outs keep the pixels of the frame under their labels, and know what the optics know."""

import pickle

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import nsxr
from nsxr.errors import InputFileError, ModelError, ParameterError
from nsxr.model.dq import OUTSIDE
from nsxr.testing.assertions import forbid_computes
from tests.optics.exposures import make_rates, optics_of
from tests.products.metafiles import write_metafile

ALL = ("wavelength", "slit_y", "ra", "dec")


@pytest.fixture(scope="module")
def fixed():
    rates = make_rates("FIXEDSLIT", "PRISM", rows=(900, 1150), FXD_SLIT="S200A1")
    return rates, optics_of(rates)


@pytest.fixture(scope="module")
def slices():
    return optics_of(make_rates("IFU", "PRISM", rows=(900, 1150)))


def test_fixed_slits_with_their_labels_and_numbers(fixed):
    rates, optics = fixed
    slits = nsxr.cut_slits(rates, optics)
    assert [*slits.children] == ["S200A1", "S200A2", "S400A1", "S1600A1"]  # the light of S200B1 falls on NRS2
    assert [node.attrs["SOURCEID"] for node in slits.children.values()] == [1, 12, 13, 14]
    assert [node.attrs["SLITID"] for node in slits.children.values()] == [-101, -102, -103, -104]
    one = slits["S200A1"].to_dataset()
    inside = np.isfinite(one["wavelength"])
    expected = 1000.0 * one["row"] + one["column"]
    np.testing.assert_array_equal(one["sci"].where(inside), expected.where(inside))
    for name in ("sci", "var_poisson", "var_rnoise"):
        np.testing.assert_array_equal(np.isnan(one[name]), ~inside)
    np.testing.assert_array_equal(one["dq"], np.where(inside, 4, 4 | OUTSIDE))
    assert one.attrs["SLTSTRT1"] == int(one["column"][0]) + 1
    assert one.attrs["SLTSTRT2"] == int(one["row"][0]) - 900 + 1


def test_coordinates_are_those_of_the_optics(fixed):
    rates, optics = fixed
    one = nsxr.cut_slits(rates, optics, slits=["S200A2"], coordinates=ALL)["S200A2"].to_dataset()
    column, row = np.meshgrid(one["column"], one["row"])
    seen = optics.forward(column, row, "S200A2")
    inside = np.isfinite(one["wavelength"].to_numpy())
    assert inside.mean() > 0.5
    np.testing.assert_array_equal(inside, np.isfinite(seen.wavelength))
    np.testing.assert_array_equal(one["wavelength"], seen.wavelength.astype(np.float32))
    np.testing.assert_array_equal(one["slit_y"], seen.slit_y.astype(np.float32))
    np.testing.assert_array_equal(one["ra"], seen.ra)
    np.testing.assert_array_equal(one["dec"], seen.dec)
    assert {name: one[name].dtype for name in ALL} == dict(zip(ALL, ["f4", "f4", "f8", "f8"], strict=True))
    assert one["wavelength"].attrs["units"] == "um"
    assert one["ra"].attrs["units"] == "degree"


def test_the_box_holds_all_light_of_the_slit(fixed):
    rates, optics = fixed
    box = nsxr.cut_slits(rates, optics, slits=["S400A1"])["S400A1"]
    row, column = np.arange(900, 1150), np.arange(0, 2048)
    seen = optics.forward(column[np.newaxis], row[:, np.newaxis], "S400A1", sky=False)
    low, high = optics.wavelength_range
    rows, columns = np.nonzero((seen.wavelength >= low) & (seen.wavelength <= high))
    assert box["row"][0] <= row[rows.min()]
    assert box["row"][-1] >= row[rows.max()]
    assert box["column"][0] <= column[columns.min()]
    assert box["column"][-1] >= column[columns.max()]
    assert box.sizes["column"] < np.ptp(columns) + 30  # not much more than the light


@pytest.mark.parametrize("chunks", [{"row": 7}, {"row": -1, "column": 300}, {"integration": 1, "row": 40}])
def test_lazy_and_the_same_for_all_chunks(fixed, chunks):
    rates, optics = fixed
    rates = xr.concat([rates, rates], "integration", data_vars="all")
    expected = nsxr.cut_slits(rates, optics, slits=["S200A1"], coordinates=ALL)["S200A1"].to_dataset()
    before = rates.copy(deep=True)
    with forbid_computes():
        lazy = nsxr.cut_slits(rates.chunk(chunks), optics, slits=["S200A1"], coordinates=ALL)["S200A1"].to_dataset()
    assert all(lazy[name].chunks is not None for name in ("sci", "dq", *ALL))
    xr.testing.assert_identical(lazy.compute(), expected)
    xr.testing.assert_identical(rates, before)
    assert len(pickle.dumps(optics.for_slit("S200A1"))) < 50_000


@pytest.mark.parametrize(("detector", "n"), [("NRS1", 1), ("NRS2", 1)])
def test_time_series_show_the_square_slit(detector, n):
    rates = make_rates("BRIGHTOBJ", "G395H", detector, rows=(962, 994), SUBARRAY="SUB2048")
    slits = nsxr.cut_slits(rates, optics_of(rates))
    assert [*slits.children] == ["S1600A1"]
    assert slits["S1600A1"]["row"][0] >= 962
    wavelength = slits["S1600A1"]["wavelength"]
    assert (wavelength.diff("column") > 0).sum() == np.isfinite(wavelength.diff("column")).sum()


def test_longer_wavelengths_on_request():
    rates = make_rates("FIXEDSLIT", "G395M", "NRS2", rows=(880, 960))
    optics = optics_of(rates)
    nominal = nsxr.cut_slits(rates, optics, slits=["S200B1"])["S200B1"]["wavelength"]
    extended = nsxr.cut_slits(rates, optics, slits=["S200B1"], extended=True)["S200B1"]["wavelength"]
    assert float(nominal.max()) < 5.35
    assert float(extended.max()) > 5.5
    part = nsxr.cut_slits(rates, optics, slits=["S200B1"], wavelength_range=(3.0, 3.5))["S200B1"]["wavelength"]
    assert part.sizes["column"] < 0.4 * nominal.sizes["column"]


def test_no_pixel_is_lost_in_a_wide_range():
    rates = make_rates("FIXEDSLIT", "G395H", rows=(1040, 1120))
    optics = optics_of(rates)
    nominal = nsxr.cut_slits(rates, optics, slits=["S200A1"])["S200A1"]["wavelength"]
    wide = nsxr.cut_slits(rates, optics, slits=["S200A1"], wavelength_range=(0.6, 1000.0))["S200A1"]["wavelength"]
    xr.testing.assert_equal(wide.sel(nominal.coords), nominal)


def test_slitlets_of_a_metafile(tmp_path):
    path = write_metafile(tmp_path / "jw_msa.fits")
    rates = make_rates("MSASPEC", "PRISM", rows=(0, 2048), columns=(0, 2048))
    slits = nsxr.cut_slits(rates, optics_of(rates), shutters=path)
    assert [*slits.children] == ["1", "2"]
    first, second = (slits[name].attrs for name in ("1", "2"))
    assert (first["SOURCEID"], first["SRCNAME"], first["SHUTSTA"], first["STLARITY"]) == (5, "2736_5", "1x1", 0.9)
    np.testing.assert_allclose((first["SRCXPOS"], first["SRCYPOS"]), (-0.2, 0.1), atol=1e-6)
    assert (second["SOURCEID"], second["SRCNAME"]) == (2, "2736_BKG2")
    table = nsxr.list_slits(rates, optics_of(rates), shutters=path)
    assert table["slit"].to_numpy().tolist() == ["1", "2"]
    assert table["source_id"].to_numpy().tolist() == [5, 0]
    assert (table["wavelength_low"] < table["wavelength_high"]).all()
    sky = table.sel(slit="1")
    assert np.isfinite(sky["source_ra"])
    assert np.isnan(table.sel(slit="2")["source_ra"])
    np.testing.assert_allclose((sky["ra"], sky["dec"]), (53.1, -27.8), atol=0.1)


def test_slits_of_a_source(tmp_path):
    path = write_metafile(tmp_path / "jw_msa.fits")
    rates = make_rates("MSASPEC", "PRISM", rows=(0, 2048), columns=(0, 2048))
    optics = optics_of(rates)
    for sources in (["2736_5"], [5], ["5"]):
        assert [*nsxr.cut_slits(rates, optics, shutters=path, sources=sources).children] == ["1"]
    with pytest.raises(ParameterError, match="sources 2736_6 are not in these slits, expected some of 2736_5"):
        nsxr.cut_slits(rates, optics, shutters=path, sources=["2736_6", 5])


def test_history_names_the_references(fixed):
    rates, optics = fixed
    one = nsxr.cut_slits(rates, optics, slits=["S200A1"], wavelength_range=(1.0, 2.0))["S200A1"]
    wcs, cut = one.nsxr.steps
    assert (wcs["step"], wcs["references"]) == ("assign_wcs", dict(optics.references))
    assert {"camera", "collimator", "disperser", "fore", "fpa", "msa", "ote", "wavelengthrange"} <= {*wcs["references"]}
    assert (cut["step"], cut["parameters"]) == ("extract_2d", {"extended": False, "wavelength_range": [1.0, 2.0]})
    assert "nsxr_steps" not in rates.attrs


def test_subarrays_cut_what_the_frame_cuts():
    frame = make_rates("FIXEDSLIT", "G395H", "NRS2", FXD_SLIT="S200A1")
    whole = nsxr.cut_slits(frame, optics_of(frame), slits=["S200A1"], coordinates=ALL)["S200A1"].to_dataset()
    first = int(whole["row"][5])  # the subarray misses some rows of the slit
    part = make_rates("FIXEDSLIT", "G395H", "NRS2", (first, first + 64), SUBARRAY="SUBS200A1", FXD_SLIT="S200A1")
    cut = nsxr.cut_slits(part, optics_of(part), coordinates=ALL)["S200A1"].to_dataset()
    assert (int(cut["row"][0]), cut.attrs["SLTSTRT2"]) == (first, 1)
    xr.testing.assert_equal(cut, whole.isel(row=slice(5, 5 + cut.sizes["row"])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rates: rates.isel(row=slice(None, None, -1)), "labels of 'row' go from 1149 to 1148"),
        (lambda rates: rates.isel(column=slice(0, None, 2)), "labels of 'column' go from 0 to 2"),
        (lambda rates: rates.isel(column=[3, 2, 4]), "labels of 'column' go from 3 to 2"),
        (lambda rates: rates.assign_coords(column=rates["column"].astype(str)), "labels of 'column' are"),
        (lambda rates: rates.isel(column=slice(0, 0)), "'column' is empty"),
        (lambda rates: rates.drop_vars("row"), "labels of 'row' are missing"),
    ],
)
def test_labels_must_be_those_of_neighbouring_pixels(fixed, slices, change, message):
    rates, optics = fixed
    wrong = change(rates)
    for function in (nsxr.cut_slits, nsxr.list_slits):
        with pytest.raises(ModelError, match=message):
            function(wrong, optics)
    with pytest.raises(ModelError, match=message):
        nsxr.locate_slices(wrong.assign_attrs(EXP_TYPE="NRS_IFU"), slices)


def test_what_cannot_be_cut_is_refused_before_pixels_are_read(fixed, tmp_path):
    rates, optics = fixed
    with pytest.raises(ParameterError, match="slits S300A1 are not known, expected some of S200A1"):
        nsxr.cut_slits(rates, optics, slits=["S300A1"])
    with pytest.raises(ParameterError, match="coordinates velocity are not known"):
        nsxr.cut_slits(rates, optics, coordinates=["velocity"])
    for wrong in ((3.0, 2.0), (1.0,), (2.0, 2.1, 2.2), (6.0, 7.0), (0.0, 0.2)):
        with pytest.raises(ParameterError, match=r"expected a lower and a higher wavelength within 0\.5 to 5\.6 um"):
            nsxr.cut_slits(rates, optics, wavelength_range=wrong)
    with pytest.raises(ParameterError, match="both choose wavelengths"):
        nsxr.cut_slits(rates, optics, wavelength_range=(1.0, 2.0), extended=True)
    for name in ("slits", "sources"):
        with pytest.raises(ParameterError, match=f"{name} is empty"):
            nsxr.cut_slits(rates, optics, **{name: []})
    with pytest.raises(ModelError, match="fixed slits need no MSA metafile"):
        nsxr.cut_slits(rates, optics, shutters="x_msa.fits")
    with pytest.raises(ModelError, match="none of 5 slits falls on the pixels of NRS1"):
        nsxr.cut_slits(make_rates("FIXEDSLIT", "PRISM", rows=(0, 50)), optics)
    with pytest.raises(ModelError, match="the optics are of another exposure, with DETECTOR 'NRS1' and not 'NRS2'"):
        nsxr.cut_slits(rates.assign_attrs(DETECTOR="NRS2"), optics)
    shutters = make_rates("MSASPEC", "PRISM", rows=(900, 1150), MSAMETFL="jw1_msa.fits")
    optics = optics_of(shutters)
    with pytest.raises(InputFileError, match=r"needs its MSA metafile; give shutters, jw1_msa\.fits"):
        nsxr.cut_slits(shutters, optics)
    with pytest.raises(InputFileError, match=r"other_msa\.fits: no such file"):
        nsxr.cut_slits(shutters, optics, shutters=tmp_path / "other_msa.fits")
    other = write_metafile(tmp_path / "jw1_msa.fits")
    fits.setval(other, "PROGRAM", value="01234")
    with pytest.raises(InputFileError, match=r"jw1_msa\.fits: is of programme 1234, .* of 2736; give the metafile"):
        nsxr.cut_slits(shutters, optics, shutters=other)
    slices = make_rates("IFU", "PRISM", rows=(900, 1150))
    with pytest.raises(ModelError, match=r"has slices, no slits; use nsxr\.locate_slices"):
        nsxr.cut_slits(slices, optics_of(slices))
    lamp = make_rates("LAMP", "PRISM", rows=(900, 1150), FILTER="OPAQUE", LAMP="LINE1", OPMODE="FIXEDSLIT")
    with pytest.raises(ModelError, match="EXP_TYPE is 'NRS_LAMP', expected NRS_MSASPEC"):
        nsxr.cut_slits(lamp, optics_of(lamp))
