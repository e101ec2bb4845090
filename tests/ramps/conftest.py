"""Fixtures for the corrections of ramps."""

import pytest


@pytest.fixture
def make_irs2(make_exposure):
    """Return a function that makes a raw full-frame IRS2 exposure from an array."""

    def make(sci, detector="NRS1"):
        changes = {"SUBARRAY": "FULL", "READPATT": "NRSIRS2RAPID", "SUBSTRT1": 1, "SUBSTRT2": 1, "NOUTPUTS": 5}
        exposure = make_exposure(sci, DETECTOR=detector, **changes)
        return exposure.assign_attrs(SUBSIZE1=2048, SUBSIZE2=2048)

    return make
