"""Correct for the light that slits and shutters do not let pass."""

import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import xarray as xr

from nsxr.compute.blocks import Output, map_blocks
from nsxr.errors import DegradedResultWarning, ModelError
from nsxr.flux.factors import Factor, divide, variance_units
from nsxr.model.declarations import Needs, step
from nsxr.model.dims import IMAGE
from nsxr.model.history import record, record_skip
from nsxr.model.keywords import about
from nsxr.model.types import Attributes
from nsxr.model.variables import check_slit
from nsxr.references.match import require_kind
from nsxr.slits.collection import map_slits
from nsxr.slits.light import exposure_type, fixed_slit, is_point, shutter_states, source_position, wavelength_name

__all__ = ["correct_path_loss", "path_loss_factor"]

Light = Literal["point", "uniform"]
Interpolation = Literal["cubic", "linear"]
Slits = TypeVar("Slits", xr.Dataset, xr.DataTree)

_STEP = "pathloss"
_ROUGH = 0.3  # change of a path loss beyond which its grid is too coarse for a cubic
_ROUNDING = 1e-6  # of a position; the last nodes of flight references end 1e-14 before the edge


class _Curve(NamedTuple):
    """A path loss along wavelength, and its variance if it is known."""

    wavelength: np.ndarray
    value: np.ndarray
    variance: np.ndarray | None


class _Aperture(NamedTuple):
    """The apertures of a reference that a slit needs, and where its source is in the first of them.

    Attributes
    ----------
    names : tuple of str
        The aperture of a point, and those whose mean holds for uniform light.
    x, y : float
        Position of the source in the first aperture.
    """

    names: tuple[str, ...]
    x: float
    y: float


@step(_STEP, references=[Needs("pathloss")])
def correct_path_loss(slits: Slits, pathloss: xr.Dataset, *, interpolation: Interpolation = "cubic") -> Slits:
    """Correct for the light that slits and shutters do not let pass.

    The path loss of a point depends on where it is in its slit; that of uniform light does not. Both are relative to a
    point in the middle, so slits with points and with extended sources have the same units afterwards.

    Parameters
    ----------
    slits : Dataset or DataTree
        One slit, many slits, or an exposure of the IFU with what :func:`nsxr.locate_slices` tells: ``sci``, ``dq``,
        variances and ``wavelength`` (row, column) float32 [um], NaN outside, with or without integration in front.
        Attributes: EXP_TYPE, SRCTYPE, SRCXPOS and SRCYPOS [pitch, or widths and heights of a fixed slit], SHUTSTA or
        the name of a fixed slit (SLTNAME).
    pathloss : Dataset
        From :func:`nsxr.open_path_loss`.
    interpolation : {"cubic", "linear"}
        Between the positions of the reference, in both directions. ``linear`` is that of the observatory's pipeline.

    Returns
    -------
    Dataset or DataTree
        ``sci`` divided by the path loss, and variances by its square. ``var_pathloss`` is what the uncertainty of the
        reference adds, if the reference tells it. ``pathloss_point`` and ``pathloss_uniform`` (row, column) are both
        divisors; PTHLOSS says which one was used. Pixels at wavelengths that the reference does not have become NaN
        with DO_NOT_USE, as all pixels with DO_NOT_USE. Slits whose aperture the reference does not have, and time
        series, come back with a record of why they were skipped.

    Raises
    ------
    ModelError
        If ``wavelength`` is missing, if the slit was corrected before, or if SHUTSTA does not make sense.
    ReferenceFileError
        If the reference is of another type.

    Warns
    -----
    DegradedResultWarning
        If a point is outside of the grid of the reference. The value at the edge of the grid is used, so the flux is a
        lower limit. Also if the position of a point is not known.

    Notes
    -----
    Linear in wavelength, as in the observatory's pipeline, and cubic in the position of the source, through the four
    nearest positions. A straight line between positions is too high where a bar covers the source and too low at its
    maximum: by 1.5 % for steps of a ninetieth of a pitch, and more for those of flight references. A shutter between
    closed ones uses the aperture of one shutter (MOS1x1), others that of three (MOS1x3). There, y is lowered by one
    pitch if the shutter is the lowest of its slitlet, and raised if it is the highest. In slitlets of two shutters,
    uniform light has the mean of both. Uniform light in a fixed slit has the wavelengths before they were corrected for
    the position of the source.

    Other than there, a source outside of the grid keeps both path losses. Uniform light never depends on the position.

    Examples
    --------
    >>> slits = correct_path_loss(slits, nsxr.open_path_loss("pathloss.fits"))  # doctest: +SKIP
    """
    require_kind(pathloss, _STEP)
    return map_slits(lambda slit: _correct(slit, pathloss, interpolation), slits)


def path_loss_factor(slit: xr.Dataset, pathloss: xr.Dataset, *, light: Light) -> Factor:
    """Return the path loss of a slit for the light of a point at the planned position, or for uniform light.

    Parameters
    ----------
    slit : Dataset
        As for :func:`correct_path_loss`; ``sci`` is not used.
    pathloss : Dataset
        From :func:`nsxr.open_path_loss`.
    light : {"point", "uniform"}
        Kind of light. The type of the source of the slit does not matter.

    Returns
    -------
    Factor
        (row, column) float32, NaN at wavelengths that the reference does not have.

    Raises
    ------
    ModelError
        If the reference does not have the aperture of the slit, and as :func:`correct_path_loss`.
    """
    check_slit(slit, "wavelength", units={"wavelength": "um"})
    if isinstance(found := _aperture(slit, pathloss), str):
        raise ModelError(about(slit.attrs, found))
    return _factors(slit, pathloss, found, [light])[0]


def _correct(slit: xr.Dataset, pathloss: xr.Dataset, interpolation: Interpolation) -> xr.Dataset:
    check_slit(slit, "sci", "dq", "wavelength", units={"wavelength": "um"})
    if "pathloss_uniform" in slit:
        raise ModelError(about(slit.attrs, "the path loss was corrected before: the slit has pathloss_uniform"))
    if isinstance(found := _aperture(slit, pathloss), str):
        return record_skip(slit, _STEP, found)
    light: Light = "point" if is_point(slit.attrs) else "uniform"
    other: Light = "uniform" if light == "point" else "point"
    if light == "point":
        _warn_outside(slit.attrs, pathloss, found)
    own, unused = _factors(slit, pathloss, found, [light, other], interpolation)
    return record(
        slit,
        _STEP,
        [pathloss],
        {"apertures": list(found.names), "source_x": found.x, "source_y": found.y, "light": light},
        {"var_pathloss": variance_units(slit)},
        (),
        {"PTHLOSS": light.upper()},
        **divide(slit, own, kind="pathloss"),
        **{f"pathloss_{light}": own.value, f"pathloss_{other}": unused.value},
    )


def _aperture(slit: xr.Dataset, pathloss: xr.Dataset) -> _Aperture | str:
    """Return the apertures of a slit, or why it has none."""
    listed = {str(name).partition("_")[2]: pathloss[name] for name in pathloss if _is_aperture(str(name))}
    kind, name = exposure_type(slit.attrs), fixed_slit(slit.attrs)
    if kind == "NRS_BRIGHTOBJ":
        return "time series have no path loss; the sensitivity of their slit includes it"
    if kind == "NRS_IFU":
        return _Aperture((next(iter(listed)),), 0.0, 0.0)  # jwst too takes each source as one in the middle
    if name is not None:
        x, y = source_position(slit)
        there = f"the reference of path loss has no aperture {name}, only {', '.join(listed)}"
        return _Aperture((name,), x, y) if name in listed else there
    states, source = shutter_states(slit.attrs)
    return _of_shutters(slit, states, source, {int(array.attrs["shutters"]): key for key, array in listed.items()})


def _of_shutters(slit: xr.Dataset, states: str, source: int, by_shutters: dict[int, str]) -> _Aperture | str:
    """Return the apertures of a slitlet by its shutters."""
    below, above = (0 <= shutter < len(states) and states[shutter] == "1" for shutter in (source - 1, source + 1))
    wanted = [3] if below or above else [1]
    if len(states) == 2:
        wanted += [1] if wanted == [3] else [3]
    lacking = [shutters for shutters in wanted if shutters not in by_shutters]
    if lacking:
        return f"the reference of path loss has no aperture of {lacking[0]} shutter(s)"
    x, y = source_position(slit)
    shift = (1.0 if below else -1.0) if below != above else 0.0
    return _Aperture(tuple(by_shutters[shutters] for shutters in wanted), x, y + shift)


def _is_aperture(name: str) -> bool:
    return name.startswith("point_") and not name.startswith("point_variance_")


def _warn_outside(attrs: Attributes, pathloss: xr.Dataset, aperture: _Aperture) -> None:
    """Warn if the position of a point is outside of the grid."""
    grid = pathloss[f"point_{aperture.names[0]}"]
    for axis, place in (("x", aperture.x), ("y", aperture.y)):
        nodes = grid[f"{axis}_{aperture.names[0]}"].to_numpy()
        if not nodes[0] - _ROUNDING <= place <= nodes[-1] + _ROUNDING:
            warnings.warn(
                about(
                    attrs,
                    f"slit {attrs.get('SLTNAME', '')}: the source is outside of aperture {aperture.names[0]} ({axis} "
                    f"{place:.3g}, its path loss is known from {nodes[0]:.3g} to {nodes[-1]:.3g}); the path loss at "
                    "the edge is used, and the flux is a lower limit",
                ),
                DegradedResultWarning,
                stacklevel=2,
            )


def _factors(
    slit: xr.Dataset,
    pathloss: xr.Dataset,
    aperture: _Aperture,
    lights: Sequence[Light],
    interpolation: Interpolation = "cubic",
) -> list[Factor]:
    """Return the path losses for kinds of light. Only the first one, which pixels are divided by, has its variance."""
    is_fixed = fixed_slit(slit.attrs) is not None
    curves, wavelengths = [], []
    for light in lights:
        wavelengths.append(slit[wavelength_name(slit, light) if is_fixed else "wavelength"])
        curves.append(
            (_point_curve(pathloss, aperture, interpolation),)
            if light == "point"
            else tuple(_uniform_curve(pathloss, name) for name in aperture.names)
        )
    has_variance = all(curve.variance is not None for curve in curves[0])
    names = [*(["relative_variance"] if has_variance else []), *lights]
    outputs: dict[str, Output] = dict.fromkeys(names, (IMAGE, np.float32))
    found = map_blocks(
        _interpolate, *wavelengths, core=(), outputs=outputs, curves=tuple(curves), has_variance=has_variance
    )
    variance = found.get("relative_variance")
    return [Factor(found[light], None if number else variance) for number, light in enumerate(lights)]


def _uniform_curve(pathloss: xr.Dataset, name: str) -> _Curve:
    uniform = pathloss[f"uniform_{name}"]
    variance = pathloss.get(f"uniform_variance_{name}")
    wavelength = uniform[f"uniform_wavelength_{name}"].to_numpy()
    return _Curve(wavelength, uniform.to_numpy(), None if variance is None else variance.to_numpy())


def _point_curve(pathloss: xr.Dataset, aperture: _Aperture, interpolation: Interpolation) -> _Curve:
    """Return the path loss of a point at its position, or at the nearest place of the grid."""
    name = aperture.names[0]
    grid = pathloss[f"point_{name}"]
    axes = [(grid[f"{axis}_{name}"].to_numpy(), at) for axis, at in (("y", aperture.y), ("x", aperture.x))]
    linear, cubic = (np.multiply.outer(*(weigh(*axis) for axis in axes)) for weigh in (_weights, _cubic_weights))
    value, variance = (
        None if cube is None else np.einsum("wyx,yx->w", cube.to_numpy(), linear)
        for cube in (grid, pathloss.get(f"point_variance_{name}"))
    )
    assert value is not None
    if interpolation == "cubic":
        smooth = np.einsum("wyx,yx->w", grid.to_numpy(), cubic)
        value = np.where(np.abs(smooth - value) < _ROUGH * value, smooth, value)
    return _Curve(grid[f"wavelength_{name}"].to_numpy(), value, variance)


def _cubic_weights(nodes: np.ndarray, at: float) -> np.ndarray:
    """Return the weight of each node in the cubic through the four nodes around a place, as Lagrange has it.

    Beyond the ends, the last node has all weight.
    """
    place = float(np.interp(at, nodes, np.arange(nodes.size)))
    first = int(np.clip(np.floor(place) - 1, 0, max(nodes.size - 4, 0)))
    used = range(first, min(first + 4, nodes.size))
    weights = np.zeros(nodes.size)
    for k in used:
        weights[k] = np.prod([(place - other) / (k - other) for other in used if other != k])
    return weights


def _weights(nodes: np.ndarray, at: float) -> np.ndarray:
    """Return the weight of each node in a linear interpolation. Beyond the ends, the last node has all weight."""
    place = np.interp(at, nodes, np.arange(nodes.size))
    return np.maximum(0.0, 1.0 - np.abs(np.arange(nodes.size) - place))


def _interpolate(
    *wavelengths: np.ndarray, curves: tuple[tuple[_Curve, ...], ...], has_variance: bool
) -> np.ndarray | tuple[np.ndarray, ...]:
    """Return the path losses, each the mean of its curves, after the variance of the first one over its square."""
    found = [
        _mean(wavelength, [(curve.wavelength, curve.value) for curve in own])
        for wavelength, own in zip(wavelengths, curves, strict=True)
    ]
    if has_variance:
        known = [(curve.wavelength, curve.variance) for curve in curves[0] if curve.variance is not None]
        variance = _mean(wavelengths[0], known)
        found.insert(0, variance / found[0] ** 2)
    results = tuple(image.astype(np.float32) for image in found)
    return results if len(results) > 1 else results[0]


def _mean(wavelength: np.ndarray, curves: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the mean of curves at wavelengths, NaN where a curve does not reach."""
    at = wavelength.astype(np.float64)
    each = [np.interp(at, nodes, values, left=np.nan, right=np.nan) for nodes, values in curves]
    return np.asarray(np.mean(each, axis=0))
