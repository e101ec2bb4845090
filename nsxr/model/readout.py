"""Describe the readout: orientation, amplifiers, IRS2 interleaving, subarrays and times.

Everything here follows from header keywords alone. Products are stored in "science" orientation, ``(row, column)``:
dispersion runs along columns, and amplifiers are bands of rows. The detector is read out in "detector" orientation: the
fast direction runs along detector columns, which are science rows.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import xarray as xr

from nsxr.errors import InputFileError, ModelError
from nsxr.model.keywords import about, read, require
from nsxr.model.types import Named

__all__ = [
    "AMPLIFIER_ROWS",
    "DETECTOR_SIZE",
    "IRS2_ROWS",
    "Irs2Layout",
    "Readout",
    "from_detector",
    "irs2_layout",
    "mean_frame",
    "require_all_rows",
    "to_detector",
]

DETECTOR_SIZE = 2048
"""Pixels along each side of a detector."""

AMPLIFIER_ROWS = 512
"""Detector columns, that is science rows, that one amplifier reads in a full frame."""

IRS2_ROWS = 3200
"""Rows of a raw IRS2 frame: five outputs of 512 science and 128 interleaved reference rows."""

REFERENCE_BORDER = 4
"""Width in pixels of the frame of reference pixels around each detector."""

_SECTOR = 640  # raw rows of one IRS2 output
_SCIENCE_RUN = 16  # science pixels between reference pixels (keyword NRS_NORM)
_REFERENCE_RUN = 4  # interleaved reference pixels (keyword NRS_REF)
_TIME_TOLERANCE = 0.01  # fraction of TGROUP: real headers agree within 1e-6; one frame more or less differs by more
_PLACE = ("DETECTOR", "READPATT", "SUBARRAY", "SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2")
_RAMPS = ("NINTS", "NGROUPS", "NFRAMES", "TFRAME", "TGROUP")


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


def require_all_rows(exposure: xr.Dataset) -> None:
    """Raise ModelError if a raw IRS2 exposure lacks rows. Corrections that use other rows of the frame call this."""
    if "science_row" in exposure.coords and exposure.sizes["row"] != IRS2_ROWS:
        raise ModelError(
            f"the raw IRS2 exposure has {exposure.sizes['row']} rows, expected all {IRS2_ROWS}: "
            "neighbours and reference pixels are in other rows; cut rows after step 'refpix'"
        )


@dataclass(frozen=True)
class Irs2Layout:
    """Content of each of the 3200 rows of a raw IRS2 frame in science orientation.

    Attributes
    ----------
    output : (3200,) int8
        0 for the reference output, 1 to 4 for the amplifiers.
    is_science : (3200,) bool
        True for science pixels of the amplifiers; the reference output has none.
    is_interleaved : (3200,) bool
        True for the interleaved reference pixels, including those of the reference output.
    science_row : (3200,) int16
        Row of the 2048-row detector image, -1 where the raw row is not a science row.
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
    """Readout of an exposure, from its primary header.

    Times are in seconds. ``rows`` is the number of rows of the stored raw image: 3200 for full-frame
    IRS2, else ``SUBSIZE2``. ``row_start`` and ``column_start`` are zero-based. ``frames_before`` counts the frames
    between the reset and the first group: the dropped frames (DRPFRMS1), and the frames of groups that were left out,
    see :meth:`Readout.of`. ``frame_divisor`` is None if the header does not give it.
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
    frames_before: int = 0

    @classmethod
    def of(cls, exposure: xr.Dataset) -> "Readout":
        """Return the readout of the groups that a Dataset still has.

        A user may keep every second group of an exposure, or leave out the first ones. The header still describes all
        groups. The labels of ``group`` tell which groups are left: they count the groups of the exposure from 1. They
        give the time between groups, the frames between groups, and the frames before the first group.

        Parameters
        ----------
        exposure : Dataset
            Ramps with header keywords in ``attrs`` and labels along ``group`` and ``integration``. A Dataset without
            groups has the readout of its header.

        Raises
        ------
        ModelError
            If the groups are not evenly spaced and in order of time, if their labels do not fit NGROUPS, or if an
            integration is there twice.
        """
        readout = cls.from_header(exposure.attrs, ramps="group" in exposure.dims)
        if "integration" in exposure.indexes:
            numbers = exposure.indexes["integration"].to_numpy()
            if np.unique(numbers).size != numbers.size:
                raise ModelError(f"labels of integration are {_listed(numbers)}, expected each number once")
        if "group" not in exposure.dims:
            return readout
        count = exposure.sizes["group"]
        if "group" not in exposure.indexes:
            if count != readout.n_groups:
                raise ModelError(
                    f"there are {count} groups without labels, but NGROUPS is {readout.n_groups}; "
                    "label the groups that are left, counted from 1"
                )
            return readout
        labels = exposure.indexes["group"].to_numpy()
        first, step = int(labels[0]), int(labels[1] - labels[0]) if count > 1 else 1
        if step < 1 or (np.diff(labels) != step).any():
            raise ModelError(
                f"labels of group are {_listed(labels)}, expected evenly spaced groups in order of time; "
                "their times follow from NFRAMES, GROUPGAP and TGROUP"
            )
        if first < 1 or labels[-1] > readout.n_groups:
            raise ModelError(f"labels of group are {_listed(labels)}, but NGROUPS is {readout.n_groups}")
        if first == step == 1:
            return readout
        frames = readout.n_frames + readout.group_gap
        return replace(
            readout,
            group_gap=step * frames - readout.n_frames,
            group_time=step * readout.group_time,
            frames_before=readout.frames_before + (first - 1) * frames,
        )

    @classmethod
    def from_header(cls, header: Named, *, ramps: bool = True, source: str | None = None) -> "Readout":
        """Return the readout that header keywords describe, see :mod:`nsxr.model.keywords`.

        Parameters
        ----------
        header : mapping
            Keywords of a file, or attributes of a Dataset.
        ramps : bool
            Whether groups and their times are required. If not, they get a default where the header does not give them.
        source : str, optional
            Name of the file, for messages. The attribute ``filename`` if not given.

        Raises
        ------
        InputFileError
            If keywords are missing, cannot be used, or contradict each other. The message names all of them.
        """
        found = require(header, *_PLACE, *(_RAMPS if ramps else ()), purpose="they describe the readout", source=source)
        if not ramps:
            of_rates = {key: read(header, key, default=1, matters=False) for key in ("NINTS", "NGROUPS", "NFRAMES")}
            times = {key: read(header, key, default=np.nan, matters=False) for key in ("TFRAME", "TGROUP")}
            found |= of_rates | times
        dropped = read(header, "DRPFRMS1", matters=ramps, source=source)
        outputs = read(header, "NOUTPUTS", default=4 if found["SUBARRAY"] == "FULL" else 1, matters=False)
        readout = cls(
            detector=found["DETECTOR"],
            read_pattern=found["READPATT"],
            subarray=found["SUBARRAY"],
            row_start=found["SUBSTRT2"] - 1,
            column_start=found["SUBSTRT1"] - 1,
            n_rows=found["SUBSIZE2"],
            n_columns=found["SUBSIZE1"],
            n_integrations=found["NINTS"],
            n_groups=found["NGROUPS"],
            n_frames=found["NFRAMES"],
            group_gap=_group_gap(header, found, ramps, source),
            # the step that needs this keyword raises the error
            frame_divisor=read(header, "FRMDIVSR", matters=False),
            frame_time=found["TFRAME"],
            group_time=found["TGROUP"],
            n_outputs=outputs,
            frames_before=dropped,
        )
        problems = readout._contradictions(header, ramps)
        if problems:
            raise InputFileError(about(header, "; ".join(problems), source))
        return readout

    def _contradictions(self, header: Named, ramps: bool) -> list[str]:
        """Return a message for each contradiction between keywords."""
        problems = []
        for axis, start, size in ((1, self.column_start, self.n_columns), (2, self.row_start, self.n_rows)):
            if start + size > DETECTOR_SIZE:
                problems.append(
                    f"keywords SUBSTRT{axis} and SUBSIZE{axis} are {start + 1} and {size}, "
                    f"expected a subarray within {DETECTOR_SIZE} pixels"
                )
        if self.n_outputs > 1 and self.subarray != "FULL" and self.n_rows != DETECTOR_SIZE:
            problems.append(f"keyword NOUTPUTS is {self.n_outputs}, expected 1 for a subarray of {self.n_rows} rows")
        if not ramps or self.n_groups == 1:
            after = read(header, "DRPFRMS3", default=self.frames_before, matters=False)
            if ramps and self.n_integrations > 1 and after != self.frames_before:
                problems.append(
                    f"keywords DRPFRMS1 and DRPFRMS3 are {self.frames_before} and {after}, expected the same: "
                    "the time of a single group must be that of all integrations"
                )
            return problems
        frames = self.n_frames + self.group_gap
        if not abs(self.group_time - frames * self.frame_time) <= _TIME_TOLERANCE * self.group_time:
            problems.append(
                f"keyword TGROUP is {self.group_time:.10g}, expected (NFRAMES + GROUPGAP) x TFRAME, ({self.n_frames} + "
                f"{self.group_gap}) x {self.frame_time:.10g} s = {frames * self.frame_time:.10g} s"
            )
        return problems

    @property
    def first_group_time(self) -> float:
        """Mean exposure time of the first group of an integration [s]."""
        return float(self.mean_frame(0)) * self.frame_time

    @property
    def is_irs2(self) -> bool:
        """Whether raw frames carry interleaved reference pixels."""
        return "IRS2" in self.read_pattern and self.subarray == "FULL"

    @property
    def is_full_frame(self) -> bool:
        """Whether all pixels of the detector are read, through four amplifiers."""
        return self.n_rows == DETECTOR_SIZE and self.n_columns == DETECTOR_SIZE

    @property
    def raw_rows(self) -> int:
        """Rows of the raw image as stored."""
        return IRS2_ROWS if self.is_irs2 else self.n_rows

    def row_coordinates(self, rows: int) -> dict[str, tuple[str, np.ndarray]]:
        """Return the coordinates along ``row`` for an image of ``rows`` rows.

        ``row`` holds zero-based detector rows. For a raw IRS2 frame, ``row`` holds raw row numbers, and ``science_row``
        holds the detector rows. ``amplifier`` holds the amplifier that read the row: 1 to 4, and 0 for the IRS2
        reference output.
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
        """Return the amplifier, 1 to 4, that reads each detector row, as int8."""
        if self.n_outputs == 1:
            return np.ones(row.size, dtype=np.int8)
        amplifier = row // AMPLIFIER_ROWS + 1
        return (5 - amplifier if self.detector == "NRS2" else amplifier).astype(np.int8)

    def mean_frame(self, group: np.ndarray | int) -> np.ndarray | float:
        """Return the mean number, counted from 1, of the frames averaged into a group, which is counted from 0."""
        return self.frames_before + mean_frame(group, self.n_frames, self.group_gap)


def mean_frame(group: np.ndarray | int, n_frames: int, group_gap: int) -> np.ndarray | float:
    """Return the mean number, counted from 1, of the frames averaged into a group, which is counted from 0."""
    return np.asarray(group) * (n_frames + group_gap) + (n_frames + 1) / 2


def _listed(labels: np.ndarray) -> str:
    shown = [str(label) for label in labels]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:4], "...", *shown[-3:]])


def _group_gap(header: Named, found: Named, ramps: bool, source: str | None) -> int:
    """Return GROUPGAP. If the header does not have it, compute it from the times."""
    matters = ramps and found["NGROUPS"] > 1
    gap: int | None = read(header, "GROUPGAP", matters=matters, source=source)
    if gap is not None:
        return gap
    frames = found["TGROUP"] / found["TFRAME"] if matters else np.nan
    return max(0, round(frames) - found["NFRAMES"]) if frames < 1e5 else 0
