"""Define ``nsxr detector1``: raw exposures to count rates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import xarray as xr

from nsxr.cli.options import (
    group_exposures,
    phase,
    put,
    reports_errors,
    run_each,
    takes_cluster_options,
    takes_output,
)
from nsxr.cli.recipes import complete_steps, takes_recipe
from nsxr.compute.blocks import compute_together
from nsxr.compute.cluster import require_reachable, worker_errors
from nsxr.diagnostics.linearity_residual import linearity_table, measure_linearity_residual
from nsxr.diagnostics.noise import NOISE_GROUPS, noise_table
from nsxr.errors import ParameterError
from nsxr.pipelines.detector1 import DETECTOR1
from nsxr.pipelines.recipe import Recipe
from nsxr.products.write import planned_products, write_whole
from nsxr.storage.urls import local_path
from nsxr.storage.whole import refuse_existing

__all__ = ["Wanted", "calibrate", "detector1"]


@dataclass(frozen=True)
class Wanted:
    """Files that the command writes for each exposure.

    Attributes
    ----------
    directory : str
        Directory of the products.
    formats : tuple of str
        ``"fits"``, ``"zarr"`` or both.
    saved : tuple of str
        Steps after which the ramps are saved.
    has_quicklook : bool
        Whether to draw a quick look.
    has_linearity : bool
        Whether to compare late and early slopes in a table and a figure.
    has_noise : bool
        Whether to compare the noise before and after 1/f cleaning in a table and a figure.
    overwrite : bool
        Whether existing products may be replaced.
    progress : bool
        Whether to show a progress bar on a terminal.
    """

    directory: str
    formats: tuple[str, ...] = ("fits",)
    saved: tuple[str, ...] = ()
    has_quicklook: bool = False
    has_linearity: bool = False
    has_noise: bool = False
    overwrite: bool = False
    progress: bool = True


@click.command(epilog=f"Steps: {', '.join(DETECTOR1.steps)}.")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@takes_output(".", "Directory of the products.")
@click.option("--format", "form", type=click.Choice(["fits", "zarr", "both"]), default="fits", show_default=True)
@click.option(
    "--save",
    metavar="STEP",
    multiple=True,
    shell_complete=complete_steps,
    help="Also save the ramps after this step, as FITS. Repeatable.",
)
@click.option("--quicklook", is_flag=True, help="Draw <root>_quicklook.png.")
@click.option("--linearity", is_flag=True, help="Compare late and early slopes: <root>_linearity.ecsv and .png.")
@click.option("--noise", is_flag=True, help="Compare noise before and after 1/f cleaning: <root>_noise.ecsv and .png.")
@click.option("--overwrite", is_flag=True, help="Replace existing products.")
@click.option("--progress/--no-progress", default=True, help="Show progress on a terminal.")
@reports_errors
@takes_recipe
@takes_cluster_options
def detector1(
    files: tuple[str, ...],
    output: str,
    form: str,
    save: tuple[str, ...],
    quicklook: bool,
    linearity: bool,
    noise: bool,
    overwrite: bool,
    progress: bool,
    recipe: Recipe,
    client: object,
) -> None:
    """Calibrate raw exposures to count rates.

    For each ROOT_uncal.fits, the command writes ROOT_rate.fits and ROOT_rateints.fits, or ROOT.zarr, and
    ROOT_recipe.toml with all references and parameters. Segments of one exposure (-seg001, -seg002, ...) are
    calibrated together. If some segments are missing, ROOT keeps the numbers of the others. An exposure that fails
    does not stop the others.
    """
    unknown = [name for name in save if name not in DETECTOR1.saved]
    if unknown:
        raise ParameterError(f"steps {', '.join(unknown)} cannot be saved; known: {', '.join(DETECTOR1.saved)}")
    exposures = group_exposures(files, recipe.storage_options)
    wanted = Wanted(
        output, ("fits", "zarr") if form == "both" else (form,), save, quicklook, linearity, noise, overwrite, progress
    )

    recipes = recipe.in_turn(exposures)

    def run(root: str, paths: list[str]) -> None:
        for path in calibrate(paths, recipes[root], root, wanted, client):
            click.echo(path)

    run_each(exposures, run)


def calibrate(paths: Sequence[str], recipe: Recipe, root: str, wanted: Wanted, client: object = None) -> list[Path]:
    """Calibrate one exposure, write its products and return their paths. Use a cluster if a Client is given."""
    extra = {
        name: Path(wanted.directory) / f"{root}_{name}"
        for name, is_wanted in {
            "quicklook.png": wanted.has_quicklook,
            "linearity.ecsv": wanted.has_linearity,
            "linearity.png": wanted.has_linearity,
            "noise.ecsv": wanted.has_noise,
            "noise.png": wanted.has_noise,
        }.items()
        if is_wanted
    }
    if not wanted.overwrite:
        refuse_existing(list(extra.values()))
    with phase(f"{root}: choosing references", wanted.progress and recipe.references == "crds"):  # may download them
        _, stages, tree, completed = recipe.calibrate(paths)
    if client is not None:
        require_reachable(client, [*paths, *recipe.paths], wanted.directory)
    ramps = list(stages.values())[-1]
    if wanted.has_noise and ramps.sizes["group"] < 2:
        raise ParameterError("--noise needs two groups or more")
    if wanted.has_noise and "clean_flicker_noise" in recipe.skip:
        raise ParameterError("--noise compares before and after clean_flicker_noise, which is skipped")
    saved = {name: stages[name] for name in wanted.saved}
    compared = ("jump", "clean_flicker_noise") if wanted.has_noise else ()
    samples = [_noise_sample(stages[name]) for name in compared]
    texts = {"recipe.toml": completed.as_toml()}
    written, create = planned_products(tree, wanted.directory, root, wanted.formats, saved, texts)
    folder = local_path(wanted.directory)
    samples = write_whole(written, create, folder, root, wanted.overwrite, wanted.progress, samples)
    if wanted.has_quicklook:
        from nsxr.plot.quicklook import plot_quicklook  # matplotlib takes 0.3 s to import

        with phase(f"{root}: drawing the quick look", wanted.progress), _open_rate(written) as rate:
            figure = plot_quicklook(rate, ramps, stages["superbias"])
        put(extra["quicklook.png"], lambda path: figure.savefig(path, dpi=120, format="png"))
    if wanted.has_linearity:
        from nsxr.plot.linearity import plot_linearity

        words = f"{root}: calibrating again, to compare late and early slopes"
        with phase(words, wanted.progress), worker_errors():
            residual = measure_linearity_residual(ramps).compute()
        put(extra["linearity.ecsv"], lambda path: linearity_table(residual).write(path, format="ascii.ecsv"))
        put(extra["linearity.png"], lambda path: plot_linearity(residual).savefig(path, dpi=120, format="png"))
    if wanted.has_noise:
        from nsxr.plot.noise import plot_noise

        with phase(f"{root}: comparing noise before and after cleaning", wanted.progress), worker_errors():
            before, after = compute_together(*samples)  # on a cluster they are still there
            table, figure = noise_table(before, after), plot_noise(before, after)
        put(extra["noise.ecsv"], lambda path: table.write(path, format="ascii.ecsv"))
        put(extra["noise.png"], lambda path: figure.savefig(path, dpi=120, format="png"))
    return [*written, *extra.values()]


def _noise_sample(exposure: xr.Dataset) -> xr.Dataset:
    """Return the groups in which noise is measured: the first groups of the first integration."""
    return exposure[["sci"]].isel(integration=slice(0, 1), group=slice(0, NOISE_GROUPS))


def _open_rate(products: Sequence[Path]) -> xr.Dataset:
    """Open the rate image that was just written. Its quick look then needs no second calibration."""
    for path in products:
        if path.suffix == ".zarr":
            return xr.open_dataset(path, group="rate", engine="zarr", chunks={})
        if path.name.endswith("_rate.fits"):
            return xr.open_dataset(path, engine="nirspec", chunks={})
    raise ParameterError(f"there is no rate image among {', '.join(map(str, products))}")
