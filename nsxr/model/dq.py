"""Name the data-quality bits of JWST, and make the attributes that describe them in a file."""

from collections.abc import Mapping, Sequence
from enum import IntFlag

import numpy as np

__all__ = [
    "JUMP",
    "NO_GAIN",
    "OUTSIDE",
    "UNUSABLE",
    "UNUSABLE_GROUP",
    "UNUSABLE_OR_JUMP",
    "UNUSABLE_PIXEL",
    "GroupFlag",
    "PixelFlag",
    "flag_attributes",
    "flag_name",
    "recode",
]


class PixelFlag(IntFlag):
    """Bits of ``pixeldq`` and ``dq`` (uint32)."""

    DO_NOT_USE = 1 << 0
    SATURATED = 1 << 1
    JUMP_DET = 1 << 2
    DROPOUT = 1 << 3
    OUTLIER = 1 << 4
    PERSISTENCE = 1 << 5
    AD_FLOOR = 1 << 6
    CHARGELOSS = 1 << 7
    RESERVED = 1 << 8
    NON_SCIENCE = 1 << 9
    DEAD = 1 << 10
    HOT = 1 << 11
    WARM = 1 << 12
    LOW_QE = 1 << 13
    RC = 1 << 14
    TELEGRAPH = 1 << 15
    NONLINEAR = 1 << 16
    BAD_REF_PIXEL = 1 << 17
    NO_FLAT_FIELD = 1 << 18
    NO_GAIN_VALUE = 1 << 19
    NO_LIN_CORR = 1 << 20
    NO_SAT_CHECK = 1 << 21
    UNRELIABLE_BIAS = 1 << 22
    UNRELIABLE_DARK = 1 << 23
    UNRELIABLE_SLOPE = 1 << 24
    UNRELIABLE_FLAT = 1 << 25
    OPEN = 1 << 26
    ADJ_OPEN = 1 << 27
    FLUX_ESTIMATED = 1 << 28
    MSA_FAILED_OPEN = 1 << 29
    OTHER_BAD_PIXEL = 1 << 30
    REFERENCE_PIXEL = 1 << 31


class GroupFlag(IntFlag):
    """Bits of ``groupdq`` (uint8)."""

    DO_NOT_USE = 1 << 0
    SATURATED = 1 << 1
    JUMP_DET = 1 << 2
    DROPOUT = 1 << 3
    PERSISTENCE = 1 << 5
    AD_FLOOR = 1 << 6
    CHARGELOSS = 1 << 7


JUMP = np.uint8(GroupFlag.JUMP_DET.value)
"""The bit of ``groupdq`` for a group at which the signal jumps."""

UNUSABLE_GROUP = np.uint8((GroupFlag.DO_NOT_USE | GroupFlag.SATURATED).value)
"""Bits of ``groupdq`` that mark a group without usable signal."""

UNUSABLE_OR_JUMP = np.uint8(UNUSABLE_GROUP | JUMP)
"""Bits of ``groupdq`` that exclude the difference between a group and the one before it."""

UNUSABLE_PIXEL = np.uint32((PixelFlag.DO_NOT_USE | PixelFlag.REFERENCE_PIXEL).value)
"""Bits of ``pixeldq`` that mark a pixel that does not measure light."""

NO_GAIN = np.uint32((PixelFlag.DO_NOT_USE | PixelFlag.NO_GAIN_VALUE).value)
"""Bits of ``pixeldq`` that are set where the gain is not a positive number."""


def flag_attributes(flags: type[IntFlag], dtype: type[np.unsignedinteger]) -> dict[str, object]:
    """Return the CF attributes ``flag_masks`` and ``flag_meanings`` of a DQ variable."""
    return {
        "flag_masks": np.array([flag.value for flag in flags], dtype=dtype),
        "flag_meanings": " ".join(str(flag.name) for flag in flags),
    }


def flag_name(text: object) -> str:
    """Return the standard spelling of a flag's name: upper case, words joined by ``_``."""
    text = text.decode("ascii", "replace") if isinstance(text, bytes) else str(text)
    return "_".join(text.strip("\0 \t\n").upper().replace("-", " ").split())


def recode(values: np.ndarray, definitions: Sequence[Mapping[str, object]]) -> tuple[np.ndarray, list[str]]:
    """Translate DQ values of a reference file to the standard bits, by name.

    Each reference file has its own numbering of bits. Its DQ_DEF table gives the name of each bit. Values must never be
    combined with pixel DQ before this translation. Names may be in upper or lower case, with blanks around them or
    between words. Values may be written as signed numbers of 32 bits.

    Parameters
    ----------
    values : ndarray of integers
        DQ as stored in the reference file.
    definitions : sequence of mappings
        Rows of DQ_DEF with keys ``NAME`` and ``VALUE``.

    Returns
    -------
    dq : ndarray of uint32
        The same flags on the standard bits.
    unknown : list of str
        Names that are not in the standard. Their bits are dropped.
    """
    dq = np.zeros(values.shape, dtype=np.uint32)
    unknown = []
    for row in definitions:
        name = flag_name(row["NAME"])
        if not name:
            continue
        if name not in PixelFlag.__members__:
            unknown.append(name)
            continue
        stored = np.uint32(int(row["VALUE"]) & 0xFFFFFFFF)  # type: ignore[call-overload]
        standard = np.uint32(PixelFlag[name].value)
        dq |= np.where(values.astype(np.uint32) & stored, standard, np.uint32(0))
    return dq, unknown


UNUSABLE = np.uint32(PixelFlag.DO_NOT_USE | PixelFlag.NON_SCIENCE | PixelFlag.OUTLIER | PixelFlag.FLUX_ESTIMATED)
"""Flags of pixels of a slit that are not measurements. FLUX_ESTIMATED marks values that were filled in."""

OUTSIDE = np.uint32(PixelFlag.DO_NOT_USE | PixelFlag.NON_SCIENCE)
"""Flags of pixels beyond the edges of a slit."""
