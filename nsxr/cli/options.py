"""Share code between commands: values read from text, errors and warnings as one line, clusters and stores."""

import ast
import logging
import math
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from nsxr.compute.cluster import connected
from nsxr.errors import NsxrError, NsxrWarning, ParameterError
from nsxr.model.types import Entries, Function, Named
from nsxr.products.describe import counted
from nsxr.products.exposure import open_exposure
from nsxr.storage.options import ANONYMOUS
from nsxr.storage.urls import local_path, shown, without_secrets
from nsxr.storage.whole import replacing

__all__ = [
    "about",
    "exposure_root",
    "finite",
    "group_exposures",
    "literal",
    "phase",
    "put",
    "reports_errors",
    "run_each",
    "shortened",
    "split_pair",
    "takes_cluster_options",
    "takes_output",
    "takes_storage_options",
]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_ROOT = re.compile(r"(?P<root>.+?)(?:_uncal)?\.fits(?:\.gz)?$")
_SEGMENT = re.compile(r"-seg\d{3}")
_LONGEST = 200  # characters; a longer value is not parsed as a number, a list or a dictionary
_WARNED = "nsxr.warned"


def finite(text: str) -> float:
    """Return the finite number in a text. This is used as the type of an option."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise click.BadParameter(f"{shortened(text)!r} is not a finite number")
    return number


class _Warned:
    """Show each warning once for each exposure, in a line that begins with the exposure's name. Count warnings."""

    def __init__(self) -> None:
        self.subject = ""
        self.count = 0
        self._seen: set[tuple[str, str]] = set()
        self._lock = threading.Lock()  # threads of dask also give warnings

    def show(self, message: Warning | str, *_: object, **__: object) -> None:
        text = without_secrets(" ".join(str(message).split()))
        with self._lock:
            if (self.subject, text) in self._seen:
                return
            self._seen.add((self.subject, text))
            self.count += 1
        start = f"Warning: {self.subject}: " if self.subject and self.subject not in text else "Warning: "
        # write over the progress bar, which is drawn again in the next line
        click.echo(f"\r{start}{text}".ljust(79) if sys.stderr.isatty() else f"{start}{text}", err=True)


def _warned() -> _Warned:
    """Return the warnings of the running command."""
    context = click.get_current_context(silent=True)
    found = _Warned() if context is None else context.meta.setdefault(_WARNED, _Warned())
    assert isinstance(found, _Warned)
    return found


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Show the warnings of a ``with`` block with the name of their exposure or file."""
    warned = _warned()
    before, warned.subject = warned.subject, subject
    try:
        yield
    finally:
        warned.subject = before


@contextmanager
def phase(words: str, progress: bool) -> Iterator[None]:
    """Print on a terminal what a ``with`` block does, and log how long it took."""
    if progress and sys.stderr.isatty():
        click.echo(f"{words} ...", err=True)
    started = time.monotonic()
    yield
    logger.info("%s: %.1f s", words, time.monotonic() - started)


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Print errors of nsxr, errors of files, and warnings as one line each, without a traceback."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with warnings.catch_warnings():
            warnings.simplefilter("always", NsxrWarning)  # several exposures may give the same warning
            warnings.showwarning = _warned().show
            try:
                return command(*args, **kwargs)
            except (NsxrError, OSError) as error:
                raise click.ClickException(without_secrets(str(error))) from error

    return wrapped


def takes_output(default: str, words: str) -> Callable[[Function], Function]:
    """Add the option for the output directory, which must be local."""

    def local(context: click.Context, parameter: click.Parameter, value: str) -> str:
        try:
            local_path(value)
        except ParameterError as error:
            raise click.ClickException(str(error)) from error
        return value

    return click.option(
        "-o", "--output", default=default, show_default=True, type=click.Path(), callback=local, help=words
    )


def _say(text: str) -> None:
    """Print a line on the terminal, without the secrets that URLs may hold."""
    click.echo(without_secrets(text), err=True)


def takes_cluster_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options that choose where dask computes. The command gets the active Client, or None, as ``client``."""

    @click.option("--scheduler", metavar="ADDRESS", help="Compute on a running dask cluster: tcp://host:8786.")
    @click.option("--workers", type=click.IntRange(1), help="Compute in this many processes. Default: threads.")
    @click.option("--memory-limit", metavar="SIZE", help="Memory limit of each of these processes, such as 2GB.")
    @click.option("--performance-report", metavar="FILE", help="HTML file for dask's report on the workers.")
    @wraps(command)
    def wrapped(
        *args: object,
        scheduler: str | None,
        workers: int | None,
        memory_limit: str | None,
        performance_report: str | None,
        **kwargs: object,
    ) -> R:
        with connected(scheduler, workers, memory_limit, performance_report) as client:
            if client is not None:
                click.echo(f"dashboard at {client.dashboard_link}", err=True)
            return command(*args, client=client, **kwargs)

    return wrapped


def run_each(exposures: Named, run: Callable[[str, Any], None], noun: str = "exposure") -> None:
    """Run a function for each exposure. An exposure that fails does not stop the others; the last lines name it.

    Warnings are shown with the name of the exposure. Errors that nsxr does not raise itself are logged with their
    traceback.

    Parameters
    ----------
    exposures : mapping
        Second argument of ``run``, by name of the exposure.
    run : callable
        Function that takes the name and the value of an exposure.
    noun : str
        Word for an exposure in the summary.

    Raises
    ------
    Exception
        If there is only one exposure, and it fails.
    click.exceptions.Exit
        If one of several exposures fails. The exit code is 1.
    """
    failed: list[str] = []
    warned, total = _warned(), len(exposures)
    before = warned.count
    for number, (root, item) in enumerate(exposures.items(), start=1):
        started = time.monotonic()
        logger.info("%d of %d: %s", number, total, root)
        try:
            with about(root):
                run(root, item)
        except Exception as error:
            if total == 1:
                raise
            if not isinstance(error, NsxrError | OSError):
                logger.exception("%s failed", root)
            reason = str(error) or type(error).__name__
            _say(f"Error: {reason}" if reason.startswith(f"{root}: ") else f"Error: {root}: {reason}")
            failed.append(root)
        logger.info("%d of %d: %s took %.1f s", number, total, root, time.monotonic() - started)
    if total > 1:
        done = f"{total - len(failed)} of {counted(total, noun)}" if failed else counted(total, noun)
        n_warnings = warned.count - before
        words = f"{done} done" + (f", {counted(n_warnings, 'warning')}" if n_warnings else "")
        click.echo(f"{words}; failed:" if failed else words, err=True)
    for root in failed:
        click.echo(f"  {root}", err=True)  # the error was printed above
    if failed:
        raise click.exceptions.Exit(1)


def takes_storage_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options for access to URLs. The command gets them as ``storage_options``."""

    @click.option(
        "--storage",
        metavar="KEY=VALUE",
        multiple=True,
        help="Option of fsspec for access to URLs, such as client_kwargs.endpoint_url=https://host.",
    )
    @click.option("--anonymous", is_flag=True, help="Read public data at URLs without credentials.")
    @wraps(command)
    def wrapped(*args: object, storage: Sequence[str], anonymous: bool, **kwargs: object) -> R:
        options: Entries = deepcopy(ANONYMOUS) if anonymous else {}
        for text in storage:
            name, value = split_pair(text, "KEY=VALUE")
            *groups, key = name.split(".")
            place = options
            for group in groups:
                place = place.setdefault(group, {})
                if not isinstance(place, dict):
                    raise ParameterError(f"--storage {text}: {group} has a value already and holds no options")
            place[key] = literal(value)
        return command(*args, storage_options=options, **kwargs)

    return wrapped


def exposure_root(path: str | Path) -> str:
    """Return the name of an exposure: the name of the file without its kind, ending and segment."""
    match = _ROOT.match(Path(shown(str(path))).name)
    if match is None:
        raise ParameterError(f"{shown(str(path))} does not end in .fits or .fits.gz")
    return _SEGMENT.sub("", match["root"])


def group_exposures(files: Sequence[str], storage_options: Named | None = None) -> dict[str, list[str]]:
    """Group files by exposure. The segments of an exposure form one group. Every other file is an exposure.

    Returns
    -------
    dict of str to list of str
        Files by the name of their exposure. If segments are missing, the name keeps the numbers of the segments that
        were found: ``jw01234001001_03101_00001-seg002_nrs1``. The headers of segments are read.
    """
    found: dict[str, list[str]] = {}
    for file in files:
        root = exposure_root(file)
        if root in found and not _SEGMENT.search(Path(file).name):
            raise ParameterError(f"{shown(file)} and {shown(found[root][0])} would both be written as {root}")
        found.setdefault(root, []).append(file)
    return {_of_segments(root, paths, storage_options): paths for root, paths in found.items()}


def _of_segments(root: str, paths: Sequence[str], storage_options: Named | None) -> str:
    """Return the name of an exposure, with the numbers of its segments if some are missing."""
    numbers = sorted(number[0] for path in paths if (number := _SEGMENT.search(Path(shown(path)).name)))
    if not numbers:
        return root
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NsxrWarning)  # these warnings come when the exposure is calibrated
            exposure = open_exposure(list(paths), storage_options=storage_options)
        if exposure.sizes["integration"] == int(exposure.attrs["NINTS"]):
            return root
    except (NsxrError, OSError):  # this error comes when the exposure is calibrated
        return root
    match = _ROOT.match(Path(shown(paths[0])).name)
    assert match is not None  # exposure_root has matched this name before
    return _SEGMENT.sub("".join(dict.fromkeys((numbers[0], numbers[-1]))), match["root"], count=1)


def split_pair(text: str, form: str) -> tuple[str, str]:
    """Split KEY=VALUE. The error message says that ``form`` was expected."""
    key, found, value = text.partition("=")
    if not (key and found and value):
        raise ParameterError(f"{shortened(text)!r} is not of the form {form}")
    return key.strip(), value.strip()


def shortened(text: str) -> str:
    """Return the beginning of a long text."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def literal(text: str) -> Any:
    """Return the number, boolean, list or dictionary in a text, else the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if len(text) > _LONGEST:
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def put(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a small file under another name and rename it, so that it appears only when it is complete."""
    with replacing(path) as partial:
        write(partial)
