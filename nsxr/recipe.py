"""How exposures are calibrated, in one object that can be written down and read back."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import xarray as xr

from nsxr.corrections.persistence import earlier_exposures, exposure_span, latest_saturation
from nsxr.detector1 import (
    SATURATION_REFERENCES,
    check_settings,
    correct_ramps,
    fit_rates,
    reference_types,
    saturation_of,
)
from nsxr.errors import NsxrError
from nsxr.io.exposure import open_exposure
from nsxr.references import open_references

__all__ = ["Calibrated", "Recipe"]


class Calibrated(NamedTuple):
    """A raw exposure, the same after each step, and its products; all lazy."""

    exposure: xr.Dataset
    stages: dict[str, xr.Dataset]
    products: xr.DataTree


@dataclass(frozen=True)
class Recipe:
    """References, parameters and steps of stage 1 for any number of exposures.

    Attributes
    ----------
    references : str or None
        Directory or URL of references, or ``"crds"``.
    named : mapping of str to str
        Paths by type that win over ``references``.
    parameters : mapping
        Parameters by step.
    skip : tuple of str
        Steps to leave out.
    storage_options : mapping
        How the stores behind URLs are reached. Not written down: it may hold secrets.
    earlier : tuple of mapping
        Exposures before, of which saturated pixels may still glow: ``paths`` of their raw files, ``references`` and
        ``named`` as above. See :meth:`Recipe.in_turn`.
    """

    references: str | None = None
    named: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    earlier: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Refuse unknown steps and parameters before anything is opened."""
        check_settings(self.parameters, self.skip)

    def as_json(self) -> dict[str, Any]:
        """Return the recipe without storage options, for :meth:`Recipe.from_json`."""
        return {key: value for key, value in asdict(self).items() if key != "storage_options"}

    @classmethod
    def from_json(cls, entries: Mapping[str, Any], storage_options: Mapping[str, Any] | None = None) -> "Recipe":
        """Return the recipe that was written down."""
        tuples = {key: tuple(entries.get(key, ())) for key in ("skip", "earlier")}
        return cls(**{**entries, **tuples}, storage_options=storage_options or {})

    def in_turn(self, exposures: Mapping[str, Sequence[str]]) -> dict[str, "Recipe"]:
        """Return the recipe of each exposure, which remembers those before it; headers are read.

        Parameters
        ----------
        exposures : mapping of str to sequence of str
            File or segments of each exposure, by name, in any order. What cannot be opened is nobody's predecessor.

        Returns
        -------
        dict
            The recipe itself where nothing has to be remembered.
        """
        duration = self.parameters.get("persistence", {}).get("persistence_time")
        if not duration or "persistence" in self.skip:
            return dict.fromkeys(exposures, self)
        headers = {}
        for name, paths in exposures.items():
            try:
                headers[name] = open_exposure(list(paths), storage_options=self.storage_options).attrs
                exposure_span(headers[name])
            except (NsxrError, OSError):  # said when its turn comes
                headers.pop(name, None)
        names, own = list(headers), {"references": self.references, "named": dict(self.named)}
        recipes = dict.fromkeys(exposures, self)
        for name, header in headers.items():
            chosen = earlier_exposures(header, list(headers.values()), float(duration))
            earlier = tuple({"paths": list(exposures[names[number]]), **own} for number in chosen)
            recipes[name] = replace(self, earlier=earlier)
        return recipes

    def calibrate(self, paths: Sequence[str]) -> Calibrated:
        """Open an exposure with its references and calibrate it; nothing is computed.

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
            reference_types(exposure, self.skip, self.parameters),
            self.storage_options,
        )
        before = None
        for entry in self.earlier:
            state = self._saturation(**entry)
            before = state if before is None else latest_saturation([before, state])
        stages = correct_ramps(exposure, references, before=before, skip=self.skip, **self.parameters)
        tree = fit_rates(list(stages.values())[-1], references, skip=self.skip, **self.parameters)
        return Calibrated(exposure, stages, tree)

    def _saturation(self, paths: list[str], references: str | None, named: Mapping[str, str]) -> xr.DataArray:
        """Return when pixels saturated in an earlier exposure."""
        exposure = open_exposure(paths, storage_options=self.storage_options)
        found = open_references(references or {}, exposure, named, SATURATION_REFERENCES, self.storage_options)
        return saturation_of(exposure, found, skip=self.skip, **self.parameters)

    @property
    def paths(self) -> list[str]:
        """Local paths and URLs that the recipe names."""
        earlier = [path for entry in self.earlier for path in entry["paths"]]
        return [*earlier, *([self.references] if self.references not in (None, "crds") else []), *self.named.values()]
