"""Readout geometry: orientation, amplifiers, IRS2 interleaving, subarrays and times.

Everything here follows from header keywords alone. "Science" orientation is the one in which
products are stored, ``(row, column)``: dispersion runs along columns and amplifiers are bands of
rows. "Detector" orientation is the one in which the detector is read out: the fast direction runs
along detector columns, which are science rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nsxr.errors import InputFileError

__all__ = [
    "AMPLIFIER_ROWS",
    "DETECTOR_SIZE",
    "IRS2_ROWS",
    "Irs2Layout",
    "Readout",
    "from_detector",
    "irs2_layout",
    "to_detector",
]

DETECTOR_SIZE = 2048
"""Pixels along each side of a detector."""

AMPLIFIER_ROWS = 512
"""Detector columns, that is science rows, read by one output in full-frame readout."""

IRS2_ROWS = 3200
"""Rows of a raw IRS2 frame: five outputs of 512 science and 128 interleaved reference rows."""

REFERENCE_BORDER = 4
"""Width in pixels of the frame of reference pixels around each detector."""

_SECTOR = 640  # raw lines of one IRS2 output
_SCIENCE_RUN = 16  # science pixels between reference pixels (keyword NRS_NORM)
_REFERENCE_RUN = 4  # interleaved reference pixels (keyword NRS_REF)


def to_detector(frames: np.ndarray, detector: str) -> np.ndarray:
    """Turn the last two axes from science to detector orientation (a view)."""
    if detector == "NRS2":
        frames = frames[..., ::-1, ::-1]
    return frames.swapaxes(-1, -2)


def from_detector(frames: np.ndarray, detector: str) -> np.ndarray:
    """Turn the last two axes from detector to science orientation (a view)."""
    frames = frames.swapaxes(-1, -2)
    if detector == "NRS2":
        frames = frames[..., ::-1, ::-1]
    return frames


@dataclass(frozen=True)
class Irs2Layout:
    """What each of the 3200 rows of a raw IRS2 frame in science orientation holds.

    Attributes
    ----------
    output : (3200,) int8
        0 for the reference output, 1 to 4 for the amplifiers.
    is_science : (3200,) bool
        True for science pixels of the amplifiers; the reference output has none.
    is_interleaved : (3200,) bool
        True for the interleaved reference pixels, those of the reference output included.
    science_row : (3200,) int16
        Row of the 2048-row detector image, -1 where the raw row is no science row.
    """

    output: np.ndarray
    is_science: np.ndarray
    is_interleaved: np.ndarray
    science_row: np.ndarray

    @cached_property
    def science_rows_raw(self) -> np.ndarray:
        """Raw row of each of the 2048 detector rows, (2048,) int64."""
        raw = np.empty(DETECTOR_SIZE, dtype=np.int64)
        rows = np.flatnonzero(self.is_science)
        raw[self.science_row[rows]] = rows
        return raw


def irs2_layout(detector: str) -> Irs2Layout:
    """Return the row layout of raw IRS2 frames of one detector, in science orientation."""
    in_sector = np.arange(_SECTOR)
    phase = (in_sector + _SCIENCE_RUN // 2) % (_SCIENCE_RUN + _REFERENCE_RUN)
    interleaved = np.tile(phase >= _SCIENCE_RUN, 5)
    output = np.repeat(np.arange(5, dtype=np.int8), _SECTOR)
    science = ~interleaved & (output > 0)
    if detector == "NRS2":
        output, science, interleaved = output[::-1].copy(), science[::-1].copy(), interleaved[::-1].copy()
    row = np.full(IRS2_ROWS, -1, dtype=np.int16)
    row[science] = np.arange(DETECTOR_SIZE)
    return Irs2Layout(output, science, interleaved, row)


@dataclass(frozen=True)
class Readout:
    """How an exposure was read out, from its primary header.

    Times are in seconds. ``rows`` is the number of rows of the stored raw image: 3200 for full-frame
    IRS2, else ``SUBSIZE2``. ``row_start`` and ``column_start`` are zero-based.
    """

    detector: str
    read_pattern: str
    subarray: str
    row_start: int
    column_start: int
    n_rows: int
    n_columns: int
    n_integrations: int
    n_groups: int
    n_frames: int
    group_gap: int
    frame_divisor: int | None
    frame_time: float
    group_time: float
    n_outputs: int

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> "Readout":
        """Read the geometry from header keywords.

        Raises
        ------
        InputFileError
            If a keyword is missing; all missing ones are named at once.
        """
        needed = ["DETECTOR", "READPATT", "SUBARRAY", "SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2"]
        needed += ["NINTS", "NGROUPS", "NFRAMES", "TFRAME", "TGROUP"]
        missing = [key for key in needed if header.get(key) is None]
        if missing:
            raise InputFileError(f"missing header keywords {', '.join(missing)}; they describe the readout")
        detector = str(header["DETECTOR"]).upper()
        if detector not in ("NRS1", "NRS2"):
            raise InputFileError(f"DETECTOR is {header['DETECTOR']!r}, expected 'NRS1' or 'NRS2'")
        divisor = header.get("FRMDIVSR")
        subarray = str(header["SUBARRAY"]).upper()
        outputs = header.get("NOUTPUTS")
        if outputs is None:
            outputs = 4 if subarray == "FULL" else 1
        return cls(
            detector=detector,
            read_pattern=str(header["READPATT"]).upper(),
            subarray=subarray,
            row_start=int(header["SUBSTRT2"]) - 1,
            column_start=int(header["SUBSTRT1"]) - 1,
            n_rows=int(header["SUBSIZE2"]),
            n_columns=int(header["SUBSIZE1"]),
            n_integrations=int(header["NINTS"]),
            n_groups=int(header["NGROUPS"]),
            n_frames=int(header["NFRAMES"]),
            group_gap=int(header.get("GROUPGAP") or 0),
            frame_divisor=None if divisor is None else int(divisor),
            frame_time=float(header["TFRAME"]),
            group_time=float(header["TGROUP"]),
            n_outputs=int(outputs),
        )

    @property
    def first_group_time(self) -> float:
        """Mean exposure of the first group of an integration [s]."""
        return (self.n_frames + 1) * self.frame_time / 2

    @property
    def is_irs2(self) -> bool:
        """Whether raw frames carry interleaved reference pixels."""
        return "IRS2" in self.read_pattern and self.subarray == "FULL"

    @property
    def is_full_frame(self) -> bool:
        """Whether all pixels of the detector are read, through four outputs."""
        return self.n_rows == DETECTOR_SIZE and self.n_columns == DETECTOR_SIZE

    @property
    def raw_rows(self) -> int:
        """Rows of the raw image as stored."""
        return IRS2_ROWS if self.is_irs2 else self.n_rows

    def row_coordinates(self, rows: int) -> dict[str, tuple[str, np.ndarray]]:
        """Return the coordinates along ``row`` for an image of ``rows`` rows.

        ``row`` holds zero-based detector rows (raw line numbers in a raw IRS2 frame, with
        ``science_row`` beside it), ``amplifier`` the output that read the row: 1 to 4, and 0 for
        the IRS2 reference output.
        """
        if rows == IRS2_ROWS:
            layout = irs2_layout(self.detector)
            return {
                "row": ("row", np.arange(IRS2_ROWS)),
                "science_row": ("row", layout.science_row),
                "amplifier": ("row", layout.output),
            }
        row = np.arange(self.row_start, self.row_start + rows)
        return {"row": ("row", row), "amplifier": ("row", self.amplifier_of(row))}

    def amplifier_of(self, row: np.ndarray) -> np.ndarray:
        """Return the output, 1 to 4, that reads each detector row; int8."""
        if self.n_outputs == 1:
            return np.ones(row.size, dtype=np.int8)
        amplifier = row // AMPLIFIER_ROWS + 1
        return (5 - amplifier if self.detector == "NRS2" else amplifier).astype(np.int8)

    def mean_frame(self, group: np.ndarray | int) -> np.ndarray | float:
        """Return the mean number, counted from 1, of the frames averaged into a group."""
        first = np.asarray(group) * (self.n_frames + self.group_gap) + 1
        return first + (self.n_frames - 1) / 2
