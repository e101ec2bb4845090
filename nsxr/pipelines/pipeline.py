"""Run the steps of a pipeline in order, and tell which references and parameters they have."""

import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

import xarray as xr

from nsxr.compute.layouts import rechunk_by_tasks, to_blocks, to_ramps
from nsxr.compute.memory import arranged, exceeds_memory, out_of_frames
from nsxr.errors import DegradedResultWarning, MissingReferenceError
from nsxr.model.declarations import Reference, Step, Takes, declaration_of
from nsxr.model.history import record_skip
from nsxr.model.provenance import noted
from nsxr.model.readout import Readout
from nsxr.model.steps import serves
from nsxr.model.types import ByStep, Entries, Function, Named
from nsxr.pipelines.settings import Settings, checked
from nsxr.references.choose import References
from nsxr.references.match import require_kind
from nsxr.slits.collection import map_slits

__all__ = ["Pipeline"]

P = ParamSpec("P")
R = TypeVar("R")
Given = ByStep
"""Further arguments of steps, by step: arguments that are neither references nor parameters."""


class _Inputs(NamedTuple):
    """What all steps of an exposure share: how it was read out, the references by type, and the settings."""

    readout: Readout
    references: Mapping[str, xr.Dataset]
    settings: Settings


class Pipeline:
    """The steps of a stage in order.

    Parameters
    ----------
    name : str
        As in the observatory's pipeline.
    functions : sequence of callable
        Functions with a declaration, see :func:`nsxr.model.declarations.step`, in the order in which they run.
    products : sequence of str
        Kinds of the products.
    modes : mapping of str to sequence of callable, optional
        Functions in order, by EXP_TYPE, for each EXP_TYPE that has other steps.
    off : mapping of str to str, optional
        Steps that are off by default in this pipeline, although not in another one, and why.
    agree : callable, optional
        Function that sets defaults that depend on parameters of another step. It changes the parameters in place.
    """

    def __init__(
        self,
        name: str,
        functions: Sequence[Function],
        *,
        products: Sequence[str],
        modes: Mapping[str, Sequence[Function]] | None = None,
        off: Mapping[str, str] | None = None,
        agree: Callable[[dict[str, Entries]], None] | None = None,
    ) -> None:
        self.name = name
        self.products = tuple(products)
        off = off or {}
        self.steps: Mapping[str, Step] = _named(functions, off)
        self.modes: Mapping[str, Mapping[str, Step]] = {kind: _named(each, off) for kind, each in (modes or {}).items()}
        self._agree = agree

    def of(self, exp_type: str) -> Mapping[str, Step]:
        """Return the steps of exposures of this EXP_TYPE, by name, in order."""
        return self.modes.get(exp_type, self.steps)

    @property
    def saved(self) -> tuple[str, ...]:
        """Steps whose result can be saved: those before the step that makes the products."""
        return tuple(_until(self.steps, _maker(self.steps)))

    def settings(
        self,
        parameters: ByStep | None = None,
        skip: Collection[str] = (),
        run: Collection[str] = (),
    ) -> Settings:
        """Check the names and values of parameters and steps, and return them. Older spellings are translated.

        Parameters
        ----------
        parameters : mapping
            Parameters by step.
        skip : collection of str
            Steps to skip, even if ``run`` or the parameters turn them on.
        run : collection of str
            Steps to run that are off by default. A step is also on if any of its parameters is given.

        Raises
        ------
        ParameterError
            If a step or a parameter is unknown, or a value is not allowed. The message names all problems.
        """
        return checked(self.steps, parameters or {}, tuple(skip), tuple(run), self._agree)

    def filled(self, settings: Settings) -> dict[str, Entries]:
        """Return the parameters, defaults included, of every step that is on by default or was requested.

        Parameters that are unset, and steps without any parameter, are left out.
        """
        asked = [step for name, step in self.steps.items() if not step.off or name in settings.run]
        filled = {step.name: {**step.defaults, **settings.parameters.get(step.name, {})} for step in asked}
        known = {name: {k: v for k, v in values.items() if v is not None} for name, values in filled.items()}
        return {name: values for name, values in known.items() if values}

    def recipe(self, settings: Settings) -> Entries:
        """Return the part of the settings that products keep. With it the pipeline gives the same result again."""
        return {"parameters": self.filled(settings), "skip": list(settings.skip), "run": list(settings.run)}

    def reference_types(
        self, exposure: xr.Dataset, settings: Settings | None = None, until: str | None = None
    ) -> list[str]:
        """Return the reference types that an exposure needs, for all steps or for the steps before ``until``."""
        steps = _until(self._steps_of(exposure), until)
        return self._needed(steps.values(), Readout.of(exposure), settings or self.settings())

    def _steps_of(self, exposure: xr.Dataset) -> Mapping[str, Step]:
        return self.of(str(exposure.attrs.get("EXP_TYPE", "")))

    def is_done(self, name: str, exposure: xr.Dataset, settings: Settings) -> bool:
        """Return whether a step is on and can run for an exposure."""
        step = self.steps[name]
        return settings.reason_off(step) is None and _cannot(step, exposure) is None

    def problems(self, records: Sequence[Named], attributes: Named) -> Iterator[str]:
        """Yield a message for each step whose record in the history of a product is missing or incomplete.

        A step must be recorded as done, with all references that it needs, or as skipped, with a reason.

        Parameters
        ----------
        records : sequence of mapping
            History of the product, see :mod:`nsxr.model.history`.
        attributes : mapping
            Header keywords of the product.
        """
        readout = Readout.from_header(attributes)
        done: dict[str, list[Named]] = {}
        for record in records:
            done.setdefault(record["step"], []).append(record)
        for name, step in self.of(str(attributes.get("EXP_TYPE", ""))).items():
            if name not in done:
                if not step.off:  # the product may be older than a step that is off by default
                    yield f"provenance has no step {name}"
            elif any(record["status"] == "COMPLETE" for record in done[name]):
                used = {k for record in done[name] for k, file in record["references"].items() if file != "unnamed"}
                missing = [kind for kind in step.needs if serves(kind, readout) and kind not in used]
                if missing:
                    yield f"provenance of step {name} names no {', '.join(missing)} reference"
            elif not all(record.get("reason") for record in done[name]):
                yield f"provenance does not say why step {name} was left out"

    def correct(
        self,
        exposure: xr.Dataset,
        references: Mapping[str, xr.Dataset],
        settings: Settings,
        *,
        given: Given | None = None,
        left_out: Mapping[str, str] | None = None,
        until: str | None = None,
        since: tuple[str, xr.Dataset | xr.DataTree] | None = None,
    ) -> dict[str, xr.Dataset]:
        """Run the steps before the one that makes the products.

        Parameters
        ----------
        exposure : Dataset
            Input of the first step.
        references : mapping of str to Dataset
            References by type.
        settings : Settings
            Checked settings, from :meth:`settings`.
        given : mapping, optional
            Further arguments of a step, by its name.
        left_out : mapping of str to str
            Reasons to skip steps that are on, by step.
        until : str, optional
            Only run the steps before this one.
        since : (str, Dataset or DataTree), optional
            Only run the steps from this one on, with this input.

        Returns
        -------
        dict of str to Dataset
            The exposure after each step, by name of the step, in order. All are lazy if the exposure is lazy.

        Raises
        ------
        MissingReferenceError
            If a step of the pipeline lacks a reference.
        """
        steps = self._steps_of(exposure)
        inputs = _Inputs(Readout.of(exposure), references, settings)
        before = _until(steps, since[0]) if since is not None else {}
        self._require({name: step for name, step in _until(steps, until).items() if name not in before}, inputs)
        todo = [
            (step, settings.reason_off(step) or (left_out or {}).get(name) or _cannot(step, exposure))
            for name, step in _until(steps, until or _maker(steps)).items()
            if name not in before
        ]
        by_integration = any(step.by_integration for step, why_not in todo if why_not is None)
        with rechunk_by_tasks():
            is_ramp = "group" in exposure.dims
            start = arranged(exposure, by_integration) if is_ramp and (by_integration or until is None) else exposure
            return self._run(todo, start if since is None else since[1], exposure, inputs, given or {})

    def _run(
        self,
        todo: Sequence[tuple[Step, str | None]],
        start: Any,
        exposure: xr.Dataset,
        inputs: _Inputs,
        given: Given,
    ) -> dict[str, xr.Dataset]:
        """Run the steps that have no reason to be skipped. ``start`` is ``exposure`` in the layout for these steps."""
        stages: dict[str, xr.Dataset] = {}
        current = start
        for number, (step, why_not) in enumerate(todo):
            if why_not is not None:
                current = map_slits(partial(record_skip, step=step.name, reason=why_not), current)
            else:
                current = to_blocks(current) if step.by_integration else current
                more = dict(given.get(step.name, {}))
                if step.series and exceeds_memory(exposure, current):
                    # the step compares all integrations of a pixel; reading the ramps a second time saves memory
                    with warnings.catch_warnings():  # the first pass has already given these warnings
                        warnings.simplefilter("ignore", DegradedResultWarning)
                        again = self._run(todo[:number], to_ramps(exposure), exposure, inputs, given)
                    more[step.series] = list(again.values())[-1]
                current = step.function(current, **self._arguments(step, inputs), **more)
                current = out_of_frames(current, exposure) if step.by_frame else current
            stages[step.name] = current
        return stages

    def make_products(
        self,
        corrected: xr.Dataset,
        references: Mapping[str, xr.Dataset],
        settings: Settings,
        *,
        given: Given | None = None,
        left_out: Mapping[str, str] | None = None,
    ) -> xr.DataTree:
        """Run the step that makes the products, and the later steps on each product.

        The parameters are those of :meth:`correct`.

        Returns
        -------
        DataTree
            The products. Their provenance holds the recipe.
        """
        steps = self._steps_of(corrected)
        before = _until(steps, _maker(steps))
        rest = {name: step for name, step in steps.items() if name not in before}
        inputs = _Inputs(Readout.of(corrected), references, settings)
        self._require(rest, inputs)
        first, *others = rest.values()
        with rechunk_by_tasks():
            arguments = {**self._arguments(first, inputs), **(given or {}).get(first.name, {})}
            tree: xr.DataTree = first.function(corrected, **arguments)
            nodes = {name: node.to_dataset() for name, node in tree.children.items()}
            for name, node in nodes.items():
                for step in others:
                    why_not = settings.reason_off(step) or (left_out or {}).get(step.name) or _cannot(step, node)
                    if why_not is None:
                        node = step.function(node, **self._arguments(step, inputs))
                    else:
                        node = record_skip(node, step.name, why_not)
                nodes[name] = node.assign_attrs(noted(node.attrs, recipe=self.recipe(settings)))
        return xr.DataTree.from_dict(nodes, name=tree.name)

    def _arguments(self, step: Step, inputs: _Inputs) -> Entries:
        """Return the references and the parameters to pass to a step."""
        readout, references, settings = inputs
        wanted = [one for one in step.references if one.kind in references and self._is_used(one, readout, settings)]
        found = {one.name: references[one.kind] for one in wanted}
        return {**found, **step.arguments(settings.parameters[step.name])}

    def _is_used(self, reference: Reference, readout: Readout, settings: Settings) -> bool:
        """Return whether a step uses a reference that is available."""
        other = self.steps.get(reference.of) if isinstance(reference, Takes) else None
        return serves(reference.kind, readout) and (other is None or settings.reason_off(other) is None)

    def _needed(self, steps: Iterable[Step], readout: Readout, settings: Settings) -> list[str]:
        """Return the reference types that are needed by the steps that are on."""
        found: list[str] = []
        for step in steps:
            for one in step.references if settings.reason_off(step) is None else ():
                is_needed = not isinstance(one, Takes) or one.of in self.steps
                if is_needed and one.kind not in found and self._is_used(one, readout, settings):
                    found.append(one.kind)
        return found

    def _require(self, steps: Mapping[str, Step], inputs: _Inputs) -> None:
        """Raise MissingReferenceError unless each reference that these steps need is given under its type."""
        readout, references, settings = inputs
        kinds = self._needed(steps.values(), readout, settings)
        missing = [kind for kind in kinds if kind not in references]
        if missing:
            users = [f"{kind} ({', '.join(self._users(kind))})" for kind in missing]
            left_out = references.why_not if isinstance(references, References) else lambda kind: ""
            reasons = [f"{kind}: {reason}" for kind in missing if (reason := left_out(kind))]
            why = f"; left out as {'; as '.join(reasons)}" if reasons else ""
            raise MissingReferenceError(
                f"references missing: {', '.join(users)}; give them, or skip the steps in brackets{why}"
            )
        for kind in kinds:
            require_kind(references[kind], kind)

    def _users(self, kind: str) -> list[str]:
        """Return the steps that need references of a type."""
        return [name for name, step in self.steps.items() if kind in step.needs]

    def shows_steps(self, function: Callable[P, R]) -> Callable[P, R]:
        """Replace ``**parameters`` in the signature of a function by the steps, for help and completion."""
        shown = inspect.signature(function)
        kept = [one for one in shown.parameters.values() if one.kind is not one.VAR_KEYWORD]
        steps = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in self.steps]
        setattr(function, "__signature__", shown.replace(parameters=[*kept, *steps]))  # noqa: B010  (mypy knows none)
        return function


def _named(functions: Sequence[Function], off: Mapping[str, str]) -> dict[str, Step]:
    declared = [declaration_of(function) for function in functions]
    return {step.name: replace(step, off=off.get(step.name, step.off)) for step in declared}


def _until(steps: Mapping[str, Step], name: str | None) -> dict[str, Step]:
    """Return the steps before the named one. Return all steps if there is no step of this name."""
    names = list(steps)
    return {each: steps[each] for each in names[: names.index(name) if name in names else None]}


def _maker(steps: Mapping[str, Step]) -> str | None:
    """Return the name of the step that makes the products."""
    return next((step.name for step in steps.values() if step.makes_products), None)


def _cannot(step: Step, exposure: xr.Dataset) -> str | None:
    """Return the reason why a step cannot run for an exposure, or None."""
    return None if step.unless is None else step.unless(exposure)
