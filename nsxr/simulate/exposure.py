"""Simulate exposures as files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nsxr.errors import OutputExistsError, ParameterError
from nsxr.model.parameters import Seed
from nsxr.model.readout import DETECTOR_SIZE
from nsxr.simulate.artifacts import Artifacts
from nsxr.simulate.compact_optics import write_compact_optics
from nsxr.simulate.configuration import Configuration, configure
from nsxr.simulate.detectors import DetectorPixels, detector_pixels
from nsxr.simulate.fits_files import open_raw, write_reference
from nsxr.simulate.flux_references import write_flux_references
from nsxr.simulate.headers import Segment
from nsxr.simulate.observation import Observation, checked_sky, observe
from nsxr.simulate.ramps import Ramps, digitize
from nsxr.simulate.reference_data import reference_datasets
from nsxr.simulate.shutters import FAILED_OPEN, check_failed
from nsxr.simulate.sky import Sky
from nsxr.simulate.sky_truth import sky_truth
from nsxr.simulate.truth import truth_dataset, truth_path, write_truth
from nsxr.storage.urls import local_path

__all__ = ["SimulatedExposure", "simulate_exposure", "write_references"]


@dataclass(frozen=True)
class SimulatedExposure:
    """Files of a simulated exposure.

    Attributes
    ----------
    uncal : list of Path
        Raw files, one for each segment, in the order of the segments.
    references : dict
        Reference files of stage 1 by type; empty if no references were written.
    truth : Path
        File with the true values, see :func:`nsxr.simulate.truth.truth_dataset` and, with a sky,
        :func:`nsxr.simulate.sky_truth.sky_truth`.
    shutters : Path or None
        The MSA metafile of a sky in mode ``MOS``.
    flux_references : dict
        Reference files of stage 2 by type; empty if none were written.
    """

    uncal: list[Path]
    references: dict[str, Path]
    truth: Path
    shutters: Path | None = None
    flux_references: dict[str, Path] = field(default_factory=dict)


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
    failed_open: Sequence[tuple[int, int, int]] = FAILED_OPEN,
    grating: str | None = None,
    dither: int = 1,
    dithers: int = 1,
    seed: Seed = 1,
    segments: int = 1,
    columns: int | None = None,
    artifacts: Artifacts | None = None,
    references: bool = True,
    flux_references: bool = False,
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
    failed_open : sequence of (int, int, int)
        Shutters that let the light of the sky in all the time, for ``MOS`` and ``IFU``: quadrant, number along the
        dispersion (1 to 365), number along the slit (1 to 171). Default: one in each quadrant.
    grating : str, optional
        ``PRISM`` or one of the gratings, with its usual filter. Default: one that is usual for the mode and subarray.
    dither, dithers : int
        Number of the position in the dither pattern, and number of positions (PATT_NUM, NUMDTHPT): 3 nods for MOS and
        FS, 4 dithers for IFU. The same sky falls on other pixels.
    seed : int
        The same seed gives the same files, and the same default sky at all dither positions. Noise differs between
        exposures, dither positions and detectors. The pixels of the detectors and the references do not depend on it.
    segments : int
        Number of files over which the integrations are spread.
    columns : int, optional
        Number of columns to simulate, from the first column of the subarray on. SUBSIZE1 has this number.
    artifacts : Artifacts, optional
        Amplitudes of the effects.
    references : bool
        Whether to write references of stage 1.
    flux_references : bool
        Whether to write references of stage 2 too, with a sky: :func:`nsxr.simulate.write_flux_references`. They take
        about 150 MB.
    programme, observation, exposure : int
        Numbers in the name of the exposure. Exposures follow each other in time. Observations are a day apart.
    overwrite : bool
        Whether to replace files of the same names. Existing references and MSA metafiles with the same content are
        never an error.

    Raises
    ------
    ParameterError
        If a name is unknown, if values do not fit together, or if the sky is too bright.
    OutputExistsError
        If a file exists already and ``overwrite`` is False. Then no file is replaced.

    Warns
    -----
    DegradedResultWarning
        If no slit falls on the detector, or if absorption lines are deeper than their continuum.
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
    for name, value in {"flux_references": flux_references or None, "optics": optics, "shutters": shutters}.items():
        if value is not None and sky is None:
            raise ParameterError(f"{name} is for exposures of a sky; give sky, or leave out {name}")
    if shutters is not None and configuration.scene != "MOS":
        raise ParameterError(f"mode {configuration.scene} has no MSA metafile; leave out shutters")
    check_failed(failed_open)
    if not 1 <= segments <= integrations:
        raise ParameterError(f"segments is {segments}, expected 1 to the number of integrations, {integrations}")
    wanted = None if sky is None else checked_sky(configuration, sky)
    folder = local_path(directory)
    parts = _segments(integrations, segments)
    if not overwrite:
        _require_new([*(folder / part.file_name(configuration) for part in parts), truth_path(folder, configuration)])
    folder.mkdir(parents=True, exist_ok=True)
    seen, flux = None, {}
    if wanted is not None:  # first, because it may find shutters of another sky
        seen = _observe(folder, configuration, artifacts, wanted, optics, shutters, seed, failed_open, overwrite)
    pixels = detector_pixels(configuration, artifacts)
    place = folder / "references"
    written = _write_references(place, configuration, artifacts, overwrite, pixels) if references else {}
    if seen is not None:
        configuration = seen.configuration
    if seen is not None and flux_references:
        flux = write_flux_references(
            place,
            seen.optics,
            mode=configuration.scene,
            artifacts=artifacts,
            failed_open=failed_open,
            pixels=pixels if pixels.gain.shape == (DETECTOR_SIZE, DETECTOR_SIZE) else None,
        )
    ramps = Ramps(configuration, artifacts, seed, None if seen is None else seen.scene, pixels)
    paths = _write_raw(folder, parts, configuration, ramps)
    values = truth_dataset(ramps) if seen is None else truth_dataset(ramps).merge(sky_truth(seen))
    truth = write_truth(folder, values, configuration)
    return SimulatedExposure(paths, written, truth, None if seen is None else seen.metafile, flux)


def _require_new(paths: Sequence[Path]) -> None:
    """Raise OutputExistsError if one of the files exists."""
    existing = [str(path) for path in paths if path.exists()]
    if existing:
        raise OutputExistsError(
            f"{', '.join(existing)} already there; ask for overwriting, other numbers or another directory"
        )


def _write_raw(folder: Path, parts: Sequence[Segment], configuration: Configuration, ramps: Ramps) -> list[Path]:
    """Simulate one group after the other, and write each at once. Return the paths of the raw files."""
    paths, drawn = [], ramps.groups()
    for part in parts:
        path = folder / part.file_name(configuration)
        with open_raw(path, configuration, part) as target:
            for integration, group in np.ndindex(part.last - part.first + 1, configuration.groups):
                place = (slice(integration, integration + 1), slice(group, group + 1))
                target[place] = digitize(next(drawn), configuration)[None, None]
        paths.append(path)
    next(drawn, None)
    return paths


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
    failed_open: Sequence[tuple[int, int, int]],
    overwrite: bool,
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
    return observe(
        configuration,
        sky,
        used,
        folder,
        shutters=shutters,
        seed=seed,
        peak_rate=peak,
        failed_open=failed_open if configuration.scene in ("MOS", "IFU") else (),
        overwrite=overwrite,
    )


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
    folder: Path,
    configuration: Configuration,
    artifacts: Artifacts,
    overwrite: bool = True,
    pixels: DetectorPixels | None = None,
) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return {
        kind: write_reference(folder, kind, dataset, configuration, overwrite)
        for kind, dataset in reference_datasets(configuration, artifacts, pixels)
    }


def _segments(integrations: int, segments: int) -> list[Segment]:
    parts = np.array_split(np.arange(1, integrations + 1), segments)
    return [Segment(i, segments, int(part[0]), int(part[-1])) for i, part in enumerate(parts, start=1)]
