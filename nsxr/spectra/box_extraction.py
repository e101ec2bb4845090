"""Add up the light in a box, column by column, as the observatory's pipeline does."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks, unlabelled
from nsxr.compute.layouts import one_chunk
from nsxr.errors import DegradedResultWarning, ModelError, ParameterError
from nsxr.kernels.spectra.box_extraction import box_weights, sum_box
from nsxr.model.declarations import Takes, step
from nsxr.model.history import record
from nsxr.model.keywords import read
from nsxr.model.variables import check
from nsxr.references.apertures import Aperture, read_aperture

__all__ = ["extract_box"]

_CORE = ("cross_dispersion", "dispersion")
_PARTS = ("poisson", "rnoise", "flat")
_WHOLE = Aperture(name="whole cut-out", use_source_posn=False)
_IN_SLITS = ("NRS_FIXEDSLIT", "NRS_MSASPEC", "NRS_BRIGHTOBJ")
_BRIGHTNESS = {"MJy": "MJy/sr", "MJy/sr": "MJy/sr", "DN/s": "DN/s"}


@step("extract_1d", references=[Takes("extract1d", argument="aperture")])
def extract_box(
    slit: xr.Dataset,
    aperture: Aperture | Mapping[str, Any] | None = None,
    *,
    center: float | np.ndarray | xr.DataArray | None = None,
    use_source_posn: bool | None = None,
    position_offset: float = 0.0,
    subtract_background: bool | None = None,
    bkg_fit: str | None = None,
    bkg_order: int | None = None,
    smoothing_length: int | None = None,
) -> xr.Dataset:
    """Sum a slit over a box in each column, with the parameters and priorities of the observatory's pipeline.

    This is what stored spectra were made with, for comparison with them. Missing pixels are left out of the sum and not
    made up for, so the flux drops where the box has holes: ``dq`` has OTHER_BAD_PIXEL there, which the pipeline does
    not set, ``npixels`` counts the pixels that were summed, and ``coverage`` says how much of the box was measured.

    Parameters
    ----------
    slit : Dataset
        ``sci`` (cross_dispersion, dispersion) [MJy, MJy/sr or DN/s], with ``integration`` or ``slit`` in front or not;
        ``wavelength`` [um]; ``var_poisson``, ``var_rnoise``, ``var_flat`` [units of ``sci`` squared] and ``dq``, where
        they are there. Pixels are missing that are NaN in ``sci`` or in all variances or have DO_NOT_USE. Pixels with
        FLUX_ESTIMATED are summed, as the pipeline does, but do not count in ``coverage``: nobody measured them.
    aperture : Aperture or mapping, optional
        From :func:`nsxr.references.apertures.read_aperture`, or a mapping for it. Limits come from ``src_coeff``; else
        from ``extract_width`` around ``center``; else from ``extract_width`` around the middle of ``ystart`` and
        ``ystop``; else from ``ystart`` and ``ystop``. Default the whole cut-out, without background.
    center : float or array, optional
        Centre of the source [row of the cut-out, from 0]: one number, or one for each of dispersion, slit, or both;
        NaN for not known. With ``extract_width`` the box follows it; else all limits are moved by what the centre
        is off the middle of the box, in the middle column.
    use_source_posn : bool, optional
        Whether ``center`` is used. Default: not for other than point sources (SRCTYPE), else as the aperture says,
        else yes in slits.
    position_offset : float
        Moves the box and the regions of the background by so many rows.
    subtract_background : bool, optional
        Default: if the aperture has ``bkg_coeff``.
    bkg_fit, bkg_order, smoothing_length : optional
        In place of those of the aperture.

    Returns
    -------
    Dataset
        A spectrum, lazy if the slit is: all float64 (dispersion), with the dims in front that ``sci`` has. ``flux``
        [Jy, or DN/s]; ``surf_bright`` [MJy/sr, or DN/s] is the mean over the box, 0 for ``sci`` in MJy;
        ``background`` [MJy/sr, or DN/s] is the mean over the box of what was taken off; ``npixels`` counts pixels in
        the sum, with fractions; ``coverage`` is the part of the box inside the slit that was measured. Variances
        ``flux_var_*``, ``sb_var_*``, ``bkgd_var_*``, one for each of the slit's: those of pixels times their weights
        squared, plus that of the background under the box; NaN where a pixel has no variance of that kind. ``dq``
        uint32 has OTHER_BAD_PIXEL where pixels of the box are missing; DO_NOT_USE where more than half of it is, and
        where the error is not known, as a pixel has a variance of NaN or below zero. A kind of variance that no pixel
        of the slit has does not count. Coordinate ``wavelength`` [um], the mean
        over the box. ``extraction_start`` and ``extraction_stop`` [detector row], the means over columns of the lowest
        and the highest row inside: the box reaches from half a row below to half a row above.

    Warns
    -----
    DegradedResultWarning
        If the box should follow the source and no ``center`` was given; it stays at its nominal place then.

    Raises
    ------
    ModelError
        If variables are missing or not as declared, or the area of a pixel is needed and not known.
    ParameterError
        If a parameter is out of range.

    Notes
    -----
    As in the pipeline, a column with too few pixels for a polynomial background keeps its background (level 0), and
    is NaN for a median; smoothing changes no variance; and the variance of the background is that below the whole box,
    also where pixels of the box are missing.

    Other than there, a box lower than one row covers just that; columns without wavelength are kept, as NaN; regions
    that depend on wavelength end where there is none; and a centre outside the cut-out leaves nothing to sum, where the
    pipeline goes back to the nominal place.

    Examples
    --------
    >>> spectrum = extract_box(slit, {"extract_width": 6}, center=16.2)  # doctest: +SKIP
    """
    check(slit, "sci", "wavelength", *(["dq"] if "dq" in slit else []))
    parts = [part for part in _PARTS if f"var_{part}" in slit]
    check(slit, *(f"var_{part}" for part in parts))
    units = slit["sci"].attrs.get("units")
    if units not in _BRIGHTNESS:
        raise ModelError(f"variable 'sci' has units {units!r}, expected one of {', '.join(_BRIGHTNESS)}")
    aperture = _WHOLE if aperture is None else aperture
    aperture = aperture if isinstance(aperture, Aperture) else read_aperture(aperture, slit)
    changes = {"bkg_fit": bkg_fit, "bkg_order": bkg_order, "smoothing_length": smoothing_length}
    aperture = dataclasses.replace(aperture, **{k: v for k, v in changes.items() if v is not None})  # type: ignore[arg-type]
    with_background = aperture.bkg_coeff is not None and subtract_background is not False
    area = _pixel_area(slit) if units == "MJy/sr" or (units == "MJy" and with_background) else 1.0

    weights, around, wavelength, start, stop = map_blocks(
        box_weights,
        one_chunk(unlabelled(slit["wavelength"]), *_CORE),
        _limits(slit, aperture),
        _centers(slit, aperture, center, use_source_posn),
        core=(*_CORE, "limit"),
        outputs=_placed(slit["wavelength"]),
        extract_width=aperture.extract_width,
        src_coeff=aperture.src_coeff,
        bkg_coeff=aperture.bkg_coeff if with_background else None,
        by_wavelength=aperture.independent_var == "wavelength",
        position_offset=position_offset,
        whole_background=aperture.bkg_fit == "median",
    )
    sci = slit["sci"]
    dq = slit["dq"] if "dq" in slit else xr.zeros_like(sci, dtype=np.uint32)
    images = [one_chunk(unlabelled(array), *_CORE) for array in (sci, dq, *(slit[f"var_{part}"] for part in parts))]
    kept = [str(dim) for dim in sci.dims if dim != "cross_dispersion"]
    outputs: list[tuple[list[str], type[np.generic]]] = [(kept, np.float64)] * (4 + 2 * len(parts))
    outputs.append((kept, np.uint32))
    summed, background, npixels, coverage, *variances, dq_of_sums = map_blocks(
        sum_box,
        *images[:2],
        weights,
        around,
        *images[2:],
        core=_CORE,
        outputs=outputs,
        fit=("median" if aperture.bkg_fit == "median" else "poly") if with_background else None,
        order=aperture.bkg_order if aperture.bkg_fit == "poly" else 0,
        smoothing_length=aperture.smoothing_length,
    )

    found, new_units = _in_units(str(units), area, parts, summed, background, npixels, *variances)
    first_row = _first_row(slit)
    lost = [name for name, array in slit.variables.items() if "cross_dispersion" in array.dims and name != "dq"]
    spectrum = record(
        slit,
        "extract_1d",
        [xr.Dataset(attrs={"reference_type": "extract1d", "filename": aperture.filename})] if aperture.filename else [],
        parameters={
            "extraction_type": "box",
            **{k: v for k, v in dataclasses.asdict(aperture).items() if v is not None and k != "filename"},
            "center": float(center) if isinstance(center, int | float) else None if center is None else "array",
            "use_source_posn": use_source_posn,
            "position_offset": position_offset,
            "subtract_background": with_background,
        },
        units=new_units,
        drop=[str(name) for name in lost],
        **found,
        npixels=npixels,
        coverage=coverage,
        dq=dq_of_sums,
        extraction_start=start + first_row,
        extraction_stop=stop + first_row,
    )
    wavelength.attrs = {"units": "um", "long_name": "mean wavelength of the pixels in the box"}
    return spectrum.assign_coords(wavelength=wavelength)


def _in_units(
    units: str,
    area: xr.DataArray | float,
    parts: list[str],
    summed: xr.DataArray,
    background: xr.DataArray,
    npixels: xr.DataArray,
    *variances: xr.DataArray,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the variables of a spectrum made from sums over the box, and their units."""
    # MJy is a flux already, MJy/sr a brightness: the area of a pixel leads from one to the other
    to_flux = {"MJy": 1e6, "MJy/sr": 1e6 * area, "DN/s": 1.0}[units]
    to_brightness = 1 / area if units == "MJy" else 1.0
    share = 1 / npixels.where(npixels > 0, 1.0)
    nothing = xr.zeros_like(summed)
    found: dict[str, Any] = {
        "flux": summed * to_flux,
        "surf_bright": nothing if units == "MJy" else summed * share,
        "background": background * share * to_brightness,
    }
    flux_units = "DN/s" if units == "DN/s" else "Jy"
    new_units = {"flux": flux_units, "surf_bright": _BRIGHTNESS[units], "background": _BRIGHTNESS[units]}
    for part, variance, of_background in zip(parts, variances[: len(parts)], variances[len(parts) :], strict=True):
        found[f"flux_var_{part}"] = variance * to_flux**2
        found[f"sb_var_{part}"] = nothing if units == "MJy" else variance * share**2
        found[f"bkgd_var_{part}"] = of_background * share**2 * to_brightness**2
        new_units[f"flux_var_{part}"] = f"({flux_units})2"
        new_units[f"sb_var_{part}"] = new_units[f"bkgd_var_{part}"] = f"({_BRIGHTNESS[units]})2"
    return found, new_units


def _along_slits(slit: xr.Dataset, coordinate: str, otherwise: Any) -> xr.DataArray:
    """Return what the headers of slits say: a coordinate of a padded set, or one value."""
    return unlabelled(slit[coordinate]) if coordinate in slit.coords else xr.DataArray(otherwise)


def _pixel_area(slit: xr.Dataset) -> xr.DataArray:
    of_header = read(slit.attrs, "PIXAR_SR", default=np.nan, matters=False)
    area = _along_slits(slit, "pixel_area", of_header).astype(np.float64)
    if area.chunks is None and not bool((area > 0).all()):
        raise ModelError(
            f"the area of a pixel is {area.to_numpy()}, expected positive sr: set attrs['PIXAR_SR'] or 'pixel_area'"
        )
    return area.where(area > 0)


def _limits(slit: xr.Dataset, aperture: Aperture) -> xr.DataArray:
    """Return first and last row, first and last column and middle column (slit, limit)."""
    last_row = _along_slits(slit, "n_rows", slit.sizes["cross_dispersion"]) - 1.0
    last_column = _along_slits(slit, "n_columns", slit.sizes["dispersion"]) - 1.0
    limits = [
        aperture.ystart or 0.0,
        last_row if aperture.ystop is None else aperture.ystop,
        aperture.xstart or 0.0,
        last_column if aperture.xstop is None else aperture.xstop,
        (last_column / 2).round(),
    ]
    arrays = [xr.zeros_like(last_row) + limit for limit in limits]
    return one_chunk(xr.concat(arrays, "limit").transpose(..., "limit"), "limit")


def _centers(
    slit: xr.Dataset, aperture: Aperture, center: float | np.ndarray | xr.DataArray | None, use: bool | None
) -> xr.DataArray:
    """Return the centre of the source (slit, dispersion), NaN where the box does not follow it."""
    default = aperture.use_source_posn
    if default is None:
        default = slit.attrs.get("EXP_TYPE") in _IN_SLITS
    is_point = _along_slits(slit, "source_type", slit.attrs.get("SRCTYPE", "UNKNOWN")) == "POINT"
    wanted = is_point & default if use is None else xr.full_like(is_point, use)
    if center is None:
        if use:
            raise ParameterError("use_source_posn is True, but there is no center: give the row of the source")
        if wanted.chunks is None and bool(wanted.any()):
            message = "no center was given: the box stays where the aperture has it; say so with use_source_posn=False"
            warnings.warn(message, DegradedResultWarning, stacklevel=3)
        center = np.nan
    dims = [str(dim) for dim in slit["wavelength"].dims if dim != "cross_dispersion"]
    if not isinstance(center, xr.DataArray):
        values = np.asarray(center, dtype=np.float64)
        center = xr.DataArray(values, dims=dims[len(dims) - values.ndim :] if values.ndim <= len(dims) else None)
    sizes = {dim: slit.sizes[dim] for dim in dims}
    if any(sizes.get(str(dim)) != n for dim, n in center.sizes.items()):
        raise ParameterError(f"center has sizes {dict(center.sizes)}, expected a number, or some of {sizes}")
    center = unlabelled(center).astype(np.float64).where(wanted)
    missing = {dim: n for dim, n in sizes.items() if dim not in center.dims}
    return one_chunk(center.expand_dims(missing).transpose(*dims), "dispersion")


def _placed(wavelength: xr.DataArray) -> list[tuple[tuple[str, ...], type[np.generic]]]:
    """Return dims and dtypes of what box_weights returns."""
    whole = tuple(str(dim) for dim in wavelength.dims)
    loop = whole[:-2]
    return [(dims, np.float64) for dims in (whole, whole, (*loop, "dispersion"), loop, loop)]


def _first_row(slit: xr.Dataset) -> xr.DataArray:
    """Return the detector row of the first row of each cut-out."""
    for name in ("row", "cross_dispersion"):
        if name in slit.coords:
            return unlabelled(slit[name].isel(cross_dispersion=0)).astype(np.float64)
    return xr.DataArray(0.0)
