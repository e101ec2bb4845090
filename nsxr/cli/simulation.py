"""Define ``nsxr simulate`` and ``nsxr demo``: simulated exposures whose true count rates are known."""

import time
from typing import Any

import click

from nsxr.cli.calibration import Wanted, calibrate
from nsxr.cli.options import exposure_root, reports_errors, takes_output
from nsxr.pipelines.recipe import Recipe
from nsxr.simulate import simulate_exposure
from nsxr.simulate.configuration import GRATINGS, READOUTS, SCENES, SUBARRAYS

__all__ = ["demo", "simulate"]


@click.command()
@takes_output(".", "Directory of the files.")
@click.option(
    "--readout",
    type=click.Choice(list(READOUTS)),
    show_default="NRSIRS2RAPID for full frames, NRSRAPID for subarrays",
)
@click.option("--subarray", type=click.Choice(list(SUBARRAYS)), default="FULL", show_default=True)
@click.option("--groups", type=click.IntRange(1), default=20, show_default=True)
@click.option("--integrations", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--segments", type=click.IntRange(1), default=1, show_default=True, help="Number of files of the exposure."
)
@click.option("--detector", type=click.Choice(["NRS1", "NRS2"]), default="NRS1", show_default=True)
@click.option(
    "--mode",
    "--scene",
    "mode",
    type=click.Choice(list(SCENES)),
    help="Default: the mode that the subarray is made for. --scene is an older spelling.",
)
@click.option(
    "--sky",
    metavar="FILE",
    help="JSON file with sources, or the word default for a sky that suits the mode. Light falls where the optics send "
    "it. Without a sky, bands of light are drawn.",
)
@click.option(
    "--optics", metavar="DIR", help="Folder with references of the optics. Default: compact ones are written."
)
@click.option(
    "--shutters", metavar="MSA", help="MSA metafile. Default: shutters are opened around the sources of the sky."
)
@click.option(
    "--grating", type=click.Choice(list(GRATINGS)), help="Default: one that is usual for the mode and the subarray."
)
@click.option("--dither", type=click.IntRange(1), default=1, show_default=True, help="Number of the dither position.")
@click.option("--dithers", type=click.IntRange(1), default=1, show_default=True, help="Number of dither positions.")
@click.option(
    "--flux-references",
    is_flag=True,
    help="Write the references that turn count rates into flux, too: flats, sensitivity, path loss (150 MB).",
)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--programme", type=click.IntRange(1, 99999), default=1234, show_default=True, help="Programme number.")
@click.option("--observation", type=click.IntRange(1, 999), default=1, show_default=True, help="Observation number.")
@click.option("--exposure", type=click.IntRange(1, 99999), default=1, show_default=True, help="Exposure number.")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@reports_errors
def simulate(output: str, readout: str | None, subarray: str, **settings: Any) -> None:
    """Simulate a raw exposure with its references and its true count rates."""
    if readout is None:
        readout = "NRSIRS2RAPID" if subarray == "FULL" else "NRSRAPID"
    made = simulate_exposure(output, readout=readout, subarray=subarray, **settings)
    shutters = [] if made.shutters is None else [made.shutters]
    for path in [*made.uncal, *shutters, made.truth, *made.references.values(), *made.flux_references.values()]:
        click.echo(path)


@click.command()
@takes_output("demo", "Directory of the files.")
@click.option("--seed", type=int, default=1, show_default=True)
@reports_errors
def demo(output: str, seed: int) -> None:
    """Simulate a full-frame exposure, calibrate it, write products, draw a quick look.

    The exposure shows galaxies through open shutters, with the prism, in NRSIRS2RAPID. Products are FITS and Zarr.
    Existing files in the directory are replaced.
    """
    started = time.monotonic()
    click.echo("simulating a full-frame NRSIRS2RAPID exposure of 20 groups, with its references ...")
    made = simulate_exposure(output, mode="MOS", sky="default", dithers=3, seed=seed)
    simulated = time.monotonic()
    click.echo(f"  {made.uncal[0]} ({simulated - started:.0f} s)")
    click.echo("calibrating ...")
    root = exposure_root(made.uncal[0])
    recipe = Recipe(named={kind: str(path) for kind, path in made.references.items()})
    wanted = Wanted(output, ("fits", "zarr"), has_quicklook=True, overwrite=True)
    written = calibrate([str(made.uncal[0])], recipe, root, wanted)
    for path in written:
        click.echo(f"  {path}")
    click.echo(f"calibrated in {time.monotonic() - simulated:.0f} s; look at {written[-1]}")
