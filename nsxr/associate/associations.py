"""Read the observatory's association files: which exposures belong to a product, and in which role."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from nsxr.errors import InputFileError
from nsxr.storage.local import open_regular

__all__ = ["Association", "read_association"]

_LONGEST = 2**26
"""Largest association file [byte]. Those of large programmes have a few MB."""
_ROLES = ("science", "background", "imprint", "selfcal")


@dataclass(frozen=True)
class Association:
    """One product of an association file.

    Attributes
    ----------
    name : str
        Name of the product, without its ending.
    science, background, imprint, selfcal : tuple of Path
        Files of the members in each role.
    """

    name: str
    science: tuple[Path, ...]
    background: tuple[Path, ...] = ()
    imprint: tuple[Path, ...] = ()
    selfcal: tuple[Path, ...] = ()

    @property
    def members(self) -> tuple[Path, ...]:
        """All files."""
        return (*self.science, *self.background, *self.imprint, *self.selfcal)


def read_association(
    path: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None
) -> tuple[Association, ...]:
    """Read an association file of stage 2 or 3.

    Parameters
    ----------
    path : path
        JSON or YAML file with ``products``. Each has a ``name`` and ``members`` with ``expname`` and ``exptype``:
        science, background, imprint or selfcal. Members in other roles, such as target acquisitions, are left out.
    folder : path, optional
        Where the members are. Default: beside the association file.

    Returns
    -------
    tuple of Association
        One for each product, in the order of the file. Whether the files of members exist is not checked.

    Raises
    ------
    InputFileError
        If the file cannot be read, is no association, if a product has no science exposure, or if a member lies outside
        of the folder.
    """
    try:
        with open_regular(path) as file:
            content = file.read(_LONGEST + 1)
    except OSError as error:
        raise InputFileError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) > _LONGEST:
        raise InputFileError(f"{path}: has more than {_LONGEST} bytes, expected an association file")
    tree = _parsed(path, content)
    products = tree.get("products") if isinstance(tree, Mapping) else None
    if not isinstance(products, list) or not products:
        raise InputFileError(f"{path}: has no products; is it an association file?")
    where = Path(path).parent if folder is None else Path(folder)
    return tuple(_product(path, number, product, where) for number, product in enumerate(products))


def _parsed(path: str | os.PathLike[str], content: bytes) -> Any:
    """Return the content of a JSON file. Files that people edit often have a comma too many, which YAML allows."""
    yaml: Any = import_module("yaml")  # installed together with asdf
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        try:
            return yaml.safe_load(content)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise InputFileError(f"{path}: no JSON file that can be read ({error})") from error


def _product(path: str | os.PathLike[str], number: int, product: Any, folder: Path) -> Association:
    """Return one product."""
    members = product.get("members") if isinstance(product, Mapping) else None
    if not isinstance(members, list):
        raise InputFileError(f"{path}: product {number} has no members")
    found: dict[str, list[Path]] = {role: [] for role in _ROLES}
    for member in members:
        name, role = (member.get(key) if isinstance(member, Mapping) else None for key in ("expname", "exptype"))
        if not isinstance(name, str) or not isinstance(role, str):
            raise InputFileError(f"{path}: a member of product {number} lacks expname or exptype")
        if role.lower() in found:
            if Path(name).name != name:
                raise InputFileError(f"{path}: member {name[:80]!r} is not the name of a file; give only names")
            found[role.lower()].append(folder / name)
    name = str(product.get("name") or "")
    if not found["science"]:
        raise InputFileError(f"{path}: product {name or number} has no member with the exptype science")
    return Association(name, *(tuple(found[role]) for role in _ROLES))
