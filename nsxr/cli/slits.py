"""Define ``nsxr slits``: which slits an exposure shows, and where."""

from collections.abc import Sequence
from pathlib import Path

import click
import xarray as xr

from nsxr.cli.options import exposure_root, reports_errors, takes_output
from nsxr.errors import InputFileError
from nsxr.optics.instrument import Optics
from nsxr.optics.slit import Slit
from nsxr.products.exposure import open_exposure
from nsxr.references.optics import open_optics
from nsxr.slits.selection import metafile_beside, slits_of, tabulate
from nsxr.storage.whole import disk_errors

__all__ = ["slits"]

_ANGLES = ("ra", "dec", "source_ra", "source_dec")
"""Columns of the table in degrees: six decimals are 0.004 arcsec."""


@click.command()
@click.argument("file", type=click.Path())
@click.option("--references", required=True, type=click.Path(), help="Directory of the references of the optics.")
@click.option(
    "--shutters",
    type=click.Path(),
    help="MSA metafile, ..._msa.fits, for exposures of shutters. Default: that of the header, beside FILE.",
)
@takes_output(".", "Directory of the picture.")
@click.option("--all", "everywhere", is_flag=True, help="List slits too whose light misses this detector.")
@reports_errors
def slits(file: str, references: str, shutters: str | None, output: str, everywhere: bool) -> None:
    """List the slits of an exposure, and draw where their light falls.

    FILE has count rates. The table has a line for each slit: shutters, source, position on the sky, wavelengths and box
    on this detector. The picture shows outlines, names and wavelengths on the image of count rates.
    """
    rate = open_exposure(file)
    if "dq" not in rate:
        raise InputFileError(f"{file}: has no count rates; give count rates, ..._rate.fits")
    optics, folder = open_optics(references, rate), Path(output)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    found: Sequence[Slit]
    if optics.is_ifu:
        found = list(optics.slits.values())
        click.echo(f"{len(found)} slices of the IFU; nsxr.locate_slices tells the slice of each pixel")
    else:
        found = slitlets = slits_of(rate, optics, shutters or metafile_beside(Path(file), rate))
        table = tabulate(rate, optics, slitlets, everywhere=everywhere)
        text = table.to_dataframe().to_string(
            float_format="{:.5g}".format, formatters=dict.fromkeys(_ANGLES, "{:.6f}".format), max_colwidth=24
        )
        click.echo(text)
    click.echo(_draw(rate, optics, found, folder, exposure_root(file)))


def _draw(rate: xr.Dataset, optics: Optics, found: Sequence[Slit], folder: Path, root: str) -> Path:
    """Write the picture and return its path."""
    from nsxr.plot.slits import draw_slits  # drawing libraries take a second to import

    figure = draw_slits(rate, optics, found)
    path = folder / f"{root.removesuffix('_rate').removesuffix('_rateints')}_slits.png"
    figure.savefig(path, dpi=130)
    return path
