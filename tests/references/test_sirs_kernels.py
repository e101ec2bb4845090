"""Filters of side reference pixels, read from ASDF."""

import numpy as np
import pytest

from nsxr.errors import ReferenceFileError
from nsxr.formats.fingerprint import fingerprint
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


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_coefficients_that_cannot_be(path, tmp_path, value):
    filters = {name: values.copy() for name, values in path[1].items()}
    filters["zeta"][2, 3] = value
    asdf.AsdfFile({"nrs1": filters}).write_to(tmp_path / "odd.asdf")
    with pytest.raises(ReferenceFileError, match=r"odd\.asdf: 1 coefficients of nrs1 are not finite or above 1000"):
        open_sirs_kernel(tmp_path / "odd.asdf", "NRS1")


@pytest.mark.parametrize("damage", ["byte", "cut", "text", "yaml", "missing"])
def test_damaged_files(path, tmp_path, damage):
    content = bytearray(path[0].read_bytes())
    changed = tmp_path / "damaged.asdf"
    if damage == "byte":  # only the checksum tells
        content[-100] ^= 1
    elif damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "text":
        content = bytearray(b"no ASDF")
    elif damage == "yaml":
        content = content.replace(b"meta:", b"{[:]}")
    if damage != "missing":
        changed.write_bytes(content)
    with pytest.raises(
        ReferenceFileError,
        match=r"damaged\.asdf: (no ASDF file|its YAML text cannot be read|cannot be read \(No such file)",
    ):
        open_sirs_kernel(changed, "NRS1")
