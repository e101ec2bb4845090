"""Define ``nsxr extract``: slits to spectra."""

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
from nsxr.cli.options import (
    finite,
    put,
    reports_errors,
    run_each,
    takes_cluster_options,
    takes_output,
    takes_storage_options,
)
from nsxr.compute.cluster import worker_errors
from nsxr.model.names import plain_name
from nsxr.model.slit_header import SlitHeader
from nsxr.pipelines.extract import Extraction, Parts, extract_source, group_by_source
from nsxr.products.light_curves import write_white_light_curve
from nsxr.products.slits_read import open_slits
from nsxr.products.spectra_read import open_spectra
from nsxr.products.spectra_write import write_spectra
from nsxr.slits.collection import iterate_slits
from nsxr.spectra.combination import combine_spectra
from nsxr.spectra.extraction import Weighting
from nsxr.spectra.plausibility import Extracted, warn_of_suspicions
from nsxr.spectra.trace_model import Background
from nsxr.spectra.white_light import white_light_curve
from nsxr.storage.urls import shown
from nsxr.storage.whole import refuse_existing

__all__ = ["extract"]

_ROOT = re.compile(r"(?P<root>.+?)(?:_(?:cal|calints|s2d|crf|crfints|rate|rateints|phot))?(?:\.fits(?:\.gz)?|\.zarr)$")


@dataclass(frozen=True)
class _Slit:
    """A slit, its file, and its name in the file."""

    root: str
    name: str
    dataset: xr.Dataset


@dataclass(frozen=True)
class _Options:
    """Options of the command for the extraction, combination and writing of spectra."""

    output: str
    form: str
    weighting: Weighting
    half_width: float | None
    position: float | None
    position_prior: float
    background: Background
    outliers: bool
    nod_variance: bool
    combine: bool
    across: tuple[Parts, ...]
    quicklook: bool
    overwrite: bool
    progress: bool

    def path(self, name: str) -> Path:
        """Return the path of an output file."""
        return Path(self.output) / name

    @property
    def formats(self) -> tuple[str, ...]:
        """Endings of the products' names."""
        return ("fits", "zarr") if self.form == "both" else (self.form,)


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
@click.option(
    "--half-width", type=finite, metavar="PIXELS", help="Half width of the aperture. Default: 3 for point sources."
)
@click.option("--position", type=finite, metavar="ROW", help="Planned detector row of the source in the middle column.")
@click.option(
    "--position-prior", type=finite, default=0.3, show_default=True, help="Uncertainty of the position in pixels."
)
@click.option(
    "--background",
    type=click.Choice(["auto", "none", "constant", "linear"]),
    default="auto",
    show_default=True,
    help="Local background of each column.",
)
@click.option("--outliers/--no-outliers", default=True, help="Compare exposures of a source to find outliers.")
@click.option(
    "--nod-variance/--no-nod-variance", default=True, help="Add the variance of subtracted nods where it was left out."
)
@click.option("--combine/--no-combine", default=True, help="Also write the mean of the spectra of a source, c1d.")
@click.option(
    "--across",
    type=click.Choice(["detectors", "slits"]),
    multiple=True,
    help="Combine spectra of both detectors, or of the fixed slits that the target was moved through. Repeatable.",
)
@click.option("--quicklook", is_flag=True, help="Draw <root>_<source>_extract.png for each source.")
@click.option("--overwrite", is_flag=True, help="Replace existing products.")
@click.option("--progress/--no-progress", default=True, help="Show progress on a terminal.")
@reports_errors
@takes_storage_options
@takes_cluster_options
def extract(
    files: tuple[str, ...], sources: tuple[str, ...], storage_options: dict[str, Any], client: Any, **options: Any
) -> None:
    """Extract spectra from slits: cal, calints, s2d, cut-outs, or count rates of a time series.

    Nods and exposures of one source are fitted together. The command writes ROOT_x1d.fits for each ROOT_cal.fits, and
    ROOT_x1dints.fits and ROOT_whtlt.ecsv for each ROOT_calints.fits. For a source in several files it also writes
    jwPPPPP-oOOO_SOURCE_nirspec_FILTER-GRATING_c1d.fits.
    """
    slits = _chosen(_read(files, storage_options), sources)
    groups = group_by_source([one.dataset for one in slits])
    for members in groups.values():  # find conflicts before hours of work
        require_distinct(slits[i].dataset for i in members)
    session = _Session(slits, _Options(**options))
    failed = _run_each_source(groups, session.extract, "source", session.options.progress)
    failed = _run_each_source(session.combinations(), session.average, "mean", session.options.progress) or failed
    session.require_no_pictures()
    run_each(session.products, session.write, "exposure")
    session.write_means()
    session.draw()
    if failed is not None:
        raise failed


def _read(files: Sequence[str], storage_options: Mapping[str, Any]) -> list[_Slit]:
    """Open the slits of all files."""
    return [
        _Slit(_root(file), name, slit)
        for file in files
        for name, slit in iterate_slits(open_slits(file, storage_options=storage_options))
    ]


def _chosen(slits: list[_Slit], sources: Sequence[str]) -> list[_Slit]:
    """Return the slits that match the user's names: names of slits, or names or numbers of sources."""
    if not sources:
        return slits
    kept, found = [], set()
    for one in slits:
        attrs = one.dataset.attrs
        found.add(str(attrs.get("SRCNAME", one.name)))
        if {one.name, str(attrs.get("SRCNAME")), str(attrs.get("SOURCEID"))} & set(sources):
            kept.append(one)
    if not kept:
        raise click.UsageError(f"no source {', '.join(sources)}; found {', '.join(sorted(found)[:20])}")
    return kept


class _Session:
    """The slits of one command, and the results for them so far.

    Attributes
    ----------
    slits : sequence of _Slit
        All slits to extract.
    options : _Options
        Options that the user gave.
    products : dict
        Spectra by name, for each file.
    """

    def __init__(self, slits: Sequence[_Slit], options: _Options) -> None:
        self.slits, self.options = slits, options
        self.products: dict[str, dict[str, xr.Dataset]] = {}
        self._extracted: dict[int, xr.Dataset] = {}
        self._means: dict[str, xr.Dataset] = {}
        self._pictures: dict[str, tuple[Extraction, int]] = {}

    def extract(self, source: str, members: Sequence[int]) -> None:
        """Extract one source from all its exposures."""
        options, slits = self.options, self.slits
        found = extract_source(
            [slits[i].dataset for i in members],
            restore_variance=options.nod_variance,
            outliers=options.outliers,
            weighting=options.weighting,
            half_width=options.half_width,
            position=options.position,
            position_prior=options.position_prior,
            background=options.background,
        )
        if not any("integration" in spectrum.dims for spectrum in found.spectra):
            with worker_errors():
                found = found.compute()
        self._extracted.update(zip(members, found.spectra, strict=True))
        for number, i in enumerate(members):
            root, name = slits[i].root, slits[i].name
            own = self.products.setdefault(root, {})
            own[name if name not in own else f"{name}-{len(own)}"] = found.spectra[number]
            picture = f"{root}_{source}"
            taken = picture in self._pictures
            self._pictures[f"{picture}-{plain_name(name, 'slit')}" if taken else picture] = found, number

    def combinations(self) -> dict[str, list[int]]:
        """Return the sources that have several spectra, and the positions of these spectra."""
        groups = group_by_source([one.dataset for one in self.slits], across=self.options.across)
        return {
            source: members
            for source, members in groups.items()
            if self.options.combine
            and len(members) > 1
            and all(i in self._extracted for i in members)
            and not any("integration" in self._extracted[i].dims for i in members)
        }

    def average(self, source: str, members: Sequence[int]) -> None:
        """Combine the spectra of one source."""
        spectra = [self._extracted[i] for i in members]
        self._means[_combined_root(spectra[0], source)] = combine_spectra(spectra)

    def _drawn(self) -> dict[str, Path]:
        names = self._pictures if self.options.quicklook else ()
        return {name: self.options.path(f"{name}_extract.png") for name in names}

    def require_no_pictures(self) -> None:
        """Raise OutputExistsError if a figure exists and may not be replaced."""
        if not self.options.overwrite:
            refuse_existing(list(self._drawn().values()))

    def write(self, root: str, spectra: dict[str, xr.Dataset]) -> None:
        """Write the spectra of one file, and the white light curves of time series."""
        options = self.options
        is_series = any("integration" in spectrum.dims for spectrum in spectra.values())
        tree = xr.DataTree.from_dict({name: _plain(spectrum) for name, spectrum in spectra.items()})
        names = [f"{root}_{'x1dints' if is_series else 'x1d'}.{ending}" for ending in options.formats]
        for name in names:
            self._write_spectra(tree, name)
        if not is_series:
            return
        written = dict(
            iterate_slits(open_spectra(options.path(names[0])))
        )  # white light curves from the file need no second extraction
        warn_of_suspicions([Extracted(spectrum) for spectrum in written.values()])
        for slit, spectrum in written.items():
            own = f"_{plain_name(slit, 'slit').lower()}" if len(written) > 1 else ""
            path = options.path(f"{root}{own}_whtlt.ecsv")
            click.echo(write_white_light_curve(white_light_curve(spectrum), path, overwrite=options.overwrite))

    def write_means(self) -> None:
        """Write the combined spectra."""
        for root, spectrum in self._means.items():
            for ending in self.options.formats:
                self._write_spectra(spectrum, f"{root}_c1d.{ending}")

    def _write_spectra(self, spectra: xr.Dataset | xr.DataTree, name: str) -> None:
        options = self.options
        with worker_errors():
            path = options.path(name)
            click.echo(write_spectra(spectra, path, overwrite=options.overwrite, progress=options.progress))

    def draw(self) -> None:
        """Draw a figure of each slit, if the user asked for it."""
        if not self.options.quicklook:
            return
        from nsxr.plot.spectra import plot_extraction  # matplotlib takes 0.3 s to import

        for name, path in self._drawn().items():
            extraction, number = self._pictures[name]
            figure = plot_extraction(extraction.slits[number], extraction.models[number], extraction.spectra[number])
            put(path, partial(figure.savefig, dpi=120, format="png"))
            click.echo(path)


def _run_each_source(
    groups: Mapping[str, Sequence[int]], run: Callable[[str, Sequence[int]], None], noun: str, progress: bool
) -> click.exceptions.Exit | None:
    """Run a function for each source and show progress. If a source fails, return the Exit to be raised later."""
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
    """Return a spectrum without variables that have a dim of detector pixels."""
    return spectrum.drop_dims(["row", "cross_dispersion"], errors="ignore")


def _root(file: str) -> str:
    """Return the name of a file without its kind and ending."""
    match = _ROOT.match(Path(shown(file).rstrip("/")).name)
    if match is None:
        raise click.UsageError(f"{shown(file)} does not end in .fits, .fits.gz or .zarr")
    return match["root"]


def _combined_root(spectrum: xr.Dataset, source: str) -> str:
    """Return the name for the combined spectrum of a source, in the style of the observatory's pipeline."""
    header = SlitHeader.of(spectrum)
    programme, observation = plain_name(header.program, "00000"), plain_name(header.observation, "000")
    optics = f"{plain_name(header.filter, 'filter')}-{plain_name(header.grating, 'grating')}".lower()
    return f"jw{programme.zfill(5)}-o{observation.zfill(3)}_{source}_nirspec_{optics}"
