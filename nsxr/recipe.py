"""How exposures are calibrated, in one object that can be written down and read back."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import xarray as xr

from nsxr.detector1 import check_settings, correct_ramps, fit_rates, reference_types
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
    """

    references: str | None = None
    named: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Refuse unknown steps and parameters before anything is opened."""
        check_settings(self.parameters, self.skip)

    def as_json(self) -> dict[str, Any]:
        """Return the recipe without storage options, for :meth:`Recipe.from_json`."""
        return {key: value for key, value in asdict(self).items() if key != "storage_options"}

    @classmethod
    def from_json(cls, entries: Mapping[str, Any], storage_options: Mapping[str, Any] | None = None) -> "Recipe":
        """Return the recipe that was written down."""
        return cls(**{**entries, "skip": tuple(entries["skip"])}, storage_options=storage_options or {})

    def calibrate(self, paths: Sequence[str]) -> Calibrated:
        """Open an exposure with its references and calibrate it; nothing is computed.

        Parameters
        ----------
        paths : sequence of str
            File or segments of one raw exposure.
        """
        exposure = open_exposure(list(paths), storage_options=self.storage_options)
        references = open_references(
            self.references or {}, exposure, self.named, reference_types(exposure, self.skip), self.storage_options
        )
        stages = correct_ramps(exposure, references, skip=self.skip, **self.parameters)
        tree = fit_rates(list(stages.values())[-1], references, skip=self.skip, **self.parameters)
        return Calibrated(exposure, stages, tree)

    @property
    def paths(self) -> list[str]:
        """Local paths and URLs that the recipe names."""
        return [*([self.references] if self.references not in (None, "crds") else []), *self.named.values()]
