"""Choose the fixed slits of an exposure by its subarray, and number their sources."""

from collections.abc import Mapping

from nsxr.errors import ModelError
from nsxr.optics.shutters import FIXED_SLIT_IDS, fixed_slitlet
from nsxr.optics.slit import ONE_SLIT, Slit, Slitlet, Source

__all__ = ["find_fixed_slits", "slit_names"]


def slit_names(subarray: str) -> tuple[str, ...]:
    """Return the names of the fixed slits whose light a subarray is read for.

    Parameters
    ----------
    subarray : str
        Keyword SUBARRAY. All slits for full frames, ALLSLITS, and names that are not known.
    """
    name = subarray.strip().upper()
    return (ONE_SLIT[name],) if name in ONE_SLIT else tuple(FIXED_SLIT_IDS)


def find_fixed_slits(
    slits: Mapping[str, Slit], subarray: str, primary: str | None, position: tuple[float, float] = (0.0, 0.0)
) -> list[Slitlet]:
    """Return the fixed slits of an exposure.

    Parameters
    ----------
    slits : mapping
        The fixed slits of the optics, by name.
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
        If the optics do not have a slit.
    """
    names = slit_names(subarray)
    missing = [name for name in names if name not in slits]
    if missing:
        raise ModelError(f"the msa reference lacks {', '.join(missing)}, it has {', '.join(slits) or 'no fixed slits'}")
    order = list(FIXED_SLIT_IDS)
    if primary not in order:
        primary = names[0] if len(names) == 1 else None
    main = order.index(primary) + 1 if primary is not None else 0
    found = []
    for name in names:
        number = 1 if name == primary else 10 * main + order.index(name) + 1
        x, y = position if name == primary else (0.0, 0.0)
        nan = float("nan")
        source = Source(number, "", "", x, y, nan, nan, nan, (0, 0))
        found.append(fixed_slitlet(slits[name], "", (source,)))
    return found
