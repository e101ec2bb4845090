"""Find the commit that nsxr runs from, by reading the files in ``.git``. The git program is not needed.

This module imports only the standard library, because ``setup.py`` runs it before anything is installed.
"""

import re
from pathlib import Path

__all__ = ["BUILT", "checked_out", "head"]

BUILT = "commit.txt"
"""File beside ``nsxr/__init__.py`` in an installed package. It holds the commit that the package was built from."""


def checked_out(root: Path) -> str | None:
    """Return the commit that is checked out in a clone of nsxr. None if there is no clone or no readable commit.

    Uncommitted changes are not detected.

    Parameters
    ----------
    root : Path
        Folder that holds ``pyproject.toml`` and, if it is a clone, ``.git``.
    """
    if not ((root / "pyproject.toml").is_file() and (root / ".git").exists()):
        return None
    try:
        return head(root / ".git")
    except (OSError, ValueError):  # nsxr works without knowing the commit
        return None


def head(git: Path) -> str | None:
    """Return the commit that is checked out according to ``.git`` (a folder, or the file of a worktree), or None."""
    if git.is_file():  # in a worktree, .git is a file that names the folder
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
