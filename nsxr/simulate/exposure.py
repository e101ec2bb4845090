"""Simulate exposures as files, or small exposures in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from nsxr.errors import OutputExistsError, ParameterError
from nsxr.formats.fits_headers import keywords
from nsxr.model.parameters import Seed
from nsxr.model.readout import Readout
from nsxr.model.variables import variable_attributes
from nsxr.simulate.artifacts import Artifacts
from nsxr.simulate.compact_optics import write_compact_optics
from nsxr.simulate.configuration import SUBARRAYS, Configuration, configure
from nsxr.simulate.fits_files import open_raw, write_reference
from nsxr.simulate.headers import Segment, integration_times, primary_header, science_header
from nsxr.simulate.observation import Observation, checked_sky, observe
from nsxr.simulate.ramps import Ramps, digitize
from nsxr.simulate.reference_data import reference_datasets
from nsxr.simulate.sky import Sky
from nsxr.simulate.sky_truth import sky_truth
from nsxr.simulate.truth import truth_dataset, truth_path, write_truth
from nsxr.storage.urls import local_path

__all__ = ["SimulatedExposure", "SmallExposure", "simulate_exposure", "small_exposure", "write_references"]


@dataclass(frozen=True)
class SimulatedExposure:
    """Files of a simulated exposure.

    Attributes
    ----------
    uncal : list of Path
        Raw files, one for each segment, in the order of the segments.
    references : dict
        Reference files by type; empty if no references were written.
    truth : Path
        File with the true values, see :func:`nsxr.simulate.truth.truth_dataset` and, with a sky,
        :func:`nsxr.simulate.sky_truth.sky_truth`.
    shutters : Path or None
        The MSA metafile of a sky in mode ``MOS``.
    """

    uncal: list[Path]
    references: dict[str, Path]
    truth: Path
    shutters: Path | None = None


@dataclass(frozen=True)
class SmallExposure:
    """A simulated exposure in memory: the raw exposure, its references by type, and the truth."""

    exposure: xr.Dataset
    references: dict[str, xr.Dataset]
    truth: xr.Dataset


def simulate_exposure(
    directory: str | Path,
    *,
    readout: str = "NRSIRS2RAPID",
    subarray: str = "FULL",
    groups: int = 20,
    integrations: int = 1,
    detector: str = "NRS1",
    mode: str | None = None,
    scene: str | None = None,
    sky: Sky | str | Path | None = None,
    optics: str | Path | None = None,
    shutters: str | Path | None = None,
    grating: str | None = None,
    dither: int = 1,
    dithers: int = 1,
    seed: Seed = 1,
    segments: int = 1,
    columns: int | None = None,
    artifacts: Artifacts | None = None,
    references: bool = True,
    programme: int = 1234,
    observation: int = 1,
    exposure: int = 1,
    overwrite: bool = True,
) -> SimulatedExposure:
    """Simulate a NIRSpec exposure and write raw files, references and truth.

    Groups are simulated one after the other, and each is written at once. So the memory does not grow with
    the length of the exposure.

    Parameters
    ----------
    directory : str or Path
        Folder of the files. It is made if it does not exist. References go to its folder ``references``.
    readout : str
        ``NRSRAPID``, ``NRS`` (mean of 4 frames), ``NRSIRS2RAPID`` or ``NRSIRS2`` (mean of 5 frames, stored as
        5/8 of the mean).
    subarray : str
        ``FULL``, ``ALLSLITS``, ``SUBS200A1`` and so on. IRS2 readouts exist for ``FULL`` only.
    groups, integrations : int
        NGROUPS and NINTS.
    detector : str
        ``NRS1`` or ``NRS2``.
    mode : str, optional
        ``MOS``, ``FS``, ``IFU``, ``BOTS``, ``dark`` or ``flat``. Default: the mode that the subarray is made for.
    scene : str, optional
        Older spelling of ``mode``.
    sky : Sky, str or Path, optional
        The sky that the exposure looks at, through the optics: a :class:`nsxr.simulate.sky.Sky`, a JSON file with one
        (:func:`nsxr.simulate.sky.read_sky`), or ``default`` for one that suits the mode. Without a sky, bands of light
        are drawn that do not follow any optics.
    optics : str or Path, optional
        Folder with references of the optics, as :func:`nsxr.open_optics` takes them. By default, compact ones are
        written beside the other references.
    shutters : str or Path, optional
        MSA metafile for ``MOS``. By default, shutters are opened around the sources of the sky, and the list of them is
        written beside the exposure.
    grating : str, optional
        ``PRISM`` or one of the gratings, with its usual filter. Default: one that is usual for the mode and subarray.
    dither, dithers : int
        Number of the position in the dither pattern, and number of positions (PATT_NUM, NUMDTHPT): 3 nods for MOS and
        FS, 4 dithers for IFU. The same sky falls on other pixels.
    seed : int
        The same seed gives the same files. The detectors and the references do not depend on it.
    segments : int
        Number of files over which the integrations are spread.
    columns : int, optional
        Number of columns to simulate, from the first column of the subarray on. SUBSIZE1 has this number.
    artifacts : Artifacts, optional
        Amplitudes of the effects.
    references : bool
        Whether to write references.
    programme, observation, exposure : int
        Numbers in the name of the exposure. Exposures follow each other in time. Observations are a day apart.
    overwrite : bool
        Whether to replace files of the same names. Existing references with the same content are never an error.

    Raises
    ------
    ParameterError
        If a name is unknown, or if values do not fit together.
    OutputExistsError
        If a file exists already and ``overwrite`` is False.
    """
    artifacts = artifacts or Artifacts()
    configuration = configure(
        readout=readout,
        subarray=subarray,
        groups=groups,
        integrations=integrations,
        detector=detector,
        scene=_one_spelling(mode, scene),
        columns=columns,
        programme=programme,
        observation=observation,
        exposure=exposure,
        grating=grating,
        dither=dither,
        dithers=dithers,
    )
    if not 1 <= segments <= integrations:
        raise ParameterError(f"segments is {segments}, expected 1 to the number of integrations, {integrations}")
    wanted = None if sky is None else checked_sky(configuration, sky)
    folder = local_path(directory)
    parts = _segments(integrations, segments)
    if not overwrite:
        finals = [*(folder / part.file_name(configuration) for part in parts), truth_path(folder, configuration)]
        existing = [str(path) for path in finals if path.exists()]
        if existing:
            raise OutputExistsError(
                f"{', '.join(existing)} already there; ask for overwriting, other numbers or another directory"
            )
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    if references:
        written = _write_references(folder / "references", configuration, artifacts, overwrite)
    seen = None
    if wanted is not None:
        seen = _observe(folder, configuration, artifacts, wanted, optics, shutters, seed)
        configuration = seen.configuration
    ramps = Ramps(configuration, artifacts, seed, None if seen is None else seen.scene)
    paths = []
    drawn = ramps.groups()
    for part in parts:
        path = folder / part.file_name(configuration)
        with open_raw(path, configuration, part) as target:
            for integration, group in np.ndindex(part.last - part.first + 1, groups):
                target[integration : integration + 1, group : group + 1] = digitize(next(drawn), configuration)[
                    None, None
                ]
        paths.append(path)
    next(drawn, None)
    values = truth_dataset(ramps)
    if seen is not None:
        values = values.merge(sky_truth(seen))
    truth = write_truth(folder, values, configuration)
    return SimulatedExposure(paths, written, truth, None if seen is None else seen.metafile)


def _one_spelling(mode: str | None, scene: str | None) -> str | None:
    """Return the mode, under its name or its older name."""
    if mode is not None and scene is not None and mode != scene:
        raise ParameterError(f"mode is {mode!r} and scene, its older spelling, is {scene!r}; give only mode")
    return mode if mode is not None else scene


def _observe(
    folder: Path,
    configuration: Configuration,
    artifacts: Artifacts,
    sky: Sky | str,
    optics: str | Path | None,
    shutters: str | Path | None,
    seed: int,
) -> Observation:
    used: str | Path | dict[str, Path] | None = optics
    if used is None:
        used = write_compact_optics(
            folder / "references",
            grating=configuration.grating,
            filter=configuration.filter,
            ifu=configuration.scene == "IFU",
        )
    # three times the full well in one exposure for shutters, half of it for a time series
    fill = 3.0 if configuration.scene == "MOS" else 0.5
    peak = fill * artifacts.full_well / (configuration.groups * configuration.group_time)
    return observe(configuration, sky, used, folder, shutters=shutters, seed=seed, peak_rate=peak)


def write_references(
    directory: str | Path,
    *,
    readout: str = "NRSIRS2RAPID",
    subarray: str = "FULL",
    groups: int = 20,
    detector: str = "NRS1",
    scene: str | None = None,
    columns: int | None = None,
    artifacts: Artifacts | None = None,
) -> dict[str, Path]:
    """Write the references of a simulated configuration. The parameters are those of :func:`simulate_exposure`.

    Returns
    -------
    dict
        Paths by type: mask, saturation, superbias, refpix (IRS2 only), linearity, dark, gain, readnoise.
    """
    configuration = configure(
        readout=readout,
        subarray=subarray,
        groups=groups,
        integrations=1,
        detector=detector,
        scene=scene,
        columns=columns,
    )
    return _write_references(local_path(directory), configuration, artifacts or Artifacts())


def _write_references(
    folder: Path, configuration: Configuration, artifacts: Artifacts, overwrite: bool = True
) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return {
        kind: write_reference(folder, kind, dataset, configuration, overwrite)
        for kind, dataset in reference_datasets(configuration, artifacts)
    }


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
    header = primary_header(configuration, segment, contiguous=_is_contiguous(configuration))
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


def _is_contiguous(configuration: Configuration) -> bool:
    return bool((np.diff(configuration.columns) == 1).all())


def _segments(integrations: int, segments: int) -> list[Segment]:
    parts = np.array_split(np.arange(1, integrations + 1), segments)
    return [Segment(i, segments, int(part[0]), int(part[-1])) for i, part in enumerate(parts, start=1)]
