"""Names of types that many signatures share.

The values behind them are of any type: they come from headers, from files of others and from users, and are checked
where they are used.
"""

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Attributes", "ByStep", "Entries", "Function", "Named"]

Attributes = Mapping[Any, Any]
"""Attributes of a Dataset, or keywords of a header, by name."""

Named = Mapping[str, Any]
"""Values by name: parameters of a step, options of a store, a JSON object that was read."""

Entries = dict[str, Any]
"""The same, to be filled in."""

ByStep = Mapping[str, Mapping[str, Any]]
"""Parameters by step and name."""

Function = Callable[..., Any]
"""A function with any arguments."""
