"""Cut slits out of count rates, with the wavelength and the place on the sky of each pixel.

The optics alone give the boxes of the slits, so the shapes of all cut-outs are known before a pixel is read.
"""

import json
import os
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import one_chunk
from nsxr.errors import ModelError, ParameterError
from nsxr.model.dims import image_dims
from nsxr.model.dq import OUTSIDE, PixelFlag
from nsxr.model.history import record
from nsxr.model.keywords import read
from nsxr.model.types import Attributes, Entries
from nsxr.model.variables import check_slit, variable_attributes, variances_of
from nsxr.optics.boxes import Box, extended_range, find_box, seen_range
from nsxr.optics.instrument import Optics, SlitOptics
from nsxr.optics.slit import Slit, Slitlet
from nsxr.slits.collection import as_tree
from nsxr.slits.places import nod_shifts, planned_places
from nsxr.slits.selection import slits_of, window_of

__all__ = ["COORDINATES", "cut_slits", "describe", "places_seen", "slit_attributes", "with_wcs"]

COORDINATES: Mapping[str, tuple[type[np.generic], str]] = {
    "wavelength": (np.float32, "um"),
    "slit_y": (np.float32, "1"),
    "ra": (np.float64, "degree"),
    "dec": (np.float64, "degree"),
}
"""Dtype and unit of what the optics say of a pixel."""

_REFERENCE_PIXEL = np.uint32(PixelFlag.REFERENCE_PIXEL)
_MEANINGS = {
    "ra": "right ascension of the middle of a pixel",
    "dec": "declination of the middle of a pixel",
}


def cut_slits(
    exposure: xr.Dataset,
    optics: Optics,
    *,
    shutters: str | os.PathLike[str] | None = None,
    slits: Collection[str] | None = None,
    sources: Collection[str | int] | None = None,
    coordinates: Collection[str] = ("wavelength",),
    wavelength_range: tuple[float, float] | None = None,
    extended: bool = False,
) -> xr.DataTree:
    """Cut the slits out of count rates. Nothing is computed if the count rates are lazy.

    Parameters
    ----------
    exposure : Dataset
        Count rates from :func:`nsxr.open_exposure`, or of :func:`nsxr.detector1`: ``sci`` [DN/s], ``dq``,
        ``var_poisson``, ``var_rnoise`` (row, column), with or without integration in front. Shutters, fixed slits, or
        a time series.
    optics : Optics
        From :func:`nsxr.open_optics`.
    shutters : path, optional
        The MSA metafile (``..._msa.fits``), for exposures of shutters.
    slits : collection of str, optional
        Names of the slits to cut out, as in :func:`nsxr.list_slits`. Default: all.
    sources : collection of str or int, optional
        Cut out only slits with one of these sources: numbers, or names from the metafile. A source counts wherever it
        lies in a slitlet, also if it is not the primary one.
    coordinates : collection of str
        What to compute for each pixel: ``wavelength`` float32 [um], which is always there, ``slit_y`` float32 [open
        heights], ``ra`` and ``dec`` float64 [degree], all (row, column).
    wavelength_range : (float, float), optional
        Wavelengths to cut out [um], as far as the detector sees them. Default: those of the filter and the grating.
    extended : bool
        Whether to cut out all wavelengths that the detector sees. Light of higher orders may lie on the longer ones.

    Returns
    -------
    DataTree
        A node for each slit, under its name, with detector labels and the keywords of a slit (SLTNAME, SOURCEID, ...).
        ``sci`` and the variances are NaN outside the slit and in reference pixels. ``dq`` has DO_NOT_USE and
        NON_SCIENCE there in addition to earlier flags. Slits that miss the pixels of the exposure are left out. The
        attributes ``source_places`` and ``nod_shifts`` are JSON lists of numbers [open heights]: where the sources of a
        slit were planned to be, the primary one first; how far they were shifted in each exposure that was subtracted.

    Raises
    ------
    ParameterError
        If a coordinate, a slit or a source is not known, if no slit or no source is wanted, or if a range is empty or
        given together with ``extended``.
    ModelError
        If the exposure has no slits, if no slit falls on its pixels, or if variables or labels are not as declared.
    InputFileError
        If a metafile is missing, cannot be read, or is of another exposure.
    """
    for name, chosen in (("slits", slits), ("sources", sources)):
        if chosen is not None and not len(chosen):
            raise ParameterError(f"{name} is empty, expected one at least; leave it out for all slits")
    found = slits_of(exposure, optics, shutters)
    if slits is not None:
        known = [slit.name for slit in found]
        unknown = [name for name in slits if name not in known]
        if unknown:
            raise ParameterError(f"slits {', '.join(unknown)} are not known, expected some of {', '.join(known)}")
        found = [slit for slit in found if slit.name in slits]
    if sources is not None:
        found = _with_sources(found, sources)
    unknown = sorted(set(coordinates) - set(COORDINATES))
    if unknown:
        raise ParameterError(f"coordinates {', '.join(unknown)} are not known, expected {', '.join(COORDINATES)}")
    if wavelength_range is not None and extended:
        raise ParameterError("wavelength_range and extended both choose wavelengths; give one of them")
    wavelengths = None if wavelength_range is None else seen_range(wavelength_range)
    check_slit(exposure, "sci", "dq")
    wanted = [name for name in COORDINATES if name == "wavelength" or name in coordinates]
    window, seen = window_of(exposure), []
    for slit in found:
        rays = optics.for_slit(slit)
        box = find_box(rays, window, extended_range(slit) if extended else wavelengths)
        if box is not None:
            seen.append((rays, box))
    if not seen:
        raise ModelError(
            f"none of {len(found)} slits falls on the pixels of {exposure.attrs.get('DETECTOR', 'the detector')}: "
            f"rows {window.first_row} to {window.end_row - 1}, columns {window.first_column} to "
            f"{window.end_column - 1}; the other detector may see them"
        )
    located = with_wcs(exposure, optics)
    given = {"wavelength_range": list(wavelengths)} if wavelengths is not None else {}
    located = record(located, "extract_2d", parameters={"extended": extended, **given})
    shifts = nod_shifts(exposure.attrs, optics, shutters, found)
    cuts = []
    for rays, box in seen:
        one = _cut_one(exposure, window, rays, box, wanted, located.attrs)
        if isinstance(rays.slit, Slitlet):
            one.attrs["source_places"] = json.dumps(planned_places(rays.slit))
        if rays.slit.name in shifts:
            one.attrs["nod_shifts"] = json.dumps(shifts[rays.slit.name])
        cuts.append(one)
    return as_tree(cuts, located.attrs)


def with_wcs(exposure: xr.Dataset, optics: Optics) -> xr.Dataset:
    """Return a Dataset without variables: the attributes of the exposure with a record of its optics."""
    references = [xr.Dataset(attrs={"reference_type": kind, "filename": name}) for kind, name in optics.references]
    return record(xr.Dataset(attrs=exposure.attrs), "assign_wcs", references)


def _with_sources(slits: Sequence[Slitlet], sources: Collection[str | int]) -> list[Slitlet]:
    """Return the slits that hold one of the sources."""
    named = [{word for one in slit.sources for word in (str(one.id), one.name) if word} for slit in slits]
    wanted = {str(source) for source in sources}
    if unknown := wanted.difference(*named):
        listed = [slit.source.name or str(slit.source.id) for slit in slits if slit.source is not None]
        more = f" and {len(listed) - 10} more" if len(listed) > 10 else ""
        raise ParameterError(
            f"sources {', '.join(sorted(unknown))} are not in these slits, expected some of "
            f"{', '.join(listed[:10]) or 'none'}{more}"
        )
    return [slit for slit, own in zip(slits, named, strict=True) if own & wanted]


def _cut_one(
    exposure: xr.Dataset, window: Box, rays: SlitOptics, box: Box, wanted: Sequence[str], header: Attributes
) -> xr.Dataset:
    """Return the Dataset of one slit."""
    names = ["sci", "dq", *variances_of(exposure), *(["var_background"] if "var_background" in exposure else [])]
    part = exposure[names].isel(
        row=slice(box.first_row - window.first_row, box.end_row - window.first_row),
        column=slice(box.first_column - window.first_column, box.end_column - window.first_column),
    )
    part = part.drop_vars("amplifier", errors="ignore")
    places = _places(rays, box, wanted, exposure["sci"].chunks is not None)
    images = [one_chunk(part[name], *image_dims(part)) for name in names]
    outputs = {name: (tuple(map(str, part[name].dims)), part[name].dtype.type) for name in names}
    masked = map_blocks(_mask, *images, places["wavelength"], core=("row", "column"), outputs=outputs)
    variables = {name: masked[name].variable for name in names} | {name: places[name].variable for name in wanted}
    for name, variable in variables.items():
        variable.attrs = dict(part[name].attrs) if name in names else describe(name)
    attrs = {**header, **slit_attributes(rays.slit, box, header)}
    data = {name: variables[name] for name in (*names, "wavelength")}
    others = {name: variables[name] for name in wanted if name != "wavelength"}
    for name in ("subtracted", "noise_used"):
        if name in exposure:
            data[name] = exposure[name].sel({dim: part[dim] for dim in ("row", "column")}).variable
    if "noise_correlation" in exposure:
        data["noise_correlation"] = exposure["noise_correlation"].variable
    return xr.Dataset(data, coords={**part.coords, **others}, attrs=attrs)


def describe(name: str) -> Entries:
    """Return the attributes of what the optics say of a pixel, see :data:`COORDINATES`."""
    meaning = _MEANINGS.get(name)
    return ({"long_name": meaning} if meaning else variable_attributes(name)) | {"units": COORDINATES[name][1]}


def _places(rays: SlitOptics, box: Box, wanted: Sequence[str], is_lazy: bool) -> dict[str, xr.DataArray]:
    """Return the coordinates of the pixels of a box, in one chunk."""
    rows = xr.DataArray(np.arange(box.first_row, box.end_row), dims="row")
    return map_blocks(
        _evaluate,
        rows.chunk(row=-1) if is_lazy else rows,
        core=(),
        outputs={name: (("row", "column"), COORDINATES[name][0]) for name in wanted},
        sizes={"column": box.shape[1]},
        columns=(box.first_column, box.end_column),
        rays=rays,
        wanted=tuple(wanted),
    )


def _evaluate(
    rows: np.ndarray, *, columns: tuple[int, int], rays: SlitOptics, wanted: tuple[str, ...]
) -> np.ndarray | tuple[np.ndarray, ...]:
    seen = places_seen(rays, rows, columns, wanted)
    found = tuple(seen[name].astype(COORDINATES[name][0]) for name in wanted)
    return found if len(found) > 1 else found[0]


def places_seen(
    rays: SlitOptics, rows: np.ndarray, columns: tuple[int, int], wanted: Collection[str]
) -> dict[str, np.ndarray]:
    """Return what pixels see through a slit.

    Parameters
    ----------
    rays : SlitOptics
        The optics of the slit.
    rows : (row,) ndarray
        Rows of the detector.
    columns : (int, int)
        First column of the detector, and the one after the last.
    wanted : collection of str
        Names in :data:`COORDINATES`.

    Returns
    -------
    dict
        (row, column) float64 by name. Pixels outside the slit are NaN in all of them. For lamps, ``ra`` and ``dec`` are
        NaN everywhere.
    """
    column = np.arange(*columns, dtype=np.float64)
    seen = rays.forward(column, rows[:, np.newaxis], sky="ra" in wanted or "dec" in wanted)
    is_outside = np.isnan(seen.wavelength)
    found = {}
    for name in wanted:
        values = getattr(seen, name)
        found[name] = np.where(is_outside, np.nan, np.nan if values is None else values)
    return found


def _mask(*blocks: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return signal, flags and variances of a slit. The last block has its wavelengths, NaN outside.

    Reference pixels, at the edge of the detector, see no light.
    """
    *images, wavelength = blocks
    is_outside = np.isnan(wavelength)
    for image in images:
        if image.dtype == np.uint32:
            is_outside = is_outside | ((image & _REFERENCE_PIXEL) > 0)
    return tuple(
        image | np.where(is_outside, OUTSIDE, np.uint32(0))
        if image.dtype == np.uint32
        else np.where(is_outside, np.float32(np.nan), image)
        for image in images
    )


def slit_attributes(slit: Slit, box: Box, header: Attributes) -> Entries:
    """Return the keywords of a slit, as in the observatory's files.

    SLTSTRT1 and SLTSTRT2 count from 1 within the subarray. Positions of sources are in pitch, as planned.
    """
    first = {axis: read(header, f"SUBSTRT{axis}", default=1) for axis in (1, 2)}
    attrs: Entries = {
        "SLTNAME": slit.name,
        "SLTSTRT1": box.first_column - first[1] + 2,
        "SLTSIZE1": box.shape[1],
        "SLTSTRT2": box.first_row - first[2] + 2,
        "SLTSIZE2": box.shape[0],
        "MSAQUAD": slit.quadrant,
        "SPORDER": slit.order,
        "WAVSTART": round(slit.wavelength_range[0] * 1e-6, 15),
        "WAVEND": round(slit.wavelength_range[1] * 1e-6, 15),
        "DISPAXIS": 1,
    }
    if not isinstance(slit, Slitlet):
        return attrs
    attrs |= {"SLITID": slit.slitlet_id, "SHUTTRID": slit.shutter_id, "XCEN": slit.xcen, "YCEN": slit.ycen}
    attrs |= {"SHUTSTA": slit.state, "SLTXSCL": slit.slit_xscale, "SLTYSCL": slit.slit_yscale}
    source = slit.source
    if source is None:
        program = str(header.get("PROGRAM", "")).strip().lstrip("0")
        named = {"SOURCEID": slit.slitlet_id, "SRCNAME": f"{program}_BKG{slit.slitlet_id}", "STLARITY": 0.0}
        return attrs | named | {"SRCALIAS": f"BKG{slit.slitlet_id}", "SRCXPOS": 0.0, "SRCYPOS": 0.0}
    attrs |= {"SOURCEID": source.id, "SRCNAME": source.name, "SRCALIAS": source.alias, "STLARITY": source.stellarity}
    return attrs | {"SRCXPOS": source.x, "SRCYPOS": source.y, "SRCRA": source.ra, "SRCDEC": source.dec}
