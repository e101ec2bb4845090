"""What the commands share: options of a calibration, values read from text, errors as one line."""

import ast
import logging
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from nsxr.cluster import connected
from nsxr.detector1 import STEPS
from nsxr.errors import NsxrError, NsxrWarning, ParameterError
from nsxr.io.stores import ANONYMOUS, shown
from nsxr.recipe import Recipe

__all__ = [
    "calibration_options",
    "exposure_root",
    "group_exposures",
    "reports_errors",
    "run_each",
    "split_pair",
    "step_parameters",
    "takes_cluster_options",
    "takes_recipe",
    "takes_storage_options",
]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_ROOT = re.compile(r"(?P<root>.+?)(?:_uncal)?\.fits(?:\.gz)?$")
_SEGMENT = re.compile(r"-seg\d{3}")


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors that nsxr raises on purpose, and those of the disk, into one clear line."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with warnings.catch_warnings():
            warnings.simplefilter("default", NsxrWarning)
            warnings.showwarning = lambda message, *_, **__: click.echo(f"Warning: {message}", err=True)
            try:
                return command(*args, **kwargs)
            except (NsxrError, OSError) as error:
                raise click.ClickException(str(error)) from error

    return wrapped


def calibration_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how exposures are calibrated: references, parameters, steps left out."""
    for option in (
        click.option("--skip", metavar="STEP", multiple=True, help="Leave out a step."),
        click.option("--set", "settings", metavar="STEP.PARAMETER=VALUE", multiple=True, help="Parameter of a step."),
        click.option(
            "--reference", "named", metavar="TYPE=PATH", multiple=True, help="One reference; wins over the directory."
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
        source: str | None,
        named: Sequence[str],
        settings: Sequence[str],
        skip: Sequence[str],
        storage_options: Mapping[str, Any],
        **kwargs: Any,
    ) -> R:
        references = dict(split_pair(text, "TYPE=PATH") for text in named)
        if source is None and not references:
            raise click.UsageError("give references: --references DIR, --references crds, or --reference TYPE=PATH")
        recipe = Recipe(source, references, step_parameters(settings), tuple(skip), storage_options)
        return command(*args, recipe=recipe, **kwargs)

    return wrapped


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


def run_each(exposures: Mapping[str, Any], run: Callable[[str, Any], None]) -> None:
    """Run something for each exposure; what fails does not stop the others, but is told at the end.

    Errors that nobody has foreseen are logged with their traceback.

    Raises
    ------
    Exception
        If there is one exposure, and it fails.
    click.exceptions.Exit
        With code 1, if some of several fail.
    """
    failed: dict[str, Exception] = {}
    for root, item in exposures.items():
        try:
            run(root, item)
        except Exception as error:
            if len(exposures) == 1:
                raise
            if not isinstance(error, NsxrError | OSError):
                logger.exception("%s failed", root)
            click.echo(f"Error: {root}: {str(error) or type(error).__name__}", err=True)
            failed[root] = error
    if failed:
        click.echo(f"{len(exposures) - len(failed)} of {len(exposures)} exposures done; failed:", err=True)
        for root, reason in failed.items():
            click.echo(f"  {root}: {str(reason) or type(reason).__name__}", err=True)
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
        raise ParameterError(f"{path} does not end in .fits or .fits.gz")
    return _SEGMENT.sub("", match["root"])


def group_exposures(files: Sequence[str]) -> dict[str, list[str]]:
    """Group files by exposure: segments go together, everything else alone."""
    found: dict[str, list[str]] = {}
    for file in files:
        root = exposure_root(file)
        if root in found and not _SEGMENT.search(Path(file).name):
            raise ParameterError(f"{file} and {found[root][0]} would both be written as {root}")
        found.setdefault(root, []).append(file)
    return found


def split_pair(text: str, form: str) -> tuple[str, str]:
    """Split KEY=VALUE; ``form`` says in the error what was expected."""
    key, found, value = text.partition("=")
    if not (key and found and value):
        raise ParameterError(f"{text!r} is not of the form {form}")
    return key.strip(), value.strip()


def step_parameters(settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Turn STEP.PARAMETER=VALUE into nested dictionaries; values are Python literals or strings."""
    parameters: dict[str, dict[str, Any]] = {}
    for text in settings:
        name, value = split_pair(text, "STEP.PARAMETER=VALUE")
        step, dot, parameter = name.partition(".")
        if not (dot and parameter):
            raise ParameterError(f"{text!r} is not of the form STEP.PARAMETER=VALUE")
        parameters.setdefault(step, {})[parameter] = _checked(name, _literal(value))
    return parameters


def _checked(name: str, value: Any) -> Any:
    """Refuse a value of another kind than the default of the parameter; unknown names are reported later."""
    step, _, parameter = name.partition(".")
    if step not in STEPS or parameter not in STEPS[step].parameters:
        return value
    default = STEPS[step].parameters[parameter]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if parameter == "user_supplied_dq":
        raise ParameterError(f"{name} is an array; it can be given from Python, but not on the command line")
    if isinstance(default, bool):
        fits, kind = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        fits, kind = is_number and isinstance(value, int), "a whole number"
    elif isinstance(default, str):
        fits, kind = isinstance(value, str), "a word"
    elif default is None:
        fits, kind = is_number or value is None, "a number or none"
    else:
        fits, kind = is_number, "a number"
    if not fits:
        raise ParameterError(f"{name} is {value!r}, expected {kind}")
    return value


def _literal(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
