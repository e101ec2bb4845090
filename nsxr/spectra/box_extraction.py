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
from nsxr.kernels.shared_noise import PlacesInTime, SharedNoise
from nsxr.kernels.spectra.box_extraction import box_weights, sum_box
from nsxr.model.declarations import Takes, step
from nsxr.model.dims import image_dims
from nsxr.model.history import record
from nsxr.model.slit_header import SlitHeader
from nsxr.model.variables import VARIANCES, check_slit, variances_of
from nsxr.references.apertures import Aperture, read_aperture
from nsxr.slits.summed_variance import SHARED_NOISE, places_of_shared_noise

__all__ = ["extract_box"]

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

    The spectra in the archive were made in this way: use this function to compare with them. Missing pixels are left
    out of the sum and are not replaced, so the flux is too low in columns where the box has missing pixels. ``dq`` has
    OTHER_BAD_PIXEL in these columns; the pipeline does not set this flag. ``npixels`` counts the pixels that were
    summed. ``coverage`` is the part of the box that was measured.

    Parameters
    ----------
    slit : Dataset
        ``sci`` [MJy, MJy/sr or DN/s], an image with or without ``integration`` in front; ``wavelength`` [um];
        ``var_poisson``, ``var_rnoise``, ``var_flat`` [units of ``sci`` squared] and ``dq``, where present. A pixel is
        missing if it is NaN in ``sci`` or in all variances, or if it has DO_NOT_USE. Pixels with FLUX_ESTIMATED are
        summed, as in the pipeline. They do not count in ``coverage``, because they are not measurements.
    aperture : Aperture or mapping, optional
        From :func:`nsxr.references.apertures.read_aperture`, or a mapping for it. The limits of the box come from the
        first of these that is given: ``src_coeff``; ``extract_width`` around ``center``; ``extract_width`` around the
        middle of ``ystart`` and ``ystop``; ``ystart`` and ``ystop``. By default the box is the whole cut-out and no
        background is subtracted.
    center : float or array, optional
        Centre of the source [row of the cut-out, from 0]: one number, or one for each column. NaN means that it is not
        known. With ``extract_width`` the box follows the centre. Otherwise all limits are moved by the distance of the
        centre from the middle of the box, measured in the middle column.
    use_source_posn : bool, optional
        Whether ``center`` is used. By default it is used for point sources only (SRCTYPE). For these the aperture
        decides; if the aperture does not say, ``center`` is used in slits.
    position_offset : float
        Number of rows by which the box and the background regions are moved.
    subtract_background : bool, optional
        By default the background is subtracted if the aperture has ``bkg_coeff``.
    bkg_fit, bkg_order, smoothing_length : optional
        Replace the values of the aperture.

    Returns
    -------
    Dataset
        A spectrum, lazy if the slit is. Variables are float64 (dispersion), with integration in front if ``sci`` has
        it. ``flux`` [Jy, or DN/s]. ``surf_bright`` [MJy/sr, or DN/s] is the mean over the box, 0 for ``sci`` in MJy.
        ``background`` [MJy/sr, or DN/s] is the mean over the box of the background that was subtracted. ``npixels`` is
        the number of pixels in the sum, with fractions. ``coverage`` is the part of the box inside the slit that was
        measured. ``flux_var_*``, ``sb_var_*`` and ``bkgd_var_*`` are variances, one for each kind of variance of the
        slit: the sum of the variances of pixels times their weights squared, plus the variance of the background under
        the box, plus what pixels share of the read noise (:func:`nsxr.summed_variance`). They are NaN where a pixel has
        no variance of that kind. ``dq`` uint32 has OTHER_BAD_PIXEL where pixels of the box are missing. It has
        DO_NOT_USE where more than half of the box is missing, and where the error is not known because the variance of
        a pixel is NaN or negative. A kind of variance that no pixel of the slit has does not count. The coordinate
        ``wavelength`` [um] is the mean over the box. ``extraction_start`` and ``extraction_stop`` [detector row] are
        the means over columns of the lowest and the highest row in the box: the box reaches from half a row below to
        half a row above.

    Warns
    -----
    DegradedResultWarning
        If the box should follow the source and no ``center`` was given. The box then stays at its nominal place.

    Raises
    ------
    ModelError
        If variables are missing or not as declared, or if the area of a pixel is needed but not known.
    ParameterError
        If a parameter is out of range.

    Notes
    -----
    As in the pipeline: in a column with too few pixels for a polynomial background nothing is subtracted (level 0);
    with a median background such a column is NaN. Smoothing does not change variances. The variance of the background
    is that below the whole box, also where pixels of the box are missing.

    Different from the pipeline: a box of less than one row covers only this part of a row. Columns without wavelength
    are kept, as NaN. Regions that depend on wavelength end where there is no wavelength. With a centre outside the
    cut-out there is nothing to sum; the pipeline uses the nominal place instead.

    Examples
    --------
    >>> spectrum = extract_box(slit, {"extract_width": 6}, center=16.2)  # doctest: +SKIP
    """
    dims = check_slit(slit, "sci", "wavelength", *(["dq"] if "dq" in slit else []), *variances_of(slit))
    units = slit["sci"].attrs.get("units")
    if units not in _BRIGHTNESS:
        raise ModelError(f"variable 'sci' has units {units!r}, expected one of {', '.join(_BRIGHTNESS)}")
    aperture = _WHOLE if aperture is None else aperture
    aperture = aperture if isinstance(aperture, Aperture) else read_aperture(aperture, slit)
    changes = {"bkg_fit": bkg_fit, "bkg_order": bkg_order, "smoothing_length": smoothing_length}
    aperture = dataclasses.replace(aperture, **{k: v for k, v in changes.items() if v is not None})  # type: ignore[arg-type]
    with_background = aperture.bkg_coeff is not None and subtract_background is not False
    if not with_background:
        aperture = dataclasses.replace(aperture, bkg_coeff=None)
    header = SlitHeader.of(slit)
    needs_area = units == "MJy/sr" or (units == "MJy" and with_background)
    area = _pixel_area(header) if needs_area else 1.0
    centers = _centers(slit, aperture, header, center, use_source_posn)
    box = _box(slit, aperture, centers, position_offset)
    values = _sums(slit, aperture, box, str(units), area)
    described = {k: v for k, v in dataclasses.asdict(aperture).items() if v is not None and k != "filename"}
    files = [xr.Dataset(attrs={"reference_type": "extract1d", "filename": aperture.filename})]
    base = slit.drop_dims([dim for dim in (dims[0], "lag") if dim in slit.dims]).drop_vars("kind", errors="ignore")
    spectrum = record(
        base.rename({dim: "dispersion" for dim in base.dims if dim == dims[1]}),
        "extract_1d",
        files if aperture.filename else [],
        parameters={
            "extraction_type": "box",
            **described,
            "center": float(center) if isinstance(center, int | float) else None if center is None else "array",
            "use_source_posn": use_source_posn,
            "position_offset": position_offset,
            "subtract_background": with_background,
        },
        units=_units_of_spectrum(str(units)),
        drop=(),
        attrs=None,
        **values,
        extraction_start=box["start"],
        extraction_stop=box["stop"],
    )
    attrs = {"units": "um", "long_name": "mean wavelength of the pixels in the box"}
    return spectrum.assign_coords(wavelength=box["wavelength"].assign_attrs(attrs))


def _box(
    slit: xr.Dataset, aperture: Aperture, centers: xr.DataArray, position_offset: float
) -> dict[str, xr.DataArray]:
    """Return the part of each pixel in the box and in the background regions, and the position of the box."""
    dims = image_dims(slit)
    last_row, last_column = (slit.sizes[dim] - 1.0 for dim in dims)
    limits = [
        aperture.ystart or 0.0,
        last_row if aperture.ystop is None else aperture.ystop,
        aperture.xstart or 0.0,
        last_column if aperture.xstop is None else aperture.xstop,
        np.round(last_column / 2),
    ]
    return map_blocks(
        _box_block,
        one_chunk(slit["wavelength"], *dims),
        xr.DataArray(np.array(limits), dims="limit"),
        centers,
        core=(*dims, "limit"),
        outputs={
            "weights": (dims, np.float64),
            "background": (dims, np.float64),
            "wavelength": (("dispersion",), np.float64),
            "start": ((), np.float64),
            "stop": ((), np.float64),
        },
        sizes={"dispersion": slit.sizes[dims[1]]},
        extract_width=aperture.extract_width,
        src_coeff=aperture.src_coeff,
        bkg_coeff=aperture.bkg_coeff,
        by_wavelength=aperture.independent_var == "wavelength",
        position_offset=position_offset,
        whole_background=aperture.bkg_fit == "median",
        first_row=float(slit[dims[0]][0]) if dims[0] in slit.coords else 0.0,
    )


def _box_block(*blocks: np.ndarray, first_row: float, **options: Any) -> tuple[np.ndarray, ...]:
    """Return what :func:`box_weights` returns, with the lowest and the highest row as detector rows."""
    weights, background, wavelength, start, stop = box_weights(*blocks, **options)
    return weights, background, wavelength, start + first_row, stop + first_row


def _sums(
    slit: xr.Dataset, aperture: Aperture, box: Mapping[str, xr.DataArray], units: str, area: float
) -> dict[str, xr.DataArray]:
    """Return the values of a spectrum: sums over the box in the units of a spectrum."""
    dims = image_dims(slit)
    parts = [name.removeprefix("var_") for name in variances_of(slit)]
    sci = slit["sci"]
    dq = slit["dq"] if "dq" in slit else xr.zeros_like(sci, dtype=np.uint32)
    along = ("integration", "dispersion") if "integration" in slit.dims else ("dispersion",)
    names = ["flux", "surf_bright", "background", "npixels", "coverage"]
    names += [f"{prefix}_var_{part}" for part in parts for prefix in ("flux", "sb", "bkgd")]
    fit = "median" if aperture.bkg_fit == "median" else "poly"
    places = places_of_shared_noise(slit) if "rnoise" in parts else None
    return map_blocks(
        _sum_block,
        *(one_chunk(array, *dims) for array in (sci, dq)),
        box["weights"],
        box["background"],
        *(slit[f"var_{part}"] for part in parts),
        *(slit[name] for name in SHARED_NOISE if places is not None),
        core=(*dims, "lag", "kind"),
        outputs={**dict.fromkeys(names, (along, np.float64)), "dq": (along, np.uint32)},
        sizes={"dispersion": slit.sizes[dims[1]]},
        fit=fit if aperture.bkg_coeff is not None else None,
        order=aperture.bkg_order if aperture.bkg_fit == "poly" else 0,
        smoothing_length=aperture.smoothing_length,
        read=parts.index("rnoise") if places is not None else 0,
        places=places,
        units=units,
        area=area,
    )


def _sum_block(
    *blocks: np.ndarray, places: PlacesInTime | None, units: str, area: float, **options: Any
) -> tuple[np.ndarray, ...]:
    """Sum over the box, and return quantities and variances in the units of a spectrum."""
    if places is not None:
        options["shared"] = SharedNoise(blocks[-2], blocks[-1], places)
        blocks = blocks[:-2]
    n = len(blocks) - 4
    summed, background, npixels, coverage, *variances, flags = sum_box(*blocks, **options)
    # MJy is a flux, MJy/sr is a brightness: the area of a pixel converts one to the other
    to_flux = {"MJy": 1e6, "MJy/sr": 1e6 * area, "DN/s": 1.0}[units]
    to_brightness = 1 / area if units == "MJy" else 1.0
    share = 1 / np.where(npixels > 0, npixels, 1.0)
    nothing = np.zeros_like(summed)
    found = [
        summed * to_flux,
        nothing if units == "MJy" else summed * share,
        background * share * to_brightness,
        npixels,
        coverage,
    ]
    for variance, of_background in zip(variances[:n], variances[n:], strict=True):
        found.append(variance * (to_flux * to_flux))
        found.append(nothing if units == "MJy" else variance * share**2)
        found.append(of_background * share**2 * (to_brightness * to_brightness))
    return (*found, flags)


def _units_of_spectrum(units: str) -> dict[str, str]:
    """Return the units of the quantities of a spectrum and of their variances."""
    brightness = _BRIGHTNESS[units]
    quantities = {"flux": "DN/s" if units == "DN/s" else "Jy", "surf_bright": brightness, "background": brightness}
    prefixes = {"flux": "flux", "surf_bright": "sb", "background": "bkgd"}
    variances = {
        f"{prefixes[name]}_var_{kind}": f"({unit})2" for name, unit in quantities.items() for kind in VARIANCES
    }
    return quantities | variances


def _pixel_area(header: SlitHeader) -> float:
    """Return the area of a pixel [sr]."""
    area = header.pixel_area
    if area is None or not area > 0:
        raise ModelError(f"the area of a pixel is {area}, expected positive sr: set attrs['PIXAR_SR']")
    return area


def _centers(
    slit: xr.Dataset,
    aperture: Aperture,
    header: SlitHeader,
    center: float | np.ndarray | xr.DataArray | None,
    use: bool | None,
) -> xr.DataArray:
    """Return the centre of the source in each column, NaN where the box does not follow it."""
    default = header.exposure_type in _IN_SLITS if aperture.use_source_posn is None else aperture.use_source_posn
    wanted = (header.source_type == "POINT" and default) if use is None else use
    if center is None:
        if use:
            raise ParameterError("use_source_posn is True, but there is no center: give the row of the source")
        if wanted:
            message = "no center was given: the box stays at its nominal place; use_source_posn=False asks for this"
            warnings.warn(message, DegradedResultWarning, stacklevel=3)
        center = np.nan
    column = image_dims(slit)[1]
    n_columns = slit.sizes[column]
    if not isinstance(center, xr.DataArray):
        values = np.asarray(center, dtype=np.float64)
        center = xr.DataArray(values, dims=(column,) if values.ndim == 1 else None)
    center = unlabelled(center)
    if center.dims == ("dispersion",):
        center = center.rename(dispersion=column)
    if any(sizes != (column, n_columns) for sizes in center.sizes.items()):
        raise ParameterError(f"center has sizes {dict(center.sizes)}, expected a number, or {n_columns} of {column}")
    center = center.astype(np.float64).where(wanted)
    return center if column in center.dims else center.expand_dims({column: n_columns})
