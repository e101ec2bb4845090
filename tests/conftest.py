"""Fixtures for all tests: builders of :mod:`nsxr.testing`, small chunks for the corrections, damaged files."""

import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner

import nsxr.testing
from nsxr import cli
from nsxr.compute import layouts

SMALL_CHUNKS = ("ramps", "slits", "spectra")
"""Folders of tests whose exposures are cut into chunks of 4000 bytes."""

CHUNKINGS = (
    {"integration": 1, "row": 6},
    {"integration": 2, "group": 2, "row": 7},
    {"integration": -1, "group": -1, "row": -1},
)


FEW_KERNELS = ("model", "references")
"""Folders of tests that need next to no compiled kernels."""


def pytest_collection_modifyitems(items):
    """Move tests that need few kernels to the middle, where the second of two workers begins.

    Until it is through with them, the first worker has compiled and stored the kernels that both need: compiled twice,
    they take 23 s more.
    """
    light = [item for item in items if item.path.parent.name in FEW_KERNELS]
    others = [item for item in items if item.path.parent.name not in FEW_KERNELS]
    middle = len(items) // 2
    items[:] = [*others[:middle], *light, *others[middle:]]


def pytest_collection_finish():
    """Let the garbage collection pass over what lives as long as the tests: this saves a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(autouse=True)
def small_chunks(request, monkeypatch):
    """Cut small exposures into several chunks, as large ones are, in the tests of corrections."""
    if request.path.parent.name in SMALL_CHUNKS:
        monkeypatch.setattr(layouts, "CHUNK_BYTES", 4000)


@pytest.fixture
def rng():
    return np.random.default_rng(20261123)


@pytest.fixture
def header():
    return nsxr.testing.make_header


@pytest.fixture
def make_exposure():
    return nsxr.testing.make_exposure


@pytest.fixture
def make_reference():
    return nsxr.testing.make_reference


@pytest.fixture
def chunkings():
    return CHUNKINGS


@pytest.fixture
def changed(tmp_path):
    """Return a function that copies a FITS file, sets or deletes keywords of its primary header, and edits its HDUs."""

    def change(path, edit=None, name=None, **keywords):
        copy = tmp_path / (name or path.name)
        shutil.copy(path, copy)
        with fits.open(copy, mode="update", memmap=False) as hdus:
            for key, value in keywords.items():
                if value is None:
                    del hdus[0].header[key]
                else:
                    hdus[0].header[key] = value
            if edit is not None:
                edit(hdus)
        return copy

    return change


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real products and references."""
    if "NSXR_REAL_DATA" not in os.environ:
        pytest.skip("NSXR_REAL_DATA is not set: no real products to read")
    return Path(os.environ["NSXR_REAL_DATA"])


@pytest.fixture
def run():
    """Return a function that runs nsxr and checks that it neither fails unexpectedly nor shows a traceback."""

    def invoke(*words, status=0):
        result = CliRunner().invoke(cli.main, [str(word) for word in words], prog_name="nsxr")
        assert result.exit_code == status, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert "Traceback" not in result.output
        return result

    return invoke
