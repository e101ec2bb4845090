"""Names that come from headers and become names of files, groups and nodes."""

import re
from typing import Any

__all__ = ["plain_name"]

_LONGEST = 80
_OTHERS = re.compile(r"[^A-Za-z0-9._+-]+")


def plain_name(text: Any, otherwise: str) -> str:
    """Return a name that stays where it is put: no separators, no control characters, not hidden, not too long.

    Parameters
    ----------
    text : Any
        Value of a keyword, such as SLTNAME, PROGRAM or FILTER; what is no letter, digit, point, sign or underscore
        becomes an underscore.
    otherwise : str
        The name if nothing is left.
    """
    name = _OTHERS.sub("_", str(text).strip()).lstrip(".")[:_LONGEST]
    return name if name.strip("_.") else otherwise
