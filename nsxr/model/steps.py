"""List the steps and the reference types of all three stages, with their keywords in products.

Names and keywords are those of the observatory's pipeline. The tables also name steps that nsxr does not have yet. The
function of a step declares its references and parameters, see :mod:`nsxr.model.declarations`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

__all__ = ["REFERENCES", "STATUS", "STEPS", "ReferenceName", "StepName", "When", "serves"]


class StepName(NamedTuple):
    """Keyword with the status of a step, and the comment of that keyword."""

    keyword: str
    comment: str


class _Readout(Protocol):
    """Readout that a condition checks: :class:`nsxr.model.readout.Readout`, or that of a simulation."""

    @property
    def is_irs2(self) -> bool: ...


class When(NamedTuple):
    """A condition on the readout, and its name in words."""

    words: str
    holds: Callable[[_Readout], bool]


class ReferenceName(NamedTuple):
    """Keyword with the file name of a reference, and the comment of that keyword.

    Attributes
    ----------
    keyword : str
        Empty if the observatory has none for this type.
    comment : str
        Comment of the keyword.
    unit : str
        Unit of ``sci`` in the reference. Empty if the reference has no such image, or if the image has several units.
    opened : {"always", "found", "given", ""}
        When :func:`nsxr.open_references` opens a reference of this type. ``always``: for every exposure. ``found``: for
        full frames, if the directory has one. ``given``: if its path is given. Empty: never, because it is of another
        stage, or because nsxr cannot read it yet.
    when : When or None
        Condition on the readout. Only exposures that fulfil it need a reference of this type.
    """

    keyword: str
    comment: str
    unit: str = ""
    opened: str = ""
    when: When | None = None


def _is_irs2(readout: _Readout) -> bool:
    return readout.is_irs2


STEPS: Mapping[str, StepName] = {
    # stage 1, detector1
    "group_scale": StepName("S_GRPSCL", "Group scale correction"),
    "dq_init": StepName("S_DQINIT", "Data quality initialization"),
    "saturation": StepName("S_SATURA", "Saturation checking"),
    "ipc": StepName("S_IPC", "Interpixel capacitance correction"),
    "superbias": StepName("S_SUPERB", "Superbias subtraction"),
    "refpix": StepName("S_REFPIX", "Reference pixel correction"),
    "linearity": StepName("S_LINEAR", "Linearity correction"),
    "dark_current": StepName("S_DARK", "Dark subtraction"),
    "charge_migration": StepName("S_CHGMIG", "Charge migration"),
    "jump": StepName("S_JUMP", "Jump detection"),
    "picture_frame": StepName("S_PCTFRM", "Picture frame correction"),
    "clean_flicker_noise": StepName("S_CLNFNS", "Clean flicker noise"),  # also in stage 2
    "persistence": StepName("S_PERSIS", "Persistence correction"),
    "ramp_fit": StepName("S_RAMP", "Ramp fitting"),
    "gain_scale": StepName("S_GANSCL", "Gain scale correction"),
    # stage 2, spec2
    "assign_wcs": StepName("S_WCS", "Assign world coordinate system"),
    "badpix_selfcal": StepName("S_BPXSLF", "Bad pixel self-calibration"),
    "msa_flagging": StepName("S_MSAFLG", "MSA stuck shutter flagging"),
    "imprint_subtract": StepName("S_IMPRNT", "MSA imprint subtraction"),
    "bkg_subtract": StepName("S_BKDSUB", "Background subtraction"),
    "extract_2d": StepName("S_EXTR2D", "2-D spectral extraction"),
    "srctype": StepName("S_SRCTYP", "Source type determination"),
    "master_background": StepName("S_MSBSUB", "Master background subtraction"),  # stage 3, and stage 2 of MOS
    "master_background_mos": StepName("S_MSBSUB", "Master background subtraction"),
    "wavecorr": StepName("S_WAVCOR", "Wavelength correction"),
    "flat_field": StepName("S_FLAT", "Flat field correction"),
    "pathloss": StepName("S_PTHLOS", "Pathloss correction"),
    "barshadow": StepName("S_BARSHA", "Bar shadow correction"),
    "photom": StepName("S_PHOTOM", "Photometric calibration"),
    # stages 2 and 3
    "assign_mtwcs": StepName("S_MTWCS", "Assign moving target world coordinate system"),
    "outlier_detection": StepName("S_OUTLIR", "Outlier detection"),
    "adaptive_trace_model": StepName("S_TRCMOD", "Adaptive trace model"),
    "pixel_replace": StepName("S_PXREPL", "Pixel replacement"),
    "resample_spec": StepName("S_RESAMP", "Resampling"),
    "cube_build": StepName("S_IFUCUB", "IFU cube creation"),
    "extract_1d": StepName("S_EXTR1D", "1-D spectral extraction"),
    "combine_1d": StepName("S_COMB1D", "1-D spectral combination"),
    "white_light": StepName("S_WHTLIT", "White-light curve"),
}
"""Status keyword of each step, by name, in the order in which the steps run."""

STATUS: Mapping[str, str] = {
    one.keyword: name
    for name, one in STEPS.items()
    if name != "master_background_mos"  # shares the keyword of master_background
}
"""Name of the step, by status keyword."""

REFERENCES: Mapping[str, ReferenceName] = {
    # stage 1
    "mask": ReferenceName("R_MASK", "Mask reference file name", opened="always"),
    "saturation": ReferenceName("R_SATURA", "Saturation reference file name", "DN", "always"),
    "superbias": ReferenceName("R_SUPERB", "Superbias reference file name", "DN", "always"),
    "refpix": ReferenceName(
        "R_REFPIX", "Reference pixels reference file name", opened="always", when=When("IRS2", _is_irs2)
    ),
    "linearity": ReferenceName("R_LINEAR", "Linearity reference file name", opened="always"),
    "dark": ReferenceName("R_DARK", "Dark reference file name", "DN", "always"),
    "gain": ReferenceName("R_GAIN", "Gain reference file name", "electron/DN", "always"),
    "readnoise": ReferenceName("R_READNO", "Read noise reference file name", "DN", "always"),
    "pictureframe": ReferenceName("", "Picture frame reference file name", "1", "found"),
    "sirskernel": ReferenceName("R_SIRSKL", "SIRS refpix reference file name", opened="given"),
    "ipc": ReferenceName("R_IPC", "IPC reference file name"),
    # stages 2 and 3: optics
    "camera": ReferenceName("R_CAMERA", "Camera reference file name"),
    "chromcorr": ReferenceName("R_CHRCOR", "Chromaticity correction reference file name"),
    "collimator": ReferenceName("R_COLLIM", "Collimator reference file name"),
    "disperser": ReferenceName("R_DISPER", "Disperser reference file name"),
    "distortion": ReferenceName("R_DISTOR", "Distortion reference file name"),
    "filteroffset": ReferenceName("R_FILOFF", "Filter offset reference file name"),
    "fore": ReferenceName("R_FORE", "FORE model reference file name"),
    "fpa": ReferenceName("R_FPA", "FPA model reference file name"),
    "ifufore": ReferenceName("R_IFUFOR", "IFU FORE reference file name"),
    "ifupost": ReferenceName("R_IFUPOS", "IFU POST reference file name"),
    "ifuslicer": ReferenceName("R_IFUSLI", "IFU slicer reference file name"),
    "msa": ReferenceName("R_MSA", "MSA model reference file name"),
    "ote": ReferenceName("R_OTE", "OTE model reference file name"),
    "regions": ReferenceName("R_REGION", "Regions reference file name"),
    "specwcs": ReferenceName("R_SPCWCS", "Spectral distortion reference file name"),
    "wavelengthrange": ReferenceName("R_WAVRAN", "Wavelength range reference file name"),
    # stages 2 and 3: flux and geometry
    "apcorr": ReferenceName("R_APCORR", "Aperture correction reference file name"),
    "area": ReferenceName("R_AREA", "Pixel area reference file name"),
    "barshadow": ReferenceName("R_BARSHA", "Bar shadow reference file name"),
    "cubepar": ReferenceName("R_CUBPAR", "IFU cube parameters reference file name"),
    "dflat": ReferenceName("R_DFLAT", "Detector flat reference file name"),
    "extract1d": ReferenceName("R_EXTR1D", "1-D extraction parameters reference file name"),
    "fflat": ReferenceName("R_FFLAT", "Fore-optics flat reference file name"),
    "flat": ReferenceName("R_FLAT", "Flat reference file name"),
    "msaoper": ReferenceName("R_MSAOPE", "MSA operability reference file name"),
    "pathloss": ReferenceName("R_PTHLOS", "Pathloss reference file name"),
    "photom": ReferenceName("R_PHOTOM", "Photometric reference file name"),
    "sflat": ReferenceName("R_SFLAT", "Spectrograph flat reference file name"),
    "wavecorr": ReferenceName("R_WAVCOR", "Wavelength correction reference file name"),
}
"""Keyword of each reference type, by type."""


def serves(kind: str, readout: _Readout) -> bool:
    """Return whether exposures with this readout use references of a type."""
    when = REFERENCES[kind].when
    return when is None or when.holds(readout)
