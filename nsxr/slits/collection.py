"""What slits and spectra are as labelled data: dims, labels, and going over slits one by one.

A slit is a Dataset cut out around one slit: ``sci`` and its variances (cross_dispersion, dispersion), with
``integration`` in front in series. ``cross_dispersion`` and ``dispersion`` are labelled with zero-based detector rows
and columns. Slits of a few sorts, as fixed slits, are nodes of a DataTree. Hundreds of shutter slitlets are one Dataset
with ``slit`` in front: padded at the ends to common lengths with NaN and flags DO_NOT_USE and NON_SCIENCE, with labels
``row`` (slit, cross_dispersion) and ``column`` (slit, dispersion), and what a slit's header says as coordinates along
``slit``. A spectrum is a Dataset with ``flux`` and the like along ``dispersion``, with the same dims in front.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from astropy.io import fits

from nsxr.compute.blocks import map_blocks, unlabelled
from nsxr.compute.layouts import one_chunk
from nsxr.errors import ModelError
from nsxr.formats.fits_headers import keywords
from nsxr.model.dq import PixelFlag
from nsxr.model.keywords import value_of
from nsxr.model.names import plain_name

__all__ = ["SLIT_COORDINATES", "as_slit", "is_extended", "iterate_slits", "map_slits", "pad_slits", "unpad"]

Slits = TypeVar("Slits", xr.Dataset, xr.DataTree)

SLIT_COORDINATES: Mapping[str, tuple[str, Any]] = {
    "slit_id": ("SLITID", 0),
    "source_id": ("SOURCEID", 0),
    "source_name": ("SRCNAME", ""),
    "source_type": ("SRCTYPE", ""),
    "stellarity": ("STLARITY", np.nan),
    "source_x": ("SRCXPOS", np.nan),
    "source_y": ("SRCYPOS", np.nan),
    "source_ra": ("SRCRA", np.nan),
    "source_dec": ("SRCDEC", np.nan),
    "shutter_state": ("SHUTSTA", ""),
    "pixel_area": ("PIXAR_SR", np.nan),
}
"""Coordinates along ``slit``, their keywords, and what stands for a keyword that is not there."""

ONE_TRACE = (
    *("SUB512", "SUB512S", "SUB1024A", "SUB1024B", "SUB2048"),
    *("SUBS200A1", "SUBS200A2", "SUBS400A1", "SUBS200B1"),
)
"""Subarrays with the spectrum of one slit."""

_LABELS = {"cross_dispersion": ("row", "n_rows"), "dispersion": ("column", "n_columns")}
_PADDING = int(PixelFlag.DO_NOT_USE | PixelFlag.NON_SCIENCE)


def as_slit(rates: xr.Dataset) -> xr.Dataset:
    """Return count rates of a subarray with one spectrum as a slit, as for series.

    Other exposures show many slits, which cannot be cut out of count rates yet.

    Parameters
    ----------
    rates : Dataset
        ``sci`` [DN/s], ``dq``, ``var_poisson``, ``var_rnoise`` (row, column), with or without integration in front.

    Returns
    -------
    Dataset
        The same with ``cross_dispersion`` and ``dispersion`` in place of rows and columns, the source a point if the
        header does not say otherwise.

    Raises
    ------
    ModelError
        If there are no rows and columns, or the exposure shows other than one spectrum.
    """
    if not {"row", "column"} <= set(rates.dims):
        raise ModelError(f"rates have dims {tuple(rates.dims)}, expected row and column")
    kind, subarray = (str(rates.attrs.get(key, "")).strip().upper() for key in ("EXP_TYPE", "SUBARRAY"))
    is_series = kind == "NRS_BRIGHTOBJ"
    if not ((is_series or kind == "NRS_FIXEDSLIT") and (subarray in ONE_TRACE or (is_series and not subarray))):
        raise ModelError(
            f"slits cannot be cut out of count rates yet: EXP_TYPE is {kind!r} and SUBARRAY {subarray!r}, expected "
            f"NRS_BRIGHTOBJ or NRS_FIXEDSLIT in one of {', '.join(ONE_TRACE)}; give cal, calints or s2d"
        )
    slit = rates.drop_vars([name for name in ("amplifier",) if name in rates.coords])
    slit = slit.rename(row="cross_dispersion", column="dispersion")
    name = plain_name(rates.attrs.get("FXD_SLIT", rates.attrs.get("SUBARRAY", "full")), "full")
    slit.attrs = {**rates.attrs, "SLTNAME": name}
    slit.attrs.setdefault("SRCTYPE", "POINT")
    return slit


def is_extended(slit: xr.Dataset) -> bool:
    """Whether a slit, or its spectrum, is said to be of an extended source (SRCTYPE); all others are points."""
    return str(slit.attrs.get("SRCTYPE", "POINT")).strip().upper() == "EXTENDED"


def pad_slits(slits: Mapping[str, xr.Dataset] | Sequence[xr.Dataset]) -> xr.Dataset:
    """Put slits, or their spectra, of different sizes into one Dataset with ``slit`` in front.

    Parameters
    ----------
    slits : mapping of str to Dataset, or sequence of Dataset
        By name, or named by SLTNAME. All have the same variables and units.

    Returns
    -------
    Dataset
        See :mod:`nsxr.slits.collection`. Lazy where a slit is; one task for each slit and variable.

    Raises
    ------
    ModelError
        If there is no slit, or they do not have the same variables.
    """
    named = dict(slits) if isinstance(slits, Mapping) else _by_name(slits)
    if not named:
        raise ModelError("there are no slits")
    each = list(named.values())
    first = each[0]
    differing = sorted({str(name) for slit in each for name in set(slit.data_vars) ^ set(first.data_vars)})
    if differing:
        raise ModelError(f"slits do not all have {', '.join(differing)}")
    lengths = {dim: max(slit.sizes[dim] for slit in each) for dim in _LABELS if dim in first.dims}
    variables = {}
    for name, model in first.data_vars.items():
        arrays = [_padded(slit[name], lengths) for slit in each]
        variables[name] = xr.concat(arrays, "slit").assign_attrs(
            {key: value for key, value in model.attrs.items() if key != "fits_header"}
        )
    result = xr.Dataset(variables)
    coordinates: dict[str, Any] = {"slit": ("slit", np.array(list(named), dtype=object))}
    for dim, (label, count) in _LABELS.items():
        if dim in lengths:
            starts = np.array([int(slit[dim][0]) if dim in slit.coords else 0 for slit in each], dtype=np.int32)
            coordinates[label] = (("slit", dim), starts[:, None] + np.arange(lengths[dim], dtype=np.int32))
            coordinates[count] = ("slit", np.array([slit.sizes[dim] for slit in each], dtype=np.int32))
    for name, (keyword, missing) in SLIT_COORDINATES.items():
        values = [value_of(slit.attrs, keyword, missing) for slit in each]
        coordinates[name] = ("slit", np.array(values, dtype=object if isinstance(missing, str) else None))
    headers = [str(slit.attrs.get("slit_header", "")) for slit in each]
    coordinates["slit_header"] = ("slit", np.array(headers, dtype=object))
    for name, coordinate in first.coords.items():
        if name not in coordinates and name not in lengths:
            if set(coordinate.dims) <= {"integration"}:
                coordinates[str(name)] = coordinate.variable
            else:  # wavelengths of spectra
                arrays = [_padded(slit[name].reset_coords(drop=True), lengths) for slit in each]
                coordinates[str(name)] = xr.concat(arrays, "slit").variable
    result = result.assign_coords(coordinates)
    common = [slit.attrs for slit in each]
    result.attrs = {key: value for key, value in common[0].items() if all(_same(a.get(key), value) for a in common)}
    for key in ("slit_header", "SLTNAME", *(keyword for keyword, _ in SLIT_COORDINATES.values())):
        result.attrs.pop(key, None)
    return result


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other or (one != one and other != other))


def _by_name(slits: Sequence[xr.Dataset]) -> dict[str, xr.Dataset]:
    found: dict[str, xr.Dataset] = {}
    for number, slit in enumerate(slits, start=1):
        name = plain_name(slit.attrs.get("SLTNAME", number), str(number))
        found[name if name not in found else f"{name}-{number}"] = slit
    return found


def _padded(array: xr.DataArray, lengths: Mapping[str, int]) -> xr.DataArray:
    """Return an array without labels, filled up at its ends."""
    array = unlabelled(array)
    short = [str(dim) for dim in array.dims if dim in lengths and array.sizes[dim] < lengths[str(dim)]]
    if not short:
        return array
    whole = [str(dim) for dim in array.dims if dim in lengths]
    array = one_chunk(array, *whole).rename({dim: f"short_{dim}" for dim in whole})
    fill: Any = np.nan if array.dtype.kind == "f" else _PADDING if array.dtype == np.uint32 else 0
    dims = [str(dim).removeprefix("short_") for dim in array.dims]
    widths = [(0, lengths[dim] - array.shape[axis] if dim in lengths else 0) for axis, dim in enumerate(dims)]
    (result,) = map_blocks(
        np.pad,
        array,
        core=tuple(f"short_{dim}" for dim in whole),
        outputs=[(dims, array.dtype.type)],
        sizes={dim: lengths[dim] for dim in whole},
        pad_width=widths,
        constant_values=fill,
    )
    return unlabelled(result)


def unpad(slits: xr.Dataset, name: str | int) -> xr.Dataset:
    """Return one slit of a padded Dataset, by name or position, without padding and with its own labels and header."""
    if isinstance(name, str):
        names = [str(value) for value in slits["slit"].values]
        if name not in names:
            raise ModelError(f"there is no slit {name!r}; found {', '.join(names[:20])}{'...' * (len(names) > 20)}")
        name = names.index(name)
    one = slits.isel(slit=name)
    attrs = dict(slits.attrs)
    if "slit_header" in one.coords and str(one["slit_header"].values):
        attrs["slit_header"] = str(one["slit_header"].values)
        attrs |= keywords(fits.Header.fromstring(attrs["slit_header"], sep="\n"))
    attrs.setdefault("SLTNAME", str(one["slit"].values))
    for coordinate, (keyword, missing) in SLIT_COORDINATES.items():
        if coordinate in one.coords and keyword not in attrs:
            value = one[coordinate].values.item()
            if not _same(value, missing) and value != missing:
                attrs[keyword] = value
    for dim, (label, count) in _LABELS.items():
        if count in one.coords:
            one = one.isel({dim: slice(int(one[count]))})
            one = one.assign_coords({dim: one[label].to_numpy().astype(np.int64)}).drop_vars([label, count])
    gone = {"slit", "slit_header", *SLIT_COORDINATES} & set(one.coords)
    one = one.drop_vars(list(gone))
    one.attrs = attrs
    return one


def iterate_slits(slits: xr.Dataset | xr.DataTree) -> Iterator[tuple[str, xr.Dataset]]:
    """Yield name and Dataset of each slit, or spectrum, in whatever layout.

    Parameters
    ----------
    slits : Dataset or DataTree
        As from :func:`nsxr.open_slits`.
    """
    if isinstance(slits, xr.DataTree):
        for node in slits.subtree:
            if node.has_data:
                yield node.name or str(slits.attrs.get("SLTNAME", "slit")), node.to_dataset()
    elif "slit" in slits.dims:
        for number, name in enumerate(slits["slit"].values):
            yield str(name), unpad(slits, number)
    else:
        yield str(slits.attrs.get("SLTNAME", "slit")), slits


def map_slits(function: Callable[[xr.Dataset], xr.Dataset], slits: Slits) -> Slits:
    """Apply a function of a slit to each, and return the results in the same layout.

    Parameters
    ----------
    function : callable
        From a Dataset to a Dataset.
    slits : Dataset or DataTree
        As from :func:`nsxr.open_slits`.
    """
    if isinstance(slits, xr.DataTree):
        results = {name: function(slit) for name, slit in iterate_slits(slits)}
        tree = xr.DataTree.from_dict(results)
        tree.attrs = dict(slits.attrs)
        return tree
    if "slit" in slits.dims:
        return pad_slits({name: function(slit) for name, slit in iterate_slits(slits)})
    return function(slits)
