"""Check the settings of a pipeline: parameters of steps, steps to skip, steps to run that are off by default."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import xarray as xr

from nsxr.errors import ParameterError
from nsxr.model.declarations import Step
from nsxr.model.parameters import closest, said
from nsxr.model.types import ByStep, Entries
from nsxr.pipelines.older_spellings import translated

__all__ = ["Settings", "checked"]


@dataclass(frozen=True)
class Settings:
    """Settings of a pipeline, after their check.

    Attributes
    ----------
    parameters : dict
        Parameters that were given, by step. Every step has an entry.
    skip : tuple of str
        Steps to skip, in their order.
    run : tuple of str
        Steps to run that are off by default, in their order.
    """

    parameters: ByStep = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    run: tuple[str, ...] = ()

    def reason_off(self, step: Step) -> str | None:
        """Return why a step is off, as products record it, or None if the step is on."""
        if step.name in self.skip:
            return "on request"
        return step.off if step.off and step.name not in self.run else None


def checked(
    steps: Mapping[str, Step],
    parameters: ByStep,
    skip: tuple[str, ...],
    run: tuple[str, ...],
    agree: Callable[[dict[str, Entries]], None] | None = None,
) -> Settings:
    """Check names and values, and return the settings, see :meth:`nsxr.pipelines.pipeline.Pipeline.settings`.

    Parameters
    ----------
    steps : mapping of str to Step
        The steps of the pipeline, by name.
    parameters, skip, run
        Values that the user gave.
    agree : callable, optional
        Function that sets defaults that depend on parameters of another step.

    Raises
    ------
    ParameterError
        If there are problems. The message names all of them.
    """
    given, run, off, problems = translated(parameters, run)
    for name in [*given, *skip, *run]:
        if name not in steps:
            problems.append(f"there is no step {name!r}{_hint(name, steps)}")
    problems += [f"step {name!r} cannot be skipped" for name in skip if name in steps and steps[name].is_essential]
    found: dict[str, Entries] = {name: {} for name in steps}
    for name, values in given.items():
        if name in steps and values is not None:
            values = _checked_values(steps[name], values, problems)
            found[name] = {} if name in off else values
    if problems:
        raise ParameterError("; ".join(problems))
    if agree is not None:
        agree(found)
    skip = (*skip, *(name for name in off if name in steps and not steps[name].off))
    return Settings(
        found,
        tuple(name for name in steps if name in skip),
        tuple(name for name, step in steps.items() if step.off and (name in run or found[name])),
    )


def _checked_values(step: Step, values: object, problems: list[str]) -> Entries:
    """Return the parameters of a step after checking names and values; add what is wrong to the problems."""
    if not isinstance(values, Mapping) or isinstance(values, xr.Dataset):
        problems.append(f"parameters of step {step.name!r} must be a mapping, not {said(values)}")
        return {}
    found: Entries = {}
    for parameter, value in values.items():
        if parameter not in step.parameters:
            problems.append(f"step {step.name!r} has no parameter {parameter!r}{_hint(parameter, step.parameters)}")
            continue
        try:
            found[parameter] = step.parameters[parameter].check(value, f"{step.name}.")
        except ParameterError as error:
            problems.append(str(error))
    return found


def _hint(name: object, known: Collection[str]) -> str:
    meant = closest(name, known)
    return f", did you mean {meant!r}?" if meant else f"; known: {', '.join(known) or 'none'}"
