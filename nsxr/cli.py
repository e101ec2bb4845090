"""The command line: demo, simulate, detector1, info."""

import ast
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
import xarray as xr

from nsxr.detector1 import STEPS, correct_ramps, fit_rates, reference_types
from nsxr.errors import NsxrError, NsxrWarning, OutputExistsError, ParameterError
from nsxr.io import open_exposure
from nsxr.io.describe import describe
from nsxr.io.products import write_products
from nsxr.plot import plot_quicklook
from nsxr.references import open_references
from nsxr.simulate import simulate_exposure
from nsxr.simulate.configuration import READOUTS, SCENES, SUBARRAYS

__all__ = ["main"]

P = ParamSpec("P")
R = TypeVar("R")

_ROOT = re.compile(r"(?P<root>.+?)(?:_uncal)?\.fits(?:\.gz)?$")
_SEGMENT = re.compile(r"-seg\d{3}")


def _reports_errors(command: Callable[P, R]) -> Callable[P, R]:
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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nsxr")
@click.option("-v", "--verbose", count=True, help="Log more; twice for everything.")
def main(verbose: int) -> None:
    """Calibrate JWST NIRSpec exposures as labelled, lazy arrays."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("nsxr").setLevel(level)


@main.command(epilog=f"Steps: {', '.join(STEPS)}.")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", default=".", show_default=True, type=click.Path(), help="Directory of the products.")
@click.option("--references", "source", metavar="DIR", help="Directory of references, or 'crds'.")
@click.option(
    "--reference", "named", metavar="TYPE=PATH", multiple=True, help="One reference; wins over the directory."
)
@click.option("--format", "form", type=click.Choice(["fits", "zarr", "both"]), default="fits", show_default=True)
@click.option("--set", "settings", metavar="STEP.PARAMETER=VALUE", multiple=True, help="Parameter of a step.")
@click.option("--skip", metavar="STEP", multiple=True, help="Leave out a step.")
@click.option("--save", metavar="STEP", multiple=True, help="Also save the ramps after a step, as FITS.")
@click.option("--quicklook", is_flag=True, help="Draw <root>_quicklook.png.")
@click.option("--overwrite", is_flag=True, help="Replace existing products.")
@click.option("--progress/--no-progress", default=True, help="Show progress on a terminal.")
@_reports_errors
def detector1(
    files: tuple[str, ...],
    output: str,
    source: str | None,
    named: tuple[str, ...],
    form: str,
    settings: tuple[str, ...],
    skip: tuple[str, ...],
    save: tuple[str, ...],
    quicklook: bool,
    overwrite: bool,
    progress: bool,
) -> None:
    """Calibrate raw exposures to count rates.

    Writes ROOT_rate.fits and ROOT_rateints.fits, or ROOT.zarr, for each ROOT_uncal.fits. Segments of
    one exposure (-seg001, -seg002, ...) are calibrated together, as one.
    """
    references = dict(_split(text, "TYPE=PATH") for text in named)
    if source is None and not references:
        raise click.UsageError("give references: --references DIR, --references crds, or --reference TYPE=PATH")
    parameters = _parameters(settings)
    formats = ("fits", "zarr") if form == "both" else (form,)
    for root, paths in _exposures(files).items():
        written = _calibrate(
            paths, output, root, source, references, formats, parameters, skip, save, quicklook, overwrite, progress
        )
        for path in written:
            click.echo(path)


def _calibrate(
    paths: Sequence[str],
    output: str | Path,
    root: str,
    source: str | None,
    named: Mapping[str, str],
    formats: Sequence[str],
    parameters: Mapping[str, Mapping[str, Any]],
    skip: Sequence[str],
    save: Sequence[str],
    quicklook: bool,
    overwrite: bool,
    progress: bool,
) -> list[Path]:
    known = [name for name in STEPS if name not in ("ramp_fit", "gain_scale")]
    unknown = [name for name in save if name not in known]
    if unknown:
        raise ParameterError(f"steps {', '.join(unknown)} cannot be saved; known: {', '.join(known)}")
    picture = Path(output) / f"{root}_quicklook.png"
    if quicklook and not overwrite and picture.exists():
        raise OutputExistsError(f"{picture} already there; ask for overwriting or choose another directory")
    exposure = open_exposure(list(paths))
    needed = reference_types(exposure, skip)
    references = open_references(source or {}, exposure, overrides=named, types=needed)
    stages = correct_ramps(exposure, references, skip=skip, **parameters)
    tree = fit_rates(list(stages.values())[-1], references, skip=skip, **parameters)
    written = write_products(
        tree, output, root, formats, overwrite, progress, steps={name: stages[name] for name in save}
    )
    if quicklook:
        with _open_rate(written) as rate:
            figure = plot_quicklook(rate, list(stages.values())[-1], stages["superbias"])
        partial = picture.with_name(f".{picture.name}.partial")
        try:
            figure.savefig(partial, dpi=120, format="png")
            os.replace(partial, picture)
        finally:
            partial.unlink(missing_ok=True)
        written.append(picture)
    return written


def _open_rate(products: Sequence[Path]) -> xr.Dataset:
    """Open the rate image just written, so that a picture of it costs no second calibration."""
    for path in products:
        if path.suffix == ".zarr":
            return xr.open_dataset(path, group="rate", engine="zarr", chunks={})
        if path.name.endswith("_rate.fits"):
            return xr.open_dataset(path, engine="nirspec", chunks={})
    raise ParameterError(f"there is no rate image among {', '.join(map(str, products))}")


@main.command()
@click.option("-o", "--output", default=".", show_default=True, type=click.Path(), help="Directory of the files.")
@click.option(
    "--readout",
    type=click.Choice(list(READOUTS)),
    show_default="NRSIRS2RAPID for full frames, NRSRAPID for subarrays",
)
@click.option("--subarray", type=click.Choice(list(SUBARRAYS)), default="FULL", show_default=True)
@click.option("--groups", type=click.IntRange(1), default=20, show_default=True)
@click.option("--integrations", type=click.IntRange(1), default=1, show_default=True)
@click.option("--segments", type=click.IntRange(1), default=1, show_default=True, help="Files of the exposure.")
@click.option("--detector", type=click.Choice(["NRS1", "NRS2"]), default="NRS1", show_default=True)
@click.option("--scene", type=click.Choice(list(SCENES)), help="Default: what the subarray is made for.")
@click.option("--seed", type=int, default=1, show_default=True)
@_reports_errors
def simulate(output: str, readout: str | None, subarray: str, **settings: Any) -> None:
    """Simulate a raw exposure with its references and the truth behind it."""
    if readout is None:
        readout = "NRSIRS2RAPID" if subarray == "FULL" else "NRSRAPID"
    made = simulate_exposure(output, readout=readout, subarray=subarray, **settings)
    for path in [*made.uncal, made.truth, *made.references.values()]:
        click.echo(path)


@main.command()
@click.argument("file", type=click.Path())
@_reports_errors
def info(file: str) -> None:
    """Say what a file is, how it was read out, and what has been done to it."""
    click.echo(describe(file))


@main.command()
@click.option("-o", "--output", default="demo", show_default=True, type=click.Path(), help="Directory of the files.")
@click.option("--seed", type=int, default=1, show_default=True)
@_reports_errors
def demo(output: str, seed: int) -> None:
    """Simulate a full-frame IRS2 exposure, calibrate it, write FITS and Zarr, draw a quick look.

    Existing files in the directory are replaced.
    """
    started = time.monotonic()
    click.echo("simulating a full-frame NRSIRS2RAPID exposure of 20 groups, with its references ...")
    made = simulate_exposure(output, seed=seed)
    simulated = time.monotonic()
    click.echo(f"  {made.uncal[0]} ({simulated - started:.0f} s)")
    click.echo("calibrating ...")
    root = _root(made.uncal[0])
    named = {kind: str(path) for kind, path in made.references.items()}
    written = _calibrate(
        [str(made.uncal[0])],
        output=output,
        root=root,
        source=None,
        named=named,
        formats=("fits", "zarr"),
        parameters={},
        skip=(),
        save=(),
        quicklook=True,
        overwrite=True,
        progress=True,
    )
    for path in written:
        click.echo(f"  {path}")
    click.echo(f"calibrated in {time.monotonic() - simulated:.0f} s; look at {written[-1]}")


def _root(path: str | Path) -> str:
    match = _ROOT.match(Path(path).name)
    if match is None:
        raise ParameterError(f"{path} does not end in .fits or .fits.gz")
    return _SEGMENT.sub("", match["root"])


def _exposures(files: Sequence[str]) -> dict[str, list[str]]:
    """Group files by exposure: segments go together, everything else alone."""
    found: dict[str, list[str]] = {}
    for file in files:
        root = _root(file)
        if root in found and not _SEGMENT.search(Path(file).name):
            raise ParameterError(f"{file} and {found[root][0]} would both be written as {root}")
        found.setdefault(root, []).append(file)
    return found


def _split(text: str, form: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not (key and found and value):
        raise ParameterError(f"{text!r} is not of the form {form}")
    return key.strip(), value.strip()


def _parameters(settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Turn STEP.PARAMETER=VALUE into nested dictionaries; values are Python literals or strings."""
    parameters: dict[str, dict[str, Any]] = {}
    for text in settings:
        name, value = _split(text, "STEP.PARAMETER=VALUE")
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
