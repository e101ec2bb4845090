"""Turn values of headers into names of files, groups and nodes."""

import re

__all__ = ["plain_name"]

_LONGEST = 80
_OTHERS = re.compile(r"[^A-Za-z0-9._+-]+")


def plain_name(text: object, otherwise: str) -> str:
    """Return a safe name for a file: no path separators, no control characters, not hidden, not too long.

    Parameters
    ----------
    text : Any
        Value of a keyword, such as SLTNAME, PROGRAM or FILTER. A character other than a letter, digit, point, plus,
        minus or underscore becomes an underscore.
    otherwise : str
        The name to use if no character is left.
    """
    name = _OTHERS.sub("_", str(text).strip()).lstrip(".")[:_LONGEST]
    return name if name.strip("_.") else otherwise
