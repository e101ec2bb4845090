"""Translate older ways to say which steps run. Recipes, archives and commands may still have them.

A step that is off by default used to have a switch among its parameters: ``picture_frame.correct``, and ``off`` as a
``clean_flicker_noise.fit_method``. Now a step is on if it is named in ``run``, or if any of its parameters is given.
The choice ``jwst`` of ``refpix.bad_pairs`` used to be ``peer``.
"""

from collections.abc import Mapping

from nsxr.errors import ParameterError
from nsxr.model.parameters import Parameter
from nsxr.model.types import ByStep, Entries, Named

__all__ = ["SWITCHES", "translated", "without_switches"]

SWITCHES = {("picture_frame", "correct"), ("clean_flicker_noise", "fit_method")}
"""Step and name of each older switch."""

_CORRECT = Parameter("correct", bool, False)


def translated(parameters: ByStep, run: tuple[str, ...] = ()) -> tuple[dict[str, Named], tuple[str, ...], list[str]]:
    """Return parameters by step and the steps to run, without older switches, and messages about wrong switches."""
    found, asked, problems = dict(parameters), list(run), []
    levels = found.get("refpix")
    if isinstance(levels, Mapping) and isinstance(levels.get("bad_pairs"), str) and levels["bad_pairs"] == "peer":
        found["refpix"] = {**levels, "bad_pairs": "jwst"}
    frame, flicker = found.get("picture_frame"), found.get("clean_flicker_noise")
    if isinstance(frame, Mapping) and "correct" in frame:
        is_on = False
        try:
            is_on = _CORRECT.check(frame["correct"], "picture_frame.")
        except ParameterError as error:
            problems.append(str(error))
        found["picture_frame"] = {name: value for name, value in frame.items() if is_on and name != "correct"}
        asked = [name for name in asked if name != "picture_frame"] + (["picture_frame"] if is_on else [])
    if isinstance(flicker, Mapping) and isinstance(flicker.get("fit_method"), str) and flicker["fit_method"] == "off":
        found["clean_flicker_noise"] = {}
        asked = [name for name in asked if name != "clean_flicker_noise"]
    return found, tuple(asked), problems


def without_switches(provenance: Named) -> Entries:
    """Return the provenance of a product with its recipe in today's form, without older switches."""
    recipe = provenance.get("recipe")
    if not isinstance(recipe, Mapping) or not isinstance(recipe.get("parameters"), Mapping):
        return dict(provenance)
    parameters, run, _ = translated(recipe["parameters"], tuple(recipe.get("run", ())))
    asked = [name for name in ("picture_frame", "clean_flicker_noise") if name in run or parameters.get(name)]
    named = {name: values for name, values in parameters.items() if values}
    return {**provenance, "recipe": {**recipe, "parameters": named, "run": recipe.get("run", asked)}}
