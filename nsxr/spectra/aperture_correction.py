"""Add the light of point sources that is outside of the rows that their spectra were summed over."""

import re
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import xarray as xr

from nsxr.compute.blocks import Output, map_blocks, unlabelled
from nsxr.compute.layouts import one_chunk
from nsxr.errors import ModelError, ParameterError
from nsxr.flux.sensitivity import NotInTable, row_of
from nsxr.kernels.spectra.point_light import point_light
from nsxr.model.history import record, record_skip
from nsxr.model.keywords import read
from nsxr.model.slit_header import SlitHeader
from nsxr.references.match import require_kind
from nsxr.slits.collection import map_slits
from nsxr.slits.light import fixed_slit, is_point, shutter_states

__all__ = ["apply_aperture_correction"]

Spectra = TypeVar("Spectra", xr.Dataset, xr.DataTree)

_STEP = "aperture_correction"
_MOST = 0.3
"""Largest part of the light that a local background may take; more is a column without enough pixels."""
_SOME = 0.3
"""Least weight of a local background; that of a flat profile of three pixels is one."""
_NODES = 25  # wavelengths at which the light of a point along its slit is computed
_CORRECTED = re.compile(r"flux|surf_bright|(flux|sb)_var_\w+")


def apply_aperture_correction(spectra: Spectra, apcorr: xr.Dataset, *, size: float | None = None) -> Spectra:
    """Multiply spectra of point sources by the correction for the light outside of their aperture.

    Parameters
    ----------
    spectra : Dataset or DataTree
        One spectrum or many: ``flux``, ``npixels``, and the coordinate ``wavelength`` [um], along ``dispersion``, with
        or without integration in front. The attributes FILTER, GRATING and, for fixed slits, SLTNAME choose the
        correction.
    apcorr : Dataset
        From :func:`nsxr.open_aperture_correction`.
    size : float, optional
        Height of the aperture [pixel]. By default ``aperture_size`` of the spectra: :func:`nsxr.extract_spectrum`
        replaces missing pixels, so its fluxes refer to the whole aperture. Spectra without it, as those of
        :func:`nsxr.extract_box`, have ``npixels``, the number of pixels in the sum.

    Returns
    -------
    Dataset or DataTree
        ``flux`` and ``surf_bright`` times the correction, and their variances times its square; the background stays.
        ``aperture_correction`` is the correction. Sources that are no points (SRCTYPE) come back with a record of why
        they were skipped, and so do fixed slits that the reference does not have.

    Raises
    ------
    ModelError
        If ``flux``, ``npixels`` or ``wavelength`` are missing.
    ReferenceFileError
        If the reference is of another type, or has no row for the filter and the grating.

    Notes
    -----
    Spectra of :func:`nsxr.extract_spectrum` have the weights of their pixels. If a local background was fitted together
    with the flux, it contains light of the wings, and the correction adds what it took away.

    The reference holds for a point in the middle of its slit. Slits whose pixels know their place along the slit
    (``slit_y``) have the correction for the planned place of the source: bars between shutters, and closed shutters,
    change which part of the light that passes is within the aperture. A mixture of Gaussians with the light in all
    apertures of the reference tells it, see :mod:`nsxr.kernels.spectra.point_light`.

    The correction is interpolated linearly in wavelength and in size, for a source in the middle of a pixel. Beyond
    the wavelengths and sizes of the reference, the value at the edge is used. The observatory's pipeline leaves fluxes
    beyond the wavelengths as they are, so that they step.

    Examples
    --------
    >>> spectrum = apply_aperture_correction(spectrum, nsxr.open_aperture_correction("apcorr.fits"))  # doctest: +SKIP
    """
    require_kind(apcorr, "apcorr")
    if size is not None and not 0 < size < 1000:
        raise ParameterError(f"size is {size}, expected a number of pixels from 0 to 1000")
    return map_slits(lambda spectrum: _correct(spectrum, apcorr, size), spectra)


def _correct(spectrum: xr.Dataset, apcorr: xr.Dataset, size: float | None) -> xr.Dataset:
    missing = [name for name in ("flux", "npixels", "wavelength") if name not in spectrum.variables]
    if missing:
        raise ModelError(f"a spectrum lacks {', '.join(missing)}; extract it with nsxr.extract_box")
    if not is_point(spectrum.attrs):
        kind = spectrum.attrs.get("SRCTYPE", "missing")
        return record_skip(spectrum, _STEP, f"the source is not a point (SRCTYPE {kind})")
    try:
        row, _ = row_of(spectrum, apcorr)
    except NotInTable as error:
        return record_skip(spectrum, _STEP, str(error))
    names = [str(name) for name in spectrum.data_vars if _CORRECTED.fullmatch(str(name))]
    dims = tuple(map(str, spectrum["flux"].dims))
    height = "aperture_size" if "aperture_size" in spectrum else "npixels"
    outputs: dict[str, Output] = dict.fromkeys(("aperture_correction", *names), (dims, np.float64))
    table = _table_of(row)
    given = (spectrum[name] for name in names)
    powers = tuple(2 if "_var_" in name else 1 for name in names)
    if size is None and {"weight", "profile", height} <= set(spectrum.variables):
        correction = _of_weights(spectrum, height, table, _slit_of(spectrum))
        found = map_blocks(_scaled, correction, *given, core=(), outputs=outputs, powers=powers)
    else:
        arrays = (spectrum[height], spectrum["wavelength"], *given)
        found = map_blocks(_multiplied, *arrays, core=(), outputs=outputs, powers=powers, table=table, size=size)
    parameters = {} if size is None else {"size": size}
    return record(spectrum, _STEP, [apcorr], parameters, None, (), None, **found)


def _table_of(row: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return wavelengths, and sizes and corrections (size, wavelength), of one entry without its padding."""
    wavelength, size, correction = (row[name].to_numpy() for name in ("wavelength", "size", "correction"))
    nodes, steps = np.isfinite(wavelength), np.isfinite(size).any(axis=1)
    return wavelength[nodes], size[steps][:, nodes], correction[steps][:, nodes]


@dataclass(frozen=True)
class _Slit:
    """The open parts of a slit, the planned place of the source in it, and its places in nods that were subtracted.

    All in open heights. A nod is None if it does not show the source.
    """

    openings: tuple[tuple[float, float], ...]
    place: float
    nods: tuple[float | None, ...]


def _slit_of(spectrum: xr.Dataset) -> _Slit | None:
    """Return the slit of a source; None if it is not known where the source and the pixels are along it."""
    header = SlitHeader.of(spectrum)
    if "slit_y" not in spectrum or not header.places:
        return None
    centres = [0.0]
    if fixed_slit(spectrum.attrs) is None:
        states, source = shutter_states(spectrum.attrs)
        pitch = float(read(spectrum.attrs, "SLTYSCL", default=1.0, matters=False))
        centres = [(number - source) * pitch for number, state in enumerate(states) if state == "1"]
        if not centres:  # all shutters are closed
            return None
    shifts = header.nods or () if "subtracted" in spectrum else ()
    nods = tuple(None if shift is None else header.places[0] + shift for shift in shifts)
    return _Slit(tuple((centre - 0.5, centre + 0.5) for centre in centres), header.places[0], nods)


def _of_weights(spectrum: xr.Dataset, height: str, table: tuple[np.ndarray, ...], slit: _Slit | None) -> xr.DataArray:
    """Return the correction (dispersion,) for spectra that are weighted sums of known weights."""
    heights = spectrum[height]
    if "integration" in heights.dims:  # the aperture is the same for all
        heights = heights.isel(integration=0, drop=True)
    core = tuple(map(str, spectrum["weight"].dims))
    arrays = [spectrum["weight"], spectrum["profile"], heights, spectrum["wavelength"]]
    arrays += [spectrum["slit_y"]] if slit is not None else []
    arrays += [spectrum["subtracted"]] if slit is not None and slit.nods else []
    found = map_blocks(
        _corrected_for_weights,
        *(unlabelled(one_chunk(array, *(dim for dim in core if dim in array.dims))) for array in arrays),
        core=core,
        outputs={"correction": (core[1:], np.float64)},
        table=table,
        slit=slit,
    )
    return found["correction"]


def _corrected_for_weights(
    weight: np.ndarray,
    profile: np.ndarray,
    height: np.ndarray,
    wavelength: np.ndarray,
    *places: np.ndarray,
    table: tuple[np.ndarray, ...],
    slit: _Slit | None,
) -> np.ndarray:
    """Return the flux of a point over that in its aperture, less the light that a local background took away there.

    The level of the background is fitted to pixels that have light of the wings, more than the profile says. The table
    tells how much light is in each pixel beyond the aperture. Weights are zero there if no background was fitted.
    """
    correction = _interpolated(wavelength, height, *table)
    weight, profile = weight.astype(np.float64), np.nan_to_num(profile.astype(np.float64))
    core = np.maximum(profile, 0.0) ** 2
    row = np.arange(weight.shape[0])[:, None]
    with np.errstate(all="ignore"):
        distance = np.abs(row - (row * core).sum(0) / core.sum(0))
        enclosed = 1 / correction
        if slit is None:
            light = _light_of_table(distance, wavelength, table)
        else:
            light, relative = _light_of_slit(distance, height, wavelength, places, table, slit)
            enclosed = enclosed * relative
        beyond = np.where(distance > 0.5 * height + 0.5, weight, 0.0)
        level = np.nansum(beyond * (light - profile * enclosed), axis=0) / beyond.sum(0)
        seen = enclosed - height * level
    has_level = beyond.sum(0) < -_SOME * (weight * profile).sum(0)
    is_known = has_level & np.isfinite(seen) & (np.abs(seen * correction - 1) < _MOST)
    seen = np.where(is_known, seen, np.where(np.isfinite(enclosed) & (enclosed > 0), enclosed, 1 / correction))
    return np.asarray(1 / seen)


def _light_of_table(distance: np.ndarray, wavelength: np.ndarray, table: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the light of a point in each pixel: the difference of what two apertures enclose that end at its edges."""
    ends = (np.maximum(2 * distance + side, 1e-3) for side in (1.0, -1.0))
    outer, inner = (1 / _interpolated(np.broadcast_to(wavelength, distance.shape), end, *table) for end in ends)
    return np.asarray(0.5 * (outer - inner))


def _light_of_slit(
    distance: np.ndarray,
    height: np.ndarray,
    wavelength: np.ndarray,
    places: tuple[np.ndarray, ...],
    table: tuple[np.ndarray, ...],
    slit: _Slit,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the light in each pixel, and the light in the aperture relative to that of a point in the middle.

    Light of the source in nods that were subtracted is negative.
    """
    slit_y = places[0].astype(np.float64)
    nodes, sizes, corrections = _at_nodes(*table)
    pixel = float(np.nanmedian(np.abs(np.diff(slit_y, axis=0))))
    points = point_light(nodes, sizes, 1 / corrections, slit.openings, pixel)
    node = np.interp(np.nan_to_num(wavelength, nan=nodes[0]), nodes, np.arange(nodes.size))
    light = points.in_pixels(node, slit_y, slit.place, slit.place)
    is_in = [(places[1].astype(np.int64) >> number) & 1 for number in range(len(slit.nods))]
    count = np.maximum(sum(is_in), 1)
    for one, nod in zip(is_in, slit.nods, strict=True):
        if nod is not None:
            light = light - one / count * points.in_pixels(node, slit_y, nod, slit.place)
    within = np.clip(0.5 * height + 0.5 - distance, 0.0, 1.0)
    central = points.enclosed(float(np.nanmedian(height)))
    return light, (within * light).sum(0) / np.interp(node, np.arange(nodes.size), central)


def _at_nodes(
    nodes: np.ndarray, sizes: np.ndarray, corrections: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a table at a few wavelengths."""
    place = np.linspace(0, nodes.size - 1, min(_NODES, nodes.size))
    left = np.minimum(place.astype(np.int64), nodes.size - 2)
    part = place - left
    at, size, correction = (
        values[..., left] * (1 - part) + values[..., left + 1] * part for values in (nodes, sizes, corrections)
    )
    return at, size, correction


def _multiplied(
    height: np.ndarray,
    wavelength: np.ndarray,
    *values: np.ndarray,
    powers: tuple[int, ...],
    table: tuple[np.ndarray, ...],
    size: float | None,
) -> tuple[np.ndarray, ...]:
    height = height if size is None else np.full(height.shape, size)
    return _scaled(_interpolated(np.broadcast_to(wavelength, height.shape), height, *table), *values, powers=powers)


def _scaled(correction: np.ndarray, *values: np.ndarray, powers: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Return the correction for all values, and values times its powers."""
    scaled = (one * correction**power for one, power in zip(values, powers, strict=True))
    return np.broadcast_to(correction, values[0].shape).copy(), *scaled


def _interpolated(
    wavelength: np.ndarray, height: np.ndarray, nodes: np.ndarray, sizes: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Interpolate linearly in wavelength, then in size. Beyond the table, the value at the edge is used.

    Places without a wavelength have 1.
    """
    lam = np.clip(np.nan_to_num(wavelength.astype(np.float64), nan=nodes[0]), nodes[0], nodes[-1])
    right = np.clip(np.searchsorted(nodes, lam), 1, nodes.size - 1)
    part = (lam - nodes[right - 1]) / (nodes[right] - nodes[right - 1])
    size, value = (t[:, right - 1] * (1 - part) + t[:, right] * part for t in (sizes, values))
    result = np.where(height <= size[0], value[0], value[-1])
    for k in range(len(size) - 1):
        inside = (height > size[k]) & (height <= size[k + 1])
        share = (height - size[k]) / (size[k + 1] - size[k])
        result = np.where(inside, value[k] * (1 - share) + value[k + 1] * share, result)
    return np.where(np.isfinite(wavelength) & np.isfinite(height), result, 1.0)
