"""Small simulated files."""

import pytest

from nsxr.simulate import simulate_exposure

SUB32 = {"readout": "NRSRAPID", "subarray": "SUB32", "groups": 3, "integrations": 5, "references": False}
IRS2 = {"readout": "NRSIRS2RAPID", "subarray": "FULL", "groups": 2, "columns": 8, "references": False}


@pytest.fixture(scope="session")
def sub32(tmp_path_factory):
    """One file of five integrations of SUB32."""
    return simulate_exposure(tmp_path_factory.mktemp("sub32"), **SUB32).uncal[0]


@pytest.fixture(scope="session")
def segments(tmp_path_factory):
    """The same exposure in three files."""
    return simulate_exposure(tmp_path_factory.mktemp("segments"), **SUB32, segments=3).uncal


@pytest.fixture(scope="session")
def irs2(tmp_path_factory):
    """A full-frame IRS2 exposure with eight columns."""
    return simulate_exposure(tmp_path_factory.mktemp("irs2"), **IRS2).uncal[0]
