"""nsxr detector1: raw exposures to count rates."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import xarray as xr

from nsxr.cli.options import calibration_options, group_exposures, reports_errors, split_pair, step_parameters
from nsxr.detector1 import STEPS, correct_ramps, fit_rates, reference_types
from nsxr.errors import OutputExistsError, ParameterError
from nsxr.io import open_exposure
from nsxr.io.products import write_products
from nsxr.references import open_references

__all__ = ["calibrate", "detector1"]


@click.command(epilog=f"Steps: {', '.join(STEPS)}.")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", default=".", show_default=True, type=click.Path(), help="Directory of the products.")
@click.option("--format", "form", type=click.Choice(["fits", "zarr", "both"]), default="fits", show_default=True)
@calibration_options
@click.option("--save", metavar="STEP", multiple=True, help="Also save the ramps after a step, as FITS.")
@click.option("--quicklook", is_flag=True, help="Draw <root>_quicklook.png.")
@click.option("--overwrite", is_flag=True, help="Replace existing products.")
@click.option("--progress/--no-progress", default=True, help="Show progress on a terminal.")
@reports_errors
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
    references = dict(split_pair(text, "TYPE=PATH") for text in named)
    if source is None and not references:
        raise click.UsageError("give references: --references DIR, --references crds, or --reference TYPE=PATH")
    parameters = step_parameters(settings)
    formats = ("fits", "zarr") if form == "both" else (form,)
    for root, paths in group_exposures(files).items():
        written = calibrate(
            paths, output, root, source, references, formats, parameters, skip, save, quicklook, overwrite, progress
        )
        for path in written:
            click.echo(path)


def calibrate(
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
    """Calibrate one exposure, write its products and return their paths."""
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
        from nsxr.plot import plot_quicklook

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
