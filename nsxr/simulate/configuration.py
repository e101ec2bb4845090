"""The configuration of a simulated exposure: detector, readout, subarray, times."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from nsxr.errors import ParameterError
from nsxr.model.readout import AMPLIFIER_ROWS, DETECTOR_SIZE, IRS2_ROWS, REFERENCE_BORDER, irs2_layout
from nsxr.model.time_order import TimeOrder, time_order
from nsxr.simulate.pointing import DITHERS, Pointing, pointed

__all__ = ["GRATINGS", "READOUTS", "SCENES", "SUBARRAYS", "Configuration", "check_seed", "configure"]

READOUTS: Mapping[str, tuple[int, int]] = {
    "NRSRAPID": (1, 1),
    "NRS": (4, 4),
    "NRSIRS2RAPID": (1, 1),
    "NRSIRS2": (5, 8),
}
"""NFRAMES and FRMDIVSR of each readout pattern."""

SCENES: Mapping[str, str] = {
    "MOS": "NRS_MSASPEC",
    "FS": "NRS_FIXEDSLIT",
    "IFU": "NRS_IFU",
    "BOTS": "NRS_BRIGHTOBJ",
    "dark": "NRS_DARK",
    "flat": "NRS_LAMP",
}
"""EXP_TYPE of each scene."""


@dataclass(frozen=True)
class Subarray:
    """Size of a subarray, and its one-based start pixels in science orientation.

    ``row_start`` maps a grating to the start rows in NRS1 and NRS2. The key ``""`` is for all other gratings.
    """

    rows: int
    columns: int
    frame_time: float
    column_start: tuple[int, int]
    row_start: Mapping[str, tuple[int, int]]
    grating: str


_BRIGHT = {
    "": (963, 963),
    "G235H": (967, 967),
    "G395M": (946, 946),
    "PRISM": (957, 959),
    "MIRROR": (975, 1043),
}
_BRIGHT_INNER = {grating: (first + 8, second + 8) for grating, (first, second) in _BRIGHT.items()}

SUBARRAYS: Mapping[str, Subarray] = {
    "FULL": Subarray(2048, 2048, 10.73676, (1, 1), {"": (1, 1)}, ""),
    "ALLSLITS": Subarray(256, 2048, 5.49132, (1, 1), {"": (897, 899)}, "G235H"),
    "SUBS200A1": Subarray(64, 2048, 1.55724, (1, 1), {"": (1054, 1056), "G395M": (1041, 1041)}, "G235H"),
    "SUBS200A2": Subarray(64, 2048, 1.55724, (1, 1), {"": (1018, 1020), "G395M": (1005, 1005)}, "G235H"),
    "SUBS400A1": Subarray(64, 2048, 1.55724, (1, 1), {"": (978, 980), "G395M": (965, 965)}, "G235H"),
    "SUBS200B1": Subarray(64, 2048, 1.55724, (1, 1), {"": (918, 918), "G395M": (905, 903)}, "G235H"),
    "SUB2048": Subarray(32, 2048, 0.90156, (1, 1), _BRIGHT, "G395H"),
    "SUB1024A": Subarray(32, 1024, 0.45100, (1, 1025), _BRIGHT, "G395H"),
    "SUB1024B": Subarray(32, 1024, 0.45100, (1025, 1), _BRIGHT, "G395H"),
    "SUB512": Subarray(32, 512, 0.22572, (1025, 513), _BRIGHT, "PRISM"),
    "SUB512S": Subarray(16, 512, 0.14392, (1025, 513), _BRIGHT_INNER, "PRISM"),
    "SUB32": Subarray(32, 32, 0.01496, (1399, 619), {"": (975, 1043)}, "MIRROR"),
}
"""Subarrays of NIRSpec: sizes, starts and corners as in the public subarray table of the project
reference data system. Frame times are (rows + 12)(columns + 1) x 10 us but for the last two."""

FRAME_TIME_IRS2 = 14.58889

_FILTERS = {
    "PRISM": "CLEAR",
    "MIRROR": "F110W",
    "G140M": "F100LP",
    "G140H": "F100LP",
    "G235M": "F170LP",
    "G235H": "F170LP",
    "G395M": "F290LP",
    "G395H": "F290LP",
}
GRATINGS = tuple(name for name in _FILTERS if name != "MIRROR")
"""Gratings and the prism."""

_SLIT = {"SUBS200A1": "S200A1", "SUBS200A2": "S200A2", "SUBS400A1": "S400A1", "SUBS200B1": "S200B1"}
_FULL_GRATINGS = {"MOS": "PRISM", "FS": "G235H", "IFU": "G395H", "BOTS": "G395H", "dark": "MIRROR", "flat": "G235H"}


MOST = 65535
"""Largest number of groups and of integrations (NGROUPS, NINTS) of a NIRSpec exposure."""


@dataclass(frozen=True)
class Configuration:
    """The settings of one exposure.

    Attributes
    ----------
    detector, readout, subarray, scene, grating : str
        Names as in headers; ``scene`` as in :data:`SCENES`.
    groups, integrations : int
        NGROUPS and NINTS.
    row_start : int
        Zero-based first detector row.
    columns : ndarray of int
        Zero-based detector columns that are simulated. A small exposure has only some of them.
    programme, observation, exposure : int
        Numbers in the name of the exposure.
    pointing : Pointing
        Where the telescope points, and the dither position.
    """

    detector: str
    readout: str
    subarray: str
    scene: str
    grating: str
    groups: int
    integrations: int
    row_start: int
    columns: np.ndarray
    programme: int = 1234
    observation: int = 1
    exposure: int = 1
    pointing: Pointing = field(default_factory=Pointing)

    @property
    def fixed_slit(self) -> str:
        """The fixed slit that the target is placed in (FXD_SLIT); ``NONE`` for shutters, slices and darks."""
        if self.scene in ("MOS", "IFU", "dark"):
            return "NONE"
        return _SLIT.get(self.subarray, "S1600A1" if self.scene == "BOTS" else "S200A1")

    @property
    def metafile(self) -> str:
        """Name of the file that lists the shutters (MSAMETFL)."""
        return f"{self.root[:13]}_01_msa.fits"

    @property
    def root(self) -> str:
        """First part of the file names, for visit 1: ``jw01234001001_03101_00001``."""
        return f"jw{self.programme:05d}{self.observation:03d}001_03101_{self.exposure:05d}"

    @property
    def is_irs2(self) -> bool:
        """Whether raw frames have interleaved reference pixels."""
        return "IRS2" in self.readout

    @property
    def n_frames(self) -> int:
        """Number of frames that are averaged into a group."""
        return READOUTS[self.readout][0]

    @property
    def frame_divisor(self) -> int:
        """Number by which the sum of frames is divided on board."""
        return READOUTS[self.readout][1]

    @property
    def frame_time(self) -> float:
        """Time from one frame to the next [s]."""
        return FRAME_TIME_IRS2 if self.is_irs2 else SUBARRAYS[self.subarray].frame_time

    @property
    def group_time(self) -> float:
        """Time from one group to the next [s]."""
        return round(self.frame_time * self.n_frames, 7)

    @property
    def n_outputs(self) -> int:
        """Number of amplifiers that read the detector, without the IRS2 reference output."""
        return 4 if self.subarray == "FULL" else 1

    @property
    def exposure_type(self) -> str:
        """EXP_TYPE."""
        if self.subarray == "SUB32" and self.scene in ("FS", "BOTS"):
            return "NRS_WATA"
        return SCENES[self.scene]

    @property
    def filter(self) -> str:
        """FILTER that belongs to the grating. For darks and flats it is closed (OPAQUE)."""
        return "OPAQUE" if self.scene in ("dark", "flat") else _FILTERS[self.grating]

    @property
    def rows(self) -> np.ndarray:
        """Zero-based detector rows, (row,) int64."""
        return np.arange(self.row_start, self.row_start + SUBARRAYS[self.subarray].rows)

    @property
    def raw_rows(self) -> int:
        """Rows of the raw image."""
        return IRS2_ROWS if self.is_irs2 else self.rows.size

    @cached_property
    def raw_row_of_row(self) -> np.ndarray:
        """Raw row in which each detector row is stored, (row,) int64."""
        return irs2_layout(self.detector).science_rows_raw if self.is_irs2 else np.arange(self.rows.size)

    @cached_property
    def is_border(self) -> np.ndarray:
        """Where the detector has reference pixels instead of light-sensitive pixels, (row, column) bool."""
        last = DETECTOR_SIZE - REFERENCE_BORDER
        rows, columns = ((axis < REFERENCE_BORDER) | (axis >= last) for axis in (self.rows, self.columns))
        return np.asarray(rows[:, None] | columns[None, :])

    @property
    def time_order(self) -> TimeOrder:
        """The time at which each pixel of a raw frame is read."""
        return time_order(self.detector, self.raw_rows, self.columns.size, self.n_outputs)

    @property
    def output_of_row(self) -> np.ndarray:
        """Amplifier, 1 to 4, that reads each detector row, (row,) int64."""
        if self.n_outputs == 1:
            return np.ones(self.rows.size, dtype=np.int64)
        output = self.rows // AMPLIFIER_ROWS + 1
        return output if self.detector == "NRS1" else 5 - output


def configure(
    *,
    readout: str,
    subarray: str,
    groups: int,
    integrations: int,
    detector: str,
    scene: str | None = None,
    columns: int | np.ndarray | None = None,
    programme: int = 1234,
    observation: int = 1,
    exposure: int = 1,
    grating: str | None = None,
    dither: int = 1,
    dithers: int = 1,
) -> Configuration:
    """Check the parameters of an exposure, and fill in what follows from them.

    Parameters
    ----------
    readout, subarray, detector : str
        Names as in :data:`READOUTS`, :data:`SUBARRAYS`, ``"NRS1"`` or ``"NRS2"``.
    scene : str, optional
        As in :data:`SCENES`. The default is the scene that the subarray is made for: MOS, FS or BOTS.
    groups, integrations : int
        1 to :data:`MOST`.
    columns : int or ndarray, optional
        Number of columns from the start of the subarray, or an array of zero-based detector columns.
    programme, observation, exposure : int
        Numbers in the name of the exposure.
    grating : str, optional
        As in :data:`GRATINGS`. The default is a usual one of the subarray, or of the mode for full frames.
    dither, dithers : int
        Number of the dither position, and number of positions.

    Raises
    ------
    ParameterError
        If a value is unknown or does not fit the others. The message names all such values.
    """
    readout, subarray, detector = readout.upper(), subarray.upper(), detector.upper()
    if scene is None:
        scene = "MOS" if subarray == "FULL" else "FS" if subarray.startswith(("ALLSLITS", "SUBS")) else "BOTS"
    problems = [
        f"{name} is {value!r}, expected one of {', '.join(known)}"
        for name, value, known in (
            ("readout", readout, READOUTS),
            ("subarray", subarray, SUBARRAYS),
            ("detector", detector, ("NRS1", "NRS2")),
            ("mode", scene, SCENES),
            ("grating", grating.upper() if grating else "PRISM", GRATINGS),
        )
        if value not in known
    ]
    problems += [
        f"{name} is {n}, expected 1 to {MOST}"
        for name, n in (("groups", groups), ("integrations", integrations))
        if not 1 <= n <= MOST
    ]
    problems += [
        f"{name} is {n}, expected 1 to {most}"
        for name, n, most in (
            ("programme", programme, 99999),
            ("observation", observation, 999),
            ("exposure", exposure, 99999),
        )
        if not 1 <= n <= most
    ]
    if "IRS2" in readout and subarray != "FULL":
        problems.append(f"readout {readout} exists for FULL only, not for {subarray}; use NRSRAPID or NRS")
    if scene in ("MOS", "IFU") and subarray != "FULL":
        problems.append(f"mode {scene} needs subarray FULL, not {subarray}; use FS or BOTS")
    most_dithers = len(DITHERS.get(scene, ((),)))
    if not 1 <= dither <= dithers <= most_dithers:
        problems.append(
            f"dither {dither} of {dithers}, expected a number from 1 up to dithers, and {most_dithers} at most"
        )
    if problems:
        raise ParameterError("; ".join(problems))
    size = SUBARRAYS[subarray]
    second = detector == "NRS2"
    columns = _columns(subarray, second, columns)
    grating = grating.upper() if grating else size.grating or _FULL_GRATINGS[scene]
    row_start = size.row_start.get(grating, size.row_start[""])[second] - 1
    made = Configuration(
        detector,
        readout,
        subarray,
        scene,
        grating,
        groups,
        integrations,
        row_start,
        columns,
        programme,
        observation,
        exposure,
    )
    return replace(made, pointing=pointed(scene, made.fixed_slit, dither, dithers))


def _columns(subarray: str, second: bool, columns: int | np.ndarray | None) -> np.ndarray:
    """Return the zero-based columns that are simulated."""
    size = SUBARRAYS[subarray]
    start = size.column_start[second] - 1
    if columns is None:
        columns = size.columns
    if isinstance(columns, (int, np.integer)):
        if not 1 <= columns <= size.columns:
            raise ParameterError(f"columns is {columns}, expected 1 to {size.columns} for {subarray}")
        columns = np.arange(start, start + int(columns))
    columns = np.asarray(columns, dtype=np.int64)
    if columns.size == 0 or (np.diff(columns) < 1).any() or columns[0] < start or columns[-1] >= start + size.columns:
        raise ParameterError(f"columns must increase and lie in {start} to {start + size.columns - 1} for {subarray}")
    return columns


def check_seed(seed: int) -> None:
    """Raise ParameterError if a seed is not a whole number of 0 or more."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ParameterError(f"seed is {seed!r}, expected a whole number from 0")
