"""Add ``dataset.nsxr`` and ``tree["rate"].nsxr``: shortcuts to the corrections, for notebooks."""

from collections.abc import Collection, Mapping

import xarray as xr

from nsxr.errors import ModelError
from nsxr.model.arguments import checks_arguments
from nsxr.model.history import steps
from nsxr.model.provenance import provenance_of
from nsxr.model.readout import AMPLIFIER_ROWS, Readout
from nsxr.model.types import Entries, Named
from nsxr.model.variables import error_variances, variances_of

__all__ = ["NodeAccessor", "NsxrAccessor"]


@xr.register_dataset_accessor("nsxr")  # type: ignore[no-untyped-call]
class NsxrAccessor:
    """Shortcuts on an exposure, slit, spectrum or product."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    @property
    def readout(self) -> Readout:
        """Readout geometry and times, from the header keywords."""
        return Readout.from_header(self._dataset.attrs)

    @property
    def steps(self) -> list[Entries]:
        """Corrections that were applied to the data, with their parameters and references."""
        return steps(self._dataset)

    @property
    def provenance(self) -> Entries:
        """Software, inputs, references and recipe, see :mod:`nsxr.model.provenance`."""
        return provenance_of(self._dataset.attrs)

    @property
    def err(self) -> xr.DataArray:
        """Standard deviation of the signal: the square root of the sum of its variances. Lazy variances stay lazy.

        For count rates and slits, the signal is ``sci`` and the variances are ``var_poisson``, ``var_rnoise`` and, if
        present, ``var_flat``. For spectra, the signal is ``flux``. Errors of time series of spectra, and of white light
        curves, have no variance of the flat field, because all integrations share it. A Dataset holds variances only,
        because these can be added. The ERR extension of FITS files is computed from them.

        Raises
        ------
        ModelError
            If the Dataset has no variances.
        """
        name = "sci" if "sci" in self._dataset else "flux"
        parts = variances_of(self._dataset) if name == "sci" else error_variances(self._dataset)
        if name not in self._dataset or not parts:
            found = ", ".join(map(str, self._dataset.data_vars)) or "none"
            raise ModelError(f"there are no variances to make an error of: variables are {found}")
        # var_flat is NaN where the flat field has no value
        total = sum((self._dataset[part].fillna(0.0) for part in parts[1:]), self._dataset[parts[0]])
        attributes = {"long_name": f"standard deviation of {name}"}
        if "units" in self._dataset[name].attrs:
            attributes["units"] = self._dataset[name].attrs["units"]
        error: xr.DataArray = xr.ufuncs.sqrt(total)
        error.attrs = attributes
        return error.rename("err")

    @checks_arguments
    def detector1(
        self,
        references: Mapping[str, xr.Dataset],
        *,
        light: xr.DataArray | None = None,
        skip: Collection[str] = (),
        run: Collection[str] = (),
        **parameters: Named,
    ) -> xr.DataTree:
        """Calibrate to count rates, see :func:`nsxr.detector1`."""
        from nsxr.pipelines.detector1 import detector1  # imported late: it takes a second

        return detector1(self._dataset, references, light=light, skip=skip, run=run, **parameters)

    def by_amplifier(self) -> xr.Dataset:
        """Return a full frame with dims ``amplifier`` (numbered by output) and ``row`` within the amplifier.

        The result is a view: nothing is copied or computed. Rows are numbered from 0 within each amplifier.

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


@xr.register_datatree_accessor("nsxr")  # type: ignore[no-untyped-call]
class NodeAccessor:
    """Shortcuts on a node of a DataTree: a product of :func:`nsxr.detector1`, spectra, or a node of an archive."""

    def __init__(self, node: xr.DataTree) -> None:
        self._node = node

    def _own(self) -> NsxrAccessor:
        """Return the shortcuts of the Dataset of the node."""
        if not self._node.data_vars and self._node.children:
            names = ", ".join(map(repr, self._node.children))
            raise ModelError(f"this node holds other nodes only: {names}; take one, as in tree[...].nsxr")
        return NsxrAccessor(self._node.to_dataset())

    @property
    def steps(self) -> list[Entries]:
        """Corrections that the data have had, with parameters and references."""
        return self._own().steps

    @property
    def provenance(self) -> Entries:
        """Software, inputs, references and recipe, see :mod:`nsxr.model.provenance`."""
        return self._own().provenance

    @property
    def err(self) -> xr.DataArray:
        """Standard deviation of the signal, see :attr:`NsxrAccessor.err`."""
        return self._own().err
