"""Headers of simulated references of stage 2, as FITS keywords and as the ``meta`` of ASDF and JSON files."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from astropy.io import fits

from nsxr.optics.instrument import Optics

__all__ = ["EXPOSURE_TYPES", "reference_hdu", "reference_meta"]

EXPOSURE_TYPES: Mapping[str, str] = MappingProxyType(
    {"FS": "NRS_FIXEDSLIT", "MOS": "NRS_MSASPEC", "IFU": "NRS_IFU", "BOTS": "NRS_BRIGHTOBJ"}
)
"""EXP_TYPE by mode."""

_MODELS = {
    "fflat": "NirspecFlatModel",
    "sflat": "NirspecFlatModel",
    "dflat": "NirspecFlatModel",
    "pathloss": "PathlossModel",
    "barshadow": "BarshadowModel",
    "cubepar": "NirspecIFUCubeParsModel",
}
_BY_MODE = {
    "photom": ("NrsFsPhotomModel", "NrsMosPhotomModel", "NrsMosPhotomModel"),
    "area": ("NirspecSlitAreaModel", "NirspecMosAreaModel", "NirspecIfuAreaModel"),
    "apcorr": ("NrsFsApcorrModel", "NrsMosApcorrModel", "NrsIfuApcorrModel"),
}
_DATE = "2024-01-01T00:00:00.000"
_USEAFTER = "2022-01-01T00:00:00"
_FULL = ("SUBARRAY", "GENERIC"), ("SUBSTRT1", 1), ("SUBSTRT2", 1), ("SUBSIZE1", 2048), ("SUBSIZE2", 2048)


def _model(kind: str, mode: str) -> str:
    if kind == "fflat" and mode == "MOS":
        return "NirspecQuadFlatModel"
    return _MODELS.get(kind) or _BY_MODE[kind][{"MOS": 1, "IFU": 2}.get(mode, 0)]


def reference_hdu(kind: str, optics: Optics, mode: str, name: str) -> fits.PrimaryHDU:
    """Return the primary HDU of a reference.

    The time series and fixed slits share their references, so both values of EXP_TYPE are in P_EXP_TY.
    """
    exposure = EXPOSURE_TYPES[mode]
    both = "NRS_FIXEDSLIT|NRS_BRIGHTOBJ|" if mode in ("FS", "BOTS") else f"{exposure}|"
    hdu = fits.PrimaryHDU()
    values: list[tuple[str, Any]] = [
        ("DATE", _DATE),
        ("ORIGIN", "nsxr"),
        ("FILENAME", name),
        ("DATAMODL", _model(kind, mode)),
        ("TELESCOP", "JWST"),
        ("REFTYPE", kind.upper()),
        ("PEDIGREE", "DUMMY"),
        ("DESCRIP", f"Simulated {kind}, mode {mode}"),
        ("AUTHOR", "nsxr.simulate"),
        ("USEAFTER", _USEAFTER),
        ("INSTRUME", "NIRSPEC"),
        ("DETECTOR", optics.detector if kind in ("sflat", "dflat", "photom") else "N/A"),
        ("EXP_TYPE", exposure),
        ("P_EXP_TY", both),
    ]
    if kind != "dflat":  # one file serves all filters and gratings
        values += [("FILTER", optics.filter), ("GRATING", optics.grating)]
    if kind in ("sflat", "dflat", "fflat"):
        values += [*_FULL, ("FASTAXIS", 2), ("SLOWAXIS", 1)]
    for keyword, value in values:
        hdu.header[keyword] = value
    hdu.header.add_history("Describes the instrument that nsxr.simulate simulates.")
    return hdu


def reference_meta(kind: str, model: str, optics: Optics, mode: str, **more: Any) -> dict[str, Any]:
    """Return the ``meta`` of a reference that is no FITS file."""
    exposure = EXPOSURE_TYPES[mode]
    both = "NRS_FIXEDSLIT|NRS_BRIGHTOBJ|" if mode in ("FS", "BOTS") else f"{exposure}|"
    return {
        "author": "nsxr",
        "date": _DATE,
        "description": f"Simulated {kind}, mode {mode}",
        "exposure": {"type": exposure, "p_exptype": both},
        "instrument": {
            "name": "NIRSPEC",
            "p_detector": "NRS1|NRS2|",
            "filter": optics.filter,
            "grating": optics.grating,
        },
        "model_type": model,
        "origin": "nsxr",
        "pedigree": "DUMMY",
        "reftype": kind,
        "telescope": "JWST",
        "useafter": _USEAFTER,
        **more,
    }
