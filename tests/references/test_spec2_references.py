"""References of stage 2 are chosen by their own headers, in FITS, ASDF and JSON files."""

import json

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import nsxr
from nsxr.errors import DegradedResultWarning, MissingReferenceError, ModelError, ParameterError, ReferenceFileError
from nsxr.references.apertures import read_aperture
from nsxr.references.candidates import read_candidate
from nsxr.references.spec2 import spec2_types

HEADER = {
    "EXP_TYPE": "NRS_FIXEDSLIT",
    "DETECTOR": "NRS1",
    "FILTER": "CLEAR",
    "GRATING": "PRISM",
    "DATE-OBS": "2024-01-01",
    "filename": "jw1_rate.fits",
}
ALL = ("area", "extract1d")


def exposure(**attrs):
    return xr.Dataset(attrs=HEADER | attrs)


def write_area(path, value=0.02, **keywords):
    primary = fits.PrimaryHDU()
    for key, text in ({"REFTYPE": "AREA", "INSTRUME": "NIRSPEC", "USEAFTER": "2022-01-01"} | keywords).items():
        primary.header[key] = text
    columns = [fits.Column("slit_id", "15A", array=["S200A1"]), fits.Column("pixarea", "E", array=[value])]
    fits.HDUList([primary, fits.BinTableHDU.from_columns(columns, name="AREA")]).writeto(path)


def write_apertures(path, width=6, **top):
    header = {"reftype": "EXTRACT1D", "instrument": "NIRSPEC", "exp_type": "NRS_FIXEDSLIT", "useafter": "2022-01-01"}
    path.write_text(json.dumps(header | {"apertures": [{"id": "ANY", "extract_width": width}]} | top))


def area_of(folder, **attrs):
    found = nsxr.open_spec2_references(folder, exposure(**attrs), types=["area"])
    return found.get("area"), found


def test_a_folder_of_all_formats(tmp_path):
    write_area(tmp_path / "area.fits", FILTER="CLEAR", GRATING="PRISM", EXP_TYPE="NRS_FIXEDSLIT")
    write_apertures(tmp_path / "boxes.json")
    (tmp_path / "notes.json").write_text("no JSON")  # not read, because it names no type of reference
    (tmp_path / "readme.txt").write_text("extract1d")
    found = nsxr.open_spec2_references(tmp_path, exposure(), types=ALL)
    assert list(found) == ["area", "extract1d"]
    assert found["area"].encoding["source"] == str(tmp_path / "area.fits")
    aperture = read_aperture(found["extract1d"], xr.Dataset(attrs={"SLTNAME": "S200A1"}))
    assert (aperture.extract_width, aperture.filename) == (6.0, "boxes.json")
    assert found["extract1d"].attrs["reference_type"] == "extract1d"
    assert found.why_not("area") == ""


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"FILTER": "F290LP"}, "FILTER is F290LP, that of the exposure is CLEAR"),
        ({"GRATING": "PRISM", "DETECTOR": "NRS2"}, "DETECTOR is NRS2"),
        ({"EXP_TYPE": "NRS_FIXEDSLIT", "P_EXP_TY": "NRS_IFU|NRS_MSASPEC|"}, "EXP_TYPE is NRS_IFU|NRS_MSASPEC"),
        ({"USEAFTER": "2025-01-01"}, "USEAFTER is 2025-01-01T00:00:00, the exposure started 2024-01-01"),
        ({"INSTRUME": "NIRISS"}, "INSTRUME is 'NIRISS'"),
    ],
)
def test_files_that_do_not_fit_are_left_out_with_the_reason(keywords, reason, tmp_path):
    write_area(tmp_path / "area.fits", **keywords)
    found, references = area_of(tmp_path)
    assert found is None
    assert references.why_not("area").startswith(f"area.fits: {reason}")


def test_patterns_and_words_for_all(tmp_path):
    write_area(
        tmp_path / "area.fits", DETECTOR="N/A", FILTER="ANY", EXP_TYPE="NRS_IFU", P_EXP_TY="NRS_FIXEDSLIT|NRS_IFU|"
    )
    assert area_of(tmp_path)[0] is not None


def test_the_more_specific_and_the_latest_file(tmp_path):
    write_area(tmp_path / "general.fits", 0.01, USEAFTER="2023-12-01")
    write_area(tmp_path / "old.fits", 0.02, FILTER="CLEAR")
    write_area(tmp_path / "new.fits", 0.03, FILTER="CLEAR", USEAFTER="2023-01-01")
    write_area(tmp_path / "later.fits", 0.04, FILTER="CLEAR", USEAFTER="2025-01-01")
    assert area_of(tmp_path)[0].attrs["filename"] == "new.fits"
    with pytest.warns(DegradedResultWarning, match=r"date is not known, .* later.fits"):
        assert area_of(tmp_path, **{"DATE-OBS": ""})[0].attrs["filename"] == "later.fits"
    assert area_of(tmp_path, FILTER="F100LP")[0].attrs["filename"] == "general.fits"


def test_two_that_fit_equally_are_an_error_that_names_both(tmp_path):
    write_area(tmp_path / "one.fits")
    write_area(tmp_path / "two.fits")
    with pytest.raises(ReferenceFileError, match=r"one.fits and .*two.fits fit equally well as area reference"):
        area_of(tmp_path)
    found = nsxr.open_spec2_references(tmp_path, exposure(), {"area": tmp_path / "two.fits"}, ["area"])
    assert found["area"].attrs["filename"] == "two.fits"


def test_files_by_path(tmp_path):
    write_area(tmp_path / "area.fits", EXP_TYPE="NRS_IFU", USEAFTER="2030-01-01")
    write_apertures(tmp_path / "boxes.json", reftype="", exp_type="NRS_IFU")
    paths = {"area": tmp_path / "area.fits", "extract1d": tmp_path / "boxes.json", "optics": "unused"}
    assert set(nsxr.open_spec2_references(paths, exposure())) == {"area", "extract1d"}
    write_area(tmp_path / "other.fits", FILTER="F290LP")
    with pytest.raises(ReferenceFileError, match=r"other.fits: FILTER is F290LP"):
        nsxr.open_spec2_references({"area": tmp_path / "other.fits"}, exposure())
    with pytest.raises(ReferenceFileError, match=r"area reference .*no such file"):
        nsxr.open_spec2_references({}, exposure(), {"area": tmp_path / "missing.fits"})


def test_types_of_each_mode(tmp_path):
    assert "pathloss" not in spec2_types(exposure(EXP_TYPE="NRS_BRIGHTOBJ"))
    assert {"barshadow", "msaoper"} < set(spec2_types(exposure(EXP_TYPE="NRS_MSASPEC")))
    assert "wavecorr" not in spec2_types(exposure(EXP_TYPE="NRS_IFU"))
    with pytest.raises(ModelError, match="EXP_TYPE is 'NRS_IMAGE'"):
        nsxr.open_spec2_references(tmp_path, exposure(EXP_TYPE="NRS_IMAGE"))
    with pytest.raises(ParameterError, match="unknown reference types flat"):
        nsxr.open_spec2_references(tmp_path, exposure(), types=["flat"])
    with pytest.raises(MissingReferenceError, match="is not a folder of references"):
        nsxr.open_spec2_references(tmp_path / "missing", exposure())


def test_files_that_cannot_be_read_are_left_out(tmp_path):
    (tmp_path / "broken.fits").write_bytes(b"broken")
    (tmp_path / "broken.json").write_text("{extract1d")
    (tmp_path / "broken.asdf").write_text("#ASDF 1.0.0\nwavecorr: [")
    found = nsxr.open_spec2_references(tmp_path, exposure())
    assert not found
    assert len(found.left_out[""]) == 3


def test_headers_of_real_references(real_data):
    folder = real_data / "crds_refs"
    area = read_candidate(folder / "jwst_nirspec_area_0020.fits")
    assert (area.kind, area.allowed("EXP_TYPE")) == ("area", ["NRS_FIXEDSLIT", "NRS_BRIGHTOBJ"])
    assert (area.allowed("FILTER"), area.allowed("DETECTOR")) == (["CLEAR"], [])
    wavecorr = read_candidate(folder / "jwst_nirspec_wavecorr_0001.asdf", ["wavecorr"])
    assert wavecorr.kind == "wavecorr"
    assert read_candidate(folder / "jwst_nirspec_fpa_0005.asdf", ["wavecorr"]) is None
    types = ["area", "photom"]
    found = nsxr.open_spec2_references(folder, exposure(DETECTOR="NRS2"), types=types)
    assert set(found) == set(types)
    assert np.isfinite(found["area"]["pixel_area"]).all()


def test_references_of_crds(tmp_path, monkeypatch):
    write_area(tmp_path / "jwst_nirspec_area_0001.fits")
    write_apertures(tmp_path / "jwst_nirspec_extract1d_0002.json")
    asked = []

    def best(exposure, types):
        asked.append(list(types))
        return {"area": str(tmp_path / "jwst_nirspec_area_0001.fits")}

    module = "nsxr.references.spec2"
    monkeypatch.setattr(f"{module}.best_references", best)
    monkeypatch.setattr(f"{module}.fetch_reference", lambda name: str(tmp_path / name.removeprefix("crds://")))
    monkeypatch.setattr(f"{module}.crds_state", lambda: {"crds_context": "jwst_1.pmap"})
    given = {"extract1d": "crds://jwst_nirspec_extract1d_0002.json"}
    found = nsxr.open_spec2_references("crds", exposure(), given, types=["area", "extract1d", "photom"])
    assert asked == [["area", "photom"]]
    assert {kind: one.attrs["filename"] for kind, one in found.items()} == {
        "area": "crds://jwst_nirspec_area_0001.fits",
        "extract1d": "crds://jwst_nirspec_extract1d_0002.json",
    }
    assert found["area"].attrs["crds_context"] == "jwst_1.pmap"
    assert "crds_context" not in found["extract1d"].attrs
