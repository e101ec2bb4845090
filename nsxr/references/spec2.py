"""Find and open the references that take count rates to spectra (stage 2): by path, in a folder, or with CRDS."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping

import xarray as xr

from nsxr.errors import ModelError, ParameterError
from nsxr.model.keywords import about, start_of
from nsxr.model.texts import in_capitals
from nsxr.references.aperture_corrections import open_aperture_correction
from nsxr.references.apertures import open_apertures
from nsxr.references.bar_shadow import open_bar_shadow
from nsxr.references.candidates import Wanted, choose, header_of
from nsxr.references.choose import References
from nsxr.references.crds import CRDS, best_references, crds_state, fetch_reference
from nsxr.references.flats import open_flat
from nsxr.references.operability import open_operability
from nsxr.references.path_loss import open_path_loss
from nsxr.references.photometry import open_photometry, open_pixel_area
from nsxr.references.zero_point import open_zero_point

__all__ = ["open_spec2_references", "spec2_types"]

logger = logging.getLogger(__name__)

_FLUX = ("fflat", "sflat", "dflat", "photom", "area")
_SPECTRA = ("wavecorr", "extract1d", "apcorr")
_TYPES: Mapping[str, tuple[str, ...]] = {
    "NRS_FIXEDSLIT": (*_FLUX, "pathloss", *_SPECTRA),
    "NRS_BRIGHTOBJ": (*_FLUX, *_SPECTRA),
    "NRS_MSASPEC": (*_FLUX, "pathloss", "barshadow", "msaoper", *_SPECTRA),
    "NRS_IFU": (*_FLUX, "pathloss", "msaoper"),
}
"""Types of references by EXP_TYPE."""

_OPENERS: Mapping[str, Callable[[str], xr.Dataset]] = {
    "fflat": open_flat,
    "sflat": open_flat,
    "dflat": open_flat,
    "pathloss": open_path_loss,
    "barshadow": open_bar_shadow,
    "photom": open_photometry,
    "area": open_pixel_area,
    "wavecorr": open_zero_point,
    "msaoper": open_operability,
    "extract1d": open_apertures,
    "apcorr": open_aperture_correction,
}
"""What opens a reference, by type."""

_CHECKED: Mapping[str, tuple[str, ...]] = {"dflat": ("DETECTOR",), "msaoper": ()}
"""Keywords that a reference must fit, of types that all modes share. Of other types, it must fit all keywords."""
_SUFFIXES = (".fits", ".fits.gz", ".asdf", ".json")


def spec2_types(exposure: xr.Dataset) -> tuple[str, ...]:
    """Return the types of references that exposures of this mode need in stage 2, after their optics.

    Raises
    ------
    ModelError
        If EXP_TYPE is none of NRS_FIXEDSLIT, NRS_BRIGHTOBJ, NRS_MSASPEC and NRS_IFU.
    """
    kind = in_capitals(exposure.attrs, "EXP_TYPE")
    if kind not in _TYPES:
        raise ModelError(about(exposure.attrs, f"EXP_TYPE is {kind!r}, expected one of {', '.join(_TYPES)}"))
    return _TYPES[kind]


def open_spec2_references(
    source: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    exposure: xr.Dataset,
    overrides: Mapping[str, str | os.PathLike[str]] | None = None,
    types: Iterable[str] | None = None,
) -> References:
    """Choose and open the references that take the count rates of an exposure to spectra.

    The references of the optics are not among them, see :func:`nsxr.open_optics`. Both may be in one folder.

    Parameters
    ----------
    source : path, mapping of str to path, or "crds"
        A folder of FITS, ASDF and JSON files, which are recognized by their headers; or paths by type; or ``"crds"``
        for the best references of the JWST Calibration Reference Data System (CRDS). These are downloaded now if they
        are not in the CRDS cache.
    exposure : Dataset
        Count rates. Only the header is used: EXP_TYPE, DETECTOR, FILTER, GRATING, and the date. Fixed slits in an
        exposure of shutters have the references of ``exposure.assign_attrs(EXP_TYPE="NRS_FIXEDSLIT")``.
    overrides : mapping of str to path, optional
        Paths by type, used instead of the files in ``source``. ``crds://NAME`` is a file of CRDS.
    types : iterable of str, optional
        Types to open. By default those that the mode needs: fflat, sflat, dflat, photom, area; for all but time series
        pathloss; for shutters barshadow; for shutters and slices msaoper; for all but slices wavecorr, extract1d and
        apcorr.

    Returns
    -------
    dict of str to Dataset
        References by type, each with its path in ``encoding["source"]``. A type without a reference is absent, and
        ``why_not`` tells why files of the folder were left out. Of several files that fit, the one is taken whose
        header names most of the keywords of the exposure, then the one with the latest USEAFTER.

    Raises
    ------
    ReferenceFileError
        If a reference given by path does not fit the exposure, or two files in a folder fit equally well; or if a file
        is damaged.
    MissingReferenceError
        If the folder does not exist, or CRDS cannot be reached.
    ModelError
        If the exposure is of another mode.
    ParameterError
        If a type is unknown.

    Warns
    -----
    DegradedResultWarning
        If the date of the exposure is not known, and several references differ by their dates only.

    Examples
    --------
    >>> references = nsxr.open_spec2_references("references", rates)  # doctest: +SKIP
    >>> slits = nsxr.calibrate_flux(slits, references["photom"], references["area"])  # doctest: +SKIP
    """
    needed = spec2_types(exposure)
    given = {**(source if isinstance(source, Mapping) else {}), **(overrides or {})}
    wanted_types = needed if types is None else tuple(types)
    unknown = [kind for kind in wanted_types if kind not in _TYPES["NRS_MSASPEC"]]
    unknown += [kind for kind in overrides or {} if kind not in _TYPES["NRS_MSASPEC"]]
    if unknown:
        raise ParameterError(f"unknown reference types {', '.join(unknown)}; known: {', '.join(_TYPES['NRS_MSASPEC'])}")
    header = header_of(exposure.attrs)
    called = str(exposure.attrs.get("filename", "the exposure"))
    wanted = Wanted(header, called, start_of(exposure.attrs), lambda kind: _CHECKED.get(kind, tuple(header)))
    names = {kind: os.fspath(given[kind]) for kind in wanted_types if given.get(kind) is not None}
    paths = {kind: fetch_reference(name) if name.startswith(CRDS) else name for kind, name in names.items()}
    names = {kind: name for kind, name in names.items() if name.startswith(CRDS)}
    others = [kind for kind in wanted_types if kind not in paths]
    best, state, left_out = dict[str, str](), dict[str, str](), dict[str, list[str]]()
    if not isinstance(source, Mapping) and others and os.fspath(source).lower() == "crds":
        best = best_references(exposure, others)
        paths |= best
        names |= {kind: f"{CRDS}{os.path.basename(path)}" for kind, path in best.items()}
        state = crds_state() if best else state
        others = []
    chosen = choose(paths, tuple(paths), wanted, _SUFFIXES, left_out)
    if not isinstance(source, Mapping) and others:
        chosen |= choose(source, others, wanted, _SUFFIXES, left_out)
    references = References({}, left_out)
    for kind in (kind for kind in wanted_types if kind in chosen):
        path = os.path.abspath(chosen[kind].path)
        references[kind] = _OPENERS[kind](path)
        references[kind].encoding["source"] = path
        if kind in names:
            references[kind].attrs |= {"filename": names[kind]} | (state if kind in best else {})
        logger.info("%s: %s", kind, path)
    return references
