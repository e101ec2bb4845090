"""A pipeline of a few functions: order, references, settings, layouts, products; and the switches of old."""

import json
from typing import Annotated

import numpy as np
import pytest
import xarray as xr

from nsxr.compute import layouts
from nsxr.errors import MissingReferenceError, ParameterError, ReferenceFileError
from nsxr.model.declarations import Needs, Takes, step
from nsxr.model.history import record, steps
from nsxr.model.parameters import Range
from nsxr.model.provenance import differences, provenance_of
from nsxr.pipelines.detector1 import DETECTOR1
from nsxr.pipelines.older_spellings import without_older_spellings
from nsxr.pipelines.pipeline import Pipeline
from nsxr.pipelines.recipe import Recipe
from nsxr.pipelines.spec2 import SPEC2
from nsxr.testing import forbid_computes

CHUNKS = []


@step("superbias", references=[Needs("superbias")])
def first(exposure, superbias):
    """Subtract."""
    return record(exposure, "superbias", [superbias], sci=exposure["sci"] - superbias["sci"])


@step("saturation", references=[Takes("superbias", of="superbias"), Needs("refpix")])
def second(exposure, superbias=None, refpix=None, *, factor: Annotated[float, Range(0, 9)] = 1.0):
    """Multiply."""
    used = [one for one in (superbias, refpix) if one is not None]
    return record(exposure, "saturation", used, {"factor": factor}, sci=exposure["sci"] * np.float32(factor))


def _why_not(exposure):
    return "one row" if exposure.sizes["row"] == 1 else None


@step("jump", unless=_why_not, by_integration=True, series="series")
def third(exposure, *, series=None):
    """Look at whole integrations."""
    CHUNKS.append((exposure["sci"].chunks, None if series is None else series["sci"].chunks))
    total = (exposure if series is None else series)["sci"].sum()
    return record(exposure, "jump", sci=exposure["sci"] + 0 * total)


@step("clean_flicker_noise", off="it was not asked for")
def fourth(exposure, *, depth: Annotated[int, Range(0, 9)] = 1):
    """Off by default."""
    return record(exposure, "clean_flicker_noise", parameters={"depth": depth})


@step("ramp_fit", references=[Needs("gain")], makes_products=True, is_essential=True, given=["extra"])
def fifth(ramps, gain, *, extra=0.0):
    """Make products."""
    rate = record(ramps.drop_vars(["pixeldq", "groupdq"]), "ramp_fit", [gain], sci=ramps["sci"].mean("group") + extra)
    return xr.DataTree.from_dict({"rate": rate, "rateints": rate})


@step("gain_scale", references=[Needs("gain")])
def sixth(rates, gain):
    """Scale."""
    return record(rates, "gain_scale", [gain], sci=rates["sci"] * 2)


PIPELINE = Pipeline("small", [first, second, third, fourth, fifth, sixth], products=("rate", "rateints"))


@pytest.fixture
def exposure(make_exposure, rng):
    return make_exposure(rng.normal(1000, 30, (6, 4, 16, 8)).astype(np.float32))


@pytest.fixture
def references(make_reference, exposure):
    return {kind: make_reference(kind, exposure, sci=1.0) for kind in ("superbias", "gain")}


def test_steps_run_in_order_and_say_why_they_did_not(exposure, references):
    settings = PIPELINE.settings({"saturation": {"factor": 3}}, skip=["superbias"])
    with forbid_computes():
        stages = PIPELINE.correct(exposure.chunk(), references, settings, left_out={"jump": "it is late"})
    assert list(stages) == list(PIPELINE.saved) == ["superbias", "saturation", "jump", "clean_flicker_noise"]
    reasons = {entry["step"]: entry.get("reason") for entry in steps(stages["clean_flicker_noise"])}
    expected = {"superbias": "on request", "saturation": None, "jump": "it is late"}
    assert reasons == expected | {"clean_flicker_noise": "it was not asked for"}
    assert steps(stages["saturation"])[-1]["references"] == {}  # that of a step that is off
    np.testing.assert_array_equal(stages["jump"]["sci"], exposure["sci"] * 3)
    stages = PIPELINE.correct(exposure.isel(row=[0]), references, PIPELINE.settings())
    assert steps(stages["jump"])[-1]["reason"] == "one row"
    assert list(steps(stages["saturation"])[-1]["references"]) == ["superbias"]
    assert list(PIPELINE.correct(exposure, references, PIPELINE.settings(), until="jump")) == [
        "superbias",
        "saturation",
    ]


def test_products_carry_their_recipe(exposure, references):
    settings = PIPELINE.settings({"clean_flicker_noise": {"depth": 2}}, skip=["gain_scale"])
    ramps = PIPELINE.correct(exposure, references, settings)["clean_flicker_noise"]
    tree = PIPELINE.make_products(ramps, references, settings, given={"ramp_fit": {"extra": 5.0}})
    assert tuple(tree.children) == PIPELINE.products
    rate = tree["rateints"].to_dataset()
    np.testing.assert_allclose(rate["sci"], exposure["sci"].mean("group") + 4, rtol=1e-6)
    recipe = {"saturation": {"factor": 1.0}, "clean_flicker_noise": {"depth": 2}}
    found = provenance_of(rate.attrs)["recipe"]
    assert found == {"parameters": recipe, "skip": ["gain_scale"], "run": ["clean_flicker_noise"]}
    assert PIPELINE.settings(found["parameters"], found["skip"], found["run"]).run == settings.run
    assert steps(rate)[-1]["reason"] == "on request"


def test_incomplete_histories_are_told(exposure, references):
    settings = PIPELINE.settings()
    ramps = PIPELINE.correct(exposure, references, settings)["clean_flicker_noise"]
    rate = PIPELINE.make_products(ramps, references, settings)["rate"].to_dataset()
    records = steps(rate)
    header = rate.attrs
    assert list(PIPELINE.problems(records, header)) == []
    assert list(PIPELINE.problems(records[1:], header)) == ["provenance has no step superbias"]
    nameless = [{**records[0], "references": {}}, {**records[3], "reason": ""}, *records[1:3], *records[4:]]
    assert list(PIPELINE.problems(nameless, header)) == [
        "provenance of step superbias names no superbias reference",
        "provenance does not say why step clean_flicker_noise was left out",
    ]
    older = [record for record in records if record["step"] != "clean_flicker_noise"]
    assert list(PIPELINE.problems(older, header)) == []


def test_references_are_those_of_steps_that_are_on(exposure, references):
    assert PIPELINE.reference_types(exposure) == ["superbias", "gain"]
    assert PIPELINE.reference_types(exposure, PIPELINE.settings(skip=["superbias"])) == ["gain"]
    assert PIPELINE.reference_types(exposure, until="jump") == ["superbias"]
    with pytest.raises(MissingReferenceError, match=r"missing: superbias \(superbias\), gain \(ramp_fit, gain_scale\)"):
        PIPELINE.correct(exposure, {}, PIPELINE.settings())
    with pytest.raises(ReferenceFileError, match="expected 'gain'"):
        PIPELINE.correct(exposure, references | {"gain": references["superbias"]}, PIPELINE.settings())


def test_a_mode_may_have_other_steps(exposure, references):
    pipeline = Pipeline("small", [first, second, fifth], products=("rate",), modes={"NRS_DARK": [second, fifth]})
    dark = exposure.assign_attrs(EXP_TYPE="NRS_DARK")
    assert list(pipeline.correct(dark, references, pipeline.settings())) == ["saturation"]
    assert list(pipeline.correct(exposure, references, pipeline.settings())) == ["superbias", "saturation"]


def test_whole_integrations_and_a_second_pass_over_long_series(exposure, references, monkeypatch):
    monkeypatch.setattr(layouts, "CHUNK_BYTES", 4 * 4 * 8 * 16)  # one integration, or two rows of all
    lazy = exposure.chunk({"row": 4}).assign_coords(exposure.coords)
    CHUNKS.clear()
    kept = PIPELINE.correct(lazy, references, PIPELINE.settings())["jump"]
    monkeypatch.setattr(layouts, "KEPT_BYTES", 1)
    read_twice = PIPELINE.correct(lazy, references, PIPELINE.settings())["jump"]
    whole = ((1,) * 6, (4,), (16,), (8,))
    assert CHUNKS[0] == (whole, None)
    assert CHUNKS[1] == (whole, ((6,), (4,), (2,) * 8, (8,)))
    xr.testing.assert_allclose(kept["sci"].compute(), read_twice["sci"].compute())
    without = PIPELINE.correct(lazy, references, PIPELINE.settings(skip=["jump"]))["jump"]
    assert without["sci"].chunks[0] == (6,)  # as the fit of a series wants it


@pytest.mark.parametrize(
    ("parameters", "run", "skip", "is_on"),
    [
        ({}, (), (), False),
        ({}, ("picture_frame",), (), True),
        ({"picture_frame": {"method": "fit"}}, (), (), True),
        ({"picture_frame": {"method": "median"}}, (), (), True),
        ({"picture_frame": {}}, (), (), False),
        ({"picture_frame": {"correct": False, "method": "fit"}}, ("picture_frame",), (), False),
        ({"picture_frame": {"method": "fit"}}, ("picture_frame",), ("picture_frame",), False),
    ],
)
def test_whether_a_step_that_is_off_by_default_is_on(parameters, run, skip, is_on):
    settings = DETECTOR1.settings(parameters, skip, run)
    assert (settings.reason_off(DETECTOR1.steps["picture_frame"]) is None) == is_on


@pytest.mark.parametrize(
    ("parameters", "run", "skip", "is_on"),
    [
        ({}, (), (), True),
        ({}, ("clean_flicker_noise",), (), True),
        ({"clean_flicker_noise": {"n_sigma": 4}}, (), (), True),
        ({"clean_flicker_noise": {}}, (), (), True),
        ({"clean_flicker_noise": {"fit_method": "off", "n_sigma": 4}}, (), (), False),
        ({"clean_flicker_noise": {"fit_method": "off", "n_sigma": 4}}, ("clean_flicker_noise",), (), False),
        ({}, (), ("clean_flicker_noise",), False),
        ({"clean_flicker_noise": {"n_sigma": 4}}, ("clean_flicker_noise",), ("clean_flicker_noise",), False),
    ],
)
def test_whether_the_cleaning_is_on_in_stage_1_and_never_by_itself_in_stage_2(parameters, run, skip, is_on):
    settings = DETECTOR1.settings(parameters, skip, run)
    assert (settings.reason_off(DETECTOR1.steps["clean_flicker_noise"]) is None) == is_on
    assert settings.run == ()
    for steps_of_mode in (SPEC2.steps, *SPEC2.modes.values()):
        if step := steps_of_mode.get("clean_flicker_noise"):
            assert SPEC2.settings({}, (), ()).reason_off(step) == "not asked for"
            assert SPEC2.settings({}, (), ("clean_flicker_noise",)).reason_off(step) is None


@pytest.mark.parametrize(
    ("old", "run", "parameters"),
    [
        ({"picture_frame": {"correct": True}}, ("picture_frame",), {}),
        ({"picture_frame": {"correct": True, "method": "median"}}, ("picture_frame",), {"method": "median"}),
        ({"picture_frame": {"correct": False, "method": "fit"}}, (), {}),
    ],
)
def test_older_switches_are_understood(old, run, parameters):
    settings = DETECTOR1.settings(old)
    assert settings.run == run
    assert settings.parameters["picture_frame"] == parameters
    recipe = Recipe(parameters=old)
    assert Recipe.from_toml(recipe.as_toml()) == recipe
    assert Recipe.from_json(json.loads(json.dumps(recipe.as_json()))) == recipe
    with pytest.raises(ParameterError, match=r"picture_frame.correct is 'yes', expected true or false; there is no"):
        DETECTOR1.settings({"picture_frame": {"correct": "yes"}}, skip=["jmup"])


def test_recipes_of_older_archives_say_the_same_as_new_ones():
    new = {"recipe": DETECTOR1.recipe(DETECTOR1.settings(skip=["clean_flicker_noise"]))}
    frame, flicker = {"correct": False, "method": "fit"}, {"fit_method": "off", "n_sigma": 3.0}
    kept = {**new["recipe"]["parameters"], "picture_frame": frame, "clean_flicker_noise": flicker}
    old = {"recipe": {"parameters": kept, "skip": []}}
    assert differences(old, new)
    assert differences(without_older_spellings(old, DETECTOR1.steps), new) == []
    assert without_older_spellings({}, DETECTOR1.steps) == {}
    del kept["clean_flicker_noise"]  # a later version did not name steps that were off
    assert differences(without_older_spellings(old, DETECTOR1.steps), new) == []
    on = DETECTOR1.recipe(DETECTOR1.settings({"picture_frame": {"correct": True}}, skip=["clean_flicker_noise"]))
    kept["picture_frame"] = {"correct": True, "method": "fit"}
    assert differences(without_older_spellings(old, DETECTOR1.steps), {"recipe": on}) == []
    assert differences(new, {"recipe": on})[-1] == "run though off by default: nothing -> picture_frame"
    cleaned = {"recipe": {**old["recipe"], "run": ["clean_flicker_noise"]}}
    defaults = DETECTOR1.recipe(DETECTOR1.settings())
    kept |= {"picture_frame": frame, "clean_flicker_noise": defaults["parameters"]["clean_flicker_noise"]}
    assert differences(without_older_spellings(cleaned, DETECTOR1.steps), {"recipe": defaults}) == []


def test_complete_recipes_of_older_versions_do_not_clean():
    filled = DETECTOR1.recipe(DETECTOR1.settings())["parameters"]
    older = {step: values for step, values in filled.items() if step != "clean_flicker_noise"}
    assert Recipe.from_toml(Recipe(parameters=older).as_toml()).skip == ("clean_flicker_noise",)
    assert Recipe.from_toml(Recipe(parameters=filled).as_toml()).skip == ()
    assert Recipe.from_toml(Recipe("refs", parameters=older).as_toml()).skip == ()  # not that of a product
    assert Recipe.from_toml('references = "crds"').skip == ()


def test_the_older_name_of_a_choice_in_an_archive_is_not_a_difference():
    new = {"recipe": DETECTOR1.recipe(DETECTOR1.settings({"refpix": {"bad_pairs": "peer"}}))}
    parameters = new["recipe"]["parameters"]
    assert parameters["refpix"]["bad_pairs"] == "jwst"
    old = {
        "recipe": {"parameters": {**parameters, "refpix": {**parameters["refpix"], "bad_pairs": "peer"}}, "skip": []}
    }
    assert differences(without_older_spellings(old, DETECTOR1.steps), new) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"picture_frame": {"correct": False, "nope": 1}},
        {"clean_flicker_noise": {"fit_method": "off", "n_sigma": "x"}},
    ],
)
def test_what_an_older_switch_turns_off_is_checked_too(parameters):
    with pytest.raises(ParameterError, match=r"nope|n_sigma"):
        DETECTOR1.settings(parameters)
