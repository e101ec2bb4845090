"""nsxr extract: slits to spectra."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import xarray as xr

from nsxr.associate.exposures import require_distinct
from nsxr.cli.calibration import put
from nsxr.cli.options import (
    finite,
    reports_errors,
    run_each,
    takes_cluster_options,
    takes_output,
    takes_storage_options,
)
from nsxr.compute.cluster import worker_errors
from nsxr.model.names import plain_name
from nsxr.pipelines.extract import Extraction, Parts, extract_source, group_by_source
from nsxr.products.light_curves import write_white_light_curve
from nsxr.products.slits_read import open_slits
from nsxr.products.spectra_read import open_spectra
from nsxr.products.spectra_write import write_spectra
from nsxr.slits.collection import iterate_slits
from nsxr.spectra.combination import combine_spectra
from nsxr.spectra.plausibility import Extracted, warn_of_suspicions
from nsxr.spectra.white_light import white_light_curve
from nsxr.storage.urls import shown
from nsxr.storage.whole import refuse_existing

__all__ = ["extract"]

_ROOT = re.compile(r"(?P<root>.+?)(?:_(?:cal|calints|s2d|crf|crfints|rate|rateints|phot))?(?:\.fits(?:\.gz)?|\.zarr)$")


@dataclass(frozen=True)
class _Slit:
    """A slit, the file that it is from, and its name there."""

    root: str
    name: str
    dataset: xr.Dataset


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path())
@takes_output(".", "Directory of the products.")
@click.option("--format", "form", type=click.Choice(["fits", "zarr", "both"]), default="fits", show_default=True)
@click.option("--source", "sources", metavar="NAME", multiple=True, help="Only this source or slit (SRCNAME, SLTNAME).")
@click.option(
    "--weighting",
    type=click.Choice(["auto", "profile", "box"]),
    default="auto",
    show_default=True,
    help="auto: box for extended sources, profile for others.",
)
@click.option("--half-width", type=finite, metavar="PIXELS", help="Half width of the aperture. Default: 3 for points.")
@click.option("--position", type=finite, metavar="ROW", help="Planned detector row of the source, middle column.")
@click.option("--position-prior", type=finite, default=0.3, show_default=True, help="Its uncertainty in pixels.")
@click.option(
    "--background",
    type=click.Choice(["auto", "none", "constant", "linear"]),
    default="auto",
    show_default=True,
    help="Local background of each column.",
)
@click.option("--outliers/--no-outliers", default=True, help="Compare exposures of a source to find outliers.")
@click.option(
    "--nod-variance/--no-nod-variance", default=True, help="Add variances of nods that were subtracted without them."
)
@click.option("--combine/--no-combine", default=True, help="Also write the mean of the spectra of a source, c1d.")
@click.option(
    "--across",
    type=click.Choice(["detectors", "slits"]),
    multiple=True,
    help="Combine both detectors, or fixed slits that the target was moved through; repeatable.",
)
@click.option("--quicklook", is_flag=True, help="Draw <root>_<source>_extract.png for each source.")
@click.option("--overwrite", is_flag=True, help="Replace existing products.")
@click.option("--progress/--no-progress", default=True, help="Show progress on a terminal.")
@reports_errors
@takes_storage_options
@takes_cluster_options
def extract(
    files: tuple[str, ...],
    output: str,
    form: str,
    sources: tuple[str, ...],
    weighting: str,
    half_width: float | None,
    position: float | None,
    position_prior: float,
    background: str,
    outliers: bool,
    nod_variance: bool,
    combine: bool,
    across: tuple[Parts, ...],
    quicklook: bool,
    overwrite: bool,
    progress: bool,
    storage_options: dict[str, Any],
    client: Any,
) -> None:
    """Extract spectra from slits: cal, calints, s2d, cut-outs, or count rates of a series.

    Nods and exposures of one source are fitted together. Writes ROOT_x1d.fits for each ROOT_cal.fits,
    ROOT_x1dints.fits and ROOT_whtlt.ecsv for each ROOT_calints.fits, and for a source in several files
    jwPPPPP-oOOO_SOURCE_nirspec_FILTER-GRATING_c1d.fits.
    """
    slits = [
        _Slit(_root(file), name, slit)
        for file in files
        for name, slit in iterate_slits(open_slits(file, storage_options=storage_options))
    ]
    if sources:
        kept = [
            one
            for one in slits
            if {one.name, str(one.dataset.attrs.get("SRCNAME")), str(one.dataset.attrs.get("SOURCEID"))} & set(sources)
        ]
        if not kept:
            found = sorted({str(one.dataset.attrs.get("SRCNAME", one.name)) for one in slits})
            raise click.UsageError(f"no source {', '.join(sources)}; found {', '.join(found[:20])}")
        slits = kept
    formats = ("fits", "zarr") if form == "both" else (form,)
    folder = Path(output)
    groups = group_by_source([one.dataset for one in slits])
    for members in groups.values():  # before hours of work
        require_distinct(slits[i].dataset for i in members)
    products: dict[str, dict[str, xr.Dataset]] = {}
    extracted: dict[int, xr.Dataset] = {}
    combined: dict[str, xr.Dataset] = {}
    pictures: dict[str, tuple[Extraction, int]] = {}

    def run(source: str, members: Sequence[int]) -> None:
        found = extract_source(
            [slits[i].dataset for i in members],
            restore_variance=nod_variance,
            outliers=outliers,
            weighting=weighting,
            half_width=half_width,
            position=position,
            position_prior=position_prior,
            background=background,
        )
        if not any("integration" in spectrum.dims for spectrum in found.spectra):
            with worker_errors():
                found = found.compute()
        extracted.update(zip(members, found.spectra, strict=True))
        for number, i in enumerate(members):
            own = products.setdefault(slits[i].root, {})
            own[slits[i].name if slits[i].name not in own else f"{slits[i].name}-{len(own)}"] = found.spectra[number]
            picture = f"{slits[i].root}_{source}"
            taken = picture in pictures
            pictures[f"{picture}-{plain_name(slits[i].name, 'slit')}" if taken else picture] = found, number

    def average(source: str, members: Sequence[int]) -> None:
        combined[_combined_root(extracted[members[0]], source)] = combine_spectra([extracted[i] for i in members])

    failed = _run_each_source(groups, run, "source", progress)
    several = {
        source: members
        for source, members in group_by_source([one.dataset for one in slits], across=across).items()
        if combine
        and len(members) > 1
        and all(i in extracted for i in members)
        and not any("integration" in extracted[i].dims for i in members)
    }
    failed = _run_each_source(several, average, "mean", progress) or failed
    drawn = [folder / f"{name}_extract.png" for name in pictures] if quicklook else []
    if not overwrite:
        refuse_existing(drawn)

    def write(root: str, spectra: dict[str, xr.Dataset]) -> None:
        is_series = any("integration" in spectrum.dims for spectrum in spectra.values())
        tree = xr.DataTree.from_dict({name: _plain(spectrum) for name, spectrum in spectra.items()})
        paths = [folder / f"{root}_{'x1dints' if is_series else 'x1d'}.{ending}" for ending in formats]
        for path in paths:
            with worker_errors():
                click.echo(write_spectra(tree, path, overwrite=overwrite, progress=progress))
        if is_series:
            written = dict(iterate_slits(open_spectra(paths[0])))  # sums of the file cost no second extraction
            warn_of_suspicions([Extracted(spectrum) for spectrum in written.values()])
            for name, spectrum in written.items():
                own = f"_{plain_name(name, 'slit').lower()}" if len(written) > 1 else ""
                path = folder / f"{root}{own}_whtlt.ecsv"
                click.echo(write_white_light_curve(white_light_curve(spectrum), path, overwrite=overwrite))

    run_each(products, write, "exposure")
    for root, spectrum in combined.items():
        for ending in formats:
            path = folder / f"{root}_c1d.{ending}"
            with worker_errors():
                click.echo(write_spectra(spectrum, path, overwrite=overwrite, progress=progress))
    if quicklook:
        from nsxr.plot.spectra import plot_extraction  # matplotlib takes 0.3 s to import

        for path, (extraction, number) in zip(drawn, pictures.values(), strict=True):
            figure = plot_extraction(extraction.slits[number], extraction.models[number], extraction.spectra[number])
            put(path, partial(figure.savefig, dpi=120, format="png"))
            click.echo(path)
    if failed is not None:
        raise failed


def _run_each_source(
    groups: Mapping[str, Sequence[int]], run: Callable[[str, Sequence[int]], None], noun: str, progress: bool
) -> click.exceptions.Exit | None:
    """Run something for each source, showing how many are done; return the exit, if some failed, for later."""
    shown = progress and len(groups) > 1 and sys.stderr.isatty()
    with click.progressbar(length=len(groups), label=f"{noun}s", file=sys.stderr) if shown else nullcontext() as bar:

        def counted(source: str, members: Sequence[int]) -> None:
            try:
                run(source, members)
            finally:
                if bar is not None:
                    bar.update(1)

        try:
            run_each(groups, counted, noun)
        except click.exceptions.Exit as failed:
            return failed
    return None


def _plain(spectrum: xr.Dataset) -> xr.Dataset:
    """Return a spectrum without what belongs to detector pixels."""
    return spectrum.drop_dims("cross_dispersion", errors="ignore")


def _root(file: str) -> str:
    """Return the name of a file without kind and ending."""
    match = _ROOT.match(Path(shown(file).rstrip("/")).name)
    if match is None:
        raise click.UsageError(f"{shown(file)} does not end in .fits, .fits.gz or .zarr")
    return match["root"]


def _combined_root(spectrum: xr.Dataset, source: str) -> str:
    """Return the name of what is made of several exposures of a source, as the observatory's pipeline has it."""
    attrs = spectrum.attrs
    defaults = {"PROGRAM": "00000", "OBSERVTN": "000", "FILTER": "filter", "GRATING": "grating"}
    programme, observation, *optical = (plain_name(attrs.get(key, word), word) for key, word in defaults.items())
    optics = "-".join(optical).lower()
    return f"jw{programme.zfill(5)}-o{observation.zfill(3)}_{source}_nirspec_{optics}"
