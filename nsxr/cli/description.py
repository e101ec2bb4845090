"""Define ``nsxr info``: describe a file."""

import os

import click

from nsxr.cli.archives import holds_archive, summary
from nsxr.cli.options import reports_errors, takes_storage_options
from nsxr.model.types import Named
from nsxr.pipelines.recipe import Recipe
from nsxr.products.describe import counted, describe

__all__ = ["about_text", "info"]


@click.command()
@click.argument("file", type=click.Path())
@reports_errors
@takes_storage_options
def info(file: str, storage_options: Named) -> None:
    """Show the type of a file, its readout, and the steps that were applied."""
    if holds_archive(file, storage_options):
        click.echo(summary(file, storage_options))
    else:
        click.echo(about_text(file) or describe(file, storage_options))


def about_text(path: str) -> str | None:
    """Return a line about a text file that nsxr wrote: a recipe or a light curve. None for any other file.

    Raises
    ------
    ParameterError
        If a recipe is damaged.
    """
    if not os.path.isfile(path):
        return None
    name, ending = os.path.basename(path), os.path.splitext(path)[1].lower()
    if ending == ".toml":
        recipe = Recipe.read(path)
        skipped = f", skips {', '.join(recipe.skip)}" if recipe.skip else ""
        asked = f", also runs {', '.join(recipe.run)}" if recipe.run else ""
        steps = counted(len(recipe.parameters), "step")
        return f"{name}: recipe, parameters of {steps}{skipped}{asked}; nsxr detector1 FILES --recipe {name}"
    if ending == ".ecsv":
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line for line in file if line.strip()]
        if lines and lines[0].startswith("# %ECSV"):
            rows = max(sum(not line.startswith("#") for line in lines) - 1, 0)  # the first line has names
            kind = "white light curve" if any("whitelight_flux" in line for line in lines) else "table"
            return f"{name}: {kind}, {counted(rows, 'row')}; astropy.table.QTable.read opens it"
    return None
