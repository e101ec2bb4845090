"""Declare the step that a function implements: its name, references and parameters.

.. code-block:: python

    @step("saturation", references=[Needs("saturation"), Takes("superbias", of="superbias")])
    def flag_saturation(exposure, saturation, superbias=None, *, n_pix_grow_sat: Pixels = 1) -> xr.Dataset: ...

The decorator attaches a :class:`Step` to the function and returns the function itself. The parameters of the step are
read from the type hints and the docstring of the function, see :mod:`nsxr.model.parameters`. Pipelines, the command
line, the tables of parameters and the checks of archives all use this declaration.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import xarray as xr

from nsxr.model.parameters import Parameter, parameters_of
from nsxr.model.steps import REFERENCES, STEPS
from nsxr.model.types import Entries, Function, Named

__all__ = ["Needs", "Reference", "Step", "Takes", "declaration_of", "step", "taken_by"]

F = TypeVar("F", bound=Function)

_ATTRIBUTE = "nsxr_step"


@dataclass(frozen=True)
class Reference:
    """A reference that is passed to a step.

    Attributes
    ----------
    kind : str
        Reference type, as in :data:`nsxr.model.steps.REFERENCES`.
    argument : str
        Name of the function's argument. Default: the reference type.
    """

    kind: str
    argument: str = ""

    @property
    def name(self) -> str:
        """Name of the function's argument."""
        return self.argument or self.kind


@dataclass(frozen=True)
class Needs(Reference):
    """A reference that a step requires."""


@dataclass(frozen=True)
class Takes(Reference):
    """A reference that a step uses if it is available.

    Attributes
    ----------
    of : str
        Name of another step, if the reference serves that step. The reference is then required if that step is on, and
        not used if that step is off.
    """

    of: str = ""


@dataclass(frozen=True)
class Step:
    """One step of a pipeline.

    Attributes
    ----------
    name : str
        As in the observatory's pipeline.
    function : callable
        Takes a Dataset, references and parameters; returns a Dataset, or the DataTree of products.
    references : tuple of Reference
        References, in the order in which they are shown.
    parts : tuple of callable
        Functions to which ``function`` passes some of its ``**parameters``. Their parameters belong to the step too.
    options : tuple of Parameter
        Parameters of the step that other steps use. ``function`` does not take them.
    given : tuple of str
        Keyword arguments of ``function`` and ``parts`` that the pipeline computes. They are not parameters of the step.
    unless : callable, optional
        Function that takes the exposure and returns the reason why the step cannot run, or None.
    off : str
        Reason that products record if the step was not requested. Empty for steps that are on by default.
    is_essential : bool
        Whether the step must not be skipped.
    makes_products : bool
        Whether the step makes the products of the pipeline from its input. Its result is a DataTree.
    by_frame : bool
        Whether the step works on single frames of raw IRS2 exposures. Chunks hold single frames until then.
    by_integration : bool
        Whether the step needs whole integrations in a chunk, as far as memory allows.
    series : str
        Keyword argument for a second copy of the exposure, in which a chunk holds all integrations of some rows. The
        pipeline passes it if a time series does not fit into memory. Empty if the step needs one pass only.
    """

    name: str
    function: Function
    references: tuple[Reference, ...] = ()
    parts: tuple[Function, ...] = ()
    options: tuple[Parameter, ...] = ()
    given: tuple[str, ...] = ()
    unless: Callable[[xr.Dataset], str | None] | None = None
    off: str = ""
    is_essential: bool = False
    makes_products: bool = False
    by_frame: bool = False
    by_integration: bool = False
    series: str = ""

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters of the step, by name."""
        found: dict[str, Parameter] = {}
        for function in (*self.parts, self.function):
            found |= parameters_of(function, (*self.given, self.series))
        return found | {option.name: option for option in self.options}

    @property
    def defaults(self) -> Entries:
        """Defaults of the parameters of the step, by name."""
        return {name: parameter.default for name, parameter in self.parameters.items()}

    @property
    def needs(self) -> tuple[str, ...]:
        """Types of the references that the step requires."""
        return tuple(one.kind for one in self.references if isinstance(one, Needs))

    @property
    def keyword(self) -> str:
        """Keyword of products that says whether the step ran."""
        return STEPS[self.name].keyword

    @property
    def summary(self) -> str:
        """What the step does: the first line of the docstring of its function."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def arguments(self, parameters: Named) -> Entries:
        """Return the parameters that the function takes, out of those given."""
        elsewhere = {option.name for option in self.options}
        return {name: value for name, value in parameters.items() if name not in elsewhere}


def step(
    name: str,
    *,
    references: Sequence[Reference] = (),
    parts: Sequence[Function] = (),
    options: Sequence[Parameter] = (),
    given: Sequence[str] = (),
    unless: Callable[[xr.Dataset], str | None] | None = None,
    off: str = "",
    is_essential: bool = False,
    makes_products: bool = False,
    by_frame: bool = False,
    by_integration: bool = False,
    series: str = "",
) -> Callable[[F], F]:
    """Declare that a function is a step. The arguments are the attributes of :class:`Step`.

    Raises
    ------
    TypeError
        If the step or a reference type has no name in :mod:`nsxr.model.steps`, or if the function has no argument for a
        reference.
    """

    def attach(function: F) -> F:
        if name not in STEPS:
            raise TypeError(f"step {name!r} of {function.__name__} is not in nsxr.model.steps.STEPS; add it there")
        arguments = inspect.signature(function).parameters
        for reference in references:
            if reference.kind not in REFERENCES:
                raise TypeError(f"step {name!r}: no reference type {reference.kind!r} in nsxr.model.steps.REFERENCES")
            if reference.name not in arguments:
                raise TypeError(f"step {name!r}: {function.__name__} has no argument {reference.name!r}")
        declared = Step(
            name,
            function,
            tuple(references),
            tuple(parts),
            tuple(options),
            tuple(given),
            unless,
            off,
            is_essential,
            makes_products,
            by_frame,
            by_integration,
            series,
        )
        setattr(function, _ATTRIBUTE, declared)
        return function

    return attach


def declaration_of(function: Function) -> Step:
    """Return what a function declares with :func:`step`.

    Raises
    ------
    TypeError
        If the function is not declared as a step.
    """
    found = getattr(function, _ATTRIBUTE, None)
    if not isinstance(found, Step):
        raise TypeError(
            f"{getattr(function, '__name__', function)} is no step; declare it with nsxr.model.declarations.step"
        )
    return found


def taken_by(function: Function, parameters: Named) -> Entries:
    """Return the parameters that a function takes, out of those given."""
    known = parameters_of(function)
    return {name: value for name, value in parameters.items() if name in known}
