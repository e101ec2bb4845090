"""Simulate small exposures in memory."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from nsxr.errors import ParameterError
from nsxr.formats.fits_headers import keywords
from nsxr.model.parameters import Seed
from nsxr.model.readout import Readout
from nsxr.model.variables import variable_attributes
from nsxr.simulate.artifacts import Artifacts
from nsxr.simulate.configuration import SUBARRAYS, Configuration, configure
from nsxr.simulate.headers import Segment, integration_times, primary_header, science_header
from nsxr.simulate.ramps import Ramps, digitize
from nsxr.simulate.reference_data import reference_datasets
from nsxr.simulate.truth import truth_dataset

__all__ = ["SmallExposure", "small_exposure"]


@dataclass(frozen=True)
class SmallExposure:
    """A simulated exposure in memory: the raw exposure, its references by type, and the truth."""

    exposure: xr.Dataset
    references: dict[str, xr.Dataset]
    truth: xr.Dataset


def small_exposure(
    *,
    readout: str = "NRSIRS2RAPID",
    subarray: str = "FULL",
    groups: int = 5,
    integrations: int = 1,
    detector: str = "NRS1",
    scene: str | None = None,
    seed: Seed = 1,
    columns: int | None = 32,
    artifacts: Artifacts | None = None,
    rounded: bool = True,
) -> SmallExposure:
    """Simulate an exposure with few columns in memory, as :func:`nsxr.open_exposure` would return it.

    All rows are simulated, so the amplifiers, the interleaved rows and the order of reading are real. Only the
    first and the last ``columns / 2`` columns of the subarray are simulated, with their own labels. So there are
    reference pixels at both ends. A frame has as many lines as there are columns, and the nominal times.

    Parameters
    ----------
    readout, subarray, groups, integrations, detector, seed, artifacts
        As in :func:`simulate_exposure`.
    scene : str, optional
        The default for full frames is ``IFU``, because its spectra reach all columns.
    columns : int, optional
        Even number of columns to simulate. With None, or with a larger number than there are, all columns.
    rounded : bool
        Whether values are integers, as stored on board. If not, they are exact: the mean over frames
        times NFRAMES / FRMDIVSR.

    Returns
    -------
    SmallExposure
        ``exposure`` with ``sci`` (integration, group, row, column) float32 [DN], ``references`` by type, and
        ``truth`` from :func:`nsxr.simulate.truth.truth_dataset`.
    """
    artifacts = artifacts or Artifacts()
    size = SUBARRAYS.get(subarray.upper())
    labels = None
    if size is not None and columns is not None and columns < size.columns:
        if columns < 2 or columns % 2:
            raise ParameterError(f"columns is {columns}, expected an even number of 2 or more")
        start = size.column_start[detector.upper() == "NRS2"] - 1
        inner = np.arange(columns // 2)
        labels = np.concatenate([start + inner, start + size.columns - columns // 2 + inner])
    configuration = configure(
        readout=readout,
        subarray=subarray,
        groups=groups,
        integrations=integrations,
        detector=detector,
        scene=scene or ("IFU" if subarray.upper() == "FULL" else None),
        columns=labels,
    )
    ramps = Ramps(configuration, artifacts, seed)
    shape = (integrations, groups, configuration.raw_rows, configuration.columns.size)
    sci = np.empty(shape, dtype=np.float32)
    factor = np.float32(configuration.n_frames / configuration.frame_divisor)
    for plane, group in zip(sci.reshape(-1, *shape[2:]), ramps.groups(), strict=True):
        plane[:] = digitize(group, configuration) if rounded else group * factor
    references = dict(reference_datasets(configuration, artifacts, ramps.pixels))
    return SmallExposure(_exposure_dataset(configuration, sci), references, truth_dataset(ramps))


def _exposure_dataset(configuration: Configuration, sci: np.ndarray) -> xr.Dataset:
    segment = Segment(1, 1, 1, configuration.integrations)
    is_contiguous = bool((np.diff(configuration.columns) == 1).all())
    header = primary_header(configuration, segment, contiguous=is_contiguous)
    readout = Readout.from_header(header)
    times: Mapping[str, np.ndarray] = integration_times(configuration)
    coordinates = {
        **readout.row_coordinates(configuration.raw_rows),
        "column": ("column", configuration.columns),
        "integration": ("integration", times["integration_number"].astype(np.int64)),
        "group": ("group", np.arange(1, configuration.groups + 1)),
    }
    coordinates |= {name: ("integration", values) for name, values in times.items() if name != "integration_number"}
    attributes = {
        **keywords(header),
        "fits_header": header.tostring(sep="\n"),
        "sci_header": science_header(configuration).tostring(sep="\n"),
        "filename": segment.file_name(configuration),
        "nsxr_steps": "[]",
    }
    extension = {
        **variable_attributes("sci"),
        "units": "DN",
    }
    return xr.Dataset(
        {"sci": (("integration", "group", "row", "column"), sci, extension)}, coords=coordinates, attrs=attributes
    )
