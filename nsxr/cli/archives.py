"""Define ``nsxr archive``: many exposures in one Zarr hierarchy."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import click

from nsxr.archive import check_archive, list_exposures
from nsxr.archive.layout import is_archive
from nsxr.archive.reader import ArchivedExposure
from nsxr.archive.replay import replay_archive
from nsxr.archive.writer import Job, carry_out, plan_exposure, resuming, taking_in
from nsxr.cli.options import (
    about,
    group_exposures,
    reports_errors,
    run_each,
    takes_cluster_options,
    takes_storage_options,
)
from nsxr.cli.recipes import takes_recipe
from nsxr.compute.cluster import require_reachable
from nsxr.errors import ArchivedOtherwiseError, NsxrError, OutputExistsError
from nsxr.model.types import Named
from nsxr.pipelines.detector1 import DETECTOR1
from nsxr.pipelines.recipe import Recipe
from nsxr.products.describe import counted
from nsxr.storage.folder import Folder
from nsxr.storage.urls import is_remote, shown

__all__ = ["archive", "holds_archive", "summary"]


@click.group()
def archive() -> None:
    """Keep many exposures in one Zarr archive.

    Groups are programme / observation / exposure / detector. Each detector has rate, rateints and, if you ask for
    them, the raw ramps.
    """


@archive.command(epilog=f"Steps: {', '.join(DETECTOR1.steps)}.")
@click.argument("path", metavar="ARCHIVE", type=click.Path())
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("--raw", is_flag=True, help="Keep the raw ramps too, without loss.")
@click.option("--overwrite", is_flag=True, help="Replace existing exposures.")
@click.option("--progress/--no-progress", default=True, help="Show progress on a terminal.")
@reports_errors
@takes_recipe
@takes_cluster_options
def add(
    path: str,
    files: tuple[str, ...],
    raw: bool,
    overwrite: bool,
    progress: bool,
    recipe: Recipe,
    client: object,
) -> None:
    """Calibrate raw exposures into an archive.

    Segments of one exposure are calibrated together. An exposure appears in the archive when it is complete. nsxr
    archive resume finishes interrupted exposures. An exposure that fails does not stop the others.
    """
    folder = Folder.at(path, recipe.storage_options)
    planned: dict[str, Job | Exception] = {}
    with taking_in(folder) as jobs:
        exposures = group_exposures(files, recipe.storage_options)
        recipes = recipe.in_turn(exposures)
        for root, paths in exposures.items():
            try:
                with about(root):
                    planned[root] = job = plan_exposure(folder, paths, recipes[root], raw=raw, overwrite=overwrite)
                jobs.append(job)
            except ArchivedOtherwiseError as error:
                planned[root] = error
            except OutputExistsError:
                click.echo(f"{root}: already there")
            except (NsxrError, OSError) as error:
                planned[root] = error
        _carry_out(planned, progress, client)


def _carry_out(planned: Mapping[str, Job | Exception], progress: bool, client: object) -> None:
    """Run jobs, on a cluster if a Client is given. Raise the errors of jobs that could not be planned."""

    def run(root: str, job: Job | Exception) -> None:
        if isinstance(job, Exception):
            raise job
        if client is not None:
            require_reachable(client, [*job.plan.sources, *job.recipe.paths], job.folder.root)
        carry_out(job, progress)
        click.echo(job.plan.node)

    run_each(planned, run)


@archive.command()
@click.argument("path", metavar="ARCHIVE", type=click.Path())
@click.option("--force", is_flag=True, help="Also resume runs on other hosts. Make sure that they have ended.")
@click.option("--host", "hosts", metavar="URL", multiple=True, help="Host of plans that may get the storage options.")
@click.option("--progress/--no-progress", default=True, help="Show progress on a terminal.")
@reports_errors
@takes_storage_options
@takes_cluster_options
def resume(
    path: str,
    force: bool,
    hosts: tuple[str, ...],
    progress: bool,
    storage_options: Named,
    client: object,
) -> None:
    """Finish exposures that were planned but interrupted. Complete exposures do not change."""
    with resuming(Folder.at(path, storage_options), force, hosts) as planned:
        if not planned:
            click.echo("nothing to resume", err=True)
        _carry_out(planned, progress, client)


@archive.command()
@click.argument("path", metavar="ARCHIVE", type=click.Path())
@click.argument("exposures", metavar="[EXPOSURE]...", nargs=-1)
@click.option("--host", "hosts", metavar="URL", multiple=True, help="Host of inputs that may get the storage options.")
@click.option("--progress/--no-progress", default=True, help="Show progress on a terminal.")
@reports_errors
@takes_storage_options
@takes_cluster_options
def replay(
    path: str,
    exposures: tuple[str, ...],
    hosts: tuple[str, ...],
    progress: bool,
    storage_options: Named,
    client: object,
) -> None:
    """Calibrate exposures again with the recipes of the archive, compare, and print a line for each.

    EXPOSURE is a path as nsxr archive ls lists it, and stands for all exposures below it. Default: all exposures.
    Nothing is written. Inputs and references must be unchanged and in the same place. The exit code is 1 if an exposure
    differs or cannot be replayed.
    """
    bad = 0
    for result in replay_archive(path, exposures, progress=progress, storage_options=storage_options, hosts=hosts):
        click.echo(str(result))
        bad += not result.is_identical
    if bad:
        click.get_current_context().exit(1)


@archive.command()
@click.argument("path", metavar="ARCHIVE", type=click.Path())
@reports_errors
@takes_storage_options
def check(path: str, storage_options: Named) -> None:
    """Read every chunk, check checksums, provenance and metadata, and print a line for each problem."""
    n_problems = 0
    for problem in check_archive(path, storage_options):
        click.echo(problem)
        n_problems += 1
    click.echo(f"{n_problems or 'no'} problem{'s' if n_problems != 1 else ''} in {shown(path)}", err=True)
    if n_problems:
        click.get_current_context().exit(1)


@archive.command()
@click.argument("path", metavar="ARCHIVE", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, with sizes in bytes.")
@reports_errors
@takes_storage_options
def ls(path: str, as_json: bool, storage_options: Named) -> None:
    """List the exposures of an archive."""
    found = list_exposures(path, storage_options)
    if as_json:
        click.echo(json.dumps([asdict(exposure) for exposure in found], indent=1))
        return
    head = ("path", "mode", "filter", "grating", "subarray", "readout", "ints x groups", "state", "size", "date")
    rows = [head, *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def holds_archive(path: str, storage_options: Named) -> bool:
    """Return whether there is an archive at a path or URL."""
    is_folder = shown(path).rstrip("/").endswith(".zarr") if is_remote(path) else os.path.isdir(path)
    return is_folder and is_archive(Folder.at(path, storage_options))


def summary(path: str, storage_options: Named) -> str:
    """Return one line on an archive: how many exposures it has, and how many of them are not complete."""
    states = [exposure.state for exposure in list_exposures(path, storage_options)]
    others = "".join(f", {states.count(state)} {state}" for state in dict.fromkeys(states) if state != "complete")
    name = Path(shown(path).rstrip("/")).name
    return f"{name}: archive of {counted(len(states), 'exposure')}{others}; nsxr archive ls lists them"


def _row(exposure: ArchivedExposure) -> tuple[str, ...]:
    names = (exposure.path, exposure.mode, exposure.filter, exposure.grating, exposure.subarray, exposure.readout)
    if exposure.state != "complete":
        return (*names, "", exposure.state, "", "")
    ramps = f"{exposure.integrations} x {exposure.groups}{' raw' if exposure.has_raw else ''}"
    return (*names, ramps, exposure.state, f"{exposure.size / 1e6:.1f} MB", exposure.date[:19])
