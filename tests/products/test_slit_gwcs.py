"""The gwcs that is written with slits gives the wavelengths and places of the optics, in nsxr and in gwcs itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import nsxr
from nsxr.errors import InputFileError, ModelError
from nsxr.optics.instrument import Optics
from nsxr.products.slit_gwcs import slit_of_attributes
from nsxr.slits.collection import iterate_slits
from nsxr.slits.selection import slits_of
from nsxr.testing import forbid_computes
from tests.optics.exposures import make_rates, optics_of
from tests.products.metafiles import write_metafile


def same(one: np.ndarray, other: np.ndarray, within: float) -> None:
    np.testing.assert_allclose(one, other, rtol=0, atol=within)  # NaN at the same pixels


def grid_of(slit: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    row, column = np.meshgrid(slit["row"], slit["column"], indexing="ij")
    return column, row


def fixed_slits(**header: object) -> tuple[xr.Dataset, Optics, xr.DataTree]:
    rates = make_rates("FIXEDSLIT", **header)  # type: ignore[arg-type]
    optics = optics_of(rates)
    return rates, optics, nsxr.cut_slits(rates, optics)


@pytest.mark.parametrize(("grating", "detector"), [("PRISM", "NRS1"), ("G395H", "NRS2"), ("G140M", "NRS1")])
def test_optics_are_read_back(tmp_path: Path, grating: str, detector: str) -> None:
    _, optics, slits = fixed_slits(grating=grating, detector=detector)
    path = nsxr.write_slits(slits, tmp_path / "x_cal.fits", optics=optics)
    again = nsxr.open_optics(path)
    assert set(again.slits) == set(slits.children)
    assert again.order == optics.order == (0 if grating == "PRISM" else -1)
    for name, slit in iterate_slits(slits):
        ours, theirs = again.slits[name], optics.slits[name]
        assert ours.wavelength_range == pytest.approx(theirs.wavelength_range, abs=1e-9)
        assert replace(ours, wavelength_range=theirs.wavelength_range) == theirs
        column, row = grid_of(slit)
        ours, theirs = again.forward(column, row, name), optics.forward(column, row, name)
        for one, other, within in zip(ours, theirs, (1e-11, 1e-12, 1e-12, 1e-12), strict=True):
            same(one, other, within)
        wavelength = np.linspace(*optics.wavelength_range, 20)
        for one, other in zip(again.inverse(0.2, wavelength, name), optics.inverse(0.2, wavelength, name), strict=True):
            same(one, other, 1e-9)
    plain = nsxr.open_slits(path)
    with forbid_computes():
        assert all(set(slit.data_vars) >= {"sci", "wavelength"} for _, slit in iterate_slits(plain))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("grating", "detector"), [("PRISM", "NRS1"), ("G395H", "NRS2")])
def test_the_observatorys_models_open_it(tmp_path: Path, grating: str, detector: str) -> None:
    pytest.importorskip("gwcs")
    datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
    _, optics, slits = fixed_slits(grating=grating, detector=detector)
    path = nsxr.write_slits(slits, tmp_path / "x_cal.fits", optics=optics)
    with datamodels.open(path) as model:
        each = {slit.name: slit for slit in model.slits} if hasattr(model, "slits") else {model.name: model}
        assert set(each) == set(slits.children)
        for name, slit in iterate_slits(slits):
            wcs = each[name].meta.wcs
            first_column, first_row = int(slit["column"][0]), int(slit["row"][0])
            column, row = grid_of(slit)
            column, row = column[::4, ::16], row[::4, ::16]
            slit_y, wavelength, ra, dec = optics.forward(column, row, name)
            found = wcs(column - first_column, row - first_row)
            for one, other in zip((ra, dec, wavelength), found, strict=True):
                same(one, other, 1e-9)
            same(slit_y, wcs.get_transform("detector", "slit_frame")(column - first_column, row - first_row)[1], 1e-9)
            wavelength = np.linspace(*optics.wavelength_range, 20)
            back = wcs.get_transform("slit_frame", "detector")(0 * wavelength, 0.2 + 0 * wavelength, wavelength * 1e-6)
            for one, other, start in zip(
                optics.inverse(0.2, wavelength, name), back, (first_column, first_row), strict=True
            ):
                same(one, other + start, 1e-7)
            assert each[name].slit_ymin == optics.slits[name].slit_y_low


def test_a_product_serves_to_cut_its_slits_again(tmp_path: Path) -> None:
    rates, optics, slits = fixed_slits(grating="PRISM")
    again = nsxr.open_optics(nsxr.write_slits(slits, tmp_path / "x_cal.fits", optics=optics))
    cuts = nsxr.cut_slits(rates, again)
    assert "x_cal.fits" in cuts.attrs["nsxr_steps"]
    for name, slit in iterate_slits(slits):
        xr.testing.assert_equal(cuts[name].to_dataset(), slit)
    assert set(cuts.children) == set(slits.children) == {"S200A1", "S200A2", "S400A1", "S1600A1"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_lamps_end_at_the_plane_of_the_msa(tmp_path: Path) -> None:
    datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
    _, optics, slits = fixed_slits(grating="PRISM")
    optics = replace(optics, path=replace(optics.path, fore=None, telescope=None, pointing=None))  # as of a lamp
    path = nsxr.write_slits(slits, tmp_path / "x_cal.fits", optics=optics)
    again, slit = nsxr.open_optics(path), slits["S200A1"].to_dataset()
    assert not again.has_sky
    column, row = grid_of(slit)
    slit_y, wavelength, _, _ = optics.forward(column, row, "S200A1")
    same(again.forward(column, row, "S200A1").wavelength, wavelength, 1e-12)
    with datamodels.open(path) as model:
        wcs = next(one.meta.wcs for one in model.slits if one.name == "S200A1")
        x, y, found = wcs(column - slit["column"].values[0], row - slit["row"].values[0])
    same(found, wavelength, 1e-9)
    for one, other in zip(optics.slit_to_msa(0, slit_y, "S200A1"), (x, y), strict=True):
        same(one, other, 1e-12)


def test_a_gwcs_with_parts_that_optics_do_not_have_is_refused(tmp_path: Path) -> None:
    _, optics, slits = fixed_slits(grating="PRISM")
    path = nsxr.write_slits(slits["S200A1"].to_dataset(), tmp_path / "x_cal.fits", optics=optics)
    content = path.read_bytes()
    assert content.count(b'name: "velocity_correction') == 1
    path.write_bytes(content.replace(b'name: "velocity_correction', b'name: "some_factor_of_ours'))
    with pytest.raises(InputFileError, match=r"parts that these optics do not have: coordinates differ by 2.7e-05"):
        nsxr.open_optics(path)


def test_shared_optics_stand_in_the_file_once(tmp_path: Path) -> None:
    _, optics, slits = fixed_slits(grating="PRISM")
    one = xr.DataTree.from_dict({"S200A1": slits["S200A1"].to_dataset()})
    sizes = []
    for number, tree in enumerate((one, slits)):
        path = nsxr.write_slits(tree, tmp_path / f"x{number}_cal.fits", optics=optics)
        content = path.read_bytes()
        sizes.append(len(content) - content.rindex(b"XTENSION"))  # the last extension has the coordinates
    more = len(slits.children) - 1
    assert sizes[1] - sizes[0] < more * 30_000  # two tables of 8 kB and a few lines for each slit
    assert sizes[0] > 60_000


def test_slitlets_are_known_by_their_keywords(tmp_path: Path) -> None:
    rates = make_rates("MSASPEC", "PRISM", MSAMETID=1)
    optics, metafile = optics_of(rates), write_metafile(tmp_path / "x_msa.fits")
    slits = nsxr.cut_slits(rates, optics, shutters=metafile)
    wanted = {slit.name: slit for slit in slits_of(rates, optics, metafile)}
    for name, slit in iterate_slits(slits):
        found = slit_of_attributes(optics, slit.attrs)
        for field in ("name", "quadrant", "x", "y", "width", "height", "wavelength_range", "order"):
            assert getattr(found, field) == getattr(wanted[name], field)
        assert (found.slit_y_low, found.slit_y_high) == pytest.approx(
            (wanted[name].slit_y_low, wanted[name].slit_y_high)
        )
    again = nsxr.open_optics(nsxr.write_slits(slits, tmp_path / "x_cal.fits", optics=optics))
    for name, slit in iterate_slits(slits):
        column, row = grid_of(slit)
        for one, other in zip(again.forward(column, row, name), optics.forward(column, row, wanted[name]), strict=True):
            same(one, other, 1e-10)


def test_headers_say_what_the_exposure_and_the_slit_are(tmp_path: Path) -> None:
    rates = make_rates("MSASPEC", "PRISM", MSAMETID=1)
    header = fits.Header({"TDB-MID": 59950.25, "RA_V1": 83.1, "S_REGION": "POLYGON ICRS 1 2 3 4 5 6", "CRPIX1": 1024.0})
    header["SPORDER"] = 7
    rates = rates.assign_attrs(sci_header=header.tostring(sep="\n"))
    slits = nsxr.cut_slits(rates, optics_of(rates), shutters=write_metafile(tmp_path / "x_msa.fits"))
    with fits.open(nsxr.write_slits(slits, tmp_path / "x_cal.fits")) as file:
        for _, slit in iterate_slits(slits):
            (found,) = [hdu.header for hdu in file if hdu.header.get("SLTNAME") == slit.attrs["SLTNAME"]]
            keys = ("MSAQUAD", "SHUTTRID", "XCEN", "YCEN", "SPORDER", "SHUTSTA")
            assert {key: found[key] for key in keys} == {key: slit.attrs[key] for key in keys}
            assert (found["TDB-MID"], found["RA_V1"]) == (59950.25, 83.1)
            assert not {"S_REGION", "CRPIX1"} & set(found)
        assert not {"XCEN", "TDB-MID", "RA_V1", "SPORDER", "MSAQUAD"} & set(file[0].header)


def test_slits_that_optics_do_not_have_are_refused(tmp_path: Path) -> None:
    _, optics, slits = fixed_slits(grating="PRISM")
    slit = slits["S200A1"].to_dataset()
    with pytest.raises(ModelError, match=r"slit '77' is not one of these optics: found MSAQUAD 5"):
        nsxr.write_slits(slit.assign_attrs(SLTNAME="77"), tmp_path / "x_cal.fits", optics=optics)
    several = xr.DataTree.from_dict({"1": slit.assign_attrs(DATAMODL="MultiExposureModel"), "2": slit})
    with pytest.raises(ModelError, match="several exposures"):
        nsxr.write_slits(several, tmp_path / "x_cal.fits", optics=optics)
    assert not list(tmp_path.glob("*.fits"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("grating", "position"), [("PRISM", 0.4), ("G395H", -0.3)])
def test_corrected_wavelengths_have_a_frame_of_their_own(tmp_path: Path, grating: str, position: float) -> None:
    datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
    _, optics, slits = fixed_slits(grating=grating)
    wavelength, place = np.linspace(0.5, 5.5, 8), np.linspace(-0.5, 0.5, 5)
    table = xr.DataArray((0.7 + 0.05 * wavelength[:, None]) * place, [("wavelength", wavelength), ("x", place)])
    reference = xr.Dataset({"offset_S200A1": table}, attrs={"reference_type": "wavecorr", "filename": "a.asdf"})
    slit = slits["S200A1"].to_dataset().assign_attrs(SRCTYPE="POINT", SRCXPOS=position)
    slit = nsxr.correct_wavelength_zero_point(slit, reference).assign_attrs(DATAMODL="SlitModel")
    moved = slit["wavelength"] - slit["wavelength_uncorrected"]
    assert float(abs(moved).max()) > 1e-4
    with forbid_computes():
        path = nsxr.write_slits(slit, tmp_path / "x_cal.fits", optics=optics, progress=False)
    column, row = grid_of(slit)
    columns, rows = column - column[0, 0], row - row[0, 0]
    with datamodels.open(path, strict_validation=True) as model:
        assert model.meta.wcs.available_frames[3:5] == ["slit_frame", "wavecorr_frame"]
        found = model.meta.wcs(columns, rows, with_bounding_box=False)[2]
        before = model.meta.wcs.get_transform("detector", "slit_frame")(columns, rows)[2] * 1e6
        back = model.meta.wcs.get_transform("wavecorr_frame", "slit_frame")(0.0, 0.0, 3.1e-6)[2]
        there = model.meta.wcs.get_transform("slit_frame", "wavecorr_frame")(0.0, 0.0, back)[2]
    same(found, slit["wavelength"].values, 1e-6)
    same(before, slit["wavelength_uncorrected"].values, 1e-6)
    assert there == pytest.approx(3.1e-6, abs=1e-12)
    again = nsxr.open_optics(path).forward(column, row, "S200A1")  # the optics know nothing of the source
    same(again.wavelength, slit["wavelength_uncorrected"].values, 1e-6)


@pytest.mark.parametrize("mode", ["FIXEDSLIT", "MSASPEC"])  # of shutters, all slits are padded in one group
def test_places_of_pixels_stay_coordinates_in_zarr(tmp_path: Path, mode: str) -> None:
    rates = make_rates(mode, "PRISM", MSAMETID=1).chunk()
    metafile = write_metafile(tmp_path / "x_msa.fits") if mode == "MSASPEC" else None
    names = ("slit_y", "ra", "dec")
    slits = nsxr.cut_slits(rates, optics_of(rates), shutters=metafile, coordinates=names)
    again = nsxr.open_slits(nsxr.write_slits(slits, tmp_path / "x.zarr"))
    assert len(again.children) == len(slits.children) > 1
    for name, slit in iterate_slits(slits):
        for coordinate in names:
            xr.testing.assert_identical(again[name][coordinate].variable, slit[coordinate].variable)
            assert coordinate in again[name].coords
        assert again[name]["ra"].dtype == np.float64
        assert again[name]["ra"].attrs["units"] == "degree"
        wanted = {"standard_name": "radiation_wavelength", "units": "um"}
        assert wanted.items() <= again[name]["wavelength"].attrs.items()
