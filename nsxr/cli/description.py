"""nsxr info: what a file is."""

from collections.abc import Mapping
from typing import Any

import click

from nsxr.cli.options import reports_errors, takes_storage_options
from nsxr.io.describe import describe

__all__ = ["info"]


@click.command()
@click.argument("file", type=click.Path())
@reports_errors
@takes_storage_options
def info(file: str, storage_options: Mapping[str, Any]) -> None:
    """Say what a file is, how it was read out, and what has been done to it."""
    click.echo(describe(file, storage_options))
