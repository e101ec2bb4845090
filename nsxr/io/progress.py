"""Compute through the active dask scheduler and show how far it has come, on standard error."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TextIO

import dask
from dask.base import get_scheduler
from dask.callbacks import Callback

__all__ = ["compute"]

logger = logging.getLogger(__name__)


class _Bar:
    """A line that is rewritten in place: done and total tasks, elapsed and remaining time."""

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
        text = f"\r{self.label} {bar} {fraction:4.0%}  {elapsed:.0f} s{left}"
        try:
            self.stream.write(text.ljust(79) + ("\n" if last else ""))
        except UnicodeEncodeError:
            self.stream.write(text.replace("█", "#").replace("░", "-").ljust(79) + ("\n" if last else ""))
        self.stream.flush()


@contextmanager
def _local(bar: _Bar) -> Iterator[None]:
    """Draw the bar after each task of the threaded, process and synchronous schedulers."""
    done = total = 0

    def count(key: Any, result: Any, graph: Any, state: Any, worker: Any) -> None:
        nonlocal done, total
        done = len(state["finished"])
        total = done + sum(len(state[name]) for name in ("ready", "waiting", "running"))
        bar.draw(done, total)

    with Callback(posttask=count):
        try:
            yield
        finally:
            bar.draw(done, total, last=True)


def _distributed(client: Any, collections: tuple[Any, ...], bar: _Bar | None) -> None:
    """Compute on a cluster, following the scheduler's own count of tasks."""
    # optional dependency, and slow to import; a client exists, so it is imported already
    from distributed.diagnostics.progressbar import ProgressBar

    class Feed(ProgressBar):  # type: ignore[misc]
        def _draw_bar(self, remaining: int, all: int, **extra: Any) -> None:
            if bar is not None:
                bar.draw(all - remaining, all)

        def _draw_stop(self, remaining: int, all: int, **extra: Any) -> None:
            if bar is not None:
                bar.draw(all - remaining, all, last=True)

    futures = client.compute(list(collections), sync=False)
    try:
        if bar is not None:
            client.sync(Feed(futures, scheduler=client.scheduler.address, interval="200ms").listen)
        client.gather(futures)
    except BaseException:
        client.cancel(futures, force=True)
        raise


def compute(
    *collections: Any, progress: bool | Literal["force"] = True, label: str = "computing", stream: TextIO | None = None
) -> None:
    """Compute dask collections for their effects, together, showing progress.

    Whatever scheduler is active does the work: a distributed client, threads, processes or the
    calling thread. Results are dropped.

    Parameters
    ----------
    *collections : dask collections
        Computed in one graph, so that what they share is computed once.
    progress : bool or "force", default True
        True shows a bar if ``stream`` is a terminal, "force" always, False never.
    label : str
        Words before the bar.
    stream : text file, optional
        Where the bar goes; default standard error.
    """
    out = sys.stderr if stream is None else stream
    shown = progress == "force" or (bool(progress) and out.isatty())
    bar = _Bar(label, out) if shown else None
    scheduler = get_scheduler(collections=collections)
    client = getattr(scheduler, "__self__", None)
    if hasattr(client, "gather") and not getattr(client, "asynchronous", False):
        logger.debug("%s: on the cluster at %s", label, client.scheduler.address)  # type: ignore[union-attr]
        _distributed(client, collections, bar)
    elif bar is None:
        dask.compute(*collections)
    else:
        with _local(bar):
            dask.compute(*collections)
