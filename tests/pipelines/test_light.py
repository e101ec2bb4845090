"""Light of the optics in stage 1: used where it is known, and harmless where it is not."""

import logging
import shutil
import warnings

import numpy as np
import pytest

import nsxr
from nsxr.errors import DegradedResultWarning, ParameterError
from nsxr.model.history import steps
from nsxr.pipelines.light import light_if_known, metafile_of
from nsxr.pipelines.recipe import Recipe
from nsxr.simulate import simulate_exposure

OPTICS = "found, and light of the optics"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    settings = {"mode": "FS", "subarray": "SUBS200A1", "grating": "G235H", "readout": "NRSRAPID", "groups": 3}
    return simulate_exposure(tmp_path_factory.mktemp("slit"), sky="default", **settings)


@pytest.fixture
def folder(made, tmp_path):
    """Return a copy of the references and of the optics."""
    return shutil.copytree(made.references["gain"].parent, tmp_path / "references")


def calibrated(made, folder, **settings):
    """Return what the step says of its mask, and the complete recipe."""
    done = Recipe(str(folder), **settings).calibrate([str(made.uncal[0])])
    entry = next(e for e in steps(done.products["rate"].to_dataset()) if e["step"] == "clean_flicker_noise")
    return entry.get("parameters", {}).get("mask"), done.recipe


def test_optics_beside_the_references_are_used_and_recorded(made, folder):
    mask, recipe = calibrated(made, folder)
    assert (mask, recipe.optics, recipe.shutters) == (OPTICS, str(folder), None)
    again = Recipe.from_toml(recipe.as_toml())
    assert again == recipe
    assert again.calibrate([str(made.uncal[0])]).recipe == recipe


def test_none_switches_them_off(made, folder):
    mask, recipe = calibrated(made, folder, optics="None")
    assert (mask, recipe.optics) == ("found", "none")
    assert Recipe.from_toml(recipe.as_toml()) == recipe
    assert calibrated(made, folder, skip=("clean_flicker_noise",))[1].optics is None
    with pytest.raises(ParameterError, match="give optics"):
        Recipe(str(folder), optics="none", shutters="jw_msa.fits")


@pytest.mark.parametrize(("lost", "bytes_left"), [("*_fpa*.asdf", 0), ("*_collimator*.asdf", 600), ("*.asdf", 0)])
def test_without_some_of_the_optics_light_is_found_from_the_exposure(made, folder, caplog, lost, bytes_left):
    for path in folder.glob(lost):
        content = path.read_bytes()[:bytes_left]
        path.unlink()
        if content:
            path.write_bytes(content)
    with warnings.catch_warnings(), caplog.at_level(logging.INFO, "nsxr"):
        warnings.simplefilter("error", DegradedResultWarning)
        mask, recipe = calibrated(made, folder)
    assert (mask, recipe.optics) == ("found", None)
    assert "finds light from the exposure alone" in caplog.text
    assert Recipe.from_toml(recipe.as_toml()) == recipe


def test_optics_that_are_ambiguous_are_told_and_not_used(made, folder):
    (path,) = folder.glob("*_collimator*.asdf")
    shutil.copy(path, folder / "another.asdf")
    with pytest.warns(DegradedResultWarning, match="cannot be used, so the cleaning of 1/f noise finds light from"):
        mask, recipe = calibrated(made, folder)
    assert (mask, recipe.optics) == ("found", None)


def test_exposures_of_shutters_need_their_metafile_beside_them_or_with_the_optics(made, folder, tmp_path, caplog):
    raw = nsxr.open_exposure(made.uncal)
    shutters = raw.assign_attrs(EXP_TYPE="NRS_MSASPEC", MSAMETFL="jw01234001001_01_msa.fits")
    file = tmp_path / "x_uncal.fits"
    assert metafile_of(str(file), shutters, str(folder)) is None
    with caplog.at_level(logging.INFO, "nsxr"):
        assert light_if_known(shutters, str(folder), None) is None
    assert "the MSA metafile is neither beside the exposure nor with the references" in caplog.text
    (folder / "jw01234001001_01_msa.fits").touch()
    assert metafile_of(str(file), shutters, str(folder)) == str(folder / "jw01234001001_01_msa.fits")
    (tmp_path / "jw01234001001_01_msa.fits").touch()
    assert metafile_of(str(file), shutters, str(folder)) == str(tmp_path / "jw01234001001_01_msa.fits")
    with pytest.warns(DegradedResultWarning, match="cannot be used"):
        assert light_if_known(shutters, str(folder), str(tmp_path / "jw01234001001_01_msa.fits")) is None
    assert metafile_of(str(file), raw, str(folder)) is None


def test_exposures_without_spectra_have_no_light_of_the_optics(made, folder):
    raw = nsxr.open_exposure(made.uncal)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DegradedResultWarning)
        assert light_if_known(raw.assign_attrs(EXP_TYPE="NRS_DARK"), str(folder), None) is None
        assert light_if_known(raw.assign_attrs(GRATING="MIRROR"), str(folder), None) is None
    light = light_if_known(raw, str(folder), None)
    assert light.dtype == bool
    assert 0 < np.mean(light) < 1
