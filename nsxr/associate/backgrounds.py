"""Choose the backgrounds of exposures from their headers."""

from collections.abc import Mapping, Sequence
from typing import Any

from nsxr.associate.exposures import require_distinct_headers
from nsxr.model.keywords import read
from nsxr.model.texts import in_capitals, is_true

__all__ = ["choose_backgrounds", "choose_imprint", "nod_backgrounds"]


def nod_backgrounds(headers: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Return which exposures of a visit are backgrounds of each other.

    Parameters
    ----------
    headers : sequence of mapping
        Keywords of the exposures: PROGRAM, OBSERVTN, VISIT, DETECTOR, FILTER, GRATING, TARGNAME, PATT_NUM, SUBPXPTS.

    Returns
    -------
    list of list of int
        For each exposure the positions of its backgrounds in the list. They have the same visit, detector and target,
        and another primary dither point, ``(PATT_NUM - 1) // SUBPXPTS``. Exposures that differ only by a subpixel step
        show the source at the same place, and are not backgrounds.

    Raises
    ------
    ParameterError
        If an exposure comes twice.
    """
    require_distinct_headers(headers)
    same = ("PROGRAM", "OBSERVTN", "VISIT", "DETECTOR", "FILTER", "GRATING", "TARGNAME")

    def place(header: Mapping[str, Any]) -> int:
        return int(read(header, "PATT_NUM") - 1) // int(read(header, "SUBPXPTS", matters=False))

    return [
        [
            j
            for j, other in enumerate(headers)
            if j != i and all(other.get(k) == header.get(k) for k in same) and place(other) != place(header)
        ]
        for i, header in enumerate(headers)
    ]


def choose_backgrounds(headers: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Return the backgrounds of each exposure, as far as headers tell.

    Exposures of a background target (BKGDTARG) are backgrounds of all others with the same detector, filter, grating
    and position of the grating wheel. Without such exposures, nods are backgrounds of each other, see
    :func:`nod_backgrounds`: all positions of a dither of shutters or of a fixed slit, and those of the IFU whose
    pattern is called a nod (PATTTYPE).

    Parameters
    ----------
    headers : sequence of mapping
        Keywords of the exposures.

    Returns
    -------
    list of list of int
        For each exposure the positions of its backgrounds in the list. Backgrounds themselves, and exposures of a time
        series, have none.

    Raises
    ------
    ParameterError
        If an exposure comes twice.
    """
    nods = nod_backgrounds(headers)
    same = ("EXP_TYPE", "DETECTOR", "FILTER", "GRATING", "GWA_XTIL", "GWA_YTIL")

    def is_nodded(header: Mapping[str, Any]) -> bool:
        kind = in_capitals(header, "EXP_TYPE")
        is_named_so = kind == "NRS_IFU" and "NOD" in in_capitals(header, "PATTTYPE")
        return kind in ("NRS_MSASPEC", "NRS_FIXEDSLIT") or is_named_so

    found: list[list[int]] = []
    for i, header in enumerate(headers):
        own: list[int] = []
        if not _is_background(header) and in_capitals(header, "EXP_TYPE") != "NRS_BRIGHTOBJ":
            own = [
                j
                for j, other in enumerate(headers)
                if _is_background(other) and all(other.get(key) == header.get(key) for key in same)
            ]
            if not own and is_nodded(header):
                own = [j for j in nods[i] if not _is_background(headers[j])]
        found.append(own)
    return found


def choose_imprint(header: Mapping[str, Any], imprints: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the position of the imprint that belongs to an exposure, None if that is not clear.

    One imprint serves every exposure. Of several, those serve that show a background target (BKGDTARG) as the exposure
    does, or does not; of these, the one of the same observation (OBSERVTN) and dither (PATT_NUM).

    Parameters
    ----------
    header : mapping
        Keywords of the exposure.
    imprints : sequence of mapping
        Keywords of the imprints.
    """

    def place(one: Mapping[str, Any]) -> tuple[str, int]:
        return str(one.get("OBSERVTN")).strip().lstrip("0"), int(read(one, "PATT_NUM"))

    found = [*range(len(imprints))]
    for same in (_is_background, place):
        if len(found) > 1:
            found = [number for number in found if same(imprints[number]) == same(header)]
    return found[0] if len(found) == 1 else None


def _is_background(header: Mapping[str, Any]) -> bool:
    """Return whether an exposure shows a background target."""
    return is_true(header, "BKGDTARG")
