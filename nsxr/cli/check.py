"""Define ``nsxr check``: compare products and archives with their checksums."""

import click

from nsxr.archive import check_archive
from nsxr.cli.archives import holds_archive
from nsxr.cli.description import about_text
from nsxr.cli.options import reports_errors, run_each, takes_storage_options
from nsxr.model.types import Named
from nsxr.products.checker import check_product
from nsxr.products.describe import counted
from nsxr.storage.urls import shown

__all__ = ["check"]


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@reports_errors
@takes_storage_options
def check(paths: tuple[str, ...], storage_options: Named) -> None:
    """Read all of FITS or Zarr products, or archives, and print a line for each problem."""
    n_bad = 0

    def run(name: str, path: str) -> None:
        nonlocal n_bad
        if text := about_text(path):
            click.echo(f"{text}; it has no checksums, nothing is compared", err=True)
            return
        checks = check_archive if holds_archive(path, storage_options) else check_product
        n_problems = 0
        for problem in checks(path, storage_options):
            click.echo(problem if len(paths) == 1 else f"{name}: {problem}")
            n_problems += 1
        click.echo(f"{counted(n_problems, 'problem') if n_problems else 'no problems'} in {name}", err=True)
        n_bad += bool(n_problems)

    run_each({shown(path): path for path in paths}, run, "file")
    if n_bad:
        click.get_current_context().exit(1)
