"""nsxr check: whether a product or an archive is as it was written."""

import os
from collections.abc import Mapping
from typing import Any

import click

from nsxr.archive import check_archive
from nsxr.archive.layout import is_archive
from nsxr.cli.options import reports_errors, takes_storage_options
from nsxr.io.checker import check_product
from nsxr.io.folder import Folder
from nsxr.io.stores import is_remote, shown

__all__ = ["check"]


@click.command()
@click.argument("path", type=click.Path())
@reports_errors
@takes_storage_options
def check(path: str, storage_options: Mapping[str, Any]) -> None:
    """Read a FITS or Zarr product, or an archive, through; a line for each problem."""
    is_folder = shown(path).rstrip("/").endswith(".zarr") if is_remote(path) else os.path.isdir(path)
    checks = check_archive if is_folder and is_archive(Folder.at(path, storage_options)) else check_product
    n_problems = 0
    for problem in checks(path, storage_options):
        click.echo(problem)
        n_problems += 1
    click.echo(f"{n_problems or 'no'} problem{'s' if n_problems != 1 else ''} in {shown(path)}", err=True)
    if n_problems:
        click.get_current_context().exit(1)
