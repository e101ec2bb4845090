"""Check the arguments of nsxr functions against their type hints. A wrong argument gives an error of one line."""

import dataclasses
import inspect
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache, wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import numpy as np
import xarray as xr

from nsxr.errors import ParameterError
from nsxr.model.parameters import Parameter, declared, said
from nsxr.model.steps import REFERENCES
from nsxr.model.types import Entries, Function

__all__ = ["check_fields", "checks_all", "checks_arguments", "exported"]

P = ParamSpec("P")
R = TypeVar("R")

_SCALARS = (bool, int, float)
_WORDS: dict[Any, str] = {None: "none", NoneType: "none", str: "a text"}
_WORDS |= {bool: "true or false", int: "a whole number", float: "a number"}
_LABELLED = (xr.Dataset, xr.DataArray, xr.DataTree)
_OPENERS = {"exposure": "nsxr.open_exposure", "reference": "nsxr.open_references", "slit": "nsxr.open_slits"}
_OPENERS |= {"spectr": "nsxr.open_spectra", "ramps": "nsxr.open_exposure"}


class _Refused(Exception):
    """Raised when a value does not fit its type hint. The message may say why."""


def checks_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of a function against its type hints before it is called.

    Whole numbers and NumPy scalars become plain numbers. A text becomes a list of one text where a list is expected.
    ParameterError is raised for the name of a file instead of a Dataset, for True instead of a number, for "no" instead
    of False, and for numbers that are not finite or not in their range.
    """

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        signature = _signature(function)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python names the missing argument
        for name, value in bound.arguments.items():
            one = signature.parameters[name]
            is_hinted = one.annotation is not one.empty and not isinstance(one.annotation, str)
            if is_hinted and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL) and value is not one.default:
                bound.arguments[name] = _checked(one, value)
        return function(*bound.args, **bound.kwargs)

    return wrapped


def check_fields(instance: Any) -> None:
    """Check the fields of a dataclass against their type hints, as arguments of functions are checked.

    For ``__post_init__``. Numbers become plain numbers; lists and arrays become tuples where a tuple is expected.

    Raises
    ------
    ParameterError
        If a field has a value of another type, or a number that is not finite.
    """
    for field in dataclasses.fields(instance):
        value, one = getattr(instance, field.name), inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY)
        if get_origin(field.type) is tuple and isinstance(value, list | np.ndarray):
            value = tuple(value.tolist() if isinstance(value, np.ndarray) else value)
        try:
            value = _checked(one.replace(annotation=field.type), value)
        except ParameterError as error:
            raise ParameterError(f"{type(instance).__name__}: {error}") from None
        object.__setattr__(instance, field.name, value)


def exported(function: Any, package: str) -> Any:
    """Return a function whose arguments are checked when it is called. Anything else is returned unchanged.

    Parameters
    ----------
    function : object
        What the package exports.
    package : str
        Name of the package. The checked function is pickled under this name.
    """
    if not inspect.isfunction(function):
        return function
    checked = checks_arguments(function)
    checked.__module__ = package
    return checked


def checks_all(module: Entries) -> None:
    """Check the arguments of all functions that a package exports.

    Parameters
    ----------
    module : dict
        The names of the package: ``globals()`` at the end of its ``__init__.py``.
    """
    for name in module["__all__"]:
        module[name] = exported(module[name], module["__name__"])


@lru_cache(maxsize=256)
def _signature(function: Function) -> inspect.Signature:
    return inspect.signature(function)


def _checked(one: inspect.Parameter, value: Any) -> Any:
    try:
        return _fitting(one.annotation, value, one)
    except _Refused as refused:
        if refused.args:
            raise ParameterError(str(refused)) from None
        raise ParameterError(
            f"{one.name} is {said(value)}, expected {_wanted(one.annotation)}{_hint(one, value)}"
        ) from None


def _hint(one: inspect.Parameter, value: Any) -> str:
    """Return advice how to open a file, if its name was given instead of a Dataset."""
    given = next(iter(value), None) if isinstance(value, list | tuple) else value
    if not isinstance(given, str | os.PathLike) or "Dataset" not in _wanted(one.annotation):
        return ""
    opener = next((opener for start, opener in _OPENERS.items() if start in one.name), None)
    if one.name in REFERENCES:
        opener = "nsxr.open_references" if REFERENCES[one.name].opened else "nsxr.open_spec2_references"
    return f"; open files first, with {opener}" if opener else "; open files first"


def _fitting(hint: Any, value: Any, one: inspect.Parameter) -> Any:
    """Return a value converted to the type of a hint, or raise _Refused."""
    kind = get_origin(hint)
    if kind in (Union, UnionType):
        return _fitting_one(get_args(hint), value, one)
    if kind is Annotated or hint in _SCALARS:
        return _number(hint, value, one)
    if hint in (None, NoneType):
        fits = value is None
    elif kind is Literal:
        fits = any(type(value) is type(word) for word in get_args(hint))  # the function itself checks the word
    elif hint is os.PathLike or kind is os.PathLike:
        fits = isinstance(value, os.PathLike)
    elif hint is np.ndarray or kind is np.ndarray:
        fits = isinstance(value, np.ndarray | list | tuple)
    elif kind is Mapping or kind is dict:
        fits = isinstance(value, Mapping) and not isinstance(value, _LABELLED)
        if fits and get_args(hint)[1] is xr.Dataset:
            wrong = [name for name, item in value.items() if not isinstance(item, xr.Dataset)]
            if wrong:
                opener = "; open files first, with nsxr.open_references" if "reference" in one.name else ""
                raise _Refused(f"{one.name}[{wrong[0]!r}] is {said(value[wrong[0]])}, expected a Dataset{opener}")
    elif kind in (Sequence, Collection, Iterable, list, tuple):
        return _several(get_args(hint)[0], value, one)
    elif kind is Callable:
        fits = callable(value)
    elif isinstance(hint, type):
        fits = isinstance(value, hint)
    else:
        fits = True
    if not fits:
        raise _Refused
    return value


def _fitting_one(hints: Sequence[Any], value: Any, one: inspect.Parameter) -> Any:
    """Return a value converted to the first hint that accepts it. A Literal hint accepts only its own words."""
    reason: _Refused | None = None
    for hint in hints:
        if get_origin(hint) is Literal and value not in get_args(hint):
            continue
        try:
            return _fitting(hint, value, one)
        except _Refused as refused:
            reason = refused if refused.args else reason
    raise reason or _Refused


def _number(hint: Any, value: Any, one: inspect.Parameter) -> Any:
    """Return a number, a boolean or a word after checking its range. NumPy scalars become Python scalars."""
    kind, notes = declared(hint)
    if notes:
        default = one.default if one.default is not one.empty else ...
        limits = {type(note).__name__.lower(): note for note in notes}
        unit = limits["unit"].name if "unit" in limits else ""
        parameter = Parameter(one.name, kind, default, "", unit, limits.get("range"), limits.get("choices"))
        try:
            return parameter.check(value)
        except ParameterError as error:
            raise _Refused(str(error)) from None
    try:
        found = Parameter(one.name, kind, ...).check(value)
    except ParameterError as error:
        if kind is float and isinstance(value, float | np.floating) and not math.isfinite(value):
            raise _Refused(str(error)) from None
        raise _Refused from None
    return found


def _several(hint: Any, value: Any, one: inspect.Parameter) -> Any:
    if isinstance(value, str) and hint is str:
        return (value,)
    if isinstance(value, (str, bytes, *_LABELLED, Mapping)) or not isinstance(value, Iterable):
        raise _Refused
    if isinstance(value, list | tuple):
        for number, item in enumerate(value):
            try:
                _fitting(hint, item, one)
            except _Refused as refused:
                if refused.args or isinstance(item, str | os.PathLike):
                    raise
                raise _Refused(f"{one.name}[{number}] is {said(item)}, expected {_wanted(hint)}") from None
    return value


def _wanted(hint: Any) -> str:
    """Describe a type hint in words."""
    kind = get_origin(hint)
    if kind in (Union, UnionType):
        words = list(dict.fromkeys(map(_wanted, get_args(hint))))
        words = [word for word in words if word != "a text" or "a path" not in words]
        return " or ".join(words)
    if kind is Annotated:
        return _wanted(get_args(hint)[0])
    if kind is Literal:
        return ", ".join(map(repr, get_args(hint)))
    if hint is os.PathLike or kind is os.PathLike:
        return "a path"
    if kind is Mapping or kind is dict:
        return "a mapping of names to Datasets" if get_args(hint)[1] is xr.Dataset else "a mapping"
    if kind in (Sequence, Collection, Iterable, list, tuple):
        inner = _wanted(get_args(hint)[0])
        return f"several of these: {inner}" if " or " in inner else f"a list of {_plural(inner)}"
    if kind is Callable:
        return "a function"
    if hint in _WORDS:
        return _WORDS[hint]
    name = getattr(hint, "__name__", str(hint))
    return f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}"


def _plural(words: str) -> str:
    first, _, rest = words.removeprefix("a ").removeprefix("an ").partition(" ")
    return f"{first}s {rest}".strip()
