"""Compute when each pixel is read, in slots of 10 us, for every kind of readout."""

from dataclasses import dataclass

import numpy as np

from nsxr.model.readout import AMPLIFIER_ROWS, DETECTOR_SIZE, IRS2_ROWS, Readout, irs2_layout

__all__ = ["TimeOrder", "science_time_order", "time_order"]

SAMPLE_TIME = 1e-5
"""Time between two samples of one output [s]."""

_OVERHEAD = 12  # slots from the end of a line to the next one; IRS2: 8
_IRS2_SLOTS = 712
_IRS2_OUTPUTS = 5
_SECTOR = IRS2_ROWS // _IRS2_OUTPUTS


@dataclass(frozen=True)
class TimeOrder:
    """Order in which the raw rows and columns of a frame are read.

    A line of the detector is an image column. All outputs are read at the same time.

    Attributes
    ----------
    slots : int
        Slots of 10 us in a line, including the gaps in it and after it.
    lines : int
        Lines in a frame.
    is_reversed : bool
        Whether columns are read from the last to the first.
    rows : tuple of ndarray
        For each output, the raw rows that it reads, in image order. In IRS2 the reference output is first.
    slot : tuple of ndarray
        For each output, the slot in which each of those rows is read.
    """

    slots: int
    lines: int
    is_reversed: bool
    rows: tuple[np.ndarray, ...]
    slot: tuple[np.ndarray, ...]

    def image(self, series: list[np.ndarray], n_rows: int) -> np.ndarray:
        """Arrange one time series for each output, (lines * slots,), as an image of raw rows."""
        out = np.empty((n_rows, self.lines), dtype=np.float32)
        for values, rows, slot in zip(series, self.rows, self.slot, strict=True):
            lines = values[: self.lines * self.slots].reshape(self.lines, self.slots)
            out[rows] = lines.T[slot, ::-1] if self.is_reversed else lines.T[slot]
        return out


def time_order(detector: str, n_rows: int, n_columns: int, n_outputs: int) -> TimeOrder:
    """Return the time order of the pixels of raw frames.

    Detector columns are read one after the other along a line. The first output reads in detector direction, and the
    direction alternates from one output to the next. Subarrays have one output. In science orientation, detector
    columns are rows. The rows of NRS2 are upside down, and its lines are read from the last column to the first.

    IRS2 reads 8 science pixels, waits a slot, reads 4 reference pixels, waits a slot, reads 16 science
    pixels and so on, and waits 8 slots at the end of a line. The second and the third reference pixel
    of a block are sampled in each other's slot. The pixels of a pair then share the parity that
    alternating-column noise gives to a slot. This shifts them by 10 us.

    Parameters
    ----------
    detector : str
        ``NRS1`` or ``NRS2``.
    n_rows, n_columns : int
        Size of a frame. A frame of 3200 rows is IRS2.
    n_outputs : int
        1 or 4, not counting the IRS2 reference output.
    """
    is_second = detector == "NRS2"
    if n_rows == IRS2_ROWS:
        outputs, size, slots = _IRS2_OUTPUTS, _SECTOR, _IRS2_SLOTS
        slot_in_time = _irs2_slots()
        is_backward = [output % 2 == 0 for output in range(outputs)]
    else:
        outputs = n_outputs
        size = AMPLIFIER_ROWS if outputs == 4 else n_rows
        slots = size + _OVERHEAD
        slot_in_time = np.arange(size)
        is_backward = [output % 2 == 1 for output in range(outputs)]
    rows, slot = [], []
    for output, backward in enumerate(is_backward):
        detector_column = np.arange(output * size, (output + 1) * size)
        slot_of_column = slot_in_time[::-1] if backward else slot_in_time
        if is_second:
            rows.append((n_rows - 1 - detector_column)[::-1])
            slot.append(slot_of_column[::-1])
        else:
            rows.append(detector_column)
            slot.append(slot_of_column)
    return TimeOrder(slots, n_columns, is_second, tuple(rows), tuple(slot))


def science_time_order(readout: Readout, n_rows: int, n_columns: int) -> TimeOrder:
    """Return the time order of the science pixels of frames without interleaved reference pixels.

    Parameters
    ----------
    readout : Readout
        Readout of the frames. Pixels of IRS2 keep the slots in which they were read.
    n_rows, n_columns : int
        Size of a frame, at most 2048 x 2048.
    """
    if not (readout.is_irs2 and n_rows == DETECTOR_SIZE):
        return time_order(readout.detector, n_rows, n_columns, readout.n_outputs)
    raw = time_order(readout.detector, IRS2_ROWS, n_columns, readout.n_outputs)
    science_row = irs2_layout(readout.detector).science_row
    rows, slot = [], []
    for of_output, read in zip(raw.rows[1:], raw.slot[1:], strict=True):
        is_science = science_row[of_output] >= 0
        rows.append(science_row[of_output[is_science]].astype(np.int64))
        slot.append(read[is_science])
    return TimeOrder(raw.slots, raw.lines, raw.is_reversed, tuple(rows), tuple(slot))


def _irs2_slots() -> np.ndarray:
    """Return the slot of each of the 640 pixels of an IRS2 output, in the order of reading."""
    slots = []
    for block in range(32):
        start = 22 * block
        slots += [start + k for k in range(8)]
        slots += [start + k for k in (9, 11, 10, 12)]
        slots += [start + k for k in range(14, 22)]
    return np.array(slots)
