"""Divide the pixels of a slit by a factor, with its uncertainty and its flags, and undo it.

The flat field, the path loss, the bar shadow and the sensitivity are factors that depend on the wavelength of a pixel
and on its place in the slit. Each correction makes its factor; this file has the one rule of how a factor is used.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

from nsxr.compute.blocks import Output, map_blocks
from nsxr.model.dq import PixelFlag
from nsxr.model.variables import FACTOR_VARIANCES, variances_of

__all__ = ["Factor", "divide", "multiply", "variance_units"]

_DO_NOT_USE = np.uint32(PixelFlag.DO_NOT_USE)
_LOST = np.uint32(PixelFlag.DO_NOT_USE | PixelFlag.REFERENCE_PIXEL)


class Factor(NamedTuple):
    """What the pixels of a slit are divided by. All arrays are (row, column), lazy if the slit is.

    Attributes
    ----------
    value : DataArray
        The factor. Pixels where it is NaN or 0 have no value afterwards.
    relative_variance : DataArray or None
        Variance of the factor, divided by its square. None if the reference does not tell.
    dq : DataArray or None
        Flags uint32 to add.
    """

    value: xr.DataArray
    relative_variance: xr.DataArray | None = None
    dq: xr.DataArray | None = None


def divide(slit: xr.Dataset, factor: Factor, *, kind: str) -> dict[str, xr.DataArray]:
    """Return the variables of a slit, divided by a factor.

    Parameters
    ----------
    slit : Dataset
        ``sci``, ``dq`` and variances (row, column), with or without integration in front.
    factor : Factor
        The factor.
    kind : str
        Name of the variance of the factor: ``flat``, ``pathloss``, ``barshadow`` or ``photom``.

    Returns
    -------
    dict of DataArray
        ``sci``, ``dq`` and the variances, also ``var_background``. Variances are divided by the square of the factor.
        If the factor has a variance, ``var_KIND`` is the square of the new ``sci`` times the relative variance of the
        factor; if there was one from the same factor already, of light that was subtracted, the deviations add up.
        A ``var_flat`` is replaced. Pixels with DO_NOT_USE, reference pixels, and pixels without a factor are NaN in
        ``sci`` and in all variances. Pixels that are NaN in ``sci`` get DO_NOT_USE.
    """
    names = _variances(slit)
    optional = {"relative_variance": factor.relative_variance, "flags": factor.dq}
    given = {name: array for name, array in optional.items() if array is not None}
    dims = tuple(map(str, slit.variables["sci"].dims))
    made = [f"var_{kind}"] if factor.relative_variance is not None and f"var_{kind}" not in names else []
    outputs = {name: (dims, slit.variables[name].dtype.type) for name in ("sci", "dq", *names)}
    outputs |= dict.fromkeys(made, (dims, np.float32))
    divided = map_blocks(
        _divide,
        *(slit[name] for name in ("sci", "dq", *names)),
        factor.value,
        *given.values(),
        core=(),
        outputs=outputs,
        given=tuple(given),
        new=[*names, *made].index(f"var_{kind}") if factor.relative_variance is not None else None,
        adds=kind != "flat" and not made,
    )
    return divided | _background(slit, factor.value, power=-2)


def variance_units(slit: xr.Dataset) -> str:
    """Return the units of the variances of a slit."""
    return f"({slit['sci'].attrs.get('units', 'DN/s')})2"


def multiply(slit: xr.Dataset, value: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return ``sci`` and the variances of a slit, multiplied by a factor: :func:`divide` is undone.

    Pixels that lost their value stay NaN. Flags stay.
    """
    names, dims = _variances(slit), tuple(map(str, slit["sci"].dims))
    multiplied = map_blocks(
        _multiply,
        *(slit[name] for name in ("sci", *names)),
        value,
        core=(),
        outputs={name: (dims, slit[name].dtype.type) for name in ("sci", *names)},
    )
    return multiplied | _background(slit, value, power=2)


def _background(slit: xr.Dataset, value: xr.DataArray, *, power: int) -> dict[str, xr.DataArray]:
    """Return the variance of the subtracted background times a power of the factor, if all integrations share it.

    Otherwise its dims are those of ``sci``, and it is scaled together with the other variances.
    """
    if "var_background" not in slit or slit["var_background"].dims == slit["sci"].dims:
        return {}
    variance = slit["var_background"]
    outputs: dict[str, Output] = {"var_background": (tuple(map(str, variance.dims)), np.float32)}
    return map_blocks(_scale, variance, value, core=(), outputs=outputs, power=power)


def _scale(variance: np.ndarray, value: np.ndarray, *, power: int) -> np.ndarray:
    with np.errstate(all="ignore"):
        scaled: np.ndarray = variance * value.astype(np.float64) ** power
    return np.where(np.isfinite(scaled), scaled, np.nan).astype(np.float32)


def _variances(slit: xr.Dataset) -> list[str]:
    """Return the names of all variances of a slit with the dims of ``sci``. ``var_flat`` is in both lists."""
    names = [*variances_of(slit), *(name for name in FACTOR_VARIANCES if name in slit)]
    if "var_background" in slit and slit["var_background"].dims == slit["sci"].dims:
        names.append("var_background")
    return list(dict.fromkeys(names))


def _divide(*blocks: np.ndarray, given: tuple[str, ...], new: int | None, adds: bool) -> tuple[np.ndarray, ...]:
    """Return signal, flags and variances. The last blocks are the factor, its relative variance and its flags."""
    count = len(blocks) - 1 - len(given)
    sci, dq, *variances = blocks[:count]
    optional = dict(zip(given, blocks[count + 1 :], strict=True))
    with np.errstate(all="ignore"):
        inverse = 1.0 / blocks[count].astype(np.float64)
        result = (sci * inverse).astype(np.float32)
        flags = dq | optional["flags"] if "flags" in optional else dq.copy()
        is_lost = ~np.isfinite(result) | ((flags & _LOST) > 0)
        square = inverse * inverse
        scaled = [(variance * square).astype(np.float32) for variance in variances]
        if new is not None:
            deviation = result * np.sqrt(optional["relative_variance"].astype(np.float64))
            if adds:  # of light that was subtracted with the same factor
                deviation = deviation + np.sqrt(scaled[new])
            scaled[new : new + 1] = [(deviation**2).astype(np.float32)]
    flags |= np.where(is_lost, _DO_NOT_USE, np.uint32(0))
    for image in (result, *scaled):
        image[is_lost] = np.nan
    return result, flags, *scaled


def _multiply(*blocks: np.ndarray) -> tuple[np.ndarray, ...]:
    sci, *variances, value = blocks
    factor = value.astype(np.float64)
    square = factor * factor
    return (sci * factor).astype(np.float32), *((variance * square).astype(np.float32) for variance in variances)
