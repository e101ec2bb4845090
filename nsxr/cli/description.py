"""nsxr info: what a file is."""

import click

from nsxr.cli.options import reports_errors
from nsxr.io.describe import describe

__all__ = ["info"]


@click.command()
@click.argument("file", type=click.Path())
@reports_errors
def info(file: str) -> None:
    """Say what a file is, how it was read out, and what has been done to it."""
    click.echo(describe(file))
