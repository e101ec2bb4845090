import shutil
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits

import nsxr
from nsxr.errors import MissingReferenceError, ParameterError, ReferenceFileError
from nsxr.formats.pixels import PixelSource
from nsxr.pipelines.recipe import Recipe
from nsxr.references.files import TYPES
from nsxr.simulate import simulate_exposure
from nsxr.testing import forbid_computes

OTHERS = [kind for kind in TYPES if kind != "refpix"]


def names(references):
    return {kind: reference.attrs["filename"] for kind, reference in references.items()}


# a directory


def test_a_directory_gives_those_that_fit(library, sub32, irs2, tmp_path, monkeypatch):
    monkeypatch.delattr(PixelSource, "read")  # no pixel is read
    second = simulate_exposure(
        tmp_path, readout="NRSRAPID", subarray="SUB32", groups=3, detector="NRS2", references=False
    )
    for uncal, stem, kinds in (
        (sub32.uncal, "nrs1_sub32_nrsrapid", OTHERS),
        (second.uncal, "nrs2_sub32_nrsrapid", OTHERS),
        (irs2.uncal, "nrs1_full_nrsirs2rapid", TYPES),
    ):
        exposure = nsxr.open_exposure(uncal)
        with forbid_computes():
            references = nsxr.open_references(library, exposure, types=[k for k in kinds if k not in ANYWAY])
        assert names(references) == {k: f"jwst_nirspec_{k}_sim_{stem}.fits" for k in kinds if k not in ANYWAY}


ANYWAY = ("saturation", "linearity", "gain")  # simulated files for other readouts fit as well


def test_two_that_fit_equally_well_are_named(library, exposure):
    with pytest.raises(ReferenceFileError) as error:
        nsxr.open_references(library, exposure, types=["gain"])
    for word in ("gain_sim_nrs1_sub32_nrsrapid.fits", "gain_sim_nrs1_sub32_nrs.fits", "name one"):
        assert word in str(error.value)


@pytest.fixture
def dated(tmp_path, sub32):
    """A directory with one gain reference for each date; the exposure started 2026-01-15T06:00:00."""

    def make(**dates):
        for name, date in dates.items():
            path = tmp_path / f"{name}.fits"
            shutil.copy(sub32.references["gain"], path)
            fits.setval(path, "USEAFTER", value=date)
        return tmp_path

    return make


def test_the_latest_that_may_be_used_is_taken(dated, exposure):
    folder = dated(
        old="2022-01-01T00:00:00", late="2026-01-15 05:59:00", after="2026-01-15T06:00:01", future="2030-01-01T00:00:00"
    )
    assert names(nsxr.open_references(folder, exposure)) == {"gain": "late.fits"}


def test_none_is_taken_before_its_date(dated, exposure):
    assert nsxr.open_references(dated(future="2026-02-01T00:00:00"), exposure) == {}


def test_the_subarray_goes_before_the_date(tmp_path, sub32, exposure):
    for name, subarray, date in (("own", "SUB32", "2022-01-01T00:00:00"), ("any", "GENERIC", "2025-01-01T00:00:00")):
        shutil.copy(sub32.references["gain"], tmp_path / f"{name}.fits")
        fits.setval(tmp_path / f"{name}.fits", "SUBARRAY", value=subarray)
        fits.setval(tmp_path / f"{name}.fits", "USEAFTER", value=date)
    assert names(nsxr.open_references(tmp_path, exposure)) == {"gain": "own.fits"}
    (tmp_path / "own.fits").unlink()
    assert names(nsxr.open_references(tmp_path, exposure)) == {"gain": "any.fits"}


@pytest.mark.parametrize(
    ("kind", "keyword", "value", "fits_in"),
    [
        ("gain", "DETECTOR", "NRS2", False),
        ("gain", "DETECTOR", "ANY", True),
        ("gain", "INSTRUME", "NIRCAM", False),
        ("gain", "SUBSTRT1", 1, False),
        ("readnoise", "READPATT", "NRS", False),
        ("readnoise", "READPATT", "ANY", True),
        ("readnoise", "P_READPA", "NRS|NRSRAPID|", True),
        ("readnoise", "P_READPA", "ALLIRS2", False),
        ("superbias", "SUBARRAY", "SUB2048", False),
        ("superbias", "SUBARRAY", "GENERIC", True),
        ("dark", "SUBARRAY", "SUB2048", False),
        ("dark", "SUBSIZE1", 32, True),
        ("gain", "SUBARRAY", "FULL", True),
    ],
)
def test_each_keyword_counts(tmp_path, sub32, exposure, kind, keyword, value, fits_in):
    shutil.copy(sub32.references[kind], tmp_path / "x.fits")
    fits.setval(tmp_path / "x.fits", keyword, value=value)
    assert set(nsxr.open_references(tmp_path, exposure)) == ({kind} if fits_in else set())


def test_all_irs2_patterns_have_a_short_name(tmp_path, irs2):
    exposure = nsxr.open_exposure(irs2.uncal)
    shutil.copy(irs2.references["refpix"], tmp_path / "x.fits")
    fits.setval(tmp_path / "x.fits", "READPATT", value="ALLIRS2")
    assert set(nsxr.open_references(tmp_path, exposure)) == {"refpix"}


def test_a_damaged_file_in_a_directory_is_told(tmp_path, sub32, exposure, caplog):
    (tmp_path / "cut.fits").write_bytes(sub32.references["dark"].read_bytes()[:20000])
    shutil.copy(sub32.references["gain"], tmp_path)
    assert set(nsxr.open_references(tmp_path, exposure)) == {"gain"}
    assert "cut.fits: the file is cut off" in caplog.text


def test_a_directory_that_does_not_exist(tmp_path, exposure):
    with pytest.raises(MissingReferenceError, match="nowhere"):
        nsxr.open_references(tmp_path / "nowhere", exposure)


# paths


def test_paths_by_type(sub32, exposure):
    given = {"gain": sub32.references["gain"], "dark": str(sub32.references["dark"])}
    references = nsxr.open_references(given, exposure)
    assert names(references) == {kind: sub32.references[kind].name for kind in ("dark", "gain")}
    assert nsxr.open_references({}, exposure) == {}


def test_overrides_win(sub32, exposure, library, changed):
    other = changed(sub32.references["gain"], name="other.fits", READPATT="NRS", USEAFTER="2030-01-01T00:00:00")
    references = nsxr.open_references(sub32.references, exposure, overrides={"gain": other})
    assert names(references)["gain"] == "other.fits"  # who names a file may disregard date and readout
    assert set(references) == set(OTHERS)
    references = nsxr.open_references(library, exposure, overrides={"gain": other}, types=["gain", "dark"])
    assert names(references) == {"gain": "other.fits", "dark": sub32.references["dark"].name}


def test_types(sub32, exposure):
    assert list(nsxr.open_references(sub32.references, exposure, types=["gain", "mask"])) == ["gain", "mask"]
    with pytest.raises(ParameterError, match="flat"):
        nsxr.open_references(sub32.references, exposure, types=["flat"])
    with pytest.raises(ParameterError, match=r"GAIN.*known: mask"):
        nsxr.open_references({"GAIN": "x.fits"}, exposure)


def test_weights_of_irs2_are_not_looked_for_elsewhere(irs2, exposure):
    assert nsxr.open_references({"refpix": irs2.references["refpix"]}, exposure) == {}


# the reference data system


@pytest.fixture
def crds(monkeypatch):
    """A stand-in for the crds library; ``answer`` gives its answer, ``calls`` what it was asked."""
    module = ModuleType("crds")
    module.CrdsError = type("CrdsError", (Exception,), {})
    module.calls, module.answer = [], {}

    def getreferences(parameters, reftypes=None, context=None, ignore_cache=False, observatory="jwst", fast=False):
        module.calls.append((parameters, reftypes, observatory))
        if isinstance(module.answer, BaseException):
            raise module.answer
        return {kind: module.answer.get(kind, "NOT FOUND n/a") for kind in reftypes}

    module.getreferences = getreferences
    monkeypatch.setitem(sys.modules, "crds", module)
    return module


def test_best_references_of_the_reference_data_system(crds, sub32, exposure):
    crds.answer = {kind: str(path) for kind, path in sub32.references.items() if kind != "dark"}
    with forbid_computes():
        references = nsxr.open_references("crds", exposure)
    expected = {kind: f"crds://{sub32.references[kind].name}" for kind in OTHERS if kind != "dark"}
    assert names(references) == expected
    ((parameters, types, observatory),) = crds.calls  # once, for all
    assert set(types) == set(OTHERS)
    assert observatory == "jwst"
    assert parameters["meta.instrument.name"] == "NIRSPEC"
    assert parameters["meta.instrument.detector"] == "NRS1"
    assert parameters["meta.exposure.readpatt"] == "NRSRAPID"
    assert parameters["meta.subarray.name"] == "SUB32"
    assert parameters["meta.subarray.xstart"] == 1399
    assert parameters["meta.observation.date"] == "2026-01-15"
    assert parameters["meta.visit.tsovisit"] is True
    assert all(isinstance(value, str | int | float | bool) for value in parameters.values())
    corrected = nsxr.subtract_superbias(nsxr.initialize_dq(exposure, references["mask"]), references["superbias"])
    assert "crds://jwst_nirspec_superbias_sim" in corrected.attrs["nsxr_steps"]


def test_paths_win_over_the_reference_data_system(crds, sub32, exposure):
    crds.answer = {"mask": str(sub32.references["mask"])}
    overrides = {"gain": sub32.references["gain"]}
    references = nsxr.open_references("crds", exposure, overrides=overrides, types=["gain", "mask"])
    assert names(references) == {
        "gain": sub32.references["gain"].name,
        "mask": f"crds://{sub32.references['mask'].name}",
    }
    assert crds.calls[0][1] == ["mask"]


def test_the_reference_data_system_fails(crds, exposure):
    crds.answer = crds.CrdsError("no match for gain")
    with pytest.raises(MissingReferenceError, match="no match for gain"):
        nsxr.open_references("crds", exposure)
    crds.answer = SystemExit(-1)  # what the library does when it reaches neither server nor cache
    with pytest.raises(MissingReferenceError, match="CRDS_SERVER_URL"):
        nsxr.open_references("crds", exposure)
    crds.answer = ModuleNotFoundError("No module named 'stdatamodels'")
    with pytest.raises(MissingReferenceError, match="stdatamodels"):
        nsxr.open_references("crds", exposure)


def test_capitals_mean_the_reference_data_system_too(crds, sub32, exposure):
    crds.answer = {"gain": str(sub32.references["gain"])}
    assert names(nsxr.open_references("CRDS", exposure, types=["gain"])) == {
        "gain": f"crds://{sub32.references['gain'].name}"
    }


def test_files_of_the_reference_data_system_by_name(crds, sub32, exposure, monkeypatch):
    def dump_references(observatory, files):
        assert observatory == "jwst"
        if files == ["gone.fits"]:
            raise crds.CrdsError("no such file")
        return {file: str(sub32.references["gain"].parent / file) for file in files}

    monkeypatch.setitem(sys.modules, "crds.client.api", SimpleNamespace(dump_references=dump_references))
    name = f"crds://{sub32.references['gain'].name}"
    references = nsxr.open_references({"gain": name}, exposure)
    assert names(references) == {"gain": name}
    assert references["gain"].encoding["source"] == str(sub32.references["gain"])
    assert Recipe(named={"gain": name}).completed(references).named == {"gain": name}
    assert crds.calls == []  # nothing was to be chosen
    with pytest.raises(MissingReferenceError, match=r"did not give gone\.fits: no such file"):
        nsxr.open_references({"gain": "crds://gone.fits"}, exposure)
    for wrong in ("crds://../gain.fits", "crds://", "crds:///etc/passwd"):
        with pytest.raises(ParameterError, match="expected crds:// and the name of a file"):
            nsxr.open_references({"gain": wrong}, exposure)


def test_the_crds_library_is_not_there(monkeypatch, exposure):
    monkeypatch.setitem(sys.modules, "crds", None)
    with pytest.raises(MissingReferenceError, match=r"\.\[crds\].*CRDS_PATH.*CRDS_SERVER_URL"):
        nsxr.open_references("crds", exposure)


def test_what_the_reference_data_system_gives_is_checked(crds, sub32, exposure, changed):
    crds.answer = {"gain": str(changed(sub32.references["gain"], DETECTOR="NRS2"))}
    with pytest.raises(ReferenceFileError, match="NRS2"):
        nsxr.open_references("crds", exposure)


def test_references_chosen_from_a_directory_calibrate(library, irs2):
    exposure = nsxr.open_exposure(irs2.uncal)
    rate = nsxr.detector1(exposure, nsxr.open_references(irs2.references, exposure))["rate"]["sci"]
    assert np.isfinite(rate.values).mean() > 0.9
