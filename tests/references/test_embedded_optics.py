"""Optics from the gwcs in real products are those of the gwcs: the same places and wavelengths for all pixels."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

import nsxr
from nsxr.errors import InputFileError, ParameterError
from nsxr.formats.fits_headers import keywords, scan
from nsxr.formats.gwcs_read import read_gwcs, wcs_bytes
from nsxr.optics.instrument import Optics
from nsxr.references.embedded_optics import optics_of_gwcs
from nsxr.storage.options import StorageOptions

REAL = os.environ.get("NSXR_REAL_DATA")
needs_real_data = pytest.mark.skipif(REAL is None, reason="NSXR_REAL_DATA is not set: no real products to read")
CAL = "mos_jw02565/jw02565007001_03101_00002_nrs2_cal.fits"
ALL_EXPOSURES = "mos_jw02565/jw02565-o007_s000020115_nirspec_clear-prism_cal.fits"
REAL_FILES = [
    CAL,
    "mos_jw02565/jw02565007001_03101_00003_nrs2_cal.fits",
    "mos_jw02565/jw02565007001_03101_00004_nrs2_cal.fits",
    ALL_EXPOSURES,
    "mos_jw04233/jw04233006001_03101_00003_nrs1_phot.186.4233_44597.fits",
    "mos_jw01345/jw01345062001_03101_00001_nrs2_phot.138.1345_933.fits",
    "flight/msaexp_0.9.19/tests/jw01345062001_03101_00002_nrs2_phot.138.1345_933.fits",
    "flight/msaexp_0.9.19/tests/jw01345062001_03101_00003_nrs2_phot.138.1345_933.fits",
]


def same(one: np.ndarray, other: np.ndarray, within: float) -> None:
    np.testing.assert_allclose(one, other, rtol=0, atol=within)  # NaN at the same pixels


@needs_real_data
@pytest.mark.parametrize("name", REAL_FILES)
def test_every_frame_is_that_of_the_gwcs(name: str) -> None:
    file = scan(str(Path(str(REAL), name)), (), StorageOptions(None))
    tree = wcs_bytes(file)
    assert tree is not None
    for version in sorted(version for extension, version in file.versions if extension == "SCI"):
        extension = file.versions["SCI", version]
        attrs = {**keywords(file.primary), **keywords(extension.header)}
        steps = read_gwcs(tree, version)
        one = optics_of_gwcs(steps, attrs)
        if "SLTSTRT1" in attrs:
            assert (one.first_column, one.first_row) == (attrs["SLTSTRT1"] - 1, attrs["SLTSTRT2"] - 1)
        assert one.path.velocity == pytest.approx(attrs["VELOSYS"], abs=1e-6)
        optics, slit = Optics(one.path, {}, (one.quadrant,)), one.slit
        row, column = np.mgrid[: extension.shape[0], : extension.shape[1]]
        slit_y, wavelength, _, _ = optics.forward(column + one.first_column, row + one.first_row, slit, sky=False)
        _, their_y, metres = steps.evaluate(column, row, "slit_frame")
        same(slit_y, their_y, 1e-11)
        same(wavelength, metres * 1e6, 1e-12)
        ra, dec, corrected = steps.evaluate(column, row)  # with the wavelength that is corrected for the source
        for ours, theirs in zip(optics.slit_to_sky(0, slit_y, corrected, slit), (ra, dec), strict=True):
            same(ours, theirs, 1e-12)
        for ours, theirs in zip(
            optics.slit_to_msa(0, slit_y, slit), steps.evaluate(column, row, "msa_frame"), strict=False
        ):
            same(ours, theirs, 1e-15)
        v2v3 = optics.for_slit(slit).slit_to_v2v3(0, slit_y, corrected)
        for ours, theirs in zip(v2v3, steps.evaluate(column, row, "v2v3"), strict=False):
            same(ours, theirs, 1e-10)


@needs_real_data
@pytest.mark.filterwarnings("ignore")  # newer libraries warn about older files
@pytest.mark.parametrize("name", [CAL, REAL_FILES[4]])
def test_the_way_back_is_that_of_the_gwcs_library(name: str) -> None:
    pytest.importorskip("gwcs")
    datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
    path = Path(str(REAL), name)
    optics = nsxr.open_optics(path)
    ((_, slit),) = optics.slits.items()
    with datamodels.open(path) as model:
        wcs = (model.slits[0] if hasattr(model, "slits") else model).meta.wcs
    file = scan(str(path), (), StorageOptions(None))
    attrs = {**keywords(file.primary), **keywords(file.versions["SCI", 1].header)}
    one = optics_of_gwcs(read_gwcs(wcs_bytes(file), 1), attrs)  # type: ignore[arg-type]
    slit_y, wavelength = np.meshgrid(np.linspace(-1, 1, 5), np.linspace(0.7, 5.2, 40))
    back = wcs.get_transform("slit_frame", "detector")
    speed = 1 + attrs["VELOSYS"] / 299792458.0  # files of these versions leave the velocity out on the way back
    column, row = back(np.zeros_like(slit_y), slit_y, wavelength * speed * 1e-6)
    ours = optics.inverse(slit_y, wavelength, slit)
    same(ours[0] - one.first_column, column, 1e-9)
    same(ours[1] - one.first_row, row, 1e-9)
    ra, dec = optics.slit_to_sky(0, slit_y, wavelength, slit)
    slit_x, again = optics.sky_to_slit(ra, dec, wavelength, slit)
    _, their_y, _ = wcs.get_transform("world", "slit_frame")(ra, dec, wavelength)
    same(again, their_y, 1e-8)
    same(slit_x, np.zeros_like(slit_x), 0.01)


@needs_real_data
@pytest.mark.filterwarnings("ignore")  # newer libraries warn about older files
@pytest.mark.parametrize("name", [CAL, REAL_FILES[4], REAL_FILES[5]])
def test_a_product_written_again_has_the_coordinates_of_the_first(tmp_path: Path, name: str) -> None:
    pytest.importorskip("gwcs")
    datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
    path = Path(str(REAL), name)
    written = nsxr.write_slits(nsxr.open_slits(path), tmp_path / "x_cal.fits", optics=nsxr.open_optics(path))
    with datamodels.open(path) as first, datamodels.open(written) as second:
        one, other = (model.slits[0] if hasattr(model, "slits") else model for model in (first, second))
        assert (one.quadrant, one.slit_ymin, one.slit_ymax) == (other.quadrant, other.slit_ymin, other.slit_ymax)
        row, column = np.mgrid[: one.data.shape[0], : one.data.shape[1] : 3]
        for frame in ("gwa", "slit_frame"):
            pair = (each.meta.wcs.get_transform("detector", frame)(column, row) for each in (one, other))
            for ours, theirs in zip(*pair, strict=True):
                same(ours, theirs, 1e-11)
        corrected = one.meta.wcs(column, row)[2]  # the written gwcs lacks the correction for the place of the source
        _, slit_y, _ = one.meta.wcs.get_transform("detector", "slit_frame")(column, row)
        to_sky = other.meta.wcs.get_transform("slit_frame", "world")
        found = to_sky(np.zeros_like(slit_y), slit_y, corrected * 1e-6)
        for ours, theirs in zip(found, one.meta.wcs(column, row), strict=True):
            same(ours, theirs, 1e-9)


@needs_real_data
def test_optics_of_a_product_travel_and_have_its_slits() -> None:
    optics = nsxr.open_optics(Path(str(REAL), CAL))
    assert list(optics.slits) == ["30"]
    assert (optics.detector, optics.filter, optics.grating, optics.has_sky) == ("NRS2", "CLEAR", "PRISM", True)
    slit = optics.slits["30"]
    assert (slit.quadrant, slit.slit_y_low, slit.slit_y_high) == (2, pytest.approx(-3.35), pytest.approx(3.35))
    assert pickle.loads(pickle.dumps(optics)) == optics == nsxr.open_optics(Path(str(REAL), CAL))
    assert len(pickle.dumps(optics.for_slit("30"))) < 50_000


@needs_real_data
def test_products_without_optics_of_one_exposure_are_refused() -> None:
    with pytest.raises(InputFileError, match="several exposures"):
        nsxr.open_optics(Path(str(REAL), ALL_EXPOSURES))
    with pytest.raises(InputFileError, match="frames are detector, slit_frame, world"):
        nsxr.open_optics(Path(str(REAL), "mos_jw02565/jw02565007001_03101_00002_nrs2_s2d.fits"))
    with pytest.raises(InputFileError, match="no gwcs"):
        nsxr.open_optics(Path(str(REAL), "mos_jw02565/jw02565007001_03101_00002_nrs2_x1d.fits"))


@needs_real_data
def test_a_product_knows_its_own_slits_only() -> None:
    optics = nsxr.open_optics(Path(str(REAL), CAL))
    with pytest.raises(ParameterError, match="from a product, which has its own slits but no other shutters"):
        optics.shutter(2, 39923)
    with pytest.raises(ParameterError, match="leave out wavelength_range"):
        nsxr.open_optics(Path(str(REAL), CAL), wavelength_range=(1.0, 2.0))


def test_references_need_an_exposure(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="need an exposure"):
        nsxr.open_optics(tmp_path)
