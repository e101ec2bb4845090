"""Compute with the active dask scheduler, and show the progress on standard error or in a notebook."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, nullcontext
from importlib import import_module
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, TextIO

import dask
from dask.base import get_scheduler
from dask.callbacks import Callback

from nsxr.compute.passes import settled

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["compute"]

logger = logging.getLogger(__name__)


class _Bar:
    """A line that is rewritten in place: the fraction of tasks that are done, elapsed and remaining time."""

    def __init__(self, label: str, stream: TextIO, width: int = 30, interval: float = 0.2) -> None:
        self.label, self.stream, self.width, self.interval = label, stream, width, interval
        self.started = time.monotonic()
        self.drawn = -interval

    def draw(self, done: int, total: int, last: bool = False) -> None:
        now = time.monotonic()
        if now - self.drawn < self.interval and not last:
            return
        self.drawn = now
        elapsed = now - self.started
        fraction = done / total if total else 1.0
        bar = ("█" * int(self.width * fraction)).ljust(self.width, "░")
        left = f", {elapsed / fraction - elapsed:.0f} s left" if 0.02 < fraction < 1 else ""
        self.write(f"{self.label} {bar} {fraction:4.0%}  {elapsed:.0f} s{left}", last)

    def write(self, text: str, last: bool) -> None:
        line = f"\r{text}".ljust(79) + ("\n" if last else "")
        try:
            self.stream.write(line)
        except UnicodeEncodeError:
            self.stream.write(line.replace("█", "#").replace("░", "-"))
        self.stream.flush()


class _NotebookBar(_Bar):
    """The same line as the output of a notebook cell. The final line stays there."""

    handle: Any = None

    def write(self, text: str, last: bool) -> None:
        content = {"text/plain": text}
        if self.handle is None:
            display = import_module("IPython.display").display  # every notebook has IPython
            self.handle = display(content, raw=True, display_id=True)
        else:
            self.handle.update(content, raw=True)


def _in_notebook() -> bool:
    """Return whether the code runs in a notebook. Its output is not a terminal, but a line can be rewritten."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")


def _bar(label: str, progress: bool | Literal["force"], stream: TextIO | None) -> _Bar | None:
    out = sys.stderr if stream is None else stream
    if progress and stream is None and not out.isatty() and _in_notebook():
        return _NotebookBar(label, out)
    return _Bar(label, out) if progress == "force" or (progress and out.isatty()) else None


@contextmanager
def _local(bar: _Bar) -> Iterator[None]:
    """Draw the bar after each task of the threaded, process and synchronous schedulers."""
    done = total = 0

    def draw(key: object, result: object, graph: object, state: Mapping[str, Sized], worker: object) -> None:
        nonlocal done, total
        done = len(state["finished"])
        total = done + sum(len(state[name]) for name in ("ready", "waiting", "running"))
        bar.draw(done, total)

    with Callback(posttask=draw):
        try:
            yield
        finally:
            bar.draw(done, total, last=True)


def _distributed(client: "Client", collections: Sequence[Any], bar: _Bar | None) -> Sequence[Any]:
    """Compute on a cluster, and show the task counts of its scheduler. Results stay on the cluster."""
    # distributed is optional and slow to import; here it is already imported, because there is a client
    from distributed import futures_of
    from distributed.diagnostics.progressbar import ProgressBar

    class Feed(ProgressBar):  # type: ignore[misc]
        def _draw_bar(self, remaining: int, all: int, **extra: object) -> None:
            if bar is not None:
                bar.draw(all - remaining, all)

        def _draw_stop(self, remaining: int, all: int, **extra: object) -> None:
            if bar is not None:
                bar.draw(all - remaining, all, last=True)

    persisted = client.persist(list(collections))
    futures = futures_of(persisted)
    try:
        if bar is not None:
            client.sync(Feed(futures, scheduler=client.scheduler.address, interval="200ms").listen)
        for future in futures:  # waits for each result, and raises the error of a task that failed
            if (error := future.exception()) is not None:
                raise error
    except BaseException:
        client.cancel(futures, force=True)
        raise
    return list(persisted)


def compute(
    *collections: Any, progress: bool | Literal["force"] = True, label: str = "computing", stream: TextIO | None = None
) -> Sequence[Any]:
    """Compute dask collections together, showing progress.

    The active scheduler does the work: a distributed client, threads, processes or the calling thread. Arrays that
    :func:`nsxr.compute.passes.settle` marked are computed first, in separate passes.

    Parameters
    ----------
    *collections : dask collections
        Collections, which are computed in one graph. Parts that they share are computed once.
    progress : bool or "force", default True
        True shows a bar in a notebook, or if ``stream`` is a terminal. "force" always shows a bar, False never.
    label : str
        Words before the bar.
    stream : text file, optional
        File in which the bar is shown. Default: standard error.

    Returns
    -------
    sequence
        The collections with their results. Results stay where they were computed. Stored arrays have no results.
    """
    scheduler = get_scheduler(collections=collections)
    client = getattr(scheduler, "__self__", None)
    is_cluster = hasattr(client, "gather") and not getattr(client, "asynchronous", False)
    if is_cluster:
        logger.debug("%s: on the cluster at %s", label, client.scheduler.address)  # type: ignore[union-attr]

    def run(parts: Sequence[Any], words: str) -> Sequence[Any]:
        bar = _bar(words, progress, stream)
        if is_cluster:
            return _distributed(client, parts, bar)
        with _local(bar) if bar is not None else nullcontext():
            return list(dask.persist(*parts))

    passes = count(1)
    last = settled(collections, lambda arrays: run(arrays, f"{label}, pass {next(passes)}"))
    return run(last, label)
