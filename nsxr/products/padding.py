"""Store slits of different sizes in the arrays of one Zarr group: pad them for the store, and cut them when reading.

Hundreds of slitlets with ten variables each would be thousands of small arrays. A padded Dataset has ``slit`` as first
dim. Its dims ``cross_dispersion`` and ``dispersion`` are as long as those of the largest slit. Pixels beyond the end of
a slit are NaN, with the flags DO_NOT_USE and NON_SCIENCE. The labels ``row`` (slit, cross_dispersion) and ``column``
(slit, dispersion) and the keywords of a slit are coordinates along ``slit``. So are its history, as in
``attrs["nsxr_steps"]``, and, as JSON text, all other attributes that differ between the slits. In memory, slits are
never padded.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from nsxr.compute.blocks import compute_together, map_blocks, unlabelled
from nsxr.compute.layouts import one_chunk
from nsxr.errors import ModelError
from nsxr.formats.fits_headers import keywords
from nsxr.formats.keywords import step_keywords
from nsxr.model.dims import IMAGE, RESAMPLED, image_dims
from nsxr.model.dq import OUTSIDE
from nsxr.model.history import joint_history, parsed_steps
from nsxr.model.keywords import value_of
from nsxr.model.provenance import gathered
from nsxr.slits.collection import iterate_slits

__all__ = ["SLIT_COORDINATES", "in_order", "is_resampled", "pad_slits", "padded_groups", "unpad", "unpad_slits"]

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
"""Coordinates along ``slit``, their keywords, and the values for missing keywords."""

_TEXTS = ("slit_header", "history", "attributes")
_LABELS = {"cross_dispersion": ("row", "n_rows"), "dispersion": ("column", "n_columns")}


def is_resampled(variables: Any, attrs: Mapping[Any, Any], name: str = "") -> bool:
    """Return whether a slit is resampled, from its weights, the keyword S_RESAMP, or the name of its file.

    Parameters
    ----------
    variables : container of str
        Names of the slit's variables.
    attrs : mapping
        Keywords of the slit.
    name : str
        Name of the file.
    """
    return "weight" in variables or "s2d" in name or str(attrs.get("S_RESAMP", "")).strip() == "COMPLETE"


def padded_groups(slits: xr.DataTree, name: str) -> dict[str, xr.Dataset]:
    """Return the groups of a store by name: one for each kind of slits or spectra, the root alone if there is one kind.

    Those of one kind have the same variables, with the same dims, dtypes and units. The coordinate ``number`` of a
    group gives the places of its slits in the DataTree.

    Parameters
    ----------
    slits : DataTree
        Slits or spectra.
    name : str
        Groups are named ``<name>_1`` and so on.
    """
    kinds: dict[object, dict[str, xr.Dataset]] = {}
    numbers: dict[str, int] = {}
    for key, slit in iterate_slits(slits):
        numbers[key] = len(numbers)
        kinds.setdefault(_kind(slit), {})[key] = slit
    groups = []
    for members in kinds.values():
        places = np.array([numbers[key] for key in members], np.int32)
        groups.append(pad_slits(xr.DataTree.from_dict(members)).assign_coords(number=("slit", places)))
    each = [slit for _, slit in iterate_slits(slits)]
    whole: dict[Any, Any] = {**slits.attrs, **joint_history(each), **gathered([slit.attrs for slit in each])}
    if len(groups) == 1:
        return {"/": groups[0].assign_attrs(whole)}
    nodes: dict[str, xr.Dataset] = {"/": xr.Dataset(attrs=whole)}
    return nodes | {f"{name}_{n}": group for n, group in enumerate(groups, start=1)}


def in_order(padded: xr.Dataset) -> list[tuple[int, str, xr.Dataset]]:
    """Return the place in the file, the name and the Dataset of each slit or spectrum of a padded group."""
    numbers = padded["number"].to_numpy() if "number" in padded.coords else np.arange(padded.sizes["slit"])
    return [(int(n), *one) for n, one in zip(numbers, unpad_slits(padded).items(), strict=True)]


def _kind(slit: xr.Dataset) -> object:
    """Return what slits must have in common to be padded together: variables with dims, dtypes and units."""
    images = {str(n): (a.dims, a.dtype.str, str(a.attrs.get("units"))) for n, a in slit.variables.items()}
    numbers = tuple(slit["integration"].to_numpy()) if "integration" in slit.coords else ()
    return tuple(sorted(images.items())), numbers, slit.sizes.get("integration")


def pad_slits(slits: xr.DataTree) -> xr.Dataset:
    """Put the slits, or spectra, of a DataTree into one padded Dataset, for a store.

    Parameters
    ----------
    slits : DataTree
        Slits as from :func:`nsxr.open_slits`. All slits must have the same variables and units.

    Returns
    -------
    Dataset
        Padded slits, see :mod:`nsxr.products.padding`. Variables of lazy slits are lazy, with one task for each slit
        and variable.

    Raises
    ------
    ModelError
        If there is no slit, or if slits do not have the same variables.
    """
    named = {name: _in_storage(slit) for name, slit in iterate_slits(slits)}
    if not named:
        raise ModelError("there are no slits")
    each = list(named.values())
    first = each[0]
    differing = sorted({str(name) for slit in each for name in set(_images(slit)) ^ set(_images(first))})
    if differing:
        raise ModelError(f"slits do not all have {', '.join(differing)}")
    lengths = {dim: max(slit.sizes[dim] for slit in each) for dim in _LABELS if dim in first.dims}
    variables = {}
    for name, model in _images(first).items():
        attrs = {key: value for key, value in model.attrs.items() if key != "fits_header"}
        variables[name] = _stacked([slit[name] for slit in each], lengths).assign_attrs(attrs)
    coordinates: dict[str, Any] = {"slit": ("slit", np.array(list(named), dtype=object))}
    for dim in lengths:
        label, count = _LABELS[dim]
        starts = np.array([int(slit[dim][0]) if dim in slit.coords else 0 for slit in each], dtype=np.int32)
        coordinates[label] = (("slit", dim), starts[:, None] + np.arange(lengths[dim], dtype=np.int32))
        coordinates[count] = ("slit", np.array([slit.sizes[dim] for slit in each], dtype=np.int32))
    for name, (keyword, missing) in SLIT_COORDINATES.items():
        values = [value_of(slit.attrs, keyword, missing) for slit in each]
        coordinates[name] = ("slit", np.array(values, dtype=object if isinstance(missing, str) else None))
    is_image = "sci" in first
    common = _common([slit.attrs for slit in each])
    texts = {
        "slit_header": [str(slit.attrs.get("slit_header", "")) for slit in each] if is_image else [],
        "history": [] if "nsxr_steps" in common else [str(slit.attrs.get("nsxr_steps", "")) for slit in each],
        "attributes": [_attributes(slit.attrs, common, is_image) for slit in each],
    }
    coordinates |= {name: ("slit", np.array(column, dtype=object)) for name, column in texts.items() if any(column)}
    shared = {name: c.variable for name, c in first.coords.items() if c.dims == ("integration",)}
    result = xr.Dataset(variables).assign_coords(shared | coordinates)
    result = result.set_coords([name for name in variables if name in first.coords])
    result.attrs = {key: value for key, value in common.items() if key not in _OF_SLIT}
    return result


_OF_SLIT = ("slit_header", "SLTNAME", *(keyword for keyword, _ in SLIT_COORDINATES.values()))
"""Attributes that are never shared."""


def _common(each: Sequence[Mapping[Any, Any]]) -> dict[Any, Any]:
    """Return the attributes that all slits share."""
    return {key: value for key, value in each[0].items() if all(_same(a.get(key), value) for a in each)}


def _attributes(attrs: Mapping[Any, Any], common: Mapping[Any, Any], is_image: bool) -> str:
    """Return the attributes of a slit or spectrum that neither the shared ones nor its header tell, as JSON."""
    header = _header_keywords(str(attrs.get("slit_header", "")) if is_image else "")
    texts = ("nsxr_steps", "slit_header") if is_image else ("nsxr_steps",)
    own = {key: value for key, value in attrs.items() if (key in _OF_SLIT or key not in common) and key not in texts}
    own |= {key: attrs[key] for key, value in header.items() if key in attrs and not _same(attrs[key], value)}
    own = {key: value for key, value in own.items() if key not in header or not _same(header[key], value)}
    return json.dumps(own, default=lambda value: value.item() if isinstance(value, np.generic) else str(value))


def _header_keywords(text: str) -> dict[str, Any]:
    return keywords(fits.Header.fromstring(text, sep="\n")) if text else {}


def _stacked(arrays: Sequence[xr.DataArray], lengths: Mapping[str, int]) -> xr.DataArray:
    """Return arrays without labels along ``slit``, padded at the ends of their dims."""
    first = arrays[0]
    if any(array.chunks is not None for array in arrays):
        return xr.concat([_padded(array, lengths) for array in arrays], "slit")
    shape = [lengths.get(str(dim), size) for dim, size in zip(first.dims, first.shape, strict=True)]
    stacked = np.full((len(arrays), *shape), _fill(first.dtype), first.dtype)
    for number, array in enumerate(arrays):
        place = (slice(number, number + 1), *(slice(0, length) for length in array.shape))
        stacked[place] = array.to_numpy()
    return xr.DataArray(stacked, dims=("slit", *first.dims))


def _fill(dtype: np.dtype) -> Any:
    return np.nan if dtype.kind == "f" else int(OUTSIDE) if dtype == np.uint32 else 0


def _images(slit: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the variables of a slit or spectrum, and its coordinates that are numbers of its own.

    Those are numbers for each pixel, such as its place on the sky, the wavelengths of a spectrum, and single numbers.
    """
    own = {str(n): a for n, a in slit.coords.items() if not a.dims or set(_LABELS) <= set(a.dims)}
    places = own | ({"wavelength": slit["wavelength"]} if "wavelength" in slit.coords else {})
    return {str(name): array for name, array in slit.data_vars.items()} | places


def _in_storage(slit: xr.Dataset) -> xr.Dataset:
    """Return a slit or spectrum with the dims that stores have."""
    if "sci" not in slit:
        return slit.rename(row=RESAMPLED[0]) if "row" in slit.dims else slit
    return slit.rename(dict(zip(image_dims(slit), RESAMPLED, strict=True)))


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other or (one != one and other != other))


def _padded(array: xr.DataArray, lengths: Mapping[str, int]) -> xr.DataArray:
    """Return an array without labels, padded at the ends of its dims."""
    array = unlabelled(array)
    short = [str(dim) for dim in array.dims if dim in lengths and array.sizes[dim] < lengths[str(dim)]]
    if not short:
        return array
    whole = [str(dim) for dim in array.dims if dim in lengths]
    array = one_chunk(array, *whole).rename({dim: f"short_{dim}" for dim in whole})
    dims = [str(dim).removeprefix("short_") for dim in array.dims]
    widths = [(0, lengths[dim] - array.shape[axis] if dim in lengths else 0) for axis, dim in enumerate(dims)]
    found = map_blocks(
        np.pad,
        array,
        core=tuple(f"short_{dim}" for dim in whole),
        outputs={"padded": (dims, array.dtype.type)},
        sizes={dim: lengths[dim] for dim in whole},
        pad_width=widths,
        constant_values=_fill(array.dtype),
    )
    return found["padded"].assign_attrs(array.attrs)


def unpad_slits(padded: xr.Dataset) -> dict[str, xr.Dataset]:
    """Return the slits or spectra of a padded Dataset by name, each with its own size, labels and header."""
    padded = _with_labels(padded)
    return {str(name): unpad(padded, number) for number, name in enumerate(padded["slit"].values)}


def _with_labels(padded: xr.Dataset) -> xr.Dataset:
    """Return a Dataset with the labels of its slits in memory. ``Dataset.chunk`` makes them lazy."""
    late = {name: c for name, c in padded.coords.items() if c.dims[:1] == ("slit",) and c.chunks is not None}
    labels = {name: c for name, c in late.items() if name != "wavelength" and not set(_LABELS) <= set(c.dims)}
    return padded.assign_coords(compute_together(labels)[0]) if labels else padded


def unpad(padded: xr.Dataset, number: int) -> xr.Dataset:
    """Return one slit or spectrum of a padded Dataset.

    Parameters
    ----------
    padded : Dataset
        Dataset from :func:`pad_slits`, or from a store.
    number : int
        Position of the slit.
    """
    one = padded.isel(slit=number)
    attrs = dict(padded.attrs)
    texts = {name: str(one[name].values) for name in _TEXTS if name in one.coords}
    if header := texts.get("slit_header"):
        attrs |= _header_keywords(header)
        if "sci" in one:
            attrs["slit_header"] = header
    attrs |= json.loads(texts.get("attributes", "{}"))
    if "history" in texts:
        attrs |= _with_status(texts["history"])
    if "attributes" not in texts:  # stores of older versions
        attrs.setdefault("SLTNAME", str(one["slit"].values))
    for coordinate, (keyword, missing) in SLIT_COORDINATES.items():
        if coordinate in one.coords and keyword not in attrs:
            value = one[coordinate].values.item()
            if not _same(value, missing) and value != missing:
                attrs[keyword] = value
    for dim, (label, count) in _LABELS.items():
        if dim in one.dims and count in one.coords:
            one = one.isel({dim: slice(int(one[count]))})
        if dim in one.dims and label in one.coords:
            one = one.assign_coords({dim: one[label].to_numpy().astype(np.int64)})
    gone = {"slit", "number", *_TEXTS, "row", "column", "n_rows", "n_columns", *SLIT_COORDINATES} & set(one.coords)
    is_spectrum_of_rows = "sci" not in one and "cross_dispersion" in one.dims and "row" in one.coords
    one = one.drop_vars(list(gone))
    one = one.rename(cross_dispersion="row") if is_spectrum_of_rows else one
    one.attrs = {key: value for key, value in attrs.items() if value is not None}
    return on_detector(one)


def _with_status(history: str) -> dict[str, Any]:
    """Return attributes with the history of a slit, and the keywords of its steps and references."""
    found = step_keywords(parsed_steps(history or "[]"))
    return {"nsxr_steps": history or None} | {key: value for key, (value, _) in found.items()}


def on_detector(slit: xr.Dataset) -> xr.Dataset:
    """Return a slit from a store with the dims of slits in memory: rows and columns, unless it is resampled.

    ``wavelength`` is a coordinate in stores, and a variable in memory.

    Stores of older versions have ``cross_dispersion`` and ``dispersion`` for all slits.
    """
    if "sci" not in slit:
        return slit
    slit = slit.reset_coords("wavelength") if "wavelength" in slit.coords else slit
    if image_dims(slit) == IMAGE or is_resampled(slit, slit.attrs):
        return slit
    return slit.rename(dict(zip(RESAMPLED, IMAGE, strict=True)))
