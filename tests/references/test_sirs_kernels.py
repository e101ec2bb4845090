"""Filters of side reference pixels, read from ASDF."""

import numpy as np
import pytest

from nsxr.errors import ReferenceFileError
from nsxr.io.fingerprint import fingerprint
from nsxr.references.sirs_kernels import open_sirs_kernel

asdf = pytest.importorskip("asdf")


@pytest.fixture
def path(tmp_path, rng):
    filters = {name: rng.normal(size=(4, 9)) + 1j * rng.normal(size=(4, 9)) for name in ("gamma", "zeta")}
    name = tmp_path / "kernels.asdf"
    asdf.AsdfFile({"meta": {"reftype": "SIRSKERNEL"}, "nrs1": filters, "nis": filters}).write_to(name)
    return name, filters


def test_filters_are_read_as_they_are(path):
    name, filters = path
    kernel = open_sirs_kernel(name, "NRS1")
    for kind, values in filters.items():
        np.testing.assert_array_equal(kernel[kind], values)
        assert kernel[kind].dims == ("output", "frequency")
        assert kernel[kind].dtype == np.complex128
    expected = {"reference_type": "sirskernel", "filename": "kernels.asdf", "detector": "NRS1"}
    assert kernel.attrs == expected | {"size": name.stat().st_size, "fingerprint": fingerprint(str(name))}


def test_files_of_others_are_refused(path, tmp_path):
    with pytest.raises(ReferenceFileError, match="no gamma and zeta under 'nrs2'; the file has nis, nrs1"):
        open_sirs_kernel(path[0], "NRS2")
    asdf.AsdfFile({"nrs1": {"gamma": np.zeros((2, 9)), "zeta": np.zeros((4, 9))}}).write_to(tmp_path / "few.asdf")
    with pytest.raises(ReferenceFileError, match=r"\(2, 9\).*expected \(4, frequencies\)"):
        open_sirs_kernel(tmp_path / "few.asdf", "NRS1")
