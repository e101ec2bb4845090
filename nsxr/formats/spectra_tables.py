"""Make the tables that hold spectra: columns, units, keywords and bytes of EXTRACT1D and COMBINE1D."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from astropy.io import fits

from nsxr.model.dq import PixelFlag
from nsxr.model.keywords import read

__all__ = [
    "POSITIONS",
    "SLIT_KEYWORDS",
    "SLIT_TEXTS",
    "TIMES",
    "Column",
    "LateRows",
    "combined_columns",
    "cutout_start",
    "is_of_spectrum",
    "row_type",
    "series_columns",
    "spectrum_columns",
    "spectrum_rows",
    "table_header",
]

SLIT_KEYWORDS: Mapping[str, str] = {
    "SLTNAME": "Name of the slit",
    "SLITID": "Slitlet ID",
    "SHUTTRID": "Shutter (slit) ID",
    "XCEN": "Center of shutter in MSA coordinates (X dir)",
    "YCEN": "Center of shutter in MSA coordinates (Y dir)",
    "SOURCEID": "Source ID",
    "SRCNAME": "Source name",
    "SRCALIAS": "Source alias",
    "STLARITY": "Source stellarity",
    "SRCTYPE": "Source type used for calibration",
    "SRCXPOS": "Source position in slit (x-axis)",
    "SRCYPOS": "Source position in slit (y-axis)",
    "SRCRA": "Right Ascension of the source",
    "SRCDEC": "Declination of the source",
    "SHUTSTA": "All (open and close) shutters in a slit",
    "SLIT_RA": "Right ascension (deg) at middle of slit",
    "SLIT_DEC": "Declination (deg) at middle of slit",
    "MSAQUAD": "MSA quadrant for slit",
    "SLTXSCL": "Scale open to full MSA slit coordinates (X dir)",
    "SLTYSCL": "Scale open to full MSA slit coordinates (Y dir)",
    "SPORDER": "Spectral order number",
    "WAVSTART": "Lower bound of the default wavelength range",
    "WAVEND": "Upper bound of the default wavelength range",
    "DISPAXIS": "Dispersion direction",
    "WAVECOR": "Wavelength corrected (T/F)",
    "PTHLOSS": "Type of pathloss correction applied",
    "BARSHDW": "Barshadow corrected (T/F)",
    "S_REGION": "Spatial footprint of the observation",
    "PA_APER": "[deg] Position angle of aperture used",
    "PHOTMJSR": "Flux density (MJy/steradian) producing 1 cps",
    "PHOTUJA2": "Flux density (uJy/arcsec2) producing 1 cps",
    "PIXAR_SR": "Nominal pixel area in steradians",
    "PIXAR_A2": "Nominal pixel area in arcsec^2",
    "SLTSTRT1": "Starting pixel in axis 1 direction of the slit",
    "SLTSTRT2": "Starting pixel in axis 2 direction of the slit",
    "SLTSIZE1": "Number of pixels in axis 1 direction",
    "SLTSIZE2": "Number of pixels in axis 2 direction",
}
"""Keywords of a slit that belong in the extension of its spectrum, with comments."""

SLIT_TEXTS: Mapping[str, tuple[str, str]] = {
    "source_places": ("SRCPLACE", "[open heights] planned places of sources"),
    "nod_shifts": ("NODSHIFT", "[open heights] shifts of subtracted nods"),
    "background_members": ("BKGMEMB", "exposures that were subtracted"),
}
"""Attributes of a slit that are JSON, with their keywords and comments."""

POSITIONS: Mapping[str, tuple[str, str]] = {
    "position_planned": ("POSPLAN", "[detector row from 0] planned position"),
    "position_fitted": ("POSFIT", "[detector row from 0] fitted position"),
    "position_uncertainty": ("POSERR", "[detector row] its uncertainty"),
}
"""Keyword and comment of each attribute on the position of the source."""

TIMES = ("MJD-BEG", "MJD-AVG", "MJD-END", "TDB-BEG", "TDB-MID", "TDB-END")
"""Columns of x1dints in the order of :data:`nsxr.formats.fits_tables.TIME_COLUMNS`."""

_TABLE = re.compile(
    "XTENSION|EXTNAME|EXTVER|EXTLEVEL|TFIELDS|THEAP|T(TYPE|FORM|UNIT|ZERO|SCAL|NULL|DISP|DIM)[0-9]+|BUNIT|EXTR[XY]ST[RP]"
    "|WCSAXES|C(RPIX|RVAL|TYPE|UNIT|DELT)[0-9]|(PC|CD|PV)[0-9]_[0-9]|POSPLAN|POSFIT|POSERR"
)
_SIGN = np.uint32(0x80000000)
_FORMS = {"D": ">f8", "J": ">i4", "U": ">u4"}
_FILLS: Mapping[str, float] = {"DQ": PixelFlag.DO_NOT_USE, "NPIXELS": 0, "COVERAGE": 0, "COLUMN": -1}


@dataclass(frozen=True)
class Column:
    """A column of a table: name, form, units, and whether it is a vector.

    The form is D (float64), J (int32), U (uint32) or A with a length (text).
    """

    name: str
    form: str = "D"
    unit: str | None = None
    vector: bool = False


def is_of_spectrum(keyword: str) -> bool:
    """Return whether a spectrum may have a keyword: one that describes neither a table nor the pixels of a slit."""
    return _TABLE.fullmatch(keyword) is None


def cutout_start(attrs: Mapping[Any, Any], axis: int) -> int:
    """Return the first detector column (axis 1) or row (axis 2) of a slit. 0 if it is resampled or not known."""
    if attrs.get("S_RESAMP") == "COMPLETE" or f"SLTSTRT{axis}" not in attrs:
        return 0
    return int(read(attrs, f"SLTSTRT{axis}", default=1) + read(attrs, f"SUBSTRT{axis}", default=1)) - 2


def _quantity(name: str, error: str, prefix: str, units: tuple[str, str]) -> list[Column]:
    variances = [Column(f"{prefix}_VAR_{part}", "D", units[1]) for part in ("POISSON", "RNOISE", "FLAT")]
    return [Column(name, "D", units[0]), Column(error, "D", units[0]), *variances]


def spectrum_columns(calibrated: bool, own: Sequence[str]) -> list[Column]:
    """Return the columns of EXTRACT1D in x1d: those of the observatory's pipeline, then those of nsxr.

    Parameters
    ----------
    calibrated : bool
        Whether flux is in Jy, not in DN/s.
    own : sequence of str
        Names of columns of nsxr. They come before COLUMN, the detector column from 0.
    """
    flux = ("Jy", "Jy^2") if calibrated else ("DN/s", "DN^2 / s^2")
    brightness = ("MJy/sr", "MJy^2 / sr^2") if calibrated else flux
    return [
        Column("WAVELENGTH", "D", "um"),
        *_quantity("FLUX", "FLUX_ERROR", "FLUX", flux),
        *_quantity("SURF_BRIGHT", "SB_ERROR", "SB", brightness),
        Column("DQ", "U"),
        *_quantity("BACKGROUND", "BKGD_ERROR", "BKGD", brightness),
        Column("NPIXELS"),
        *map(Column, own),
        Column("COLUMN", "J"),
    ]


def series_columns(calibrated: bool, own: Sequence[str]) -> list[Column]:
    """Return the columns of EXTRACT1D in x1dints: vectors for spectra, and numbers for integrations.

    The observatory's pipeline has no column SOURCE_TYPE. specutils needs it if a row is a spectrum.
    """
    spectrum = [Column(c.name, c.form, c.unit, True) for c in spectrum_columns(calibrated, own)]
    number = len(own) + 1
    return [
        Column("INT_NUM", "J"),
        *spectrum[:-number],
        Column("N_ALONGDISP", "U"),
        Column("SEGMENT", "J"),
        *(Column(name, "D", "d") for name in TIMES),
        *spectrum[-number:],
        Column("SOURCE_TYPE", "A8"),
    ]


def combined_columns(calibrated: bool, has_parts: bool, own: Sequence[str]) -> list[Column]:
    """Return the columns of COMBINE1D: those of the observatory's pipeline, then those of nsxr.

    The columns of nsxr are variances, their shared parts, the covariances of neighbouring wavelengths, and more.

    Parameters
    ----------
    calibrated : bool
        Whether flux is in Jy, not in DN/s.
    has_parts : bool
        Whether variances and their parts are known, and not only ERROR.
    own : sequence of str
        As for :func:`spectrum_columns`.
    """
    found = {column.name: column for column in spectrum_columns(calibrated, ())}
    variances = [c for name, c in found.items() if name.startswith(("FLUX_VAR", "SB_VAR"))]
    flux, brightness = found["FLUX_VAR_FLAT"].unit, found["SB_VAR_FLAT"].unit
    parts = [
        *variances,
        Column("FLUX_VAR_SHARED", "D", flux),
        Column("SB_VAR_SHARED", "D", brightness),
        Column("FLUX_COVARIANCE", "D", flux),
    ]
    return [
        *(found[name] for name in ("WAVELENGTH", "FLUX")),
        Column("ERROR", "D", found["FLUX"].unit),
        *(found[name] for name in ("SURF_BRIGHT", "SB_ERROR", "DQ")),
        Column("WEIGHT"),
        Column("N_INPUT"),
        *(parts if has_parts else []),
        *map(Column, own),
        found["COLUMN"],
    ]


def row_type(columns: Sequence[Column], length: int = 1) -> np.dtype[Any]:
    """Return the type of a stored row. Vectors have ``length`` elements."""
    forms = [f"S{c.form[1:]}" if c.form[0] == "A" else _FORMS[c.form] for c in columns]
    return np.dtype([(c.name, f, (length,)) if c.vector else (c.name, f) for c, f in zip(columns, forms, strict=True)])


def table_header(name: str, version: int, columns: Sequence[Column], rows: int, length: int = 1) -> fits.Header:
    """Return the keywords that FITS requires in the header of a table of spectra."""
    header = _of_columns(tuple(columns), length).copy()
    header["NAXIS2"], header["EXTNAME"], header["EXTVER"] = rows, name, version
    return header


@lru_cache(maxsize=32)
def _of_columns(columns: tuple[Column, ...], length: int) -> fits.Header:
    """Return a header that all tables with the same columns share. To copy it takes a tenth of the time."""
    header = fits.Header(
        [
            ("XTENSION", "BINTABLE", "binary table extension"),
            ("BITPIX", 8, "array data type"),
            ("NAXIS", 2, "number of array dimensions"),
            ("NAXIS1", row_type(columns, length).itemsize, "length of dimension 1"),
            ("NAXIS2", 0, "length of dimension 2"),
            ("PCOUNT", 0, "number of group parameters"),
            ("GCOUNT", 1, "number of groups"),
            ("TFIELDS", len(columns), "number of table fields"),
            ("EXTNAME", "", "extension name"),
            ("EXTVER", 1, "extension value"),
        ]
    )
    for number, column in enumerate(columns, start=1):
        form = f"{column.form[1:]}A" if column.form[0] == "A" else column.form.replace("U", "J")
        header[f"TTYPE{number}"] = column.name
        header[f"TFORM{number}"] = f"{length}{form}" if column.vector else form
        if column.unit is not None:
            header[f"TUNIT{number}"] = column.unit
        if column.form == "U":
            header[f"TZERO{number}"] = 2**31
    header.tostring()  # copies of the cards have their texts
    return header


def _errors(values: Mapping[str, np.ndarray], is_series: bool) -> dict[str, np.ndarray]:
    """Return each error, the square root of the sum of its variances.

    All integrations of a time series share the error of the flat field, so it is left out there.
    """
    found: dict[str, np.ndarray] = {}
    for prefix, names in {"FLUX": ("FLUX_ERROR", "ERROR"), "SB": ("SB_ERROR",), "BKGD": ("BKGD_ERROR",)}.items():
        # if the variance of the flat field is not known, it counts as 0
        variances = [
            np.where(np.isnan(array), 0.0, array) if name.endswith("_FLAT") else array
            for name, array in values.items()
            if name.startswith(f"{prefix}_VAR") and not (is_series and name.endswith("_FLAT"))
        ]
        if variances:
            total = sum(variances[1:], start=variances[0])
            found |= dict.fromkeys(names, np.sqrt(np.where(total >= 0, total, np.nan)))
    return found


def has_place(wavelength: np.ndarray) -> np.ndarray:
    """Return which columns a product holds: those with a wavelength, or all if none has one, as for count rates."""
    finite: np.ndarray = np.isfinite(wavelength)
    return finite if finite.any() else np.ones_like(finite)


def spectrum_rows(*blocks: np.ndarray, names: Sequence[str], columns: Sequence[Column]) -> np.ndarray:
    """Return the bytes of the rows of a table.

    Parameters
    ----------
    *blocks : ndarray
        Values, (dispersion,) or (integration, dispersion), or (integration,) for columns that are not vectors. The
        first block has all dims of the others.
    names : sequence of str
        Name of the column of each block.
    columns : sequence of Column
        All columns of the table. If a column is not given, errors are computed from variances, variances are 0, and
        other columns get their fill value.

    Returns
    -------
    ndarray
        (rows, bytes) uint8. In vectors, the elements that :func:`has_place` selects come first. Their number is
        N_ALONGDISP.
    """
    values = dict(zip(names, blocks, strict=True))
    shape = blocks[0].shape
    is_series = any(column.vector for column in columns)
    values |= _errors(values, is_series)
    rows = np.zeros(shape[0], row_type(columns, shape[-1]))
    finite = has_place(values["WAVELENGTH"]) if is_series else np.ones(shape[-1], bool)
    order = np.argsort(~finite, kind="stable")
    if is_series:
        values["N_ALONGDISP"] = np.asarray(finite.sum(), np.uint32)
    for column in columns:
        name = column.name
        kind = "S" if column.form[0] == "A" else _FORMS[column.form]
        absent = 0 if "_VAR_" in name or column.form[0] in "JU" else _FILLS.get(name, np.nan)
        given = np.asarray(values.get(name, absent)).astype(kind)
        if column.vector:
            given = np.broadcast_to(given, shape)[:, order].copy()
            given[:, finite.sum() :] = _FILLS.get(name, np.nan)
        rows[name] = given ^ _SIGN if column.form == "U" else given
    return rows.view(np.uint8).reshape(shape[0], rows.dtype.itemsize)


@dataclass(frozen=True)
class LateRows:
    """The rows of a spectrum in an existing file. Assignment writes the rows that :func:`has_place` selects.

    These rows may be known only when the spectrum is computed. The space of the other rows becomes the gap before the
    heap, in the words of the FITS standard. WAVELENGTH is the first column.
    """

    path: str
    header: int
    cards: Mapping[str, int]
    offset: int

    def __setitem__(self, index: object, block: object) -> None:
        rows = np.ascontiguousarray(block)
        finite = has_place(rows[:, :8].copy().view(">f8")[:, 0])
        kept = rows[finite]
        gap = (len(rows) - len(kept)) * rows.shape[1]
        changed = {"NAXIS2": (len(kept), "length of dimension 2"), "PCOUNT": (gap, "number of group parameters")}
        descriptor = os.open(self.path, os.O_WRONLY)
        try:
            for keyword, (value, comment) in changed.items():
                card = fits.Card(keyword, value, comment).image.encode("ascii")
                os.pwrite(descriptor, card, self.header + self.cards[keyword])
            if os.pwrite(descriptor, kept.tobytes(), self.offset) != kept.nbytes:
                raise OSError(f"rows of a spectrum could not be written to {self.path}")
        finally:
            os.close(descriptor)
