"""What an archive is about to take in, and who is at it: plans and claims, files in its folder ``.nsxr``."""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nsxr.archive.folder import Folder
from nsxr.errors import ArchiveInUseError, InputFileError

__all__ = ["JOURNAL", "Claim", "Plan", "claim", "claims", "is_at_work", "now", "plan_key", "plans"]

JOURNAL = ".nsxr"
"""Folder of the journal. Zarr readers pass over it: it holds no metadata of theirs."""


def now() -> str:
    """Return the time, UTC, as text that sorts."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class Plan:
    """All that is needed to calibrate an exposure once more.

    Attributes
    ----------
    node : str
        Where it goes: programme/observation/exposure/detector.
    sources : tuple of str
        Raw files, absolute paths or URLs.
    recipe : dict
        As :meth:`nsxr.recipe.Recipe.as_json` gives it, references by type as paths or URLs.
    raw : bool
        Whether the raw ramps go into the archive too.
    planned : str
        When; an exposure in the archive that was planned at another time is another one.
    version : str
        Of nsxr.
    """

    node: str
    sources: tuple[str, ...]
    recipe: Mapping[str, Any]
    raw: bool = False
    planned: str = field(default_factory=now)
    version: str = field(default_factory=lambda: version("nsxr"))

    @classmethod
    def read(cls, folder: Folder, key: str) -> "Plan":
        """Return the plan in a file of the journal.

        Raises
        ------
        InputFileError
            If it is none.
        """
        content = folder.read_json(key)
        try:
            return cls(**{**content, "sources": tuple(content["sources"])})
        except (KeyError, TypeError) as error:
            raise InputFileError(f"{folder.place(key)} is no plan of nsxr ({error}); remove it") from error

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON holds it."""
        return asdict(self)


def _identifier(node: str) -> str:
    return node.replace("/", "-")


def plan_key(node: str) -> str:
    """Return the key of the plan of a node."""
    return f"{JOURNAL}/{_identifier(node)}.json"


def plans(folder: Folder) -> list[str]:
    """Return the keys of all plans not carried out."""
    return [f"{JOURNAL}/{name}" for name in folder.names(JOURNAL)[1] if name.endswith(".json")]


def _process(pid: int) -> str | None:
    """Return what tells a process of this machine from later ones of the same number, None if it is gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # somebody else's
    try:
        state, *_ = fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "running"  # no Linux
    return None if state in ("Z", "X") else fields[19]  # started at, clock ticks


def is_at_work(content: Mapping[str, Any] | None) -> bool:
    """Whether the process that made a claim may be at work: all but those of this host that are gone."""
    if content is None or content.get("host") != socket.gethostname():
        return True
    return _process(int(content["pid"])) == content.get("started")


def claims(folder: Folder, node: str | None = None) -> dict[str, dict[str, Any] | None]:
    """Return the claims on a node, or on all: key to content."""
    names = [name for name in folder.names(JOURNAL)[1] if ".claim" in name and not name.startswith(".")]
    if node is not None:
        names = [name for name in names if name.partition(".claim")[0] == _identifier(node)]
    return {f"{JOURNAL}/{name}": folder.read_json(f"{JOURNAL}/{name}") for name in names}


@dataclass
class Claim:
    """The right of this process to write one exposure; to be given back."""

    folder: Folder
    keys: tuple[str, ...]

    def release(self) -> None:
        """Give it back, once: afterwards files of the same names are those of others.

        Those of the dead that it took over go first, its own last.
        """
        keys, self.keys = self.keys, ()
        for key in keys:
            self.folder.remove(key)


def claim(folder: Folder, node: str, force: bool = False) -> Claim:
    """Claim an exposure for this process, over the claims of dead ones.

    A claim is a numbered file that only one process can make. Who takes over makes the next number, and then
    looks again: has another claim come or gone meanwhile, it steps back.

    Parameters
    ----------
    folder : Folder
        The archive.
    node : str
        The exposure.
    force : bool
        Also over those of other hosts, of which nobody here can tell whether they are dead, and unreadable ones.

    Raises
    ------
    ArchiveInUseError
        If another process has it.
    """
    before = claims(folder, node)
    busy = [content for content in before.values() if is_at_work(content) and not _may_be_forced(content, force)]
    if busy:
        raise ArchiveInUseError(_in_use(folder, node, busy[0]))
    last = max((int(key.rpartition(".claim")[2]) for key in before), default=0)
    own = f"{JOURNAL}/{_identifier(node)}.claim{last + 1}"
    content = {"host": socket.gethostname(), "pid": os.getpid(), "started": _process(os.getpid()), "since": now()}
    if not folder.make(own, json.dumps(content).encode()):
        raise ArchiveInUseError(_in_use(folder, node, folder.read_json(own)))
    others = {key: value for key, value in claims(folder, node).items() if key != own}
    if others != before:
        folder.remove(own)
        raise ArchiveInUseError(_in_use(folder, node, next(iter(others.values()), None)))
    return Claim(folder, (*before, own))


def _may_be_forced(content: Mapping[str, Any] | None, force: bool) -> bool:
    return force and (content is None or content.get("host") != socket.gethostname())


def _in_use(folder: Folder, node: str, content: Mapping[str, Any] | None) -> str:
    if content is None:
        return f"{folder}: {node} is being written by another run"
    who = f"process {content.get('pid')} on {content.get('host')} since {content.get('since')}"
    elsewhere = "" if content.get("host") == socket.gethostname() else "; if that run is dead, resume with --force"
    return f"{folder}: {node} is being written by {who}{elsewhere}"
