"""Name the types that many signatures share.

The values may have any type, because they come from headers, from files and from users. Code that uses a value checks
it.
"""

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Attributes", "ByStep", "Entries", "Function", "Named"]

Attributes = Mapping[Any, Any]
"""Attributes of a Dataset, or keywords of a header, by name."""

Named = Mapping[str, Any]
"""Values by name: parameters of a step, options of a store, a JSON object that was read."""

Entries = dict[str, Any]
"""Values by name, in a mapping that can be changed."""

ByStep = Mapping[str, Mapping[str, Any]]
"""Parameters by step and name."""

Function = Callable[..., Any]
"""A function with any arguments."""
