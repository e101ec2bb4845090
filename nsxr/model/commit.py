"""Which commit nsxr runs from, by the files that git keeps: git itself is not needed.

Only the standard library is imported here: ``setup.py`` runs this file before anything is installed.
"""

import re
from pathlib import Path

__all__ = ["BUILT", "checked_out", "head"]

BUILT = "commit.txt"
"""File in an installed package, beside ``nsxr/__init__.py``: the commit that it was built from."""


def checked_out(root: Path) -> str | None:
    """Return the commit that is checked out in a clone of nsxr; None if it is no clone, or cannot be told.

    Changes of the files since the commit are not seen.

    Parameters
    ----------
    root : Path
        Folder that holds ``pyproject.toml`` and, if it is a clone, ``.git``.
    """
    if not ((root / "pyproject.toml").is_file() and (root / ".git").exists()):
        return None
    try:
        return head(root / ".git")
    except (OSError, ValueError):  # the rest works without
        return None


def head(git: Path) -> str | None:
    """Return the commit that ``.git``, a folder or the file of a worktree, names as checked out; None without any."""
    if git.is_file():  # a worktree: where its own files are
        git = (git.parent / git.read_text().removeprefix("gitdir:").strip()).resolve()
    head = (git / "HEAD").read_text().strip()
    if not head.startswith("ref:"):
        return head if re.fullmatch("[0-9a-f]{40,64}", head) else None
    name = head.removeprefix("ref:").strip()
    shared = git / "commondir"
    places = [git, *([(git / shared.read_text().strip()).resolve()] if shared.is_file() else [])]
    for place in places:
        if (place / name).is_file():
            return (place / name).read_text().strip()
    for place in places:
        packed = place / "packed-refs"
        for line in packed.read_text().splitlines() if packed.is_file() else ():
            if line.endswith(f" {name}"):
                return line.split()[0]
    return None
