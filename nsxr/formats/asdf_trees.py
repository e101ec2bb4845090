"""Check the YAML text of an ASDF file before the asdf library opens it.

A few lines of YAML that refer to each other can expand to billions of nodes. An array may also name a file or a URL as
its source. asdf would read that source when it opens the file.
"""

import os
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from nsxr.errors import InputFileError, ReferenceFileError
from nsxr.formats.zarr_metadata import first_line
from nsxr.storage.local import open_regular

__all__ = ["require_plain_tree", "require_shallow"]

_LONGEST = 2**22  # bytes of YAML; references have about 1000
_NODES = 10**5  # a node counts as often as it is referred to
_DEPTH = 100
_SIZE = 2**30  # largest array, bytes


def require_plain_tree(path: str | os.PathLike[str]) -> None:
    """Raise ReferenceFileError if an ASDF file needs other files, or its tree or arrays are too large.

    Parameters
    ----------
    path : path
        The file.
    """
    yaml: Any = import_module("yaml")  # installed together with asdf

    name = os.fspath(path)
    try:
        with open_regular(name) as file:
            head = file.read(_LONGEST)
    except InputFileError as error:
        raise ReferenceFileError(str(error)) from error
    except OSError as error:
        raise ReferenceFileError(f"{name}: cannot be read ({error.strerror})") from error
    if not head.startswith(b"#ASDF"):
        raise ReferenceFileError(f"{name}: no ASDF file, it starts with {head[:5]!r}, expected '#ASDF'")
    end = re.search(rb"\r?\n\.\.\.(\r?\n|$)", head)
    if end is None and len(head) == _LONGEST:
        raise ReferenceFileError(f"{name}: its YAML text is longer than {_LONGEST} bytes")
    try:
        text = head[: end.end()] if end else head
        require_shallow(text)
        root = yaml.compose(text, Loader=_loader(yaml))
        if root is not None and _count(root, {}, 0) > _NODES:
            raise ValueError(f"it stands for more than {_NODES} values")
        problem = next((p for node in _all(root) if (p := _problem(node))), None)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ReferenceFileError(f"{name}: its YAML text cannot be read ({first_line(error)})") from error
    if problem:
        raise ReferenceFileError(f"{name}: {problem}")


def _loader(yaml: Any) -> Any:
    """Return the loader that is written in C and 12 times faster, if yaml was built with it."""
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def require_shallow(text: bytes) -> None:
    """Raise ValueError if lists and mappings are nested too deeply.

    The fast loader of YAML calls itself for each level, and may end the process.
    """
    yaml: Any = import_module("yaml")
    depth = 0
    for event in yaml.parse(text, Loader=_loader(yaml)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH:
            raise ValueError(f"more than {_DEPTH} nested lists, or a list that contains itself")


def _children(node: Any) -> list[Any]:
    if not isinstance(node.value, list):
        return []
    return [part for pair in node.value for part in pair] if node.id == "mapping" else list(node.value)


def _count(node: Any, known: dict[int, int], depth: int) -> int:
    """Return the number of nodes that a node expands to. A node counts as often as it is referred to."""
    if depth > _DEPTH:
        raise ValueError(f"more than {_DEPTH} nested lists, or a list that contains itself")
    if id(node) not in known:
        known[id(node)] = 1 + sum(_count(child, known, depth + 1) for child in _children(node))
    return known[id(node)]


def _all(root: Any) -> Iterator[Any]:
    waiting, seen = ([] if root is None else [root]), set()
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting += _children(node)


def _problem(node: Any) -> str:
    """Return what is wrong with one node. Empty if nothing is wrong."""
    if node.id != "mapping":
        return ""
    entries = {key.value: value for key, value in node.value if key.id == "scalar"}
    if "$ref" in entries:
        return "refers to another file ($ref), expected everything in this file"
    if "ndarray" not in str(node.tag) and "source" not in entries:
        return ""
    source = entries.get("source")
    if "ndarray" in str(node.tag) and source is not None and not re.fullmatch(r"-?[0-9]{1,9}", str(source.value)):
        return f"an array has the source {str(source.value)[:40]!r}, expected a block of this file"
    shape = entries.get("shape")
    if "ndarray" in str(node.tag) and shape is not None and shape.id == "sequence":
        size = 16
        for part in shape.value:
            if not re.fullmatch("[0-9]{1,12}", str(part.value)):
                return f"an array has {str(part.value)[:40]!r} in its shape, expected whole numbers"
            size *= int(part.value)
        if size > _SIZE:
            return f"an array of {size} bytes, more than {_SIZE}"
    return ""
