"""Define ``nsxr spec2``: count rates to calibrated slits, slices and spectra."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import click
import numpy as np
import xarray as xr

from nsxr.associate.associations import read_association
from nsxr.associate.backgrounds import choose_backgrounds
from nsxr.cli.options import (
    phase,
    put,
    reports_errors,
    run_each,
    split_pair,
    takes_cluster_options,
    takes_output,
)
from nsxr.cli.settings import step_parameters
from nsxr.compute.cluster import worker_errors
from nsxr.compute.trees import compute_tree
from nsxr.errors import ParameterError
from nsxr.flux.sky_checks import warn_of_uncovered
from nsxr.model.types import ByStep
from nsxr.pipelines.spec2 import SPEC2
from nsxr.pipelines.spec2 import spec2 as run_spec2
from nsxr.products.exposure import open_exposure
from nsxr.products.slits_read import open_slits
from nsxr.products.slits_write import write_slits
from nsxr.products.spectra_read import open_spectra
from nsxr.products.spectra_write import write_spectra
from nsxr.references.optics import open_optics
from nsxr.references.spec2 import open_spec2_references
from nsxr.slits.collection import map_slits, warn_of_lost
from nsxr.slits.light import exposure_type, fixed_slit
from nsxr.slits.selection import metafile_beside, slits_of
from nsxr.storage.whole import refuse_existing

__all__ = ["spec2"]

_RATE = re.compile(r"(?P<root>.+?)_rate(?P<ints>ints)?\.fits(?:\.gz)?$")


@dataclass(frozen=True)
class _Exposure:
    """The count rates of an exposure, of its backgrounds, of its imprints, and of exposures that show bad pixels."""

    science: Path
    backgrounds: tuple[Path, ...] = ()
    imprints: tuple[Path, ...] = ()
    selfcal: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Options:
    """Options of the command that hold for every exposure."""

    output: str
    source: str
    named: dict[str, str]
    shutters: str | None
    sky: Literal["global", "master"] | xr.DataTree | None
    parameters: ByStep
    skip: tuple[str, ...]
    run: tuple[str, ...]
    formats: tuple[str, ...]
    quicklook: bool
    overwrite: bool
    progress: bool


@click.command(epilog=f"Steps: {', '.join(SPEC2.steps)}.")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@takes_output(".", "Directory of the products.")
@click.option("--references", "source", metavar="DIR", required=True, help="Directory of references, or 'crds'.")
@click.option("--reference", "named", metavar="TYPE=PATH", multiple=True, help="Path of one reference. Repeatable.")
@click.option("--shutters", type=click.Path(), help="MSA metafile. Default: that of the header, beside the exposure.")
@click.option(
    "--background",
    "backgrounds",
    type=click.Path(),
    multiple=True,
    help="Count rates to subtract from every exposure. Repeatable. Default: nods and background targets among FILES.",
)
@click.option("--no-background", is_flag=True, help="Subtract nothing.")
@click.option(
    "--sky",
    metavar="global|master|FILE",
    help="Subtract a spectrum of the sky: of all slitlets, of background slitlets, or of a file; no other backgrounds.",
)
@click.option("--input", "folder", type=click.Path(), help="Directory of the members of association files.")
@click.option("--set", "settings", metavar="STEP.PARAMETER=VALUE", multiple=True, help="Set a parameter. Repeatable.")
@click.option("--skip", metavar="STEP", multiple=True, help="Skip a step. Repeatable.")
@click.option("--run", "asked", metavar="STEP", multiple=True, help="Run a step that is off by default. Repeatable.")
@click.option("--format", "form", type=click.Choice(["fits", "zarr", "both"]), default="fits", show_default=True)
@click.option("--quicklook", is_flag=True, help="Draw <root>_spec2.png.")
@click.option("--overwrite", is_flag=True, help="Replace existing products.")
@click.option("--progress/--no-progress", default=True, help="Show progress on a terminal.")
@reports_errors
@takes_cluster_options
def spec2(
    files: tuple[str, ...],
    output: str,
    source: str,
    named: tuple[str, ...],
    shutters: str | None,
    backgrounds: tuple[str, ...],
    no_background: bool,
    sky: str | None,
    folder: str | None,
    settings: tuple[str, ...],
    skip: tuple[str, ...],
    asked: tuple[str, ...],
    form: str,
    quicklook: bool,
    overwrite: bool,
    progress: bool,
    client: object,
) -> None:
    """Calibrate count rates to slits or slices in units of flux, and extract spectra.

    FILES are count rates, ROOT_rate.fits or ROOT_rateints.fits, or association files of the observatory. For each
    exposure, the command writes ROOT_cal.fits and ROOT_x1d.fits, ROOT_calints.fits and ROOT_x1dints.fits for time
    series, and ROOT_cal.fits alone for slices. A sky that was estimated is ROOT_sky_x1d.fits. An exposure that fails
    does not stop the others.
    """
    if no_background and backgrounds:
        raise ParameterError("--background and --no-background exclude each other")
    if sky is not None and backgrounds:
        raise ParameterError("--background and --sky exclude each other")
    parameters = step_parameters(settings, SPEC2)
    SPEC2.settings(parameters, skip, asked)
    formats = ("fits", "zarr") if form == "both" else (form,)
    references = dict(split_pair(text, "TYPE=PATH") for text in named)
    options = _Options(
        output,
        source,
        references,
        shutters,
        _sky_of(sky),
        parameters,
        skip,
        asked,
        formats,
        quicklook,
        overwrite,
        progress,
    )
    given = None  # headers and association files tell
    if no_background or backgrounds or sky is not None:
        given = tuple(Path(path) for path in backgrounds)
    exposures = _planned(files, folder, given)
    run_each(exposures, lambda root, one: _calibrate(root, one, options))


def _sky_of(text: str | None) -> Literal["global", "master"] | xr.DataTree | None:
    """Return the sky that was asked for, or the spectra of a file."""
    if text == "global":
        return "global"
    if text == "master":
        return "master"
    if text is None:
        return None
    if not Path(text).exists():
        raise ParameterError(f"--sky is {text!r}: no such file, expected global, master, or a file of spectra")
    return open_spectra(text)


def _planned(files: Sequence[str], folder: str | None, given: tuple[Path, ...] | None) -> dict[str, _Exposure]:
    """Return the exposures by root. Association files, or else headers, tell the backgrounds that are not given."""
    found: dict[str, _Exposure] = {}

    def plan(exposure: _Exposure) -> None:
        root = _root(exposure.science)
        if root in found:
            raise ParameterError(f"{exposure.science} and {found[root].science} would both be written as {root}")
        found[root] = exposure if given is None else replace(exposure, backgrounds=given)

    rates: list[Path] = []
    for file in files:
        if file.lower().endswith(".json"):
            for product in read_association(file, folder):
                for science in product.science:
                    plan(_Exposure(science, product.background, product.imprint, product.selfcal))
        else:
            rates.append(Path(file))
    headers = [open_exposure(path).attrs for path in rates] if len(rates) > 1 and given is None else []
    chosen = choose_backgrounds(headers) if headers else [[]] * len(rates)
    used = {j for own in chosen for j in own} | {n for n, path in enumerate(rates) if path in (given or ())}
    used = used if len(used) < len(rates) else set()
    for number, (path, own) in enumerate(zip(rates, chosen, strict=True)):
        if own or number not in used:  # an exposure that is only a background has no product
            plan(_Exposure(path, tuple(rates[j] for j in own)))
    return found


def _root(path: Path) -> str:
    match = _RATE.match(path.name)
    if match is None:
        raise ParameterError(f"{path}: its name does not end in _rate.fits or _rateints.fits, expected count rates")
    return match["root"]


def _calibrate(root: str, exposure: _Exposure, options: _Options) -> None:
    """Calibrate one exposure and write its products."""
    rate = open_exposure(exposure.science)
    is_series = "integration" in rate.dims
    is_frame = exposure_type(rate.attrs) == "NRS_IFU"
    kinds = ("cal",) if is_frame or "extract_1d" in options.skip else ("cal", "x1d")
    if options.quicklook and not is_frame and "x1d" not in kinds:
        raise ParameterError("--quicklook draws spectra, it needs the step extract_1d")
    names = {kind: f"{kind}ints" if is_series else kind for kind in kinds}
    folder = Path(options.output)
    paths = {kind: [folder / f"{root}_{name}.{form}" for form in options.formats] for kind, name in names.items()}
    if isinstance(options.sky, str):
        paths["sky"] = [folder / f"{root}_sky_x1d.{form}" for form in options.formats]
    picture = folder / f"{root}_spec2.png"
    if not options.overwrite:
        refuse_existing([path for each in paths.values() for path in each] + [picture] * options.quicklook)
    with phase(f"{root}: choosing references", options.progress and options.source == "crds"):
        references = open_spec2_references(options.source, rate, options.named)
        optics = open_optics(options.source, rate)
    shutters = options.shutters or metafile_beside(exposure.science, rate)
    fixed = None
    if shutters is not None and any(fixed_slit({"SLTNAME": one.name}) for one in slits_of(rate, optics, shutters)):
        fixed = open_spec2_references(options.source, rate.assign_attrs(EXP_TYPE="NRS_FIXEDSLIT"), options.named)
    tree = run_spec2(
        rate,
        references,
        optics,
        shutters=shutters,
        fixed_references=fixed,
        backgrounds=[open_exposure(path) for path in exposure.backgrounds],
        imprints=[open_exposure(path) for path in exposure.imprints],
        sky=options.sky,
        selfcal=[open_exposure(path) for path in exposure.selfcal],
        skip=options.skip,
        run=options.run,
        **options.parameters,
    )
    with phase(f"{root}: calibrating", options.progress), worker_errors():
        done = tree if is_series else compute_tree(tree)
    if not is_series:
        warn_of_lost(done.children["cal"])
    if isinstance(options.sky, xr.DataTree):
        warn_of_uncovered(done.children["cal"], options.sky)
    for kind, each in paths.items():
        if kind not in done.children:  # a sky that could not be subtracted
            continue
        write = partial(write_slits, optics=optics) if kind == "cal" else write_spectra
        node = done.children[kind]
        content = node if node.children else node.to_dataset()
        if kind == "sky":
            content = map_slits(_trimmed, node) if node.children else _trimmed(node.to_dataset())
        for path in each:
            click.echo(write(content, path, overwrite=options.overwrite, progress=options.progress))
    if options.quicklook:
        from nsxr.plot.spec2 import draw_spec2  # matplotlib takes 0.3 s to import

        with phase(f"{root}: drawing the quick look", options.progress), worker_errors():
            figure = draw_spec2(_reopened(paths) if is_series else done)
        put(picture, partial(figure.savefig, dpi=110, format="png"))
        click.echo(picture)


def _trimmed(spectrum: xr.Dataset) -> xr.Dataset:
    """Return a spectrum of the sky without the entries beyond its end."""
    return spectrum.isel(dispersion=np.isfinite(spectrum["wavelength"].to_numpy()))


def _reopened(paths: Mapping[str, Sequence[Path]]) -> xr.DataTree:
    """Return the products of a time series from the files just written: the picture needs no second calibration."""
    return xr.DataTree.from_dict({"cal": open_slits(paths["cal"][0]), "x1d": open_spectra(paths["x1d"][0])})
