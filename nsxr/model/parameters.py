"""Describe the parameters of functions. Type hints give type, unit, range and choices; docstrings give the meaning.

.. code-block:: python

    def flag_jumps(exposure, *, edge_size: Annotated[int, Range(0, 2048), Unit("pixel")] = 25): ...

Checks of values, ``nsxr parameters`` and the tables of the documentation use this module.
"""

import inspect
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import xarray as xr

from nsxr.errors import ParameterError
from nsxr.model.types import Function

__all__ = [
    "Choices",
    "Limits",
    "Parameter",
    "Pixels",
    "Range",
    "Seed",
    "Sigmas",
    "Times",
    "Unit",
    "closest",
    "declared",
    "meanings",
    "parameters_of",
    "said",
]

_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    xr.DataArray: "an array",
}
_LONGEST = 60
_SHORTEST = 3  # letters that are enough to recognise a name


@dataclass(frozen=True)
class Unit:
    """Physical unit of a parameter, as in ``Annotated[float, Unit("s")]``."""

    name: str

    def __repr__(self) -> str:
        return f"Unit({self.name!r})"


@dataclass(frozen=True)
class Range:
    """Smallest and largest value of a parameter. If ``is_open``, the smallest value itself is not allowed."""

    low: float
    high: float
    is_open: bool = False

    def __repr__(self) -> str:
        return f"Range({self.low:.12g}, {self.high:.12g}{', is_open=True' if self.is_open else ''})"

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.is_open else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        return f"{'above' if self.is_open else 'from'} {self.low:.12g} to {self.high:.12g}"


@dataclass(frozen=True, init=False)
class Choices:
    """Words that a parameter may have as value. ``others`` are aliases of these words, in upper or lower case."""

    names: tuple[str, ...]
    others: tuple[tuple[str, str], ...]

    def __init__(self, *names: str, **others: str) -> None:
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "others", tuple((other.lower(), name) for other, name in others.items()))

    def present_name(self, word: str) -> str:
        """Return the word that an alias stands for; other words stay as they are."""
        return dict(self.others).get(word.lower(), word)

    def __repr__(self) -> str:
        return f"Choices({', '.join(map(repr, self.names))})"


Sigmas = Annotated[float, Range(0, 1e6), Unit("sigma")]
Limits = Annotated[float, Range(0, 1e6, is_open=True), Unit("sigma")]
Times = Annotated[float, Range(0, 1e7), Unit("s")]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Pixels = Annotated[int, Range(0, 2048), Unit("pixel")]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a step.

    Attributes
    ----------
    name : str
        As in the signature.
    kind : type
        ``bool``, ``int``, ``float``, ``str`` or ``DataArray``.
    default : object
        None if the parameter may be unset.
    meaning : str
        One line or two, from the docstring.
    unit : str
        Empty if there is none.
    range : Range or None
        Allowed range of a number.
    choices : Choices or None
        Allowed words.
    """

    name: str
    kind: Any
    default: Any
    meaning: str = ""
    unit: str = ""
    range: Range | None = None
    choices: Choices | None = None

    @property
    def type_name(self) -> str:
        """The kind of value, in words without an article."""
        name = _KINDS.get(self.kind, "object").removeprefix("a ").removeprefix("an ")
        return f"{name} or none" if self.default is None else name

    @property
    def limits(self) -> str:
        """Range or choices in words. Empty if every value is allowed."""
        if self.choices is not None:
            return ", ".join(self.choices.names)
        return "" if self.range is None else str(self.range)

    def check(self, value: Any, owner: str = "") -> Any:
        """Check a value, and return it as a plain Python number, text, True or False.

        Parameters
        ----------
        value : object
            Value to check. NumPy scalars count as numbers. Where a float is expected, whole numbers are allowed too.
        owner : str
            Words to put before the name of the parameter in an error message.

        Raises
        ------
        ParameterError
            If the value is of another kind, not finite, or outside the range or the choices.
        """
        if value is None and self.default is None:
            return None
        is_scalar = isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0)
        found = value.item() if is_scalar else value
        try:
            found = _converted(found, self.kind)
        except (TypeError, ValueError, OverflowError):
            either = " or none" if self.default is None else ""
            expected = f"{_KINDS.get(self.kind, self.kind)}{either}"
            raise ParameterError(f"{owner}{self.name} is {said(value)}, expected {expected}") from None
        if self.choices is not None:
            found = self.choices.present_name(found)
            if found not in self.choices.names:
                raise ParameterError(f"{owner}{self.name} is {said(value)}, expected one of {self.limits}")
        if isinstance(found, float) and not math.isfinite(found):
            raise ParameterError(f"{owner}{self.name} is {said(value)}, expected a finite number")
        if self.range is not None and found not in self.range:
            unit = f" [{self.unit}]" if self.unit else ""
            raise ParameterError(
                f"{owner}{self.name} is {said(value)}, expected {_KINDS[self.kind]} {self.range}{unit}"
            )
        return found


def _converted(value: Any, kind: Any) -> Any:
    """Convert a value to a kind, or raise TypeError, ValueError or OverflowError."""
    if isinstance(value, bool) != (kind is bool):
        raise TypeError
    if kind is float and isinstance(value, int | float):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, kind):
        raise TypeError
    return value


def said(value: Any) -> str:
    """Describe a value for a message of one line: numbers and texts shortened, any other value by its type."""
    if value is None or isinstance(value, bool | str | np.generic | int | float):
        if isinstance(value, int) and abs(value) >= 10**_LONGEST:
            return "a number of very many digits"
        text = repr(value.item() if isinstance(value, np.generic) else value)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    name = type(value).__name__
    return f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"


def closest(given: Any, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant: the first that begins or ends with the given one, or the closest.

    ``threshold`` gives ``rejection_threshold``, although ``shower_threshold`` shares more letters with it.
    """
    word, names = str(given).strip().lower(), list(known)
    if len(word) >= _SHORTEST:
        for name in names:
            if name.lower().startswith(word) or name.lower().endswith(word):
                return name
    close = get_close_matches(str(given), names, n=1)
    return close[0] if close else None


def parameters_of(function: Function, leave_out: Sequence[str] = ()) -> dict[str, Parameter]:
    """Return the keyword-only parameters of a function by name, from its hints and its docstring."""
    words = meanings(function)
    found = {}
    for name, one in inspect.signature(function).parameters.items():
        if one.kind is one.KEYWORD_ONLY and name not in leave_out:
            kind, notes = declared(one.annotation)
            if get_origin(kind) is Literal:
                kind, notes = str, (*notes, Choices(*get_args(kind)))
            unit = next((note.name for note in notes if isinstance(note, Unit)), "")
            limits = next((note for note in notes if isinstance(note, Range)), None)
            choices = next((note for note in notes if isinstance(note, Choices)), None)
            found[name] = Parameter(name, kind, one.default, words.get(name, ""), unit, limits, choices)
    return found


def declared(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the type and the annotations of a hint ``Annotated[type, ...] | None``."""
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        kind, others = declared(inner)
        return kind, (*notes, *others)
    if get_origin(hint) in (Union, UnionType):
        members = [member for member in get_args(hint) if member is not NoneType]
        if len(members) == 1:
            return declared(members[0])
    return hint, ()


@lru_cache(maxsize=256)
def meanings(function: Function) -> dict[str, str]:
    """Return the meaning of each parameter, by name, from the section Parameters of a numpydoc docstring."""
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n---|\Z)", text, re.MULTILINE | re.DOTALL)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section[1].splitlines() if section else ():
        if line and not line.startswith(" "):
            names = [name.strip().lstrip("*") for name in line.partition(" : ")[0].split(",")]
            found |= dict.fromkeys(names, "")
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found
