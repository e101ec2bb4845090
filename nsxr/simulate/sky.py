"""A simulated sky: point and extended sources with spectra, a background, a light curve. Readable from a JSON file."""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from nsxr.errors import ParameterError
from nsxr.model.arguments import check_fields
from nsxr.simulate.spectra import Line, PowerLaw, Spectrum, Table

__all__ = ["Shape", "Sky", "SkySource", "Transit", "read_sky", "zodiacal_light"]

T = TypeVar("T")

Kind = Literal["point", "gaussian", "sersic", "uniform"]
_KINDS = get_args(Kind)
_LARGEST = 1e300  # of a number in a file


@dataclass(frozen=True)
class Shape:
    """How the light of a source is spread over the sky.

    Attributes
    ----------
    kind : {"point", "gaussian", "sersic", "uniform"}
        ``uniform`` is a disc or ellipse of constant brightness.
    radius : float
        Half-light radius of ``gaussian`` and ``sersic``, edge of ``uniform``, along the major axis [arcsec].
    axis_ratio : float
        Minor over major axis, above 0 to 1.
    position_angle : float
        Position angle of the major axis, from north through east [degree].
    index : float
        Index of a Sersic profile: 1 exponential, 4 de Vaucouleurs.
    """

    kind: Kind = "point"
    radius: float = 0.0
    axis_ratio: float = 1.0
    position_angle: float = 0.0
    index: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.kind not in _KINDS:
            raise ParameterError(f"shape is {self.kind!r}, expected one of {', '.join(_KINDS)}")
        if not 0 < self.axis_ratio <= 1 or not 0.3 <= self.index <= 8:
            raise ParameterError(f"{self}: axis_ratio must be above 0 to 1, index 0.3 to 8")
        if self.is_extended and self.radius <= 0:
            raise ParameterError(f"{self}: an extended source needs a radius above 0 arcsec")

    @property
    def is_extended(self) -> bool:
        """Whether the source is not a point."""
        return self.kind != "point"

    def brightness(self, east: np.ndarray, north: np.ndarray) -> np.ndarray:
        """Return the surface brightness at distances from the centre [arcsec].

        It is relative to the one that the spectrum gives: at the half-light radius for ``sersic``, at the centre for
        ``gaussian`` and ``uniform``.
        """
        angle = math.radians(self.position_angle)
        along = north * math.cos(angle) + east * math.sin(angle)
        across = east * math.cos(angle) - north * math.sin(angle)
        radius = np.hypot(along, across / self.axis_ratio) / self.radius
        if self.kind == "uniform":
            return np.asarray((radius <= 1).astype(np.float64))
        if self.kind == "gaussian":
            return np.exp(-math.log(2) * radius**2)
        scale = 2 * self.index - 1 / 3 + 0.009876 / self.index  # Prugniel and Simien 1997
        return np.exp(-scale * (radius ** (1 / self.index) - 1))


@dataclass(frozen=True)
class SkySource:
    """A source on the sky.

    Attributes
    ----------
    name : str
        Name of the source, in printable ASCII characters: FITS files hold no others.
    spectrum : Spectrum
        Flux density [Jy] of a point, surface brightness [MJy/sr] of an extended source, see :class:`Shape`.
    ra, dec : float or None
        Sky coordinates [degree].
    offset : (float, float) or None
        Distance from the pointing to the east and to the north [arcsec], instead of ``ra`` and ``dec``. The pointing
        is that of the first dither position.
    shape : Shape
        A point if it is not given.
    """

    name: str
    spectrum: Spectrum
    ra: float | None = None
    dec: float | None = None
    offset: tuple[float, float] | None = None
    shape: Shape = field(default_factory=Shape)

    def __post_init__(self) -> None:
        check_fields(self)
        if not (self.name and self.name.isascii() and self.name.isprintable()):
            raise ParameterError(f"the name of a source is {self.name!a:.60}, expected printable ASCII characters")
        has_place = self.ra is not None and self.dec is not None
        if has_place == (self.offset is not None) or (self.ra is None) != (self.dec is None):
            raise ParameterError(f"source {self.name!r} needs either ra and dec, or an offset from the pointing")
        if self.offset is not None and len(self.offset) != 2:
            raise ParameterError(f"the offset of source {self.name!r} is {self.offset}, expected two numbers [arcsec]")
        if not (abs(self.ra or 0.0) <= 360 and abs(self.dec or 0.0) <= 90):
            raise ParameterError(
                f"the position of source {self.name!r} is ({self.ra:.10g}, {self.dec:.10g}), expected degrees: -360 to "
                "360 and -90 to 90"
            )

    def position(self, ra: float, dec: float) -> tuple[float, float]:
        """Return the sky coordinates [degree], if the pointing is at ``ra`` and ``dec`` [degree]."""
        if self.offset is None:
            assert self.ra is not None
            assert self.dec is not None
            return self.ra, self.dec
        east, north = (math.radians(value / 3600) for value in self.offset)
        delta = math.radians(dec)
        # inverse of the gnomonic projection
        below = math.cos(delta) - north * math.sin(delta)
        return (
            (ra + math.degrees(math.atan2(east, below))) % 360,
            math.degrees(math.atan2(math.sin(delta) + north * math.cos(delta), math.hypot(east, below))),
        )


@dataclass(frozen=True)
class Transit:
    """A transit in a time series: a trapezoid in time.

    Attributes
    ----------
    depth : float
        Part of the light that is missing in the middle.
    duration : float
        Time from the first to the last contact, as a part of the exposure.
    ingress : float
        Time from the first to the second contact, as a part of the exposure.
    centre : float
        Middle of the transit, as a part of the exposure.
    """

    depth: float = 0.02
    duration: float = 0.36
    ingress: float = 0.04
    centre: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self)
        if not (0 <= self.depth <= 1 and 0 < self.ingress <= 0.5 * self.duration):
            raise ParameterError(f"{self}: depth must be 0 to 1, and ingress at most half of the duration")

    def factor(self, integrations: int) -> np.ndarray:
        """Return the factor on the light in the middle of each integration, (integration,) float64."""
        phase = np.abs((np.arange(integrations) + 0.5) / integrations - self.centre)
        return np.asarray(1 - self.depth * np.clip((0.5 * self.duration - phase) / self.ingress, 0, 1))


@dataclass(frozen=True)
class Sky:
    """All that shines on the instrument.

    Attributes
    ----------
    sources : tuple of SkySource
        Point and extended sources. They may overlap.
    background : Spectrum or None
        Uniform light of the whole sky [MJy/sr].
    transit : Transit or None
        Light curve of all sources. The background is constant in a real sky, but is dimmed here too, so that one
        factor describes an integration.
    """

    sources: tuple[SkySource, ...] = ()
    background: Spectrum | None = None
    transit: Transit | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        twice = sorted(name for name, n in Counter(source.name for source in self.sources).items() if n > 1)
        if twice:
            raise ParameterError(f"several sources of the sky are called {', '.join(twice)}; give each its own name")


def zodiacal_light(factor: float = 1.0) -> Spectrum:
    """Return a smooth spectrum like that of the sky at L2: scattered sunlight, and dust that glows beyond 3 um.

    Parameters
    ----------
    factor : float
        Factor on a sky of 0.2 MJy/sr at 1 um.
    """
    wavelength = np.geomspace(0.5, 6.0, 60)
    scattered = 0.2 * wavelength**-0.9
    warm = 5e6 * wavelength**-3.0 / np.expm1(14388 / 265 / wavelength)  # 1.3e-7 of a black body of 265 K
    return Spectrum(Table(tuple(wavelength.tolist()), tuple((factor * (scattered + warm)).tolist())))


def read_sky(path: str | Path) -> Sky:
    """Read a sky from a JSON file.

    The file holds one object. Keys are the attributes of :class:`Sky`, :class:`SkySource`, :class:`Shape`,
    :class:`Transit` and :class:`nsxr.simulate.spectra.Spectrum`; all but ``name`` and ``spectrum`` have defaults::

        {"sources": [
           {"name": "star", "offset": [0.0, 0.0], "spectrum": {"continuum": {"flux": 1e-5, "slope": -1}}},
           {"name": "galaxy", "ra": 83.82, "dec": -69.27,
            "shape": {"kind": "sersic", "radius": 0.3, "index": 1.5, "axis_ratio": 0.6, "position_angle": 30},
            "spectrum": {"continuum": {"wavelength": [0.5, 6.0], "flux": [0.2, 0.4]},
                         "lines": [{"wavelength": 2.5, "flux": 1e-8, "fwhm": 300}]}}],
         "background": {"continuum": {"flux": 0.2}},
         "transit": {"depth": 0.01}}

    Parameters
    ----------
    path : str or Path
        The file.

    Raises
    ------
    ParameterError
        If the file is not such an object. The message says which key is wrong.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            tree = json.load(file)
    except FileNotFoundError:
        raise ParameterError(f"{path} does not exist; give a JSON file with a sky, or the word default") from None
    except OSError as error:
        raise ParameterError(f"{path} cannot be read ({error.strerror}); give a JSON file with a sky") from None
    except (ValueError, RecursionError) as error:
        raise ParameterError(f"{path} is not JSON ({error}); see nsxr.simulate.sky.read_sky for the format") from None
    try:
        return _sky(tree)
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}") from None


def _sky(tree: object) -> Sky:
    parts = _object(tree, "the sky", {"sources", "background", "transit"})
    return Sky(
        tuple(_source(source, i) for i, source in enumerate(_list(parts.get("sources", []), "sources"), start=1)),
        _spectrum(parts["background"], "background") if "background" in parts else None,
        _made(Transit, parts["transit"], "transit") if "transit" in parts else None,
    )


def _source(tree: object, number: int) -> SkySource:
    where = f"source {number}"
    parts = _object(tree, where, {"name", "spectrum", "ra", "dec", "offset", "shape"})
    if not isinstance(parts.get("name"), str) or "spectrum" not in parts:
        raise ParameterError(f"{where} needs a name and a spectrum")
    ra, dec = (None if parts.get(key) is None else _number(parts[key], f"{where}: {key}") for key in ("ra", "dec"))
    offset = parts.get("offset")
    if offset is not None:
        numbers = [_number(value, f"{where}: offset") for value in _list(offset, f"{where}: offset")]
        if len(numbers) != 2:
            raise ParameterError(f"{where}: offset is {offset}, expected two numbers: arcsec to the east and north")
        offset = (numbers[0], numbers[1])
    spectrum = _spectrum(parts["spectrum"], f"{where}: spectrum")
    shape = _made(Shape, parts["shape"], f"{where}: shape") if "shape" in parts else Shape()
    return SkySource(parts["name"], spectrum, ra, dec, offset, shape)


def _spectrum(tree: object, where: str) -> Spectrum:
    parts = _object(tree, where, {"continuum", "lines"})
    lines = tuple(_made(Line, line, f"{where}: line") for line in _list(parts.get("lines", []), f"{where}: lines"))
    given = parts.get("continuum")
    if given is None:
        return Spectrum(None, lines)
    continuum = _object(given, f"{where}: continuum", {"wavelength", "flux", "reference", "slope"})
    if "wavelength" not in continuum:
        return Spectrum(_made(PowerLaw, continuum, f"{where}: continuum"), lines)
    columns = [
        tuple(_number(value, f"{where}: {key}") for value in _list(continuum.get(key), f"{where}: {key}"))
        for key in ("wavelength", "flux")
    ]
    return Spectrum(Table(columns[0], columns[1]), lines)


def _made(kind: Callable[..., T], tree: object, where: str) -> T:
    """Make a dataclass of numbers and words from an object."""
    names = set(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    parts = _object(tree, where, names)
    try:
        return kind(
            **{key: value if key == "kind" else _number(value, f"{where}: {key}") for key, value in parts.items()}
        )
    except TypeError as error:
        raise ParameterError(f"{where}: {error}") from None


def _object(tree: object, where: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(tree, dict):
        raise ParameterError(f"{where} is {tree!r:.60}, expected an object with some of {', '.join(sorted(known))}")
    unknown = sorted(set(tree) - known)
    if unknown:
        raise ParameterError(f"{where} has the key {unknown[0]!r}, expected some of {', '.join(sorted(known))}")
    return tree


def _list(tree: object, where: str) -> list[Any]:
    if not isinstance(tree, list):
        raise ParameterError(f"{where} is {tree!r:.60}, expected a list")
    return tree


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ParameterError(f"{where} is {value!r:.60}, expected a number")
    if not abs(value) < _LARGEST:
        raise ParameterError(f"{where} is {str(value)[:20]}, expected a finite number")
    return float(value)
