"""Simulated exposures with their reference files, small."""

import shutil

import pytest

import nsxr
from nsxr.simulate import simulate_exposure, write_references

SUB32 = {"readout": "NRSRAPID", "subarray": "SUB32", "groups": 3}
IRS2 = {"readout": "NRSIRS2RAPID", "subarray": "FULL", "groups": 2, "columns": 8}


@pytest.fixture(scope="session")
def sub32(tmp_path_factory):
    """A SUB32 exposure of NRS1: files."""
    return simulate_exposure(tmp_path_factory.mktemp("sub32"), **SUB32)


@pytest.fixture(scope="session")
def irs2(tmp_path_factory):
    """A full-frame IRS2 exposure of NRS1 with eight columns: files."""
    return simulate_exposure(tmp_path_factory.mktemp("irs2"), **IRS2)


@pytest.fixture(scope="session")
def library(tmp_path_factory, sub32, irs2):
    """A directory with the references of four configurations, and files that are no references."""
    folder = tmp_path_factory.mktemp("library")
    write_references(folder, **SUB32, detector="NRS2")
    write_references(folder, **{**SUB32, "readout": "NRS"})
    for made in (sub32, irs2):
        for path in made.references.values():
            shutil.copy(path, folder)
    shutil.copy(sub32.uncal[0], folder)
    (folder / "garbage.fits").write_bytes(b"no fits file")
    (folder / "notes.txt").write_text("not looked at")
    return folder


@pytest.fixture
def exposure(sub32):
    """The SUB32 exposure, lazy."""
    return nsxr.open_exposure(sub32.uncal)
