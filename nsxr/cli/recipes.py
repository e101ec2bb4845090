"""Define the options of calibration: a recipe, references, parameters, steps to run and to skip."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import TypeVar

import click
from click.shell_completion import CompletionItem

from nsxr.cli.options import split_pair, takes_storage_options
from nsxr.cli.settings import step_parameters
from nsxr.model.types import ByStep, Function, Named
from nsxr.pipelines.detector1 import DETECTOR1
from nsxr.pipelines.recipe import Recipe
from nsxr.references.files import OPTIONAL, TYPES

__all__ = ["complete_steps", "takes_recipe"]

R = TypeVar("R")


def complete_steps(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of steps."""
    names = DETECTOR1.saved if parameter.name == "save" else tuple(DETECTOR1.steps)
    if parameter.name == "asked":
        names = tuple(name for name, step in DETECTOR1.steps.items() if step.off)
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _complete_settings(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete STEP.PARAMETER=."""
    found = {
        f"{step.name}.{name}=": one.meaning
        for step in DETECTOR1.steps.values()
        for name, one in step.parameters.items()
    }
    return [CompletionItem(name, help=words) for name, words in found.items() if name.startswith(incomplete)]


def _complete_types(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete TYPE=."""
    return [CompletionItem(f"{name}=") for name in (*TYPES, *OPTIONAL) if name.startswith(incomplete)]


def _calibration_options(command: Function) -> Function:
    """Add the options of calibration: references, parameters, steps to run and to skip."""
    for option in (
        click.option(
            "--recipe",
            "recipe_file",
            metavar="FILE",
            type=click.Path(),
            help="Read references, parameters and steps from a file like ROOT_recipe.toml. Other options override it.",
        ),
        click.option(
            "--run",
            "asked",
            metavar="STEP",
            multiple=True,
            shell_complete=complete_steps,
            help="Run a step that is off by default. Repeatable. nsxr steps lists all steps.",
        ),
        click.option(
            "--skip", metavar="STEP", multiple=True, shell_complete=complete_steps, help="Skip a step. Repeatable."
        ),
        click.option(
            "--set",
            "settings",
            metavar="STEP.PARAMETER=VALUE",
            multiple=True,
            shell_complete=_complete_settings,
            help="Set a parameter of a step: jump.rejection_threshold=5. Repeatable. nsxr parameters lists them.",
        ),
        click.option(
            "--reference",
            "named",
            metavar="TYPE=PATH",
            multiple=True,
            shell_complete=_complete_types,
            help="Path of one reference. It overrides the directory. Repeatable.",
        ),
        click.option(
            "--shutters",
            metavar="FILE",
            type=click.Path(),
            help="MSA metafile for --optics. Default: that of the header, beside the exposure or with the optics.",
        ),
        click.option(
            "--optics",
            metavar="DIR",
            help="Directory of references of the optics, or 'crds': they tell the cleaning of 1/f noise where light "
            "can fall. Default: those in --references, if they are there. 'none' uses none.",
        ),
        click.option("--references", "source", metavar="DIR", help="Directory of references, or 'crds'."),
    ):
        command = option(command)
    return command


def takes_recipe(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options of calibration. The command gets them as ``recipe``."""

    @_calibration_options
    @takes_storage_options
    @wraps(command)
    def wrapped(
        *args: object,
        recipe_file: str | None,
        source: str | None,
        named: Sequence[str],
        settings: Sequence[str],
        skip: Sequence[str],
        asked: Sequence[str],
        optics: str | None,
        shutters: str | None,
        storage_options: Named,
        **kwargs: object,
    ) -> R:
        references = dict(split_pair(text, "TYPE=PATH") for text in named)
        if source is None and not references and recipe_file is None:
            raise click.UsageError(
                "give references: --references DIR, --references crds, --reference TYPE=PATH, or --recipe FILE"
            )
        base = Recipe(storage_options=storage_options)
        if recipe_file is not None:
            base = Recipe.read(recipe_file, storage_options)
        recipe = _over(base, source, references, step_parameters(settings, DETECTOR1), skip, asked)
        recipe = replace(recipe, optics=optics or recipe.optics, shutters=shutters or recipe.shutters)
        return command(*args, recipe=recipe, **kwargs)

    return wrapped


def _over(
    base: Recipe,
    source: str | None,
    named: Mapping[str, str],
    parameters: ByStep,
    skip: Sequence[str],
    run: Sequence[str],
) -> Recipe:
    """Return a recipe with the other options applied.

    A directory also overrides references that the recipe names, and the optics of the recipe of a product. A step that
    the recipe skips runs if the options name it or one of its parameters.
    """
    steps = dict.fromkeys((*base.parameters, *parameters))
    skipped = [name for name in base.skip if name not in run and name not in parameters]
    optics, shutters = base.optics, base.shutters
    if source is not None and base.references is None and optics not in ("none", "crds"):
        optics, shutters = None, None
    return replace(
        base,
        optics=optics,
        shutters=shutters,
        references=source or base.references,
        named={**(base.named if source is None else {}), **named},
        parameters={name: {**base.parameters.get(name, {}), **parameters.get(name, {})} for name in steps},
        skip=tuple(dict.fromkeys((*skipped, *skip))),
        run=tuple(dict.fromkeys((*base.run, *run))),
    )
