"""Find the slits of an exposure: shutters from the metafile, fixed slits from the subarray."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import xarray as xr

from nsxr.errors import InputFileError, ModelError
from nsxr.formats.msa_metafile import read_metafile
from nsxr.model.optics_header import OpticsHeader
from nsxr.model.variables import check_labels
from nsxr.optics.boxes import Box, find_box
from nsxr.optics.fixed_slits import find_fixed_slits, planned_position, primary_slit
from nsxr.optics.instrument import Optics, SlitOptics
from nsxr.optics.shutters import slitlets_of
from nsxr.optics.slit import Slitlet

__all__ = ["list_slits", "metafile_beside", "require_matching", "slits_of", "tabulate", "window_of"]


def slits_of(exposure: xr.Dataset, optics: Optics, shutters: str | os.PathLike[str] | None = None) -> list[Slitlet]:
    """Return the slits of an exposure, those that miss the detector too.

    Parameters
    ----------
    exposure : Dataset
        An exposure from :func:`nsxr.open_exposure`. Only its header is used.
    optics : Optics
        From :func:`nsxr.open_optics`.
    shutters : path, optional
        The MSA metafile. Exposures of shutters need it, others must not have it.

    Raises
    ------
    ModelError
        If the exposure has no slits: exposures of the IFU, images, lamps. If the optics are of another exposure.
    InputFileError
        If a metafile is missing, cannot be read, or is of another exposure.
    """
    header = require_matching(exposure, optics)
    kind = header.exposure_type
    if kind == "NRS_IFU":
        raise ModelError(f"{header.called}: an exposure of the IFU has slices, no slits; use nsxr.locate_slices")
    if kind not in ("NRS_MSASPEC", "NRS_FIXEDSLIT", "NRS_BRIGHTOBJ"):
        raise ModelError(
            f"{header.called}: EXP_TYPE is {kind!r}, expected NRS_MSASPEC, NRS_FIXEDSLIT or NRS_BRIGHTOBJ: slits of "
            "other exposures are not known"
        )
    if kind != "NRS_MSASPEC":
        if shutters is not None:
            raise ModelError(f"{header.called}: fixed slits need no MSA metafile; leave out shutters")
        primary = primary_slit(header.subarray, header.fixed_slit)
        known = primary is not None and primary in optics.slits
        position = planned_position(header, optics.for_slit(str(primary))) if known else (0.0, 0.0)
        return find_fixed_slits(optics.slits, header.subarray, primary, position)
    if shutters is None:
        raise InputFileError(
            f"{header.called}: an exposure of shutters needs its MSA metafile; give shutters, "
            f"{header.metafile or 'a file ..._msa.fits'}"
        )
    if header.metadata_id is None:
        raise InputFileError(f"{header.called}: MSAMETID is missing, so the configuration of the shutters is not known")
    metafile, program = read_metafile(shutters), header.program.strip().lstrip("0")
    if metafile.program and program and metafile.program != program:
        raise InputFileError(
            f"{metafile.path}: is of programme {metafile.program}, {header.called} of {program}; give the metafile of "
            f"the exposure, {header.metafile or 'a file ..._msa.fits'}"
        )
    return slitlets_of(optics, metafile, header.metadata_id, header.dither_point, program)


def metafile_beside(file: Path, exposure: xr.Dataset) -> Path | None:
    """Return the MSA metafile that the header of an exposure names, if it lies beside the file of the exposure."""
    header = OpticsHeader.from_attributes(exposure.attrs)
    if header.exposure_type != "NRS_MSASPEC" or not header.metafile:
        return None
    path = file.parent / Path(header.metafile).name
    return path if path.is_file() else None


def require_matching(exposure: xr.Dataset, optics: Optics) -> OpticsHeader:
    """Return what the header of an exposure says about its optics, if the optics are those of the exposure.

    Raises
    ------
    ModelError
        If the optics are of another detector, filter, grating or mode.
    """
    header = OpticsHeader.from_attributes(exposure.attrs)
    pairs = {
        "DETECTOR": (header.detector, optics.detector),
        "FILTER": (header.filter, optics.filter),
        "GRATING": (header.grating, optics.grating),
        "EXP_TYPE": (header.exposure_type, optics.exposure_type),
    }
    differing = [f"{key} {theirs!r} and not {ours!r}" for key, (ours, theirs) in pairs.items() if ours != theirs]
    if differing:
        raise ModelError(
            f"{header.called}: the optics are of another exposure, with {', '.join(differing)}; open the optics of "
            "this exposure with nsxr.open_optics"
        )
    return header


def window_of(exposure: xr.Dataset, *, may_have_gaps: bool = False) -> Box:
    """Return the pixels of an exposure, from its labels.

    Raises
    ------
    ModelError
        If labels of rows or columns are missing, or are not those of neighbouring pixels of the detector. Columns may
        have gaps on request.
    """
    check_labels(exposure, "row", "column", may_have_gaps=may_have_gaps)
    row, column = exposure.indexes["row"], exposure.indexes["column"]
    return Box(int(row[0]), int(row[-1]) + 1, int(column[0]), int(column[-1]) + 1)


def list_slits(
    exposure: xr.Dataset, optics: Optics, *, shutters: str | os.PathLike[str] | None = None, everywhere: bool = False
) -> xr.Dataset:
    """List the slits of an exposure: names, shutters, sources, and where their light falls.

    Parameters
    ----------
    exposure : Dataset
        An exposure from :func:`nsxr.open_exposure`. Its header and its labels are used, no pixel is read.
    optics : Optics
        From :func:`nsxr.open_optics`.
    shutters : path, optional
        The MSA metafile (``..._msa.fits``), for exposures of shutters.
    everywhere : bool
        Whether to list slits too whose light misses the pixels of the exposure. Their boxes and ranges are empty.

    Returns
    -------
    Dataset
        Along ``slit`` with the names of the slits as labels; ``to_dataframe()`` gives a table.

        - ``quadrant``, ``xcen``, ``ycen`` int64: the central shutter, along the dispersion and along the slit.
        - ``state`` str: ``x`` is the central shutter, with the primary source if there is one, ``1`` is open, ``0`` was
          not commanded.
        - ``source_id`` int64 (0 without a source), ``source_name`` str, ``stellarity`` float64.
        - ``source_x``, ``source_y`` float64: planned position of the source in its shutter [pitch].
        - ``source_ra``, ``source_dec`` float64 [degree]: the source on the sky, from the metafile. NaN if not known.
        - ``ra``, ``dec`` float64 [degree]: the centre of the slit on the sky. NaN for lamps.
        - ``wavelength_low``, ``wavelength_high`` float64 [um]: the wavelengths that fall on the pixels of the exposure.
        - ``first_row``, ``end_row``, ``first_column``, ``end_column`` int64: the box, in labels of the exposure. The
          ends are not in it.

    Raises
    ------
    ModelError
        If the exposure has no slits.
    InputFileError
        If a metafile is missing, cannot be read, or is of another exposure.
    """
    return tabulate(exposure, optics, slits_of(exposure, optics, shutters), everywhere=everywhere)


def tabulate(exposure: xr.Dataset, optics: Optics, slits: Iterable[Slitlet], *, everywhere: bool = False) -> xr.Dataset:
    """Return the table of :func:`list_slits` for slits that are known already."""
    window, rows = window_of(exposure), []
    for slit in slits:
        rays = optics.for_slit(slit)
        box = find_box(rays, window)
        if box is not None or everywhere:
            rows.append(_row(slit, rays, box or Box(0, 0, 0, 0), window))
    if not rows:
        raise ModelError(f"no slit falls on the pixels of {optics.detector}; the other detector may see them")
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    units = dict.fromkeys(("ra", "dec", "source_ra", "source_dec"), "degree") | dict.fromkeys(
        ("wavelength_low", "wavelength_high"), "um"
    )
    return xr.Dataset(
        {
            name: ("slit", values, {"units": units[name]} if name in units else {})
            for name, values in columns.items()
            if name != "slit"
        },
        coords={"slit": columns["slit"]},
    )


def _row(slit: Slitlet, rays: SlitOptics, box: Box, window: Box) -> dict[str, object]:
    nan = float("nan")
    low, high = slit.wavelength_range
    ra, dec = rays.slit_to_sky(0.0, 0.0, 0.5 * (low + high)) if rays.has_sky else (nan, nan)
    wavelength = np.linspace(low, high, 400)
    column, _ = rays.inverse(np.zeros_like(wavelength), wavelength)
    seen = wavelength[(column >= window.first_column - 0.5) & (column <= window.end_column - 0.5)]
    is_there = seen.size > 0 and box.shape[0] > 0
    source = slit.source
    return {
        "slit": slit.name,
        "quadrant": slit.quadrant,
        "xcen": slit.xcen,
        "ycen": slit.ycen,
        "state": slit.state,
        "source_id": source.id if source else 0,
        "source_name": source.name if source else "",
        "stellarity": source.stellarity if source else nan,
        "source_x": source.x if source else nan,
        "source_y": source.y if source else nan,
        "source_ra": source.ra if source else nan,
        "source_dec": source.dec if source else nan,
        "ra": float(ra),
        "dec": float(dec),
        "wavelength_low": float(seen[0]) if is_there else nan,
        "wavelength_high": float(seen[-1]) if is_there else nan,
        "first_row": box.first_row,
        "end_row": box.end_row,
        "first_column": box.first_column,
        "end_column": box.end_column,
    }
