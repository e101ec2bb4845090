"""Divide count rates by the flat field: the product of the flats of telescope, spectrograph and detector.

Flats have a part that changes slowly with wavelength, in images, and a fast one, in tables. A task reads the pixels of
the images that its slit covers, and nothing else.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import xarray as xr

from nsxr.compute.blocks import Output, map_blocks
from nsxr.compute.layouts import one_chunk
from nsxr.errors import ModelError
from nsxr.flux.factors import Factor, divide, variance_units
from nsxr.flux.flats import LOST, Flat
from nsxr.kernels.flux.flats import finish_flat, multiply_images, multiply_table
from nsxr.model.declarations import Needs, step
from nsxr.model.dq import PixelFlag
from nsxr.model.history import record
from nsxr.model.keywords import about
from nsxr.model.variables import check_slit
from nsxr.references.match import require_kind
from nsxr.slits.collection import map_slits
from nsxr.slits.light import Shutter, exposure_type, is_point, shutter_of, wavelength_name

__all__ = ["Flats", "correct_flat_field", "flat_factor", "flat_of"]

Slits = TypeVar("Slits", xr.Dataset, xr.DataTree)
Light = Literal["point", "uniform"]

_DO_NOT_USE, _NO_FLAT = np.uint32(PixelFlag.DO_NOT_USE), np.uint32(PixelFlag.NO_FLAT_FIELD)
_BAD = LOST | np.uint32(PixelFlag.UNRELIABLE_FLAT)
_SLICES, _SERIES = "NRS_IFU", "NRS_BRIGHTOBJ"


@step("flat_field", references=[Needs("fflat"), Needs("sflat"), Needs("dflat")])
def correct_flat_field(slits: Slits, fflat: xr.Dataset, sflat: xr.Dataset, dflat: xr.Dataset) -> Slits:
    """Divide count rates by the flat field.

    Parameters
    ----------
    slits : Dataset or DataTree
        One slit or many, or an exposure of the IFU: ``sci``, ``dq`` and variances (row, column), with or without
        integration in front, and ``wavelength`` (row, column) float32 [um], NaN outside of slits and slices. Slits of
        points may have ``wavelength_uncorrected`` too. Rows and columns are labelled with pixels of the detector.
        Fixed slits need SLTNAME; slitlets need MSAQUAD, XCEN and YCEN.
    fflat, sflat, dflat : Dataset
        Flats of the telescope, the spectrograph and the detector, from :func:`nsxr.open_flat`.

    Returns
    -------
    Dataset or DataTree
        ``sci`` is divided by the flat field, variances by its square. ``var_flat`` is the variance that the
        uncertainties of the three flats add. ``flatfield_point`` (point sources) and ``flatfield_uniform`` (others) are
        the flat field float32; point sources in slits and shutters keep both. ``flatfield_common`` float32, for slits,
        is the part of ``var_flat`` from tables, and from F of shutters: all pixels of a wavelength share these errors.
        Those of images are independent between pixels. Pixels without a flat field are NaN and
        have DO_NOT_USE, NO_FLAT_FIELD and UNRELIABLE_FLAT.

    Raises
    ------
    ModelError
        If a variable or keyword is missing, or if the slit was divided by a flat field before.
    ReferenceFileError
        If a flat is of another detector, filter, grating or mode, has no table for a slit, or does not cover it.

    Notes
    -----
    The flat field of a pixel is F S D at the wavelength of the pixel. Images are interpolated linearly in wavelength. A
    table is averaged over the wavelengths that the pixel sees, from its middle to half a step to both sides, with
    the Gauss-Legendre rule of three points. F of a slitlet is that of the shutter with the source. Relative variances
    of all parts add up: σ²/flat² = Σ (σᵢ/flatᵢ)².

    These are the rules of the observatory's pipeline, with exceptions: a pixel without F has no value, also in slits;
    ``flatfield_point`` and ``flatfield_uniform`` are NaN where there is no flat field, not 1; the width of a pixel
    comes from neighbours in its own row, also at the edge of a slit; the errors of F of shutters are relative to their
    own part, and the flags of F of shutters count.

    Examples
    --------
    >>> flats = [nsxr.open_flat(path) for path in ("fflat.fits", "sflat.fits", "dflat.fits")]  # doctest: +SKIP
    >>> slits = nsxr.correct_flat_field(slits, *flats)  # doctest: +SKIP
    """
    flats = Flats(fflat, sflat, dflat)
    return map_slits(lambda slit: _correct(slit, flats), slits)


def flat_factor(
    slit: xr.Dataset, fflat: xr.Dataset, sflat: xr.Dataset, dflat: xr.Dataset, *, light: Light = "point"
) -> Factor:
    """Return the flat field of one slit, or of an exposure of the IFU, see :func:`correct_flat_field`.

    Parameters
    ----------
    slit : Dataset
        One slit, or an exposure of the IFU.
    fflat, sflat, dflat : Dataset
        The flats.
    light : {"point", "uniform"}
        For uniform light, wavelengths without the correction for the position of a point source are used, if the slit
        has them.
    """
    return flat_of(slit, Flats(fflat, sflat, dflat), light=light)


def flat_of(slit: xr.Dataset, flats: "Flats", *, light: Light) -> Factor:
    """Return the flat field of one slit, see :func:`flat_factor`. Many slits can share the flats."""
    return _flat_of(slit, flats, [wavelength_name(slit, light)])[0]


def _correct(slit: xr.Dataset, flats: "Flats") -> xr.Dataset:
    check_slit(slit, "sci", "dq", "wavelength", units={"wavelength": "um"})
    if "flatfield_point" in slit or "flatfield_uniform" in slit:
        raise ModelError(about(slit.attrs, "count rates were divided by a flat field before"))
    source_is_point = is_point(slit.attrs)
    second = ["wavelength_uncorrected"] if source_is_point and "wavelength_uncorrected" in slit else []
    factor, uniform, common = _flat_of(slit, flats, ["wavelength", *second])
    stored = {"flatfield_point" if source_is_point else "flatfield_uniform": factor.value}
    if source_is_point and exposure_type(slit.attrs) not in (_SLICES, _SERIES):
        stored["flatfield_uniform"] = uniform
    if exposure_type(slit.attrs) != _SLICES:
        stored["flatfield_common"] = common
    divided = divide(slit, factor, kind="flat")
    units = {"var_flat": variance_units(slit)}
    return record(slit, "flat_field", flats.references, None, units, (), None, **divided, **stored)


class Flats:
    """The three flats. The tasks of all slits share one element of a graph that holds them."""

    def __init__(self, fflat: xr.Dataset, sflat: xr.Dataset, dflat: xr.Dataset) -> None:
        self.references = [fflat, sflat, dflat]
        for reference, kind in zip(self.references, ("fflat", "sflat", "dflat"), strict=True):
            require_kind(reference, kind, pixels=False)
        self.each = [Flat(reference) for reference in self.references]
        held = np.empty(len(self.each), object)
        held[:] = self.each
        self.in_memory = xr.DataArray(held, dims="flat")

    @cached_property
    def lazy(self) -> xr.DataArray:
        """The flats as a lazy array."""
        return self.in_memory.chunk(flat=-1)


class _Needed(NamedTuple):
    """What a slit needs of the three flats: names of tables, columns of the detector, and its shutter if any."""

    tables: tuple[str, ...]
    columns: tuple[int, int]
    shutter: Shutter | None


def _flat_of(slit: xr.Dataset, flats: Flats, names: Sequence[str]) -> tuple[Factor, xr.DataArray, xr.DataArray]:
    """Return the flat field at the first of one or two wavelengths, and the values at the last one.

    The third array is the part of the variance that all pixels of a wavelength share.
    """
    for flat in flats.each:
        flat.require_fit(slit)
    is_lazy = any(slit[name].chunks is not None for name in ("sci", *names))
    wavelengths = [slit[name] for name in names]
    wavelengths = [one.chunk() if is_lazy and one.chunks is None else one_chunk(one, "column") for one in wavelengths]
    rows, columns = (slit.indexes[dim].to_numpy() for dim in ("row", "column"))
    image = ("row", "column")
    outputs: dict[str, Output] = {
        "value": (image, np.float32),
        "relative_variance": (image, np.float32),
        "dq": (image, np.uint32),
        "common": (image, np.float32),
    }
    outputs |= {"uniform": (image, np.float32)} if len(names) > 1 else {}
    found = map_blocks(
        _evaluate,
        *wavelengths,
        xr.DataArray(rows, dims="row"),
        flats.lazy if is_lazy else flats.in_memory,
        core=("column",),
        outputs=outputs,
        needed=_Needed(
            tuple(flat.table_of(slit) for flat in flats.each),
            (int(columns[0]), int(columns[-1]) + 1),
            shutter_of(slit.attrs) if any(flat.has_shutters for flat in flats.each) else None,
        ),
    )
    factor = Factor(found["value"], found["relative_variance"], found["dq"])
    return factor, found.get("uniform", factor.value), found["common"]


def _evaluate(*blocks: np.ndarray, needed: _Needed) -> tuple[np.ndarray, ...]:
    """Return the flat field, its relative variance, its flags, and the part of the variance from tables.

    The last array is the flat field at the second wavelength, if there is one.
    """
    *wavelengths, rows, flats = blocks
    found = [(np.ones(one.shape), np.zeros(one.shape), np.zeros(one.shape, np.uint32)) for one in wavelengths]
    from_tables = [np.zeros(one.shape) for one in wavelengths]
    for flat, table in zip(flats, needed.tables, strict=True):
        is_shutter = flat.has_shutters and needed.shutter is not None
        nodes, data, err = flat.table_of_shutter(needed.shutter) if is_shutter else flat.table(table)
        planes = flat.images(wavelengths, rows, needed.columns) if flat.has_images else None
        for wavelength, results, common in zip(wavelengths, found, from_tables, strict=True):
            value, _, flags = results
            multiply_table(wavelength, nodes, data, err, LOST, value, common, flags)
            if planes is not None:
                multiply_images(wavelength, planes.wavelength, planes.sci, planes.err, planes.dq, LOST, *results)
    for wavelength, (value, relative_variance, flags), common in zip(wavelengths, found, from_tables, strict=True):
        relative_variance += common
        finish_flat(wavelength, _DO_NOT_USE, _NO_FLAT, _BAD, value, relative_variance, flags)
    value, relative_variance, flags = found[0]
    part = np.divide(from_tables[0], relative_variance, out=np.zeros(value.shape), where=relative_variance > 0)
    main = value.astype(np.float32), relative_variance.astype(np.float32), flags, part.astype(np.float32)
    return (*main, found[1][0].astype(np.float32)) if len(found) > 1 else main
