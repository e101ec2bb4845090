"""Find which exposures were taken shortly before another one, from their headers alone."""

import warnings
from collections.abc import Mapping, Sequence

from nsxr.errors import DegradedResultWarning, InputFileError
from nsxr.model.keywords import about, require

__all__ = ["earlier_exposures"]

_SECONDS = 86400.0  # in a day


def earlier_exposures(
    header: Mapping[str, object], others: Sequence[Mapping[str, object]], persistence_time: float
) -> list[int]:
    """Return which exposures the same detector took shortly before an exposure.

    Parameters
    ----------
    header : mapping
        Keywords of the exposure: DETECTOR, EXPSTART and EXPEND [MJD in UTC].
    others : sequence of mapping
        Keywords of the other exposures, in any order; the exposure itself may be among them.
    persistence_time : float
        Longest time between the end of an earlier exposure and the start of this one [s].

    Returns
    -------
    list of int
        Positions in ``others``, in order of time.

    Warns
    -----
    DegradedResultWarning
        If the times of an exposure are not known. No earlier exposures are found for it, and it is not an earlier
        exposure of any other.
    """
    spans = {i: span for i, other in enumerate(others) if (span := _span_with(other, header)) is not None}
    own = _span_with(header, header)
    if own is None:
        return []
    start = own[0]
    chosen = [i for i, (first, end) in spans.items() if first < start and end + persistence_time / _SECONDS >= start]
    return sorted(chosen, key=lambda i: spans[i])


def _span(header: Mapping[str, object]) -> tuple[float, float]:
    """Return start and end of an exposure, MJD in UTC [d].

    Raises
    ------
    InputFileError
        If EXPSTART or EXPEND is missing or not a time, or if they are in the wrong order.
    """
    found = require(header, "EXPSTART", "EXPEND", purpose="they say when it was taken")
    if found["EXPEND"] < found["EXPSTART"]:
        raise InputFileError(
            about(
                header,
                f"keyword EXPEND is {found['EXPEND']:.10g}, expected a time after EXPSTART, {found['EXPSTART']:.10g}",
            )
        )
    return found["EXPSTART"], found["EXPEND"]


def _span_with(header: Mapping[str, object], other: Mapping[str, object]) -> tuple[float, float] | None:
    """Return start and end of an exposure; None if it is from another detector. Warn if they are not known."""
    if header.get("DETECTOR") != other.get("DETECTOR"):
        return None
    try:
        return _span(header)
    except InputFileError as error:
        warnings.warn(
            f"{error}; persistence is not carried from or to this exposure", DegradedResultWarning, stacklevel=3
        )
        return None
