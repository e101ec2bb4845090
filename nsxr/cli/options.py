"""What the commands share: options of a calibration, values read from text, errors as one line."""

import ast
import re
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from nsxr.detector1 import STEPS
from nsxr.errors import NsxrError, NsxrWarning, ParameterError

__all__ = ["calibration_options", "exposure_root", "group_exposures", "reports_errors", "split_pair", "step_parameters"]

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


def exposure_root(path: str | Path) -> str:
    """Return the name of an exposure: that of the file without kind, ending and segment."""
    match = _ROOT.match(Path(path).name)
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
