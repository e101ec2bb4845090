"""What the commands share: options of a calibration, values read from text, errors and warnings as one line."""

import ast
import logging
import math
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
import xarray as xr
from click.shell_completion import CompletionItem

from nsxr.compute.cluster import connected
from nsxr.errors import NsxrError, NsxrWarning, ParameterError
from nsxr.pipelines.detector1 import STEPS
from nsxr.pipelines.recipe import Recipe
from nsxr.products.describe import counted
from nsxr.products.exposure import open_exposure
from nsxr.references.files import OPTIONAL, TYPES
from nsxr.storage.stores import ANONYMOUS, local_path, shown, without_secrets

__all__ = [
    "SAVED",
    "about",
    "calibration_options",
    "complete_steps",
    "exposure_root",
    "finite",
    "group_exposures",
    "phase",
    "reports_errors",
    "run_each",
    "split_pair",
    "step_parameters",
    "takes_cluster_options",
    "takes_output",
    "takes_recipe",
    "takes_storage_options",
]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

SAVED = tuple(name for name in STEPS if name not in ("ramp_fit", "gain_scale"))
"""Steps after which there are ramps to save."""

_ROOT = re.compile(r"(?P<root>.+?)(?:_uncal)?\.fits(?:\.gz)?$")
_SEGMENT = re.compile(r"-seg\d{3}")
_LONGEST = 200  # characters of a value that may be a number, a list or a dictionary; parsers give up on long ones
_WARNED = "nsxr.warned"


def finite(text: str) -> float:
    """Return the finite number that a text spells, as the type of an option."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise click.BadParameter(f"{shortened(text)!r} is not a finite number")
    return number


class _Warned:
    """Shows each warning once for each exposure, as a line that begins with its name, and counts them."""

    def __init__(self) -> None:
        self.subject = ""
        self.count = 0
        self._seen: set[tuple[str, str]] = set()
        self._lock = threading.Lock()  # threads of dask warn, too

    def show(self, message: Warning | str, *_: Any, **__: Any) -> None:
        text = without_secrets(" ".join(str(message).split()))
        with self._lock:
            if (self.subject, text) in self._seen:
                return
            self._seen.add((self.subject, text))
            self.count += 1
        start = f"Warning: {self.subject}: " if self.subject and self.subject not in text else "Warning: "
        # over the progress bar, which is drawn again below
        click.echo(f"\r{start}{text}".ljust(79) if sys.stderr.isatty() else f"{start}{text}", err=True)


def _warned() -> _Warned:
    """Return the warnings of the command that is running."""
    context = click.get_current_context(silent=True)
    found = _Warned() if context is None else context.meta.setdefault(_WARNED, _Warned())
    assert isinstance(found, _Warned)
    return found


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Show the warnings of a block with the name of the exposure, or of the file, that they are about."""
    warned = _warned()
    before, warned.subject = warned.subject, subject
    try:
        yield
    finally:
        warned.subject = before


@contextmanager
def phase(words: str, progress: bool) -> Iterator[None]:
    """Say on a terminal what a block does, and log how long it took."""
    if progress and sys.stderr.isatty():
        click.echo(f"{words} ...", err=True)
    started = time.monotonic()
    yield
    logger.info("%s: %.1f s", words, time.monotonic() - started)


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors that nsxr raises on purpose, those of the disk, and warnings into one clear line each."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with warnings.catch_warnings():
            warnings.simplefilter("always", NsxrWarning)  # the same one may be about several exposures
            warnings.showwarning = _warned().show
            try:
                return command(*args, **kwargs)
            except (NsxrError, OSError) as error:
                raise click.ClickException(without_secrets(str(error))) from error

    return wrapped


def takes_output(default: str, words: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the option that says where files go, a local directory."""

    def local(context: click.Context, parameter: click.Parameter, value: str) -> str:
        try:
            local_path(value)
        except ParameterError as error:
            raise click.ClickException(str(error)) from error
        return value

    return click.option(
        "-o", "--output", default=default, show_default=True, type=click.Path(), callback=local, help=words
    )


def complete_steps(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of steps."""
    names = SAVED if parameter.name == "save" else tuple(STEPS)
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _complete_settings(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete STEP.PARAMETER=."""
    found = {f"{step}.{name}=": one.meaning for step in STEPS for name, one in STEPS[step].declared.items()}
    return [CompletionItem(name, help=words) for name, words in found.items() if name.startswith(incomplete)]


def _complete_types(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete TYPE=."""
    return [CompletionItem(f"{name}=") for name in (*TYPES, *OPTIONAL) if name.startswith(incomplete)]


def _say(text: str) -> None:
    """Print a line for the person at the terminal, without what URLs may tell."""
    click.echo(without_secrets(text), err=True)


def calibration_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how exposures are calibrated: references, parameters, steps left out."""
    for option in (
        click.option(
            "--recipe",
            "recipe_file",
            metavar="FILE",
            type=click.Path(),
            help="References, parameters and skipped steps from a file like ROOT_recipe.toml. Other options win.",
        ),
        click.option(
            "--skip", metavar="STEP", multiple=True, shell_complete=complete_steps, help="Leave out a step; repeatable."
        ),
        click.option(
            "--set",
            "settings",
            metavar="STEP.PARAMETER=VALUE",
            multiple=True,
            shell_complete=_complete_settings,
            help="Parameter of a step, as jump.rejection_threshold=5; repeatable. nsxr parameters lists all of them.",
        ),
        click.option(
            "--reference",
            "named",
            metavar="TYPE=PATH",
            multiple=True,
            shell_complete=_complete_types,
            help="One reference; wins over the directory.",
        ),
        click.option("--references", "source", metavar="DIR", help="Directory of references, or 'crds'."),
    ):
        command = option(command)
    return command


def takes_recipe(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options that say how exposures are calibrated, given to the command as ``recipe``."""

    @calibration_options
    @takes_storage_options
    @wraps(command)
    def wrapped(
        *args: Any,
        recipe_file: str | None,
        source: str | None,
        named: Sequence[str],
        settings: Sequence[str],
        skip: Sequence[str],
        storage_options: Mapping[str, Any],
        **kwargs: Any,
    ) -> R:
        references = dict(split_pair(text, "TYPE=PATH") for text in named)
        if source is None and not references and recipe_file is None:
            raise click.UsageError(
                "give references: --references DIR, --references crds, --reference TYPE=PATH, or --recipe FILE"
            )
        recipe = Recipe(source, references, step_parameters(settings), tuple(skip), storage_options)
        if recipe_file is not None:
            recipe = _over(Recipe.read(recipe_file, storage_options), recipe)
        return command(*args, recipe=recipe, **kwargs)

    return wrapped


def _over(base: Recipe, given: Recipe) -> Recipe:
    """Return a recipe with what was given beside it; a directory also wins over references that the recipe names."""
    steps = dict.fromkeys((*base.parameters, *given.parameters))
    return replace(
        base,
        references=given.references or base.references,
        named={**(base.named if given.references is None else {}), **given.named},
        parameters={name: {**base.parameters.get(name, {}), **given.parameters.get(name, {})} for name in steps},
        skip=tuple(dict.fromkeys((*base.skip, *given.skip))),
    )


def takes_cluster_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options that say where dask computes; the command runs with the Client, given as ``client``, active."""

    @click.option("--scheduler", metavar="ADDRESS", help="Compute on a running dask cluster: tcp://host:8786.")
    @click.option("--workers", type=click.IntRange(1), help="Compute in this many processes. Default: threads.")
    @click.option("--memory-limit", metavar="SIZE", help="Memory of each of these processes: 2GB.")
    @click.option("--performance-report", metavar="FILE", help="HTML file on what the workers did.")
    @wraps(command)
    def wrapped(
        *args: Any,
        scheduler: str | None,
        workers: int | None,
        memory_limit: str | None,
        performance_report: str | None,
        **kwargs: Any,
    ) -> R:
        with connected(scheduler, workers, memory_limit, performance_report) as client:
            if client is not None:
                click.echo(f"dashboard at {client.dashboard_link}", err=True)
            return command(*args, client=client, **kwargs)

    return wrapped


def run_each(exposures: Mapping[str, Any], run: Callable[[str, Any], None], noun: str = "exposure") -> None:
    """Run something for each exposure; what fails does not stop the others; which ones did is said again in the end.

    Warnings are shown with the name of the exposure. Errors that nobody has foreseen are logged with their traceback.

    Parameters
    ----------
    exposures : mapping
        What is given to ``run``, by name.
    run : callable
        Takes a name and what goes with it.
    noun : str
        What they are called in the summary of several.

    Raises
    ------
    Exception
        If there is one exposure, and it fails.
    click.exceptions.Exit
        With code 1, if some of several fail.
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
        click.echo(f"  {root}", err=True)  # why has been said
    if failed:
        raise click.exceptions.Exit(1)


def takes_storage_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options that say how stores behind URLs are reached, given to the command as ``storage_options``."""

    @click.option(
        "--storage",
        metavar="KEY=VALUE",
        multiple=True,
        help="Option of the store behind URLs, as for fsspec: client_kwargs.endpoint_url=https://host.",
    )
    @click.option("--anonymous", is_flag=True, help="Read public data from stores without credentials.")
    @wraps(command)
    def wrapped(*args: Any, storage: Sequence[str], anonymous: bool, **kwargs: Any) -> R:
        options: dict[str, Any] = deepcopy(ANONYMOUS) if anonymous else {}
        for text in storage:
            name, value = split_pair(text, "KEY=VALUE")
            *groups, key = name.split(".")
            place = options
            for group in groups:
                place = place.setdefault(group, {})
                if not isinstance(place, dict):
                    raise ParameterError(f"--storage {text}: {group} has a value already and holds no options")
            place[key] = _literal(value)
        return command(*args, storage_options=options, **kwargs)

    return wrapped


def exposure_root(path: str | Path) -> str:
    """Return the name of an exposure: that of the file without kind, ending and segment."""
    match = _ROOT.match(Path(shown(str(path))).name)
    if match is None:
        raise ParameterError(f"{shown(str(path))} does not end in .fits or .fits.gz")
    return _SEGMENT.sub("", match["root"])


def group_exposures(files: Sequence[str], storage_options: Mapping[str, Any] | None = None) -> dict[str, list[str]]:
    """Group files by exposure: segments go together, everything else alone.

    Returns
    -------
    dict of str to list of str
        Files by the name of their exposure. Some segments without the others keep their numbers in the name:
        ``jw01234001001_03101_00001-seg002_nrs1``. Of files in segments, headers are read.
    """
    found: dict[str, list[str]] = {}
    for file in files:
        root = exposure_root(file)
        if root in found and not _SEGMENT.search(Path(file).name):
            raise ParameterError(f"{shown(file)} and {shown(found[root][0])} would both be written as {root}")
        found.setdefault(root, []).append(file)
    return {_of_segments(root, paths, storage_options): paths for root, paths in found.items()}


def _of_segments(root: str, paths: Sequence[str], storage_options: Mapping[str, Any] | None) -> str:
    """Return the name of an exposure, with the numbers of its segments if some are missing."""
    numbers = sorted(number[0] for path in paths if (number := _SEGMENT.search(Path(shown(path)).name)))
    if not numbers:
        return root
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NsxrWarning)  # said when it is calibrated
            exposure = open_exposure(list(paths), storage_options=storage_options)
        if exposure.sizes["integration"] == int(exposure.attrs["NINTS"]):
            return root
    except (NsxrError, OSError):  # said when its turn comes
        return root
    match = _ROOT.match(Path(shown(paths[0])).name)
    assert match is not None  # it has a root
    return _SEGMENT.sub("".join(dict.fromkeys((numbers[0], numbers[-1]))), match["root"], count=1)


def split_pair(text: str, form: str) -> tuple[str, str]:
    """Split KEY=VALUE; ``form`` says in the error what was expected."""
    key, found, value = text.partition("=")
    if not (key and found and value):
        raise ParameterError(f"{shortened(text)!r} is not of the form {form}")
    return key.strip(), value.strip()


def step_parameters(settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Turn STEP.PARAMETER=VALUE into nested dictionaries; values are Python literals or strings."""
    parameters: dict[str, dict[str, Any]] = {}
    for text in settings:
        name, value = split_pair(text, "STEP.PARAMETER=VALUE")
        step, dot, parameter = name.partition(".")
        if not (dot and parameter):
            raise ParameterError(f"{shortened(text)!r} is not of the form STEP.PARAMETER=VALUE")
        if step in STEPS and parameter in STEPS[step].declared and STEPS[step].declared[parameter].kind is xr.DataArray:
            raise ParameterError(f"{name} is an array; it can be given from Python, but not on the command line")
        parameters.setdefault(step, {})[parameter] = _literal(value)
    return parameters


def shortened(text: str) -> str:
    """Return the beginning of a long text."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _literal(text: str) -> Any:
    """Return the number, truth, list or dictionary that a text spells, else the text."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if len(text) > _LONGEST:
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
