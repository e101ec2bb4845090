"""Describe how exposures are calibrated, in one object that can be written to a file and read again."""

import json
import logging
import os
import re
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import Any, NamedTuple

import xarray as xr

from nsxr.associate.predecessors import earlier_exposures
from nsxr.errors import NsxrError, NsxrWarning, ParameterError
from nsxr.model.parameters import closest, said
from nsxr.model.types import ByStep, Entries, Named
from nsxr.pipelines.detector1 import (
    AFTER_SATURATION,
    DETECTOR1,
    correct_ramps,
    fit_rates,
    persistence_time,
    saturation_of,
)
from nsxr.pipelines.light import light_if_known, light_of, metafile_of
from nsxr.pipelines.older_spellings import steps_that_were_off
from nsxr.pipelines.settings import Settings
from nsxr.products.exposure import open_exposure
from nsxr.ramps.persistence import latest_saturation
from nsxr.references import open_references
from nsxr.storage.urls import is_remote, shown

__all__ = ["Calibrated", "Recipe"]

logger = logging.getLogger(__name__)

_LARGEST = 2**20  # characters of a recipe; a long recipe has a thousand
_WRITTEN = "# recipe of nsxr"
_NONE = "none"  # in place of a directory of optics


class Calibrated(NamedTuple):
    """A raw exposure, the exposure after each step, its products, and the complete recipe; all Datasets are lazy."""

    exposure: xr.Dataset
    stages: dict[str, xr.Dataset]
    products: xr.DataTree
    recipe: "Recipe"


@dataclass(frozen=True)
class Recipe:
    """References, parameters and steps of stage 1 for any number of exposures.

    Attributes
    ----------
    references : str or None
        Directory or URL of references, or ``"crds"``.
    named : mapping of str to str
        Paths of single references, by type. They take precedence over ``references``.
    parameters : mapping
        Parameters by step.
    skip : tuple of str
        Steps to skip.
    run : tuple of str
        Steps to run that are off by default.
    optics : str or None
        Directory of references of the optics, or ``"crds"``. The optics tell ``clean_flicker_noise`` where light can
        fall. By default, those in the directory ``references`` are used if they are there. ``"none"`` uses none.
    shutters : str or None
        MSA metafile of exposures of shutters. By default, the file that the header of the exposure names, beside the
        exposure or in the directory of the optics.
    storage_options : mapping
        Options for access to URLs, as fsspec takes them. They are never written to a file, because they may hold
        secrets.
    earlier : tuple of mapping
        Earlier exposures whose saturated pixels may show persistence: ``paths`` of their raw files, and ``references``
        and ``named`` as above. See :meth:`Recipe.in_turn`.
    """

    references: str | None = None
    named: Mapping[str, str] = field(default_factory=dict)
    parameters: ByStep = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    storage_options: Named = field(default_factory=dict, repr=False)
    earlier: tuple[Named, ...] = ()
    run: tuple[str, ...] = ()
    optics: str | None = None
    shutters: str | None = None

    def __post_init__(self) -> None:
        """Raise an error for unknown steps, unknown parameters and wrong values, before any file is opened."""
        for name in ("skip", "run"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        if self.references is not None and self.references.lower() == "crds":
            object.__setattr__(self, "references", "crds")
        if self.optics is not None and self.optics.lower() in (_NONE, "crds"):
            object.__setattr__(self, "optics", self.optics.lower())
        if self.shutters is not None and self.optics in (None, _NONE):
            if self.references is None or self.optics == _NONE:
                raise ParameterError("shutters needs the directory of references of the optics: give optics")
            object.__setattr__(self, "optics", self.references)
        settings = DETECTOR1.settings(self.parameters, self.skip, self.run)
        object.__setattr__(self, "parameters", {name: given for name, given in settings.parameters.items() if given})
        object.__setattr__(self, "run", settings.run)
        object.__setattr__(self, "skip", settings.skip)

    @property
    def settings(self) -> Settings:
        """Settings of the pipeline."""
        return DETECTOR1.settings(self.parameters, self.skip, self.run)

    def as_json(self) -> Entries:
        """Return the recipe without storage options, in the form that :meth:`Recipe.from_json` reads."""
        return {key: value for key, value in asdict(self).items() if key != "storage_options"}

    @classmethod
    def from_json(cls, entries: Named, storage_options: Named | None = None) -> "Recipe":
        """Return the recipe that :meth:`Recipe.as_json` wrote."""
        tuples = {key: tuple(entries.get(key, ())) for key in ("skip", "run", "earlier")}
        return cls(**{**entries, **tuples}, storage_options=storage_options or {})

    def as_toml(self) -> str:
        """Return the recipe as TOML, without storage options and without secrets in URLs.

        :meth:`Recipe.from_toml` reads this text. Parameters that are None are left out.

        Raises
        ------
        ParameterError
            If a parameter is an array, or if a path is not Unicode text.
        """
        lines = [f"{_WRITTEN} {version('nsxr')}: nsxr detector1 FILES --recipe THIS_FILE"]
        if self.references is not None:
            lines.append(f"references = {_toml(shown(self.references))}")
        lines.append(f"skip = {_toml(list(self.skip))}")
        if self.run:
            lines.append(f"run = {_toml(list(self.run))}")
        for name in ("optics", "shutters"):
            if (path := getattr(self, name)) is not None:
                lines.append(f"{name} = {_toml(shown(path))}")
        lines += _table("reference", {kind: shown(path) for kind, path in self.named.items()})
        for step, values in self.parameters.items():
            lines += _table(f"parameters.{step}", {name: value for name, value in values.items() if value is not None})
        for entry in self.earlier:
            lines += ["", "[[earlier]]", f"paths = {_toml([shown(path) for path in entry['paths']])}"]
            if entry["references"] is not None:
                lines.append(f"references = {_toml(shown(entry['references']))}")
            lines += _table("earlier.reference", {kind: shown(path) for kind, path in entry["named"].items()})
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str, storage_options: Named | None = None) -> "Recipe":
        """Return the recipe that :meth:`Recipe.as_toml` or a user wrote.

        Parameters
        ----------
        text : str
            TOML: ``references`` (a directory or ``"crds"``), ``optics`` (the same, or ``"none"``), ``shutters`` (a
            path), ``skip`` and ``run`` (steps), tables ``reference`` (paths by type) and ``parameters.STEP``. Every
            entry is optional.
        storage_options : mapping, optional
            Options for access to URLs, as fsspec takes them.

        Raises
        ------
        ParameterError
            If the text is not a recipe. The message says which entry is wrong.
        """
        if len(text) > _LARGEST:
            raise ParameterError(f"a recipe has {len(text)} characters, expected at most {_LARGEST}")
        try:
            entries = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ParameterError(f"not a recipe in TOML: {error}") from None
        kinds = {"references": str, "skip": list, "run": list, "reference": dict, "parameters": dict, "earlier": list}
        kinds |= {"optics": str, "shutters": str}
        _require("the recipe", entries, kinds)
        for name in ("skip", "run"):
            _require_texts(name, entries.get(name, []))
        _require_texts("reference", list(entries.get("reference", {}).values()))
        earlier = []
        for entry in entries.get("earlier", []):
            _require("earlier", entry, {"paths": list, "references": str, "reference": dict})
            _require_texts("earlier.paths", entry.get("paths", []))
            named = entry.get("reference", {})
            _require_texts("earlier.reference", list(named.values()))
            earlier.append({"paths": entry.get("paths", []), "references": entry.get("references"), "named": named})
        skip = tuple(entries.get("skip", []))
        # the recipe of a product is complete: it names every step that ran
        is_complete = "references" not in entries and "ramp_fit" in entries.get("parameters", {})
        if text.startswith(_WRITTEN) and is_complete:
            skip += steps_that_were_off(entries)
        return cls(
            entries.get("references"),
            entries.get("reference", {}),
            entries.get("parameters", {}),
            skip,
            storage_options or {},
            tuple(earlier),
            tuple(entries.get("run", [])),
            entries.get("optics"),
            entries.get("shutters"),
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str], storage_options: Named | None = None) -> "Recipe":
        """Return the recipe in a file.

        Raises
        ------
        ParameterError
            If there is no such file, or if it is not a recipe.
        """
        if not os.path.isfile(path):
            raise ParameterError(f"{os.fspath(path)}: no such file, expected a recipe")
        if os.path.getsize(path) > _LARGEST:
            raise ParameterError(f"{os.fspath(path)}: has more than {_LARGEST} bytes, expected a recipe")
        try:
            with open(path, encoding="utf-8") as file:
                return cls.from_toml(file.read(), storage_options)
        except UnicodeDecodeError:
            raise ParameterError(f"{os.fspath(path)}: is no text, expected a recipe") from None
        except ParameterError as error:
            raise ParameterError(f"{os.fspath(path)}: {error}") from None

    def completed(self, references: Mapping[str, xr.Dataset]) -> "Recipe":
        """Return the recipe with all parameters, defaults included, and the paths of the references of one exposure.

        Parameters
        ----------
        references : mapping of str to Dataset
            References of the exposure, as from :func:`nsxr.open_references`.
        """
        return replace(
            self,
            references=None,
            named={kind: _origin(dataset) for kind, dataset in references.items()},
            parameters=DETECTOR1.filled(self.settings),
            skip=self.settings.skip,
            optics=None if self.optics is None else _absolute(self.optics),
            shutters=None if self.shutters is None else _absolute(self.shutters),
            earlier=tuple(
                {
                    "paths": [_absolute(path) for path in entry["paths"]],
                    "references": None if entry["references"] is None else _absolute(entry["references"]),
                    "named": {kind: _absolute(path) for kind, path in entry["named"].items()},
                }
                for entry in self.earlier
            ),
        )

    def in_turn(self, exposures: Mapping[str, Sequence[str]]) -> dict[str, "Recipe"]:
        """Return the recipe of each exposure, with the earlier exposures that matter for persistence.

        Headers are read, but no pixels.

        Parameters
        ----------
        exposures : mapping of str to sequence of str
            File or segments of each exposure, by name, in any order. An exposure that cannot be opened is not used as
            an earlier exposure of others.

        Returns
        -------
        dict
            Recipes by name of the exposure. An exposure without earlier exposures gets this recipe itself.
        """
        duration = persistence_time(self.settings)
        if not duration:
            return dict.fromkeys(exposures, self)
        headers = {}
        for name, paths in exposures.items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", NsxrWarning)  # these warnings come when this exposure is calibrated
                    headers[name] = open_exposure(list(paths), storage_options=self.storage_options).attrs
            except (NsxrError, OSError):  # this error comes when this exposure is calibrated
                continue
        names, own = list(headers), {"references": self.references, "named": dict(self.named)}
        recipes = dict.fromkeys(exposures, self)
        for name, header in headers.items():
            chosen = earlier_exposures(header, list(headers.values()), duration)
            earlier = tuple({"paths": list(exposures[names[number]]), **own} for number in chosen)
            recipes[name] = replace(self, earlier=earlier or self.earlier)
        return recipes

    def calibrate(self, paths: Sequence[str]) -> Calibrated:
        """Open an exposure with its references, and calibrate it without computing anything.

        Parameters
        ----------
        paths : sequence of str
            File or segments of one raw exposure.
        """
        exposure = open_exposure(list(paths), storage_options=self.storage_options)
        references = open_references(
            self.references or {},
            exposure,
            self.named,
            DETECTOR1.reference_types(exposure, self.settings),
            self.storage_options,
        )
        before = None
        for entry in self.earlier:
            state = self._saturation(**entry)
            before = state if before is None else latest_saturation([before, state])
        own, light = self._with_light(os.fspath(paths[0]), exposure)
        skip, run = self.skip, self.run
        stages = correct_ramps(exposure, references, before=before, light=light, skip=skip, run=run, **self.parameters)
        tree = fit_rates(list(stages.values())[-1], references, skip=skip, run=run, **self.parameters)
        return Calibrated(exposure, stages, tree, own.completed(references))

    def _with_light(self, file: str, exposure: xr.Dataset) -> tuple["Recipe", xr.DataArray | None]:
        """Return the recipe with the optics that are used, and the pixels on which light can fall, None if unknown."""
        folder = self.references if self.optics is None else self.optics
        if "clean_flicker_noise" in self.skip or folder is None or folder == _NONE:
            return self, None
        shutters = self.shutters or metafile_of(file, exposure, folder)
        if self.optics is not None:
            return replace(self, shutters=shutters), light_of(exposure, folder, shutters)
        is_local = folder != "crds" and not is_remote(folder)
        light = light_if_known(exposure, folder, shutters) if is_local else None
        return (self if light is None else replace(self, optics=folder)), light

    def _saturation(self, paths: list[str], references: str | None, named: Mapping[str, str]) -> xr.DataArray:
        """Return when the pixels of an earlier exposure were last saturated."""
        exposure = open_exposure(paths, storage_options=self.storage_options)
        kinds = DETECTOR1.reference_types(exposure, self.settings, AFTER_SATURATION)
        found = open_references(references or {}, exposure, named, kinds, self.storage_options)
        return saturation_of(exposure, found, skip=self.skip, run=self.run, **self.parameters)

    @property
    def paths(self) -> list[str]:
        """Local paths and URLs that the recipe names."""
        earlier = [path for entry in self.earlier for path in entry["paths"]]
        return [*earlier, *([self.references] if self.references not in (None, "crds") else []), *self.named.values()]


def _origin(reference: xr.Dataset) -> str:
    """Return the location of a reference: ``crds://NAME``, which also works on other machines, or its path or URL."""
    name = str(reference.attrs["filename"])
    return name if name.startswith("crds://") else str(reference.encoding["source"])


def _absolute(path: str) -> str:
    return path if is_remote(path) or path in ("crds", _NONE) else os.path.abspath(path)


def _table(name: str, values: Named) -> list[str]:
    """Return the lines of a TOML table; no lines if the table is empty."""
    if not values:
        return []
    return ["", f"[{name}]", *(f"{_key(key)} = {_toml(value)}" for key, value in values.items())]


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: object) -> str:
    """Return a value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if not isinstance(value, str):
        raise ParameterError(f"{said(value)} cannot be written into a recipe")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ParameterError(f"{value!r} is no Unicode text and cannot be written into a recipe")
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _require(place: str, entries: object, kinds: Mapping[str, type]) -> None:
    """Raise ParameterError unless entries of a recipe have known names and the right types."""
    if not isinstance(entries, dict):
        raise ParameterError(f"{place} is {said(entries)} in the recipe, expected a table")
    for name, value in entries.items():
        if name not in kinds:
            meant = closest(name, kinds)
            hint = f"did you mean {meant!r}?" if meant else f"known: {', '.join(kinds)}"
            raise ParameterError(f"{place} has an entry {name!r}, {hint}")
        if not isinstance(value, kinds[name]):
            words: dict[type, str] = {str: "a text", list: "a list", dict: "a table"}
            raise ParameterError(f"{name} is {said(value)} in the recipe, expected {words[kinds[name]]}")


def _require_texts(name: str, values: Sequence[Any]) -> None:
    wrong = [value for value in values if not isinstance(value, str)]
    if wrong:
        raise ParameterError(f"{name} has {said(wrong[0])} in the recipe, expected texts")
