"""The exposures on which nsxr and jwst are compared, and the commands that make and calibrate them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import NSXR, PEER

__all__ = [
    "CONFIGURATIONS",
    "LONG",
    "SHORT",
    "Configuration",
    "Paths",
    "nsxr_command",
    "peer_command",
    "simulate_command",
]

RUN_PEER = PEER / "run_peer.py"


@dataclass(frozen=True)
class Configuration:
    """One simulated exposure: its readout, and settings that differ from the defaults of both programs.

    ``settings`` are ``step.parameter=value``, the same for both programs.
    """

    name: str
    readout: str
    subarray: str
    groups: int
    integrations: int = 1
    detector: str = "NRS1"
    seed: int = 1
    scene: str = "MOS"
    settings: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Return the configuration in words, for tables."""
        return f"{self.detector} {self.subarray} {self.readout} {self.integrations} x {self.groups}"


NO_SNOWBALLS = ("jump.expand_large_events=False",)

LONG = (
    Configuration("irs2-nrs1", "NRSIRS2RAPID", "FULL", 20),
    Configuration("irs2-nrs2", "NRSIRS2RAPID", "FULL", 20, detector="NRS2", seed=2),
    Configuration("irs2-averaged", "NRSIRS2", "FULL", 6, seed=3, scene="IFU"),
    Configuration("full-nrs1", "NRSRAPID", "FULL", 20, seed=4),
    Configuration("full-nrs2", "NRSRAPID", "FULL", 20, detector="NRS2", seed=5),
    Configuration("full-averaged", "NRS", "FULL", 8, detector="NRS2", seed=6),
    Configuration("allslits-nrs1", "NRSRAPID", "ALLSLITS", 20, 3, seed=7, scene="FS"),
    Configuration("allslits-nrs2", "NRSRAPID", "ALLSLITS", 8, 3, detector="NRS2", seed=8, scene="FS"),
    Configuration("sub2048-nrs1", "NRSRAPID", "SUB2048", 10, 200, seed=9, scene="BOTS"),
    Configuration("sub2048-nrs2", "NRSRAPID", "SUB2048", 10, 200, detector="NRS2", seed=10, scene="BOTS"),
    Configuration("sub512-nrs1", "NRSRAPID", "SUB512", 10, 200, seed=11, scene="BOTS"),
    Configuration("sub512-nrs2", "NRSRAPID", "SUB512", 10, 200, detector="NRS2", seed=12, scene="BOTS"),
)
"""Configurations that are compared before a release."""

SHORT = (
    Configuration("short-sub512s", "NRSRAPID", "SUB512S", 8, 110, seed=21, scene="BOTS"),
    Configuration("short-sub512", "NRSRAPID", "SUB512", 14, 10, detector="NRS2", seed=22, scene="BOTS"),
    Configuration("short-sub2048", "NRSRAPID", "SUB2048", 6, 4, seed=23, scene="BOTS"),
    Configuration("short-allslits", "NRS", "ALLSLITS", 5, 2, detector="NRS2", seed=24, scene="FS"),
    Configuration("short-no-snowballs", "NRS", "ALLSLITS", 12, 2, seed=25, scene="FS", settings=NO_SNOWBALLS),
)
"""A quick subset: every branch of jump detection, a single amplifier, with and without reference pixels. In a single
pass without snowballs no documented repair changes flags, so the flags of groups must be the same."""

CONFIGURATIONS = {configuration.name: configuration for configuration in (*LONG, *SHORT)}


@dataclass(frozen=True)
class Paths:
    """Paths of the simulated files of one exposure."""

    uncal: Path
    references: Path
    truth: Path | None

    @classmethod
    def find(cls, folder: Path) -> "Paths":
        """Find the one exposure in a folder, with its references and its truth."""
        uncal = sorted(folder.glob("*_uncal.fits"))
        if len(uncal) != 1:
            raise FileNotFoundError(f"{folder} holds {len(uncal)} files *_uncal.fits, expected one")
        references = folder / "references"
        truth = sorted(folder.glob("*_truth.*"))
        return cls(uncal[0], references if references.is_dir() else folder, truth[0] if truth else None)

    @property
    def root(self) -> str:
        """Return the file name without kind and ending."""
        return self.uncal.name.removesuffix("_uncal.fits")


def simulate_command(configuration: Configuration, folder: Path) -> list[str]:
    """Return the command that simulates an exposure with references and truth."""
    options = {
        "--readout": configuration.readout,
        "--subarray": configuration.subarray,
        "--groups": configuration.groups,
        "--integrations": configuration.integrations,
        "--detector": configuration.detector,
        "--seed": configuration.seed,
        "--scene": configuration.scene,
    }
    flat = [str(part) for item in options.items() for part in item]
    return [NSXR, "simulate", "-o", str(folder), *flat]


LIKE_PEER = (
    "saturation.partial_saturation=scaled",
    "refpix.shrink_levels=False",
    "refpix.bad_pairs=peer",
    "jump.snowball_algorithm=ellipse",
    "ramp_fit.algorithm=ols",
)
"""Settings with which nsxr uses the methods of jwst; its defaults differ. Correlated noise is not cleaned either."""


def nsxr_command(
    configuration: Configuration,
    paths: Paths,
    output: Path,
    save: Sequence[str] = (),
    overwrite: bool = True,
    like_peer: bool = False,
) -> list[str]:
    """Return the command that calibrates an exposure with nsxr; with ``like_peer``, by the methods of jwst."""
    command = [NSXR, "detector1", str(paths.uncal), "-o", str(output), "--references", str(paths.references)]
    for setting in (*(LIKE_PEER if like_peer else ()), *configuration.settings):
        command += ["--set", setting]
    if like_peer:
        command += ["--skip", "clean_flicker_noise"]
    for step in save:
        command += ["--save", step]
    return command + (["--overwrite"] if overwrite else [])


def peer_command(
    configuration: Configuration, paths: Paths, output: Path, python: Path, save_steps: bool = False
) -> list[str]:
    """Return the command that calibrates an exposure with jwst; with ``save_steps``, IRS2 samples are nudged too."""
    command = [str(python), str(RUN_PEER), str(paths.uncal), "-o", str(output), "--references", str(paths.references)]
    for setting in configuration.settings:
        command += ["--set", setting]
    return command + (["--save-steps", "--nudge-zeros"] if save_steps else [])
