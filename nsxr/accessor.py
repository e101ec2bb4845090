"""``dataset.nsxr``: the corrections as methods, for notebooks."""

from collections.abc import Collection, Mapping
from typing import Any

import xarray as xr

from nsxr.detector1 import detector1
from nsxr.model.arguments import checks_arguments
from nsxr.model.history import steps
from nsxr.model.readout import AMPLIFIER_ROWS, Readout

__all__ = ["NsxrAccessor"]


@xr.register_dataset_accessor("nsxr")  # type: ignore[no-untyped-call]
class NsxrAccessor:
    """Shortcuts on an exposure or product; each calls one function."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    @property
    def readout(self) -> Readout:
        """Readout geometry and times, from the header keywords."""
        return Readout.from_header(self._dataset.attrs)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Corrections done so far, with parameters and references."""
        return steps(self._dataset)

    @checks_arguments
    def detector1(
        self, references: Mapping[str, xr.Dataset], *, skip: Collection[str] = (), **parameters: Mapping[str, Any]
    ) -> xr.DataTree:
        """Calibrate to count rates, see :func:`nsxr.detector1`."""
        return detector1(self._dataset, references, skip=skip, **parameters)

    def by_amplifier(self) -> xr.Dataset:
        """Return a full frame with dims ``amplifier`` (by output number) and ``row`` of an amplifier.

        A view: nothing is copied or computed. Rows are numbered from 0 within each amplifier.

        Raises
        ------
        ValueError
            If the image does not have all 2048 rows.
        """
        n_rows = self._dataset.sizes["row"]
        if n_rows != 4 * AMPLIFIER_ROWS:
            raise ValueError(f"the image has {n_rows} rows; only the 2048 of a full frame split into amplifiers")
        numbers = self.readout.amplifier_of(self._dataset.indexes["row"].to_numpy()[::AMPLIFIER_ROWS])
        bare = self._dataset.drop_vars(["row", "amplifier"], errors="ignore")
        stacked = bare.coarsen(row=AMPLIFIER_ROWS).construct(row=("amplifier", "row"), keep_attrs=True)
        return stacked.assign_coords(amplifier=numbers, row=range(AMPLIFIER_ROWS))
