"""Keep the journal of an archive: files in its folder ``.nsxr`` with plans for exposures, and claims of processes."""

import json
import os
import re
import socket
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from nsxr.archive.nodes import JOURNAL, is_node, plan_key
from nsxr.errors import ArchiveInUseError, InputFileError
from nsxr.model.types import Entries, Named
from nsxr.pipelines.recipe import Recipe
from nsxr.storage.folder import Folder, parsed_json

__all__ = ["Claim", "Plan", "claim", "claims", "is_at_work", "is_readable", "now", "plans"]

_CLAIM = re.compile(r"(?P<node>[^.].*)\.claim(?P<number>[0-9]{1,9})")
_UNREADABLE: Named = {"host": "an unknown host"}
"""Replaces the content of a claim that cannot be read: an unknown process may be working on the exposure."""


def now() -> str:
    """Return the time in UTC as text that sorts in the order of time."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class Plan:
    """Hold all that is needed to calibrate an exposure, now or later.

    Attributes
    ----------
    node : str
        Path in the archive: programme/observation/exposure/detector.
    sources : tuple of str
        Raw files, absolute paths or URLs.
    recipe : dict
        Result of :meth:`nsxr.pipelines.recipe.Recipe.as_json`, with references by type as paths or URLs.
    raw : bool
        Whether the raw ramps go into the archive too.
    planned : str
        Time of the plan. An exposure in the archive was made by this plan if it has the same time.
    version : str
        Version of nsxr.
    token : str
        Random text, because two plans may have the same time. Plans of earlier versions have none.
    """

    node: str
    sources: tuple[str, ...]
    recipe: Named
    raw: bool = False
    planned: str = field(default_factory=now)
    version: str = field(default_factory=lambda: version("nsxr"))
    token: str = field(default_factory=lambda: uuid4().hex)

    @classmethod
    def read(cls, folder: Folder, key: str) -> "Plan":
        """Return the plan in a file of the journal. Every plan is checked here before it is carried out.

        Raises
        ------
        InputFileError
            If the file is not a plan, or is a plan that nsxr cannot have written.
        """
        try:
            return cls._of(folder.read_json(key), key)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise InputFileError(f"{folder}/{key} is no plan of nsxr ({error}); remove it") from error

    @classmethod
    def kept(cls, text: Any, node: str) -> "Plan":
        """Return the plan of an exposure in the archive, from the attribute of the exposure.

        Raises
        ------
        InputFileError
            If the attribute is not a plan.
        """
        try:
            return cls._of(parsed_json(text), plan_key(node))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise InputFileError(f"{node}: it does not say how it was made ({error}); add it again") from error

    @classmethod
    def _of(cls, content: object, key: str) -> "Plan":
        if not isinstance(content, dict):
            raise TypeError("no JSON object" if content is not None else "no JSON")
        if not isinstance(content["sources"], list):
            raise TypeError("sources are no list")
        plan = cls(**{"token": "", **content, "sources": tuple(content["sources"])})
        plan._require_right(key)
        return plan

    def _require_right(self, key: str) -> None:
        """Raise ValueError or TypeError if nsxr cannot have written this plan to this file."""
        if not is_node(self.node):
            raise ValueError(f"its node is {self.node!r}, expected programme/observation/exposure/detector")
        if plan_key(self.node) != key:
            raise ValueError(f"it is for {self.node}, whose plan is {plan_key(self.node)}")
        if not self.sources or not all(isinstance(path, str) and path for path in self.sources):
            raise TypeError("sources are no paths")
        if not isinstance(self.raw, bool) or not all(
            isinstance(t, str) for t in (self.planned, self.version, self.token)
        ):
            raise TypeError("raw, planned, version or token have another type than they should")
        if not isinstance(self.recipe, dict):
            raise TypeError("the recipe is no JSON object")
        Recipe.from_json(self.recipe)
        entries = [self.recipe, *self.recipe.get("earlier", ())]
        for entry in entries:
            named = entry.get("named", {})
            paths = [*entry.get("paths", ()), *named.values(), entry.get("references") or ""]
            if not all(isinstance(path, str) for path in [*paths, *named]):
                raise TypeError("references or paths are no text")
            if entry is not self.recipe and set(entry) != {"paths", "references", "named"}:
                raise ValueError("an earlier exposure has other entries than paths, references and named")

    def is_same(self, other: Any) -> bool:
        """Return whether this plan is the one in the attribute of an exposure in the archive."""
        return isinstance(other, dict) and all(other.get(key, "") == getattr(self, key) for key in ("planned", "token"))

    def as_dict(self) -> Entries:
        """Return the plan in a form that JSON can hold."""
        return asdict(self)


def _identifier(node: str) -> str:
    return node.replace("/", "-")


def plans(folder: Folder) -> list[str]:
    """Return the keys of all plans that have not been carried out."""
    return [f"{JOURNAL}/{name}" for name in folder.names(JOURNAL)[1] if name.endswith(".json")]


def _process(pid: int) -> str | None:
    """Return a text that identifies a process among those with the same number; None if it does not exist."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # the process of another user
    try:
        state, *_ = fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "running"  # not on Linux
    return None if state in ("Z", "X") else fields[19]  # time of the start of the process, in clock ticks


def is_at_work(content: Named | None) -> bool:
    """Return whether the process of a claim may still be running. This is always possible for other hosts."""
    if content is None or content.get("host") != socket.gethostname():
        return True
    return _process(content["pid"]) == content.get("started")


def is_readable(content: Named | None) -> bool:
    """Return whether the content of a claim could be read."""
    return content is not _UNREADABLE


def claims(folder: Folder, node: str | None = None) -> dict[str, Named | None]:
    """Return the claims on one exposure, or on all, as content by key; None if a claim has just been removed."""
    found = {name: match for name in folder.names(JOURNAL)[1] if (match := _CLAIM.fullmatch(name))}
    names = [name for name, match in found.items() if node is None or match["node"] == _identifier(node)]
    return {f"{JOURNAL}/{name}": _content(folder, f"{JOURNAL}/{name}") for name in names}


def _content(folder: Folder, key: str) -> Named | None:
    text = folder.read(key)
    if text is None:
        return None
    content = parsed_json(text)
    is_one = isinstance(content, dict) and isinstance(content.get("host"), str) and type(content.get("pid")) is int
    return content if is_one and 0 < content["pid"] < 2**31 else _UNREADABLE


@dataclass
class Claim:
    """Hold the right of this process to write one exposure. The claim has to be released."""

    folder: Folder
    keys: tuple[str, ...]

    def release(self) -> None:
        """Remove the files of the claim, only once, because other processes may use these names later.

        Claims of dead processes, which this process has taken over, are removed first.
        """
        keys, self.keys = self.keys, ()
        for key in keys:
            self.folder.remove(key)


def claim(folder: Folder, node: str, force: bool = False) -> Claim:
    """Claim an exposure for this process. Claims of dead processes are taken over.

    A claim is a numbered file that only one process can create. A process that takes over an exposure creates the file
    with the next number, and then lists the claims again. If another claim has appeared or disappeared meanwhile, the
    process gives up.

    Parameters
    ----------
    folder : Folder
        The archive.
    node : str
        The exposure.
    force : bool
        Whether to take over unreadable claims, and claims of other hosts, whose processes cannot be checked from here.

    Raises
    ------
    ArchiveInUseError
        If another process has claimed the exposure.
    """
    before = claims(folder, node)
    busy = [content for content in before.values() if is_at_work(content) and not _may_be_forced(content, force)]
    if busy:
        raise ArchiveInUseError(_in_use(folder, node, busy[0]))
    last = max((int(key.rpartition(".claim")[2]) for key in before), default=0)
    if last >= 10**9 - 1:
        raise ArchiveInUseError(f"{folder}: the claims on {node} have no further number; remove them from {JOURNAL}")
    own = f"{JOURNAL}/{_identifier(node)}.claim{last + 1}"
    content = {"host": socket.gethostname(), "pid": os.getpid(), "started": _process(os.getpid()), "since": now()}
    if not folder.make(own, json.dumps(content).encode()):
        raise ArchiveInUseError(_in_use(folder, node, folder.read_json(own)))
    others = {key: value for key, value in claims(folder, node).items() if key != own}
    if others != before:
        folder.remove(own)
        raise ArchiveInUseError(_in_use(folder, node, next(iter(others.values()), None)))
    return Claim(folder, (*before, own))


def _may_be_forced(content: Named | None, force: bool) -> bool:
    return force and (content is None or content.get("host") != socket.gethostname())


def _in_use(folder: Folder, node: str, content: Named | None) -> str:
    if content is None:
        return f"{folder}: {node} is being written by another run"
    if not is_readable(content):
        return f"{folder}: a claim on {node} cannot be read; if no run is writing it, resume with --force"
    who = f"process {content.get('pid')} on {content.get('host')} since {content.get('since')}"
    elsewhere = "" if content.get("host") == socket.gethostname() else "; if that run is dead, resume with --force"
    return f"{folder}: {node} is being written by {who}{elsewhere}"
