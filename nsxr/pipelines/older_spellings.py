"""Translate older ways to say which steps run. Recipes, archives and commands may still have them.

Two steps used to have a switch among their parameters: ``picture_frame.correct``, and ``off`` as a
``clean_flicker_noise.fit_method``. Now a step that is off by default is on if it is named in ``run``, or if any of its
parameters is given, and any step is off if it is named in ``skip``. ``clean_flicker_noise`` used to be off by default.
Older names of choices are declared with the parameter, see :class:`nsxr.model.parameters.Choices`.
"""

from collections.abc import Mapping
from typing import NamedTuple

from nsxr.errors import ParameterError
from nsxr.model.declarations import Step
from nsxr.model.parameters import Parameter
from nsxr.model.types import ByStep, Entries, Named

__all__ = ["Translated", "steps_that_were_off", "translated", "without_older_spellings"]

_CLEANING = "clean_flicker_noise"
_CORRECT = Parameter("correct", bool, False)


class Translated(NamedTuple):
    """What was asked for, without older switches.

    Attributes
    ----------
    parameters : dict
        Parameters by step.
    run : tuple of str
        Steps to run.
    off : frozenset of str
        Steps that an older switch turns off. Their parameters have no effect.
    problems : list of str
        Messages about wrong switches.
    """

    parameters: dict[str, Named]
    run: tuple[str, ...]
    off: frozenset[str]
    problems: list[str]


def translated(parameters: ByStep, run: tuple[str, ...] = ()) -> Translated:
    """Return parameters by step and the steps to run, without older switches."""
    found, switches, problems = dict(parameters), dict[str, bool](), list[str]()
    frame, flicker = found.get("picture_frame"), found.get(_CLEANING)
    if isinstance(frame, Mapping) and "correct" in frame:
        switches["picture_frame"] = False
        try:
            switches["picture_frame"] = _CORRECT.check(frame["correct"], "picture_frame.")
        except ParameterError as error:
            problems.append(str(error))
        found["picture_frame"] = {name: value for name, value in frame.items() if name != "correct"}
    if isinstance(flicker, Mapping) and isinstance(flicker.get("fit_method"), str) and flicker["fit_method"] == "off":
        switches[_CLEANING] = False
        found[_CLEANING] = {name: value for name, value in flicker.items() if name != "fit_method"}
    asked = [name for name in run if name not in switches] + [name for name, is_on in switches.items() if is_on]
    return Translated(found, tuple(asked), frozenset(name for name in switches if not switches[name]), problems)


def steps_that_were_off(recipe: Named) -> tuple[str, ...]:
    """Return the steps that the recipe of a product leaves off without a word, because they were off by default.

    The recipe of a product names every step that ran.
    """
    named = (*recipe.get("parameters", ()), *recipe.get("skip", ()), *recipe.get("run", ()))
    return () if _CLEANING in named else (_CLEANING,)


def without_older_spellings(provenance: Named, steps: Mapping[str, Step]) -> Entries:
    """Return the provenance of a product with its recipe as it is written today.

    Parameters
    ----------
    provenance : mapping
        From :func:`nsxr.model.provenance.provenance_of`.
    steps : mapping of str to Step
        The steps of the pipeline, by name.
    """
    recipe = provenance.get("recipe")
    if not isinstance(recipe, Mapping) or not isinstance(recipe.get("parameters"), Mapping):
        return dict(provenance)
    parameters, run, off, _ = translated(recipe["parameters"], tuple(recipe.get("run", ())))
    named = {
        step: {name: _present_name(steps.get(step), name, value) for name, value in values.items()}
        for step, values in parameters.items()
        if values and step not in off
    }
    asked = [name for name in ("picture_frame",) if name in run or name in named]
    skip = list(recipe.get("skip", ()))
    for name in steps_that_were_off({**recipe, "parameters": named, "run": run}):
        if name in steps:
            skip.append(name)
            named[name] = {key: value for key, value in steps[name].defaults.items() if value is not None}
    changed = {
        "parameters": named,
        "skip": skip,
        "run": [name for name in recipe.get("run", asked) if name != _CLEANING],
    }
    return {**provenance, "recipe": {**recipe, **changed}}


def _present_name(step: Step | None, name: str, value: object) -> object:
    """Return the value of a parameter. A choice that has been renamed gets its present name."""
    choices = step.parameters[name].choices if step is not None and name in step.parameters else None
    return choices.present_name(value) if choices is not None and isinstance(value, str) else value
