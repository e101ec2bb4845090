"""Read once what the headers of an exposure say about its optics: mode, grating wheel, pointing, shutters."""

from dataclasses import dataclass

from astropy.io import fits

from nsxr.errors import InputFileError
from nsxr.model.keywords import about, read
from nsxr.model.texts import text_of
from nsxr.model.types import Attributes, Entries

__all__ = ["OpticsHeader"]

_LAMPS = ("NRS_LAMP", "NRS_AUTOWAVE", "NRS_AUTOFLAT")
_SPECTRA = ("NRS_FIXEDSLIT", "NRS_BRIGHTOBJ", "NRS_MSASPEC", "NRS_IFU", *_LAMPS)
_FROM_SCI = ("VELOSYS", "VA_SCALE", "V2_REF", "V3_REF", "RA_REF", "DEC_REF", "ROLL_REF", "V3I_YANG", "VPARITY")


@dataclass(frozen=True)
class OpticsHeader:
    """What the primary header and the SCI header say about the optics.

    Texts are stripped and in upper case, except names of files; they are empty if the header does not have them.

    Attributes
    ----------
    filename : str
        Name of the exposure, for messages.
    detector, filter, grating, exposure_type, subarray : str
        DETECTOR, FILTER, GRATING, EXP_TYPE, SUBARRAY.
    operation_mode : str
        What a lamp exposure was made with (OPMODE): FIXEDSLIT, MSASPEC, BRIGHTOBJ, IFU.
    lamp : str
        Lamp of the calibration unit (LAMP): FLAT1, LINE2, REF.
    fixed_slit : str
        The fixed slit that the target was placed in (FXD_SLIT).
    wheel_x, wheel_y : float or None
        Readings of the sensors of the grating wheel (GWA_XTIL, GWA_YTIL).
    wheel_temperature : float or None
        Temperature [K] of the grating wheel. Its keyword is GWA_TILT, in spite of the name.
    velocity : float
        Velocity of the telescope relative to the barycentre [m/s] (VELOSYS), 0 if the header does not have it.
    aberration : float
        Scale factor of the velocity aberration (VA_SCALE), 1 if the header does not have it.
    v2, v3 : float or None
        Reference point of the aperture [arcsec] (V2_REF, V3_REF).
    ra, dec, roll : float or None
        Sky coordinates of the reference point, and position angle of V3 there [degree] (RA_REF, DEC_REF, ROLL_REF).
    ideal_angle, parity : float or None, int or None
        From the ideal frame of the aperture to V2, V3 (V3I_YANG [degree], VPARITY).
    offset_x, offset_y : float
        Dither offsets in the ideal frame [arcsec] (XOFFSET, YOFFSET).
    metafile : str
        Name of the MSA metafile (MSAMETFL).
    metadata_id : int or None
        Configuration in the metafile (MSAMETID).
    dither_point : int or None
        Position in the dither pattern (PATT_NUM).
    program, observation : str
        PROGRAM, OBSERVTN.
    """

    filename: str
    detector: str
    filter: str
    grating: str
    exposure_type: str
    subarray: str
    operation_mode: str
    lamp: str
    fixed_slit: str
    wheel_x: float | None
    wheel_y: float | None
    wheel_temperature: float | None
    velocity: float
    aberration: float
    v2: float | None
    v3: float | None
    ra: float | None
    dec: float | None
    roll: float | None
    ideal_angle: float | None
    parity: int | None
    offset_x: float
    offset_y: float
    metafile: str
    metadata_id: int | None
    dither_point: int | None
    program: str
    observation: str

    @classmethod
    def from_attributes(cls, attrs: Attributes) -> "OpticsHeader":
        """Return the OpticsHeader of the attributes of an exposure.

        Parameters
        ----------
        attrs : mapping
            Attributes of a Dataset from :func:`nsxr.open_exposure`: the keywords of the primary header, and the text of
            the SCI header in ``sci_header``. Keywords of the SCI header may also stand among the others.

        Raises
        ------
        InputFileError
            If a keyword has a value of the wrong kind.
        """
        every = _with_sci(attrs)
        name = _text(every, "filename") or _text(every, "FILENAME")

        def number(key: str) -> float | None:
            found: float | None = read(every, key, source=name or None)
            return found

        return cls(
            filename=name,
            detector=read(every, "DETECTOR", default="", source=name or None),
            filter=_text(every, "FILTER").upper(),
            grating=_text(every, "GRATING").upper(),
            exposure_type=_text(every, "EXP_TYPE").upper(),
            subarray=_text(every, "SUBARRAY").upper(),
            operation_mode=_text(every, "OPMODE").upper(),
            lamp=_text(every, "LAMP").upper(),
            fixed_slit=_text(every, "FXD_SLIT").upper(),
            wheel_x=number("GWA_XTIL"),
            wheel_y=number("GWA_YTIL"),
            wheel_temperature=number("GWA_TILT"),
            velocity=number("VELOSYS") or 0.0,
            aberration=number("VA_SCALE") or 1.0,
            v2=number("V2_REF"),
            v3=number("V3_REF"),
            ra=number("RA_REF"),
            dec=number("DEC_REF"),
            roll=number("ROLL_REF"),
            ideal_angle=number("V3I_YANG"),
            parity=read(every, "VPARITY", source=name or None),
            offset_x=number("XOFFSET") or 0.0,
            offset_y=number("YOFFSET") or 0.0,
            metafile=_text(every, "MSAMETFL"),
            metadata_id=read(every, "MSAMETID", source=name or None),
            dither_point=read(every, "PATT_NUM", default=0, source=name or None) or None,
            program=_text(every, "PROGRAM"),
            observation=_text(every, "OBSERVTN"),
        )

    @property
    def is_lamp(self) -> bool:
        """Whether the light comes from the calibration unit: the path to the sky is closed."""
        return self.exposure_type in _LAMPS or self.filter == "OPAQUE"

    @property
    def is_ifu(self) -> bool:
        """Whether the exposure is one of the IFU."""
        return self.exposure_type == "NRS_IFU" or (self.exposure_type in _LAMPS and self.operation_mode == "IFU")

    def require_spectra(self) -> None:
        """Raise InputFileError if the exposure has no spectra, or its header lacks what their optics need."""
        if self.grating == "MIRROR" or (self.exposure_type and self.exposure_type not in _SPECTRA):
            raise InputFileError(
                f"{self.called}: EXP_TYPE is {self.exposure_type!r} and GRATING {self.grating!r}, which is no exposure "
                f"of spectra; expected a grating or PRISM, and one of {', '.join(_SPECTRA)}"
            )
        needed: dict[str, object] = {
            "DETECTOR": self.detector,
            "FILTER": self.filter,
            "GRATING": self.grating,
            "EXP_TYPE": self.exposure_type,
            "GWA_XTIL": self.wheel_x,
            "GWA_YTIL": self.wheel_y,
        }
        if self.grating == "PRISM":
            needed["GWA_TILT"] = self.wheel_temperature
        if not self.is_lamp:
            needed |= {"V2_REF": self.v2, "V3_REF": self.v3, "RA_REF": self.ra, "DEC_REF": self.dec}
            needed["ROLL_REF"] = self.roll
        missing = [key for key, value in needed.items() if value is None or value == ""]
        if missing:
            raise InputFileError(
                f"{self.called}: keywords {', '.join(missing)} are missing or empty; the optics depend on them"
            )

    @property
    def called(self) -> str:
        """Name of the exposure for messages."""
        return self.filename or "the exposure"


def _with_sci(attrs: Attributes) -> Entries:
    """Return the attributes with those keywords of the SCI header that the optics need."""
    text = attrs.get("sci_header")
    if not isinstance(text, str):
        return dict(attrs)
    try:
        header = fits.Header.fromstring(text, sep="\n")
        found = {key: header[key] for key in _FROM_SCI if key in header}
    except (ValueError, fits.VerifyError) as error:
        raise InputFileError(about(attrs, f"the text of the SCI header cannot be read ({error})", None)) from error
    return {**attrs, **found}


def _text(attrs: Attributes, key: str) -> str:
    text = text_of(attrs, key)
    return "" if text.upper() in ("NONE", "N/A", "NULL", "UNDEFINED") else text
