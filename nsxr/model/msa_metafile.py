"""Describe an MSA metafile: which shutters were open in each dither, and the sources that were planned in them."""

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["CataloguedSource", "MsaMetafile", "ShutterRow"]


class ShutterRow(NamedTuple):
    """A row of SHUTTER_INFO: a shutter, or a fixed slit, in one dither.

    Attributes
    ----------
    slitlet_id, metadata_id, dither : int
        Slitlet, configuration of the MSA (MSAMETID), and dither (PATT_NUM).
    quadrant : int
        1 to 4. 5 for fixed slits.
    xcen, ycen : int
        Number of the shutter along the dispersion and along the slit, from 1. The file calls them ``shutter_row`` and
        ``shutter_column``.
    source_id : int
        Number of a source. 0 if there is none. Negative for virtual sources.
    is_background : bool
        Whether the shutter sees the background in this dither.
    source_x, source_y : float
        Planned position of the source in the shutter [pitch, from the lower corner]. NaN if there is none.
    is_primary : bool
        Whether the source is the one that the slitlet was made for.
    fixed_slit : str
        Name of a fixed slit. Empty for shutters.
    """

    slitlet_id: int
    metadata_id: int
    dither: int
    quadrant: int
    xcen: int
    ycen: int
    source_id: int
    is_background: bool
    source_x: float
    source_y: float
    is_primary: bool
    fixed_slit: str


class CataloguedSource(NamedTuple):
    """A row of SOURCE_INFO. Coordinates are in degrees. Numbers that are not known are NaN."""

    name: str
    alias: str
    ra: float
    dec: float
    stellarity: float


@dataclass(frozen=True)
class MsaMetafile:
    """What an MSA metafile says.

    Attributes
    ----------
    path : str
        The file, for messages.
    shutters : tuple of ShutterRow
        All rows of SHUTTER_INFO in the order of the file. Rows with the state CLOSED count as open: a metafile has them
        where a shutter was planned to be open, and the observatory's pipeline counts them too.
    sources : dict
        Rows of SOURCE_INFO by the number of the source.
    program : str
        Number of the programme (PROGRAM), without leading zeros. Empty if the header does not tell.
    """

    path: str
    shutters: tuple[ShutterRow, ...]
    sources: dict[int, CataloguedSource]
    program: str = ""
