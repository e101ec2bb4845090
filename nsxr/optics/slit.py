"""Describe a slit, a slitlet of open shutters, and the sources in it.

Two units of length are used in the plane of a slit:

- **open units**: widths and heights of the open area of one shutter or fixed slit. The frame of a slit counts in them,
  and so do the optics.
- **pitch**: the distance between the centres of neighbouring shutters. Planned positions of sources count in it, and so
  do the references of the wavelength zero point and of the path loss.

A shutter has a pitch of about 1.36 open widths and 1.15 open heights. For a fixed slit the two units are the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ONE_SLIT", "Slit", "Slitlet", "Source"]

_SQUARE = ("SUB512", "SUB512S", "SUB1024A", "SUB1024B", "SUB2048")

ONE_SLIT: Mapping[str, str] = dict.fromkeys(_SQUARE, "S1600A1") | {
    f"SUB{name}": name for name in ("S200A1", "S200A2", "S400A1", "S200B1")
}
"""Subarrays with the spectrum of one slit, and that slit. Stripes (``SUB256M2_PRISM``) are not among them yet."""


@dataclass(frozen=True)
class Slit:
    """An opening in the plane of the MSA, and the light that is looked for behind it.

    Attributes
    ----------
    name : str
        Name of a fixed slit (``S200A1``), number of a slitlet (``"24"``), or number of a slice of the IFU (``"0"`` to
        ``"29"``).
    quadrant : int
        Quadrant of the MSA, 1 to 4. 5 for fixed slits and for slices.
    x, y : float
        Centre in the frame of the quadrant [m].
    width, height : float
        Size of the open area of the slit, or of one shutter of a slitlet [m].
    slit_y_low, slit_y_high : float
        Lower and upper end along the slit, relative to the centre [open heights].
    wavelength_range : (float, float)
        Wavelengths that the filter and the grating select [um].
    order : int
        Spectral order. It is negative, as in references.
    """

    name: str
    quadrant: int
    x: float
    y: float
    width: float
    height: float
    slit_y_low: float
    slit_y_high: float
    wavelength_range: tuple[float, float]
    order: int


@dataclass(frozen=True)
class Source:
    """A source that was planned to lie in a shutter or in a fixed slit.

    Attributes
    ----------
    id : int
        Number of the source. It is negative for virtual sources.
    name, alias : str
        Name with the number of the program (``2736_7570``), and name in the catalogue of the proposer.
    x, y : float
        Position relative to the centre of the shutter that holds the source [pitch]. x grows along the dispersion, with
        the number of the shutter; y grows along the slit.
    ra, dec : float
        Sky coordinates [degree]. NaN if they are not known.
    stellarity : float
        1 for a point, 0 for an extended source, -1 if it is not known.
    shutter : (int, int)
        The shutter that holds the source: its number along the dispersion and its number along the slit, see
        :class:`Slitlet`. (0, 0) for fixed slits.
    """

    id: int
    name: str
    alias: str
    x: float
    y: float
    ra: float
    dec: float
    stellarity: float
    shutter: tuple[int, int]


@dataclass(frozen=True)
class Slitlet(Slit):
    """A slitlet of the MSA: neighbouring open shutters of one line of shutters. Fixed slits of a shutter exposure too.

    ``x`` and ``y`` are those of the shutter that holds the primary source. ``slit_y_low`` and ``slit_y_high`` are the
    ends of the whole slitlet.

    Attributes
    ----------
    slitlet_id : int
        Number of the slitlet. For fixed slits -101 to -105.
    shutter_id : int
        Number of the central shutter in the table of its quadrant, from 1; of a fixed slit from 0.
    xcen, ycen : int
        Central shutter: number along the dispersion (1 to 365) and along the slit (1 to 171). Headers call them XCEN
        and YCEN, metafiles ``shutter_row`` and ``shutter_column``. 0 for fixed slits.
    state : str
        State of the shutters from the lowest to the highest: ``x`` is the central shutter, which has the primary source
        if there is one, ``1`` is another open shutter, ``0`` was not commanded.
    sources : tuple of Source
        All sources of the slitlet, the primary one first.
    source : Source or None
        The primary source. None for background slitlets.
    is_background : bool
        Whether the slitlet has no primary source.
    slit_xscale, slit_yscale : float
        Pitch in open widths and in open heights: a position in pitch times this is a position in open units.
    """

    slitlet_id: int
    shutter_id: int
    xcen: int
    ycen: int
    state: str
    sources: tuple[Source, ...]
    source: Source | None
    is_background: bool
    slit_xscale: float
    slit_yscale: float

    def position_of(self, source: Source) -> tuple[float, float]:
        """Return the position of a source in the frame of the slit, relative to the centre of the slitlet [open units].

        Sources in other shutters than the central one lie whole pitches away from it.
        """
        x = source.x + (source.shutter[0] - self.xcen)
        y = source.y + (source.shutter[1] - self.ycen)
        return x * self.slit_xscale, y * self.slit_yscale
