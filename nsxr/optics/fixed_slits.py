"""Choose the fixed slits of an exposure by its subarray, and number their sources."""

import warnings
from collections.abc import Iterable, Mapping

import numpy as np

from nsxr.errors import DegradedResultWarning, ModelError
from nsxr.model.optics_header import OpticsHeader
from nsxr.optics.parts import Quadrant
from nsxr.optics.shutters import FIXED_SLIT_IDS, HALF_HEIGHT, fixed_slitlet
from nsxr.optics.slit import ONE_SLIT, Slit, Slitlet, Source
from nsxr.optics.slit_optics import SlitOptics

__all__ = ["find_fixed_slits", "planned_position", "primary_slit", "slit_names", "slits_of_table"]

_WAVELENGTH = 2.0  # um, of the rays from the target; the place in the slit hardly depends on it


def slits_of_table(
    names: Iterable[str], table: Quadrant, wavelengths: tuple[float, float], order: int
) -> dict[str, Slit]:
    """Return the fixed slits, or the slices, of a table of openings, by name.

    Parameters
    ----------
    names : iterable of str
        Names of the openings, in the order of the table.
    table : Quadrant
        Their centres and sizes.
    wavelengths : (float, float)
        Range of wavelengths [um].
    order : int
        Spectral order.
    """
    found = {}
    for name, x, y, width, height in zip(names, table.x, table.y, table.width, table.height, strict=False):
        place = (float(x), float(y), float(width), float(height))
        found[name] = Slit(name, 5, *place, -HALF_HEIGHT, HALF_HEIGHT, wavelengths, order)
    return found


def slit_names(subarray: str) -> tuple[str, ...]:
    """Return the names of the fixed slits whose light a subarray is read for.

    Parameters
    ----------
    subarray : str
        Keyword SUBARRAY. All slits for full frames, ALLSLITS, and names that are not known.
    """
    name = subarray.strip().upper()
    return (ONE_SLIT[name],) if name in ONE_SLIT else tuple(FIXED_SLIT_IDS)


def primary_slit(subarray: str, fixed_slit: str) -> str | None:
    """Return the name of the slit that the target was placed in, by FXD_SLIT, else by a subarray with one slit.

    None if neither tells.
    """
    names = slit_names(subarray)
    if fixed_slit in FIXED_SLIT_IDS:
        return fixed_slit
    return names[0] if len(names) == 1 else None


def planned_position(header: OpticsHeader, slit: SlitOptics) -> tuple[float, float]:
    """Return where the target is in the slit that it was placed in, from the dither offsets [open widths and heights].

    Parameters
    ----------
    header : OpticsHeader
        Header of the exposure: the offsets in the ideal frame of the aperture, and the place of the aperture.
    slit : SlitOptics
        Optics of the slit.

    Returns
    -------
    (float, float)
        The middle of the slit, (0, 0), if the header does not tell where the aperture is, or the optics see no sky. The
        target may also be outside of the slit.

    Warns
    -----
    DegradedResultWarning
        If the header has offsets, but does not tell where the aperture is.

    Notes
    -----
    From the ideal frame (x, y), with the angle a of its y axis from V3, and its parity p: V2 = V2_ref + p x cos a +
    y sin a; V3 = V3_ref - p x sin a + y cos a. Then through telescope and fore optics, as in the observatory's
    pipeline.
    """
    v2, v3, angle, parity = header.v2, header.v3, header.ideal_angle, header.parity
    if not slit.has_sky:
        return 0.0, 0.0
    if v2 is None or v3 is None or angle is None or parity is None:
        if header.offset_x or header.offset_y:
            warnings.warn(
                f"{header.called}: V2_REF, V3_REF, V3I_YANG or VPARITY is missing, so the dither offsets cannot be "
                "used: the target counts as in the middle of its slit",
                DegradedResultWarning,
                stacklevel=2,
            )
        return 0.0, 0.0
    sine, cosine = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
    x, y = parity * header.offset_x, header.offset_y
    across, along = slit.v2v3_to_slit(v2 + x * cosine + y * sine, v3 - x * sine + y * cosine, _WAVELENGTH)
    return float(across), float(along)


def find_fixed_slits(
    slits: Mapping[str, Slit], subarray: str, primary: str | None, position: tuple[float, float] = (0.0, 0.0)
) -> list[Slitlet]:
    """Return the fixed slits of an exposure.

    Parameters
    ----------
    slits : mapping
        The fixed slits of the optics, by name. Optics from a product have only those that the product has.
    subarray : str
        Keyword SUBARRAY.
    primary : str or None
        The slit that the target was placed in (FXD_SLIT). None if it is not known: then no slit is the primary one,
        unless the subarray shows one slit only.
    position : (float, float)
        Position of the target in the primary slit [open widths and heights].

    Returns
    -------
    list of Slitlet
        The number of the source is 1 in the primary slit. In others it is ten times the number of the primary slit plus
        their own, as in the observatory's products: slits are counted from 1 in the order of :data:`FIXED_SLIT_IDS`.

    Raises
    ------
    ModelError
        If the optics have none of the slits.
    """
    names = [name for name in slit_names(subarray) if name in slits]
    if not names:
        expected = ", ".join(slit_names(subarray))
        raise ModelError(f"the optics have none of {expected}: they have {', '.join(slits) or 'no fixed slits'}")
    order = list(FIXED_SLIT_IDS)
    primary = primary_slit(subarray, primary or "")
    main = order.index(primary) + 1 if primary is not None else 0
    found = []
    for name in names:
        number = 1 if name == primary else 10 * main + order.index(name) + 1
        x, y = position if name == primary else (0.0, 0.0)
        nan = float("nan")
        source = Source(number, "", "", x, y, nan, nan, nan, (0, 0))
        found.append(fixed_slitlet(slits[name], "", (source,)))
    return found
