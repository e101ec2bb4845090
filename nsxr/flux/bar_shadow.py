"""Correct for the shadow of the bars between open shutters."""

from typing import Literal, TypeVar

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.errors import ModelError
from nsxr.flux.factors import Factor, divide, variance_units
from nsxr.model.declarations import Needs, step
from nsxr.model.history import record, record_skip
from nsxr.model.keywords import about, read
from nsxr.model.variables import check_slit, variable_attributes
from nsxr.references.match import require_kind
from nsxr.slits.collection import iterate_slits, map_slits
from nsxr.slits.light import exposure_type, fixed_slit, is_point, shutter_states, wavelength_name

__all__ = ["bar_shadow_factor", "correct_bar_shadow"]

Slits = TypeVar("Slits", xr.Dataset, xr.DataTree)

_STEP = "barshadow"
_CLOSED, _OPEN = "01"


@step(_STEP, references=[Needs("barshadow")])
def correct_bar_shadow(slits: Slits, barshadow: xr.Dataset) -> Slits:
    """Correct extended sources in slitlets for the shadow of the bars between shutters.

    Parameters
    ----------
    slits : Dataset or DataTree
        One slit or many: ``sci``, ``dq``, variances and ``wavelength`` (row, column) [um], and the coordinate
        ``slit_y`` (row, column) [open heights] from ``cut_slits(..., coordinates=["slit_y"])``. Attributes: EXP_TYPE,
        SRCTYPE, SHUTSTA, SLTYSCL (pitch in open heights, 1.15 if it is missing).
    barshadow : Dataset
        From :func:`nsxr.open_bar_shadow`.

    Returns
    -------
    Dataset or DataTree
        Slitlets with an extended source: ``sci`` divided by the bar shadow, and variances by its square;
        ``var_barshadow`` is what the uncertainty of the reference adds, if the reference tells it; ``barshadow`` (row,
        column) is the divisor. Pixels with DO_NOT_USE are NaN. BARSHDW says whether a slit was corrected. Points, fixed
        slits and other modes come back with a record of why they were skipped.

    Raises
    ------
    ModelError
        If ``wavelength`` or ``slit_y`` is missing, if the slit was corrected before, or if SHUTSTA does not make sense.
    ReferenceFileError
        If the reference is of another type.

    Notes
    -----
    As in the observatory's pipeline, the shadow of a slitlet is put together from pieces that go from the middle of a
    shutter to the middle of the next one: both open, from the slit of three shutters; one open, from that of a single
    shutter; both closed, the smallest value of a single shutter. Beyond its ends, all shutters are closed. Where two
    pieces meet, the mean of both holds. The value of a pixel is interpolated at its middle: the reference is a mean
    over a pixel already. Outside of the wavelengths of the reference, the last value holds.

    Other than there, the last piece begins in the middle of its shutter (there, 0.002 pitch beside it), slitlets may
    begin with a closed shutter, and pixels that are NaN have DO_NOT_USE.

    Examples
    --------
    >>> slits = correct_bar_shadow(slits, nsxr.open_bar_shadow("barshadow.fits"))  # doctest: +SKIP
    """
    require_kind(barshadow, _STEP)
    if any(slit.chunks for _, slit in iterate_slits(slits)):
        barshadow = barshadow.chunk()  # once, so that all slits share it in one graph
    return map_slits(lambda slit: _correct(slit, barshadow), slits)


def bar_shadow_factor(slit: xr.Dataset, barshadow: xr.Dataset, *, light: Literal["uniform"] = "uniform") -> Factor:
    """Return the bar shadow of a slitlet for uniform light. Points have none: their path loss includes the bars.

    Parameters
    ----------
    slit : Dataset
        As for :func:`correct_bar_shadow`; ``sci`` and the type of the source are not used.
    barshadow : Dataset
        From :func:`nsxr.open_bar_shadow`. Its variables may be lazy.
    light : {"uniform"}
        Kind of light.

    Returns
    -------
    Factor
        (row, column) float32, NaN outside of the slit.

    Raises
    ------
    ModelError
        As :func:`correct_bar_shadow`, and if the slit has no shutters.
    """
    if reason := _without_bars(slit):
        raise ModelError(about(slit.attrs, reason))
    check_slit(slit, "wavelength", units={"wavelength": "um"})
    if "slit_y" not in slit.variables:
        raise ModelError(
            about(slit.attrs, "coordinate slit_y is missing; cut slits with coordinates=['wavelength', 'slit_y']")
        )
    states, source = shutter_states(slit.attrs)
    names = ["shadow_1x1", "shadow_1x3"]
    has_variance = "variance_1x1" in barshadow
    names += ["variance_1x1", "variance_1x3"] if has_variance else []
    images = [barshadow[name].rename(y="shadow_y", wavelength="shadow_wavelength") for name in names]
    outputs = {"value": (("row", "column"), np.float32)}
    outputs |= {"relative_variance": outputs["value"]} if has_variance else {}
    nodes = barshadow["wavelength"].to_numpy()
    found = map_blocks(
        _evaluate,
        slit["slit_y"],
        slit[wavelength_name(slit, "uniform")],
        *images,
        core=("shadow_y", "shadow_wavelength"),
        outputs=outputs,
        states=states,
        source=source,
        pitch=float(read(slit.attrs, "SLTYSCL")),
        wavelengths=(float(nodes[0]), float(nodes[-1])),
    )
    return Factor(found["value"], found.get("relative_variance"))


def _correct(slit: xr.Dataset, barshadow: xr.Dataset) -> xr.Dataset:
    check_slit(slit, "sci", "dq")
    if "barshadow" in slit:
        raise ModelError(about(slit.attrs, "the bar shadow was corrected before: the slit has barshadow"))
    reason = _without_bars(slit)
    if reason is None and is_point(slit.attrs):
        reason = "the source is a point, and its path loss includes the bars"
        result = record_skip(slit, _STEP, reason).assign_attrs(BARSHDW=False)
        # a sky that was not subtracted still lies behind the bars: fits of the trace need its shape
        knows_place = "slit_y" in slit.variables and "wavelength" in slit.variables and "SHUTSTA" in slit.attrs
        return result.assign(sky_part=_of_sky(slit, barshadow)) if knows_place else result
    if reason is not None:
        return record_skip(slit, _STEP, reason).assign_attrs(BARSHDW=False)
    factor = bar_shadow_factor(slit, barshadow)
    return record(
        slit,
        _STEP,
        [barshadow],
        {"shutters": slit.attrs["SHUTSTA"], "pitch": float(read(slit.attrs, "SLTYSCL"))},
        {"var_barshadow": variance_units(slit)},
        (),
        {"BARSHDW": True},
        **divide(slit, factor, kind="barshadow"),
        barshadow=factor.value,
    )


def _of_sky(slit: xr.Dataset, barshadow: xr.Dataset) -> xr.Variable:
    """Return the part of the light of a uniform sky in each pixel (row, column) float32, NaN outside of the slit."""
    found = bar_shadow_factor(slit, barshadow).value.variable
    found.attrs = variable_attributes("sky_part")
    return found


def _without_bars(slit: xr.Dataset) -> str | None:
    """Return why there are no bars in a slit. None if there are."""
    kind = exposure_type(slit.attrs)
    if kind != "NRS_MSASPEC":
        return f"exposures of type {kind or 'unknown'} have no bars, only those of shutters (NRS_MSASPEC)"
    if (name := fixed_slit(slit.attrs)) is not None:
        return f"the fixed slit {name} has no bars"
    return None


def _evaluate(
    slit_y: np.ndarray,
    wavelength: np.ndarray,
    *images: np.ndarray,
    states: str,
    source: int,
    pitch: float,
    wavelengths: tuple[float, float],
) -> np.ndarray | tuple[np.ndarray, ...]:
    """Return the bar shadow of pixels and, if it is known, its variance over its square."""
    one = images[0]
    steps, last = (one.shape[0] - 1) // 2, one.shape[1] - 1
    darkest = np.unravel_index(np.argmin(one), one.shape)
    row = (source + 1 + slit_y / np.float64(pitch)) * steps
    low, high = wavelengths
    column = np.clip((wavelength.astype(np.float64) - low) / (high - low), 0, 1) * last
    found = []
    for single, triple in zip(images[::2], images[1::2], strict=True):  # values, then variances
        found.append(_bilinear(_template(single, triple, states, float(single[darkest])), row, column))
    if len(found) == 1:
        return found[0].astype(np.float32)
    value, variance = found
    with np.errstate(all="ignore"):
        return value.astype(np.float32), (variance / value**2).astype(np.float32)


def _template(one: np.ndarray, three: np.ndarray, states: str, dark: float) -> np.ndarray:
    """Return what holds along a slitlet, from one pitch below the middle of its first shutter to one above its last.

    Parameters
    ----------
    one, three : (y, wavelength) ndarray
        Along slits of one and of three open shutters.
    states : str
        ``0`` for closed and ``1`` for open, lowest shutter first.
    dark : float
        What holds between closed shutters.
    """
    steps = (one.shape[0] - 1) // 2
    pieces = {
        _OPEN + _OPEN: three[: steps + 1],
        _OPEN + _CLOSED: one[steps:],
        _CLOSED + _OPEN: one[: steps + 1],
        _CLOSED + _CLOSED: np.full((steps + 1, one.shape[1]), dark),
    }
    padded = f"{_CLOSED}{states}{_CLOSED}"
    total = np.zeros(((len(padded) - 1) * steps + 1, one.shape[1]))
    for number in range(len(padded) - 1):
        piece, start = pieces[padded[number : number + 2]], number * steps
        total[start] = piece[0] if number == 0 else 0.5 * (total[start] + piece[0])  # the mean where pieces meet
        total[start + 1 : start + steps + 1] = piece[1:]
    return total


def _bilinear(image: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Interpolate an image. Beyond its edges, the last value holds; places that are NaN stay NaN."""
    is_known = np.isfinite(row) & np.isfinite(column)
    parts, firsts = [], []
    for place, size in zip((row, column), image.shape, strict=True):
        inside = np.clip(np.where(is_known, place, 0.0), 0, size - 1)
        first = np.minimum(inside.astype(np.intp), size - 2)
        firsts.append(first)
        parts.append(inside - first)
    (i, j), (p, q) = firsts, parts
    below = image[i, j] * (1 - q) + image[i, j + 1] * q
    above = image[i + 1, j] * (1 - q) + image[i + 1, j + 1] * q
    return np.where(is_known, below * (1 - p) + above * p, np.nan)
