"""Define ``nsxr simulate`` and ``nsxr demo``: simulated exposures whose true count rates are known."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from nsxr.cli.calibration import Wanted, calibrate
from nsxr.cli.options import exposure_root, put, reports_errors, takes_output
from nsxr.pipelines.recipe import Recipe
from nsxr.products.spectra_read import open_spectra
from nsxr.simulate import simulate_exposure, true_flux
from nsxr.simulate.configuration import GRATINGS, READOUTS, SCENES, SUBARRAYS
from nsxr.slits.collection import iterate_slits

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
@click.option(
    "--seed",
    type=int,
    default=1,
    show_default=True,
    help="Seed of the noise and of the default sky. Give all nods the same one: their sky is the same then, and their "
    "noise differs.",
)
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
@click.pass_context
@reports_errors
def demo(context: click.Context, output: str, seed: int) -> None:
    """Simulate a full-frame exposure, calibrate it up to spectra, and compare them with the truth.

    The exposure shows galaxies through open shutters, with the prism, in NRSIRS2RAPID. Count rates are written as FITS
    and Zarr, slits and spectra as FITS. Existing files in the directory are replaced.
    """
    started = time.monotonic()
    click.echo("simulating a full-frame NRSIRS2RAPID exposure of 20 groups, with its references ...")
    made = simulate_exposure(output, mode="MOS", sky="default", dithers=3, seed=seed, flux_references=True)
    simulated = time.monotonic()
    click.echo(f"  {made.uncal[0]} ({simulated - started:.0f} s)")
    click.echo("stage 1: ramps to count rates ...")
    root = exposure_root(made.uncal[0])
    recipe = Recipe(named={kind: str(path) for kind, path in made.references.items()})
    wanted = Wanted(output, ("fits", "zarr"), has_quicklook=True, overwrite=True)
    written = calibrate([str(made.uncal[0])], recipe, root, wanted)
    for path in written:
        click.echo(f"  {path}")
    click.echo("stage 2: count rates to spectra ...")
    folder = Path(output)
    rate, source = str(folder / f"{root}_rate.fits"), str(made.truth.parent / "references")
    from nsxr.cli.spec2 import spec2  # stage 2 takes 0.2 s to import, and nsxr simulate does not need it

    context.invoke(spec2, files=(rate,), output=output, source=source, quicklook=True, overwrite=True)
    picture = folder / f"{root}_truth.png"
    words = _compare(made.truth, folder / f"{root}_x1d.fits", picture)
    click.echo(f"{picture}\ncalibrated in {time.monotonic() - simulated:.0f} s; look at {picture}\n{words}")


def _compare(truth: Path, product: Path, picture: Path) -> str:
    """Draw the spectra of points in a product beside the truth, and say in a line how far they scatter about it."""
    from nsxr.plot.truth import draw_truth, pulls, scatter_of  # matplotlib takes 0.3 s to import

    spectra = {name: one.compute() for name, one in iterate_slits(open_spectra(product))}
    true = {name: true_flux(truth, one) for name, one in spectra.items() if one.attrs["SRCTYPE"] == "POINT"}
    figure = draw_truth(spectra, true, f"{product.name}: spectra of points beside the sky that was simulated")
    put(picture, partial(figure.savefig, dpi=110, format="png"))
    compared = [each for name, one in true.items() if (each := pulls(spectra[name], one)).size]
    found = np.concatenate(compared)
    beyond = 100 * np.mean(np.abs(found) > 5)
    spectra_of = "1 spectrum of a point" if len(compared) == 1 else f"{len(compared)} spectra of points"
    return (
        f"{spectra_of}, {found.size} columns: they scatter about the truth by {scatter_of(found):.2f} "
        f"times their error bars, and {beyond:.2f} % are off by more than 5 error bars"
    )
