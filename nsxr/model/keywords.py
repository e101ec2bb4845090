"""Read the header keywords that nsxr uses. One table gives the type, range, default and meaning of each.

Use :func:`read` for a keyword that may be missing, and :func:`require` for one that must be there. A keyword is checked
only when its value is needed. A bad value does not stop steps that do not use it.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
from astropy.io import fits

from nsxr.errors import InputFileError
from nsxr.model.types import Attributes, Entries, Named

__all__ = [
    "KEYWORDS",
    "Keyword",
    "about",
    "parse",
    "parse_date",
    "read",
    "require",
    "start_of",
    "tidy",
    "value_of",
    "whole_number",
]

logger = logging.getLogger(__name__)

_NOTHING = ("", "N/A", "NA", "NONE", "NULL", "UNKNOWN", "UNDEFINED")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([EeDd][+-]?[0-9]+)?")
_DATES: tuple[str, ...] = ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d")
_DATES += ("%b %d %Y", "%B %d %Y", "%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%Y-%b-%d", "%Y-%j")
_TIMES = ("%H:%M:%S.%f", "%H:%M:%S", "%H:%M", "%H%M%S")
_CLOCK = re.compile(r"(?:(?<=[0-9])T|\s+)([0-9]{1,2}(?::[0-9]{2}){1,2}(?:\.[0-9]*)?|[0-9]{6})$")


@dataclass(frozen=True)
class Keyword:
    """What a keyword may hold.

    Attributes
    ----------
    kind : {"whole", "number", "word", "date"}
        Whole numbers and numbers may also be written as text.
    meaning : str
        For messages.
    least, most : float
        Range of a number, ends included.
    default : object
        Value to use if the keyword is missing or empty. None if there is no default.
    choices : tuple
        All allowed values.
    """

    kind: Literal["whole", "number", "word", "date"]
    meaning: str
    least: float = -np.inf
    most: float = np.inf
    default: object = None
    choices: tuple[Any, ...] = ()

    @property
    def expected(self) -> str:
        """Description of the allowed values, in words."""
        if self.choices:
            return " or ".join(repr(choice) for choice in self.choices)
        if self.kind == "date":
            return "a date such as 2022-01-01T00:00:00"
        name = {"whole": "a whole number", "number": "a number", "word": "a word"}[self.kind]
        if np.isfinite(self.least) and np.isfinite(self.most):
            return f"{name} from {self.least:.10g} to {self.most:.10g}"
        return name


def _word(meaning: str, *choices: str, default: str | None = None) -> Keyword:
    return Keyword("word", meaning, choices=choices, default=default)


def _whole(meaning: str, least: int, most: int, default: int | None = None) -> Keyword:
    return Keyword("whole", meaning, least, most, default)


def _number(meaning: str, least: float, most: float, default: float | None = None) -> Keyword:
    return Keyword("number", meaning, least, most, default)


_TINY = 1e-6
_ANY_ID = 2**31 - 1

KEYWORDS: Mapping[str, Keyword] = {
    # readout
    "DETECTOR": _word("the detector", "NRS1", "NRS2"),
    "READPATT": _word("the readout pattern"),
    "SUBARRAY": _word("the subarray"),
    "SUBSTRT1": _whole("first column of the subarray", 1, 2048),
    "SUBSTRT2": _whole("first row of the subarray", 1, 2048),
    "SUBSIZE1": _whole("columns of the subarray", 1, 2048),
    "SUBSIZE2": _whole("rows of the subarray", 1, 2048),
    "NINTS": _whole("integrations of the exposure", 1, 1_000_000),
    "NGROUPS": _whole("groups of an integration", 1, 65535),
    "NFRAMES": _whole("frames averaged to a group", 1, 1000),
    "GROUPGAP": _whole("frames dropped between groups", 0, 10_000),
    "FRMDIVSR": _whole("divisor of the sum of the frames of a group", 1, 65536),
    "DRPFRMS1": _whole("frames dropped before the first group", 0, 10_000, default=0),
    "DRPFRMS3": _whole("frames dropped between integrations", 0, 10_000),
    "TFRAME": _number("time of a frame in s", _TINY, 1e4),
    "TGROUP": _number("time from group to group in s", _TINY, 1e6),
    "NOUTPUTS": Keyword("whole", "outputs of the detector", choices=(1, 4, 5)),
    "SSTR_NST": _whole("stripes of a superstripe readout", 0, 10_000, default=0),
    # parts of an exposure
    "INTSTART": _whole("first integration in the file", 1, 1_000_000, default=1),
    "INTEND": _whole("last integration in the file", 1, 1_000_000),
    "EXSEGNUM": _whole("number of the segment", 1, 10_000, default=1),
    "EXSEGTOT": _whole("segments of the exposure", 1, 10_000, default=1),
    "PATT_NUM": _whole("position in the dither pattern", 1, 100_000, default=1),
    "SUBPXPTS": _whole("dithers below a pixel at each position", 1, 10_000, default=1),
    # times
    "EXPSTART": _number("start of the exposure, MJD in d", 0, 1e6),
    "EXPMID": _number("middle of the exposure, MJD in d", 0, 1e6),
    "EXPEND": _number("end of the exposure, MJD in d", 0, 1e6),
    "EFFEXPTM": _number("exposure time in s", 0, 1e9, default=0.0),
    "DATE-OBS": Keyword("date", "the date of the exposure"),
    "USEAFTER": Keyword("date", "the first date on which the reference may be used"),
    # references
    "GAINFACT": _number("gain of the readout over that of full frames", 0.1, 10),
    "AVDRKCUR": _number("mean dark current in electron/s", 0, 1e5),
    # optics
    "GWA_XTIL": _number("reading of the sensor of the grating wheel about x", -10, 10),
    "GWA_YTIL": _number("reading of the sensor of the grating wheel about y", -10, 10),
    "GWA_TILT": _number("temperature of the grating wheel in K", 1, 400),
    "VELOSYS": _number("velocity relative to the barycentre in m/s", -1e6, 1e6),
    "VA_SCALE": _number("scale factor of the velocity aberration", 0.99, 1.01),
    "V2_REF": _number("V2 of the reference point in arcsec", -3600, 3600),
    "V3_REF": _number("V3 of the reference point in arcsec", -3600, 3600),
    "RA_REF": _number("right ascension of the reference point in degrees", -360, 360),
    "DEC_REF": _number("declination of the reference point in degrees", -90, 90),
    "ROLL_REF": _number("position angle of V3 at the reference point in degrees", -360, 360),
    "V3I_YANG": _number("angle from V3 to the ideal y axis in degrees", -360, 360),
    "VPARITY": Keyword("whole", "parity of the ideal frame", choices=(-1, 1)),
    "XOFFSET": _number("dither offset along the ideal x axis in arcsec", -1e5, 1e5),
    "YOFFSET": _number("dither offset along the ideal y axis in arcsec", -1e5, 1e5),
    "MSAMETID": _whole("configuration in the MSA metafile", -_ANY_ID, _ANY_ID),
    # slits and their spectra
    "SLITID": _whole("number of the slit", -_ANY_ID, _ANY_ID),
    "SOURCEID": _whole("number of the source", -_ANY_ID, _ANY_ID),
    "SRCXPOS": _number("place of the source across the slit, in slit widths", -1e3, 1e3),
    "SRCYPOS": _number("place of the source along the slit, in slit heights", -1e3, 1e3),
    "SRCRA": _number("right ascension of the source in degrees", -360, 360),
    "SRCDEC": _number("declination of the source in degrees", -90, 90),
    "STLARITY": _number("stellarity of the source", -1e6, 1e6),
    "PIXAR_SR": _number("area of a pixel in sr", 1e-20, 1.0),
    "SLTYSCL": _number("pitch of shutters along the slit, in open heights", 1, 2, default=1.15),
    "SLTSTRT1": _whole("first column of the slit in the subarray", -4096, 4096),
    "SLTSTRT2": _whole("first row of the slit in the subarray", -4096, 4096),
    "SHUTTRID": _whole("number of the central shutter in its quadrant, from 1", 0, 100_000, default=0),
    "MSAQUAD": _whole("quadrant of the MSA, 5 for fixed slits", 1, 5, default=5),
    "WAVSTART": _number("first wavelength of the slit in m", 0, 1e-4, default=0.6e-6),
    "WAVEND": _number("last wavelength of the slit in m", 0, 1e-4, default=5.3e-6),
    "SPORDER": _whole("spectral order", -100, 100, default=1),
    "EXTVER": _whole("number among extensions of the same name", 1, _ANY_ID, default=1),
    "EXTRXSTR": _whole("first column of the spectrum", -100_000, 100_000),
    "EXTRXSTP": _whole("last column of the spectrum", -100_000, 100_000),
    "EXTRYSTR": _number("first row of the extraction", -1e5, 1e5),
    "EXTRYSTP": _number("last row of the extraction", -1e5, 1e5),
    "POSPLAN": _number("planned row of the source", -1e5, 1e5),
    "POSFIT": _number("fitted row of the source", -1e5, 1e5),
    "POSERR": _number("uncertainty of the fitted row", 0, 1e6),
    "INT_NUM": _whole("number of the integration", 1, 1_000_000),
    "MJD-BEG": _number("start of the integration, MJD in d", 0, 1e6),
    "MJD-AVG": _number("middle of the integration, MJD in d", 0, 1e6),
    "MJD-END": _number("end of the integration, MJD in d", 0, 1e6),
    "TDB-BEG": _number("start of the integration, barycentric MJD in d", 0, 1e6),
    "TDB-MID": _number("middle of the integration, barycentric MJD in d", 0, 1e6),
    "TDB-END": _number("end of the integration, barycentric MJD in d", 0, 1e6),
}
"""The keywords, in the order of headers."""


def _says_nothing(value: object) -> bool:
    if value is None or isinstance(value, fits.card.Undefined):
        return True
    return isinstance(value, str) and value.strip().upper() in _NOTHING


def parse(key: str, value: object) -> Any:
    """Return the value of a keyword with the type that the table gives. None if the value is empty.

    Parameters
    ----------
    key : str
        One of :data:`KEYWORDS`.
    value : object
        Value from a header or an attribute: number, text, boolean or None.

    Raises
    ------
    ValueError
        If the value has another type or is out of range. The message says what is expected.
    """
    keyword = KEYWORDS[key]
    value = bool(value) if isinstance(value, np.int8) else value  # T and F in a header are read as int8
    value = value.item() if isinstance(value, np.generic) else value
    if _says_nothing(value):
        return None
    found: Any
    if keyword.kind == "word":
        found = value.strip().upper() if isinstance(value, str) else None
    elif keyword.kind == "date":
        found = parse_date(value) if isinstance(value, str) else None
    else:
        found = _number_of(value, keyword.kind == "whole")
        found = None if found is not None and not keyword.least <= found <= keyword.most else found
    if found is None or (keyword.choices and found not in keyword.choices):
        raise ValueError(f"keyword {key} is {_shown(value)}, expected {keyword.expected} ({keyword.meaning})")
    return found


def _number_of(value: object, is_whole: bool) -> float | int | None:
    """Return a finite number from a number or text. None if the value is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 40 or not _NUMBER.fullmatch(text):
            return None
        value = float(re.sub("[dD]", "e", text))
    if not abs(value) < 1e300:
        return None
    if is_whole:
        return int(value) if value == int(value) else None
    return float(value)


def whole_number(value: object) -> int | None:
    """Return a whole number from a number or text. None if the value is not a whole number."""
    found = _number_of(value.item() if isinstance(value, np.generic) else value, is_whole=True)
    return None if found is None else int(found)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def parse_date(text: str) -> datetime | None:
    """Return date and time in UTC from any common spelling. None if the text is not a date.

    Examples of spellings: ``2022-01-01T00:00:00``, ``2022-01-01 00:00``, ``2022/1/1``, ``Jan 01 2022 00:00:00``,
    ``1 Jan 2022``, ``20220101``. A time zone may be an offset, ``Z`` or ``UTC``.
    """
    rest = re.sub(r"\s+", " ", text.strip().replace(",", " ")).strip()
    try:
        found = datetime.fromisoformat(rest)
    except ValueError:
        found = None
    if found is None:
        rest = re.sub(r"\s*(?:Z|UTC?|GMT)$", "", rest)
        clock = _CLOCK.search(rest)
        day, hour = (rest[: clock.start()], clock[1].rstrip(".")) if clock else (rest, "00:00:00")
        date = next((d for form in _DATES if (d := _strptime(day.strip(), form)) is not None), None)
        time = next((t for form in _TIMES if (t := _strptime(hour, form)) is not None), None)
        if date is None or time is None:
            return None
        found = datetime.combine(date.date(), time.time())
    try:
        return found.astimezone(UTC) if found.tzinfo is not None else found.replace(tzinfo=UTC)
    except OverflowError:
        return None


def _strptime(text: str, form: str) -> datetime | None:
    try:
        return datetime.strptime(text, form)
    except ValueError:
        return None


def start_of(header: Named) -> datetime | None:
    """Return when an exposure started, from DATE-OBS and TIME-OBS. None if these keywords do not tell."""
    day = read(header, "DATE-OBS", matters=False)
    if day is None:
        return None
    clock = parse_date(f"2000-01-01T{str(header.get('TIME-OBS', '')).strip()}")
    is_bare = (day.hour, day.minute, day.second, day.microsecond) == (0, 0, 0, 0)
    since_midnight = timedelta(0) if clock is None else clock - datetime(2000, 1, 1, tzinfo=UTC)
    return day + since_midnight if is_bare and isinstance(day, datetime) else day


def read(header: Named, key: str, *, default: object = None, matters: bool = True, source: str | None = None) -> Any:
    """Return the value of one keyword.

    Parameters
    ----------
    header : mapping
        Keywords of a file, or attributes of a Dataset.
    key : str
        One of :data:`KEYWORDS`.
    default : object, optional
        Value to use if the keyword is missing or empty. The default of the table if not given.
    matters : bool
        Whether the result depends on the value. If not, a value that cannot be used counts as missing.
    source : str, optional
        Name of the file, for the message. The attribute ``filename`` if not given.

    Raises
    ------
    InputFileError
        If the value matters and has another type or is out of range.
    """
    default = KEYWORDS[key].default if default is None else default
    try:
        value = parse(key, header.get(key))
    except ValueError as error:
        if matters:
            raise InputFileError(about(header, str(error), source)) from None
        logger.info("%s; %r is used", about(header, str(error), source), default)
        return default
    return default if value is None else value


def value_of(header: Named, key: str, missing: object = None) -> Any:
    """Return the value of any keyword, for a label: with its type if the table has the keyword, else as text."""
    if key in KEYWORDS:
        return read(header, key, default=missing, matters=False)
    value = header.get(key)
    return missing if value is None else str(value).strip()


def require(header: Named, *keys: str, purpose: str, source: str | None = None) -> Entries:
    """Return the values of keywords that are required for a purpose.

    Parameters
    ----------
    header : mapping
        Keywords of a file, or attributes of a Dataset.
    *keys : str
        From :data:`KEYWORDS`.
    purpose : str
        What the keywords are for, such as ``they describe the readout``.
    source : str, optional
        Name of the file, for the message. The attribute ``filename`` if not given.

    Raises
    ------
    InputFileError
        If keywords are missing, empty, or cannot be used. The message names all of them.
    """
    found: Entries = {}
    missing, problems = [], []
    for key in keys:
        try:
            found[key] = parse(key, header.get(key))
        except ValueError as error:
            problems.append(str(error))
            continue
        if found[key] is None:
            value = header.get(key)
            missing.append(f"{key} ({value!r})" if isinstance(value, str) else key)
    if missing:
        problems.insert(0, f"missing header keywords {', '.join(missing)}; {purpose}")
    if problems:
        raise InputFileError(about(header, "; ".join(problems), source))
    return found


def about(header: Attributes, message: str, source: str | None = None) -> str:
    """Return a message that begins with the name of its file: ``source``, else the attribute ``filename``."""
    name = source or header.get("filename")
    return f"{name}: {message}" if name else message


def tidy(key: str, value: object) -> Any:
    """Convert a number that is written as text, and give a word that has few choices its standard spelling.

    Any other value is returned unchanged.
    """
    if not isinstance(value, str) or key not in KEYWORDS:
        return value
    if KEYWORDS[key].kind == "date" or (KEYWORDS[key].kind == "word" and not KEYWORDS[key].choices):
        return value
    try:
        found = parse(key, value)
    except ValueError:
        return value
    return value if found is None else found
