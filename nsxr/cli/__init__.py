"""The command line: detector1, simulate, demo, info."""

import logging

import click

from nsxr.cli.calibration import detector1
from nsxr.cli.description import info
from nsxr.cli.simulation import demo, simulate

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nsxr")
@click.option("-v", "--verbose", count=True, help="Log more; twice for everything.")
def main(verbose: int) -> None:
    """Calibrate JWST NIRSpec exposures as labelled, lazy arrays."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("nsxr").setLevel(level)


for _command in (detector1, simulate, info, demo):
    main.add_command(_command)
