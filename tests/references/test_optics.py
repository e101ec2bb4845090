"""Optics from references: what does not fit is refused by name, and equal files give equal optics."""

import pickle

import asdf
import dask.base
import numpy as np
import pytest
from astropy.modeling import models

import nsxr
from nsxr.errors import DegradedResultWarning, InputFileError, MissingReferenceError, ParameterError, ReferenceFileError
from nsxr.model.optics_header import OpticsHeader
from tests.optics.exposures import make_rates, optics_of, references


@pytest.fixture(scope="module")
def rates():
    return make_rates("FIXEDSLIT", "PRISM", rows=(900, 910), columns=(0, 10))


def test_optics_are_equal_by_content_and_travel(rates):
    first, second = optics_of(rates), optics_of(rates)
    assert first == second
    assert hash(first) == hash(second)
    assert dask.base.tokenize(first) == dask.base.tokenize(pickle.loads(pickle.dumps(second)))
    other = optics_of(rates.assign_attrs(GWA_XTIL=0.34))
    assert other != first
    assert len(pickle.dumps(first.for_slit("S200A1"))) < 50_000


def test_velocity_and_lamps(rates):
    at_rest = optics_of(rates.assign_attrs(VELOSYS=0.0)).forward(1000.0, 1080.0, "S200A1")
    moving = optics_of(rates.assign_attrs(VELOSYS=30_000.0)).forward(1000.0, 1080.0, "S200A1")
    np.testing.assert_allclose(moving.wavelength / at_rest.wavelength, 1 / (1 + 30_000 / 299792458), rtol=1e-12)
    unknown = optics_of(rates.assign_attrs(VELOSYS="N/A")).forward(1000.0, 1080.0, "S200A1")
    assert unknown.wavelength == at_rest.wavelength
    lamp = optics_of(rates.assign_attrs(EXP_TYPE="NRS_LAMP", FILTER="OPAQUE", LAMP="LINE1"))
    assert not lamp.has_sky
    seen = lamp.forward(1000.0, 1080.0, "S200A1")
    assert np.isfinite(seen.wavelength)
    assert seen.ra is None


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"GRATING": "MIRROR"}, InputFileError, "GRATING 'MIRROR', which is no exposure of spectra"),
        ({"EXP_TYPE": "NRS_IMAGE"}, InputFileError, "EXP_TYPE is 'NRS_IMAGE'"),
        ({"GWA_XTIL": "N/A"}, InputFileError, "keywords GWA_XTIL are missing or empty"),
        ({"RA_REF": "N/A", "GWA_TILT": "N/A"}, InputFileError, "keywords GWA_TILT, RA_REF are missing or empty"),
        ({"GRATING": "G395H", "FILTER": "F290LP"}, MissingReferenceError, "references disperser, fore .* are missing"),
    ],
)
def test_exposures_without_optics(rates, changes, error, message):
    with pytest.raises(error, match=message):
        nsxr.open_optics(references("PRISM"), rates.assign_attrs(**changes))


def test_folders_and_files_that_do_not_fit(rates, tmp_path):
    with pytest.raises(MissingReferenceError, match="is not a folder of references"):
        nsxr.open_optics(tmp_path / "nowhere", rates)
    files = {path.name.split("_")[1].split(".")[0]: path for path in references("PRISM").iterdir()}
    cut = tmp_path / "cut.asdf"
    cut.write_bytes(files["camera"].read_bytes()[:3000])
    with pytest.raises(ReferenceFileError, match=r"cut\.asdf"):
        nsxr.open_optics(files | {"camera": cut}, rates)
    with pytest.raises(ReferenceFileError, match="collimator"):
        nsxr.open_optics(files | {"camera": files["collimator"]}, rates)
    for path in references("PRISM").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "other_fpa.asdf").write_bytes(files["fpa"].read_bytes())
    cut.unlink()
    with pytest.raises(ReferenceFileError, match="fit equally well"):
        nsxr.open_optics(tmp_path, rates)


def test_ground_and_flight_are_not_mixed_silently(rates, tmp_path):
    files = {path.name.split("_")[1].split(".")[0]: path for path in references("PRISM").iterdir()}
    for kind, pedigree in (("camera", "GROUND"), ("collimator", "INFLIGHT 2022-02-01 2022-06-01")):
        changed = tmp_path / f"{kind}.asdf"
        with asdf.open(files[kind], memmap=False, lazy_load=False) as file:
            tree = dict(file.tree)
        tree["meta"] = dict(tree["meta"]) | {"pedigree": pedigree}
        asdf.AsdfFile(tree).write_to(changed)
        files[kind] = changed
    message = r"references from the ground \(camera.asdf\) are mixed with references from flight \(collimator.asdf\)"
    with pytest.warns(DegradedResultWarning, match=message):
        nsxr.open_optics(files, rates)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("camera", {"model": models.Identity(1)}, "takes 1 coordinates"),
        ("camera", {"model": None}, "expected a transform"),
        ("fpa", {"nrs1_model": models.Scale(0.0) & models.Scale(1.0)}, "has no inverse"),
        ("disperser", {"theta_x": "much"}, "theta_x is 'much', expected a number"),
        ("disperser", {"gwa_tiltx": {}}, "gwa_tiltx has no tilt_model and zeroreadings"),
        ("disperser", {"kcoef": [1.0]}, "kcoef and lcoef are no lists of three numbers"),
        ("disperser", {"tref": 10.0}, "the glass was measured at 10.0 K, the prism has 36.9 K"),
        ("msa", {f"Q{number}": None for number in range(1, 6)}, "has no quadrants Q1 to Q5"),
        ("msa", {"Q1": {"data": 5, "model": None}}, r"table of quadrant 1 has shape \(\), expected rows"),
        ("wavelengthrange", {"order": [-1]}, "differ in length"),
        ("wavelengthrange", {"order": 5}, "differ in length"),
    ],
)
def test_content_that_is_wrong(rates, tmp_path, kind, changes, message):
    files = {path.name.split("_")[1].split(".")[0]: path for path in references("PRISM").iterdir()}
    with asdf.open(files[kind], memmap=False, lazy_load=False) as file:
        tree = dict(file.tree) | changes
    asdf.AsdfFile(tree).write_to(tmp_path / "wrong.asdf")
    with pytest.raises(ReferenceFileError, match=rf"wrong\.asdf: .*({message})") as error:
        nsxr.open_optics(files | {kind: tmp_path / "wrong.asdf"}, rates)
    assert "\n" not in str(error.value)


def test_whole_numbers_of_any_length(rates, tmp_path):
    files = {path.name.split("_")[1].split(".")[0]: path for path in references("PRISM").iterdir()}
    content = files["disperser"].read_bytes().replace(b"theta_x: ", f"theta_x: {10**23}\nother: ".encode(), 1)
    (tmp_path / "wrong.asdf").write_bytes(content)
    with pytest.raises(ReferenceFileError, match="theta_x is 10000"):
        nsxr.open_optics(files | {"disperser": tmp_path / "wrong.asdf"}, rates)


def test_a_grating_has_grooves(tmp_path):
    exposure = make_rates("FIXEDSLIT", "G395H", rows=(900, 910), columns=(0, 10))
    files = {path.name.split("_")[1].split(".")[0]: path for path in references("G395H").iterdir()}
    with asdf.open(files["disperser"], memmap=False, lazy_load=False) as file:
        asdf.AsdfFile(dict(file.tree) | {"groovedensity": 0.0}).write_to(tmp_path / "wrong.asdf")
    with pytest.raises(ReferenceFileError, match=r"wrong\.asdf: groovedensity is 0, expected a number above 0"):
        nsxr.open_optics(files | {"disperser": tmp_path / "wrong.asdf"}, exposure)


@pytest.mark.parametrize("wavelengths", [(2.0, 1.0), (0.0, 0.0), (1.0,), (1.0, 2.0, 3.0), (10.0, 20.0)])
def test_ranges_of_wavelengths_that_are_none(rates, wavelengths):
    with pytest.raises(ParameterError, match="expected a lower and a higher wavelength"):
        nsxr.open_optics(references("PRISM"), rates, wavelength_range=wavelengths)


def test_ranges_end_where_the_detectors_do(rates):
    wide = nsxr.open_optics(references("PRISM"), rates, wavelength_range=(0.6, 1000.0))
    assert wide.slits["S200A1"].wavelength_range == (0.6, 5.6)


def test_paths_are_paths(rates):
    with pytest.raises(ParameterError, match="the path of the reference fpa is 5, expected a text or a Path"):
        nsxr.open_optics({"fpa": 5}, rates)


def test_the_latest_reference_that_may_be_used(rates, tmp_path):
    for path in references("PRISM").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
        if "fpa" not in path.name:
            continue
        for name, date in (("newer", "2023-01-01T00:00:00"), ("newest", "2024-01-01T00:00:00")):
            with asdf.open(path, memmap=False, lazy_load=False) as file:
                tree = dict(file.tree)
            tree["meta"] = dict(tree["meta"]) | {"useafter": date}
            asdf.AsdfFile(tree).write_to(tmp_path / f"{name}_fpa.asdf")
    with pytest.warns(DegradedResultWarning, match="the latest fpa reference is taken, newest_fpa.asdf"):
        latest = nsxr.open_optics(tmp_path, rates)
    dated = nsxr.open_optics(tmp_path, rates.assign_attrs({"DATE-OBS": "2023-06-01"}))
    names = [dict(optics.references)["fpa"] for optics in (latest, dated)]
    assert names == ["newest_fpa.asdf", "newer_fpa.asdf"]


def test_references_of_crds(monkeypatch):
    rates = make_rates("FIXEDSLIT", "PRISM")
    files = {path.name.split("_")[1].removesuffix(".asdf"): str(path) for path in references("PRISM").glob("*.asdf")}
    asked = []

    def best(exposure, types):
        asked.extend(types)
        return {kind: files[kind] for kind in types}

    monkeypatch.setattr("nsxr.references.optics.best_references", best)
    assert nsxr.open_optics("crds", rates) == optics_of(rates)
    assert {"fpa", "camera", "msa", "fore", "ote"} <= set(asked)
    with pytest.raises(ParameterError, match="give the exposure"):
        nsxr.open_optics("crds", OpticsHeader.from_attributes(rates.attrs))
