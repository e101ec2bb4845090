"""Choose the fixed slits of an exposure by its subarray, and number their sources."""

from collections.abc import Mapping

from nsxr.errors import ModelError
from nsxr.optics.shutters import FIXED_SLIT_IDS
from nsxr.optics.slit import Slit, Slitlet, Source

__all__ = ["find_fixed_slits", "slit_names"]

_SQUARE = ("SUB2048", "SUB1024A", "SUB1024B", "SUB512", "SUB512S")
"""Subarrays that are read around the square slit. Names of stripes (``SUB256M2_PRISM``) are not among them yet."""

_OWN = {f"SUB{name}": name for name in ("S200A1", "S200A2", "S200B1", "S400A1")}


def slit_names(subarray: str) -> tuple[str, ...]:
    """Return the names of the fixed slits whose light a subarray is read for.

    Parameters
    ----------
    subarray : str
        Keyword SUBARRAY. All slits for full frames, ALLSLITS, and names that are not known.
    """
    name = subarray.strip().upper()
    if name in _SQUARE:
        return ("S1600A1",)
    return (_OWN[name],) if name in _OWN else tuple(FIXED_SLIT_IDS)


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
        slit, own = slits[name], order.index(name)
        number = 1 if name == primary else 10 * main + own + 1
        x, y = position if name == primary else (0.0, 0.0)
        nan = float("nan")
        source = Source(number, "", "", x, y, nan, nan, nan, (0, 0))
        found.append(
            Slitlet(
                **{field: getattr(slit, field) for field in Slit.__dataclass_fields__},
                slitlet_id=FIXED_SLIT_IDS[name],
                shutter_id=own,
                xcen=0,
                ycen=0,
                state="",
                sources=(source,),
                source=source,
                is_background=False,
                slit_xscale=1.0,
                slit_yscale=1.0,
            )
        )
    return found
