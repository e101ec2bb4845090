"""Recipes are written down and read back without loss, and wrong ones are one line."""

import numpy as np
import pytest

from nsxr.errors import ParameterError
from nsxr.pipelines.detector1 import DETECTOR1
from nsxr.pipelines.recipe import Recipe
from nsxr.simulate import simulate_exposure

SUB32 = {"readout": "NRSRAPID", "subarray": "SUB32", "groups": 4, "integrations": 3, "columns": 32}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return simulate_exposure(tmp_path_factory.mktemp("sub32"), **SUB32)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe("crds", {"gain": "a b/gain.fits"}, {"jump": {"rejection_threshold": 5}}, ("dark_current",)),
        Recipe(
            'C:\\refs\t"x"\x7f é',
            {"gain": "s3://bucket/gain.fits"},
            {"jump": {"flag_4_neighbors": False, "after_jump_flag_time1": 1e-5}, "ramp_fit": {"algorithm": "OLS_C"}},
            earlier=({"paths": ["x_uncal.fits"], "references": None, "named": {"mask": "m.fits"}},),
        ),
        Recipe(parameters={"persistence": {"persistence_time": None}}),
        Recipe("refs", optics="s3://bucket/optics", shutters="a b/jw_msa.fits"),
    ],
)
def test_what_is_written_is_read(recipe):
    again = Recipe.from_toml(recipe.as_toml())
    stated = {s: {k: v for k, v in p.items() if v is not None} for s, p in recipe.parameters.items()}
    assert again.parameters == {step: values for step, values in stated.items() if values}
    assert (again.references, again.named, again.skip) == (recipe.references, recipe.named, recipe.skip)
    assert again.earlier == recipe.earlier
    assert (again.run, again.optics, again.shutters) == (recipe.run, recipe.optics, recipe.shutters)
    assert Recipe.from_json(recipe.as_json()) == recipe
    assert again.as_toml() == recipe.as_toml()


def test_secrets_are_not_written():
    recipe = Recipe(
        "https://me:word@host/refs?sign=123", {"gain": "https://host/g.fits?sign=1"}, storage_options={"k": 1}
    )
    text = recipe.as_toml()
    assert "word" not in text
    assert "sign" not in text
    assert "https://host/refs" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("references = ", "not a recipe in TOML"),
        ("refrences = 'crds'", "did you mean 'references'?"),
        ("references = 3", "references is 3 in the recipe, expected a text"),
        ("skip = 'jump'", "skip is 'jump' in the recipe, expected a list"),
        ("skip = ['jmup']", "no step 'jmup', did you mean 'jump'?"),
        ("skip = [1]", "skip has 1 in the recipe"),
        ("parameters = 1", "expected a table"),
        ("parameters.jump = 1", "must be a mapping, not 1"),
        ("parameters.jump.rejection_threshold = inf", "expected a finite number"),
        ("[parameters.jump]\nrejection_threshold = '5'", "jump.rejection_threshold is '5', expected a number"),
        ("reference.gain = 1", "reference has 1"),
        ("earlier = [1]", "earlier is 1 in the recipe, expected a table"),
        ("skip = " + "[" * 5000, "not a recipe in TOML"),
        ("x" * 2**21, "expected at most"),
    ],
)
def test_wrong_recipes_are_one_line(text, expected):
    with pytest.raises(ParameterError) as caught:
        Recipe.from_toml(text)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arrays_are_no_text():
    recipe = Recipe(parameters={"dq_init": {"user_supplied_dq": _flags()}})
    with pytest.raises(ParameterError, match="a DataArray cannot be written"):
        recipe.as_toml()


def _flags():
    import xarray as xr

    return xr.DataArray(np.zeros((2, 2), np.uint32), dims=("row", "column"))


@pytest.mark.parametrize("algorithm", ["likelihood", "ols"])
def test_the_completed_recipe_names_everything_and_gives_the_same(made, algorithm, monkeypatch, tmp_path):
    folder = made.references["gain"].parent
    monkeypatch.chdir(folder.parent)
    given = {"jump": {"rejection_threshold": np.float32(5)}, "ramp_fit": {"algorithm": algorithm}}
    recipe = Recipe(folder.name, parameters=given, skip=("dark_current",))
    calibrated = recipe.calibrate([made.uncal[0]])
    completed = calibrated.recipe
    assert completed.references is None
    assert completed.named["gain"] == str(made.references["gain"])
    assert "dark" not in completed.named
    assert completed.parameters["jump"]["algorithm"] == ("two-point" if algorithm == "ols" else "likelihood")
    for name, step in DETECTOR1.steps.items():
        stated = {each for each, parameter in step.parameters.items() if parameter.default is not None}
        assert set(completed.parameters.get(name, {})) >= (set() if step.off else stated)
    monkeypatch.chdir(tmp_path)
    again = Recipe.from_toml(completed.as_toml()).calibrate([made.uncal[0]])
    assert again.recipe == completed
    for node in ("rate", "rateints"):
        expected = calibrated.products[node].to_dataset().load()
        found = again.products[node].to_dataset().load()
        assert found.identical(expected)  # provenance included


def test_shutters_come_with_the_optics_of_the_references():
    assert Recipe("refs").optics is None
    assert Recipe("refs", shutters="jw_msa.fits").optics == "refs"
    assert Recipe("refs", shutters="jw_msa.fits", optics="other").optics == "other"
    with pytest.raises(ParameterError, match="give optics"):
        Recipe(named={"gain": "g.fits"}, shutters="jw_msa.fits")
