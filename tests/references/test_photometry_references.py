"""References of the sensitivity and of the area of a pixel: tables of the observatory, known values, refusals."""

import numpy as np
import pytest
from astropy.io import fits

import nsxr
from nsxr.errors import ReferenceFileError


def write(path, kind, **tables):
    """Write tables, given as mappings of columns, with the headers of a reference."""
    primary = fits.PrimaryHDU()
    primary.header["REFTYPE"], primary.header["INSTRUME"] = kind, "NIRSPEC"
    hdus = [primary]
    for name, columns in tables.items():
        made = []
        for key, values in columns.items():
            values = np.asarray(values)
            form = f"{values.dtype.itemsize // 4}A" if values.dtype.kind == "U" else "E" if values.ndim == 1 else ""
            made.append(fits.Column(key, form or f"{values.shape[1]}E", array=values))
        hdus.append(fits.BinTableHDU.from_columns(made, name=name))
    fits.HDUList(hdus).writeto(path)
    return path


def photom(**changed):
    table = {
        "filter": ["CLEAR", "F290LP"],
        "grating": ["PRISM", "G395H"],
        "photmj": [2.0, 3.0],
        "uncertainty": [0.02, np.nan],
        "nelem": [3, 2],
        "wavelength": [[3.0, 1.0, 2.0], [3e-6, 5e-6, 0.0]],
        "relresponse": [[0.3, 0.1, 0.2], [1.0, 2.0, 0.0]],
        "reluncertainty": [[0.03, 0.01, 0.02], [0.0, 0.0, 0.0]],
    }
    return table | changed


def test_nodes_are_in_order_and_in_micrometres(tmp_path):
    time = {"filter": ["CLEAR", "F290LP"], "t0": [59000.0, 59000.0], "lossperyear": [0.01, 0.02]}
    found = nsxr.open_photometry(write(tmp_path / "p.fits", "PHOTOM", PHOTOM=photom(), TIMECOEFF_LINEAR=time))
    np.testing.assert_allclose(found["wavelength"], [[1, 2, 3], [3, 5, np.nan]], rtol=1e-6)
    np.testing.assert_allclose(found["relresponse"], [[0.1, 0.2, 0.3], [1, 2, np.nan]], rtol=1e-6)
    np.testing.assert_allclose(found["reluncertainty"][0], [0.01, 0.02, 0.03], rtol=1e-6)
    np.testing.assert_allclose(found["uncertainty"], [0.02, 0])
    np.testing.assert_allclose(found["linear_lossperyear"], [0.01, 0.02])
    assert list(found["grating"].to_numpy()) == ["PRISM", "G395H"]
    assert found.attrs["reference_type"] == "photom"
    assert found.attrs["filename"] == "p.fits"
    assert "fingerprint" in found.attrs


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"PHOTOM": photom(nelem=[9, 2])}, "row 1 of PHOTOM has nelem 9"),
        ({"PHOTOM": photom(wavelength=[[1.0, 1.0, 2.0]] * 2)}, "expected different wavelengths"),
        ({"PHOTOM": photom(wavelength=[[1000.0, 2000.0, 3000.0]] * 2)}, "from 1000 to 3000"),
        ({"OTHER": photom()}, "extension PHOTOM is missing"),
        ({"PHOTOM": photom(photmj=["high", "low"])}, "column photmj of table PHOTOM does not have numbers"),
        ({"PHOTOM": photom(grating=[1.0, 2.0])}, "column grating of table PHOTOM does not have text"),
        ({"PHOTOM": photom(relresponse=[[1.0, 1.0]] * 2)}, r"relresponse \(2, 2\), .*expected several values"),
        ({"PHOTOM": photom(wavelength=[1.0, 2.0])}, r"wavelength \(2,\)"),
        ({"PHOTOM": {"filter": ["CLEAR"]}}, "lacks columns grating, photmj"),
        (
            {"PHOTOM": photom(), "TIMECOEFF_LINEAR": {"filter": ["A", "B"], "t0": [1.0, 1.0], "lossperyear": [0.0, 0]}},
            "rows of TIMECOEFF_LINEAR are not those of PHOTOM",
        ),
    ],
)
def test_damaged_sensitivities_are_refused(tables, message, tmp_path):
    with pytest.raises(ReferenceFileError, match=message):
        nsxr.open_photometry(write(tmp_path / "p.fits", "PHOTOM", **tables))


def test_areas_of_slits_slices_and_shutters(tmp_path):
    slits = {"slit_id": ["S200A1", "S400A1"], "pixarea": [0.02, 0.04]}
    found = nsxr.open_pixel_area(write(tmp_path / "slits.fits", "AREA", AREA=slits))["pixel_area"]
    assert float(found.sel(slit="S400A1")) == pytest.approx(0.04)
    slices = {"slice_id": np.arange(30.0)[::-1], "pixarea": np.linspace(0.02, 0.01, 30)}
    found = nsxr.open_pixel_area(write(tmp_path / "slices.fits", "AREA", AREA=slices))["pixel_area"]
    np.testing.assert_allclose(found.sel(slice=[1, 30]), [0.01, 0.02])
    shutters = {"quadrant": [4.0, 1], "shutter_x": [365.0, 1], "shutter_y": [171.0, 2], "pixarea": [0.02, np.nan]}
    found = nsxr.open_pixel_area(write(tmp_path / "shutters.fits", "AREA", AREA=shutters))["pixel_area"]
    assert float(found.sel(quadrant=4, shutter_x=365, shutter_y=171)) == pytest.approx(0.02)
    assert found.notnull().sum() == 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"slit_id": ["S200A1"], "pixarea": [5e-13]}, "expected 0.01 to 0.2 arcsec2"),
        ({"slit_id": ["S200A1"], "pixarea": [np.nan]}, "are all missing"),
        ({"slit_id": ["S200A1"] * 2, "pixarea": [0.02, 0.02]}, "an entry twice"),
        ({"slice_id": [30.0], "pixarea": [0.02]}, "numbers outside of 30"),
        ({"slit_id": [1.0], "pixarea": [0.02]}, "column slit_id of table AREA does not have text"),
        ({"pixarea": [0.02]}, "expected slit_id, slice_id, or quadrant"),
    ],
)
def test_damaged_areas_are_refused(table, message, tmp_path):
    with pytest.raises(ReferenceFileError, match=message):
        nsxr.open_pixel_area(write(tmp_path / "a.fits", "AREA", AREA=table))


def test_a_reference_of_another_type_is_refused(tmp_path):
    path = write(tmp_path / "a.fits", "AREA", AREA={"slit_id": ["S200A1"], "pixarea": [0.02]})
    with pytest.raises(ReferenceFileError, match="REFTYPE is 'AREA', expected 'PHOTOM'"):
        nsxr.open_photometry(path)
    with pytest.raises(ReferenceFileError, match="no such file"):
        nsxr.open_photometry(tmp_path / "missing.fits")


def test_real_references(real_data):
    found = nsxr.open_photometry(real_data / "crds_refs/jwst_nirspec_photom_0014.fits")
    assert found.sizes == {"entry": 45, "node": 150}
    assert found["wavelength"][0].notnull().sum() == 101
    area = nsxr.open_pixel_area(real_data / "crds_refs/jwst_nirspec_area_0020.fits")["pixel_area"]
    assert float(area.sel(slit="S1600A1")) == pytest.approx(0.17050274, rel=1e-6)
