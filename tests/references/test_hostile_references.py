"""References that are no JSON or ASDF files of the observatory: one line, nothing fetched, nothing large made."""

import json
import os
import time

import numpy as np
import pytest
import xarray as xr

from nsxr.errors import NsxrError, ParameterError, ReferenceFileError
from nsxr.references.apertures import Aperture, read_aperture
from nsxr.references.sirs_kernels import open_sirs_kernel

HEAD = "#ASDF 1.0.0\n#ASDF_STANDARD 1.5.0\n%YAML 1.1\n%TAG ! tag:stsci.edu:asdf/\n--- !core/asdf-1.1.0\n"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
NDARRAY = "!core/ndarray-1.0.0 {{source: {source}, datatype: float64, byteorder: little, shape: {shape}}}"


def refused(path, *words):
    start = time.monotonic()
    with pytest.raises(ReferenceFileError) as error:
        open_sirs_kernel(path, "NRS1")
    assert time.monotonic() - start < 60  # not forever
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (BOMB, ["stands for more than"]),
        ("a: &a [*a]\n", []),
        ("a: [" * 5000, []),
        (f"nrs1: {{gamma: {NDARRAY.format(source='http://127.0.0.1:9/x.asdf', shape='[4, 9]')}}}\n", ["source"]),
        (f"nrs1: {{gamma: {NDARRAY.format(source='/etc/passwd', shape='[4, 9]')}}}\n", ["source"]),
        (f"nrs1: {{gamma: {NDARRAY.format(source=0, shape='[4, 999999999999]')}}}\n", ["bytes"]),
        (f"nrs1: {{gamma: {NDARRAY.format(source=0, shape='[4, -9]')}}}\n", ["shape"]),
        (f"nrs1: {{gamma: {NDARRAY.format(source=7, shape='[4, 9]')}}}\n", []),
        ("nrs1: {$ref: 'http://127.0.0.1:9/x.asdf'}\n", ["$ref"]),
        ("nrs1: {gamma: [[1]], zeta: 5}\n", []),
        ("nrs1: [1, 2]\n", ["no gamma and zeta"]),
        ("nrs1: {gamma: null, zeta: null}\n", ["no gamma and zeta"]),
        ("nrs1: {gamma: [[x]], zeta: [[y]]}\n", []),
        ("nrs1: !!python/object/apply:os.system ['true']\n", []),
        ("\t: :\n", ["YAML"]),
        ("", ["nothing"]),
    ],
    ids=lambda text: repr(text)[:50],
)
def test_asdf_trees(tmp_path, tree, words):
    pytest.importorskip("asdf")
    path = tmp_path / "kernel.asdf"
    path.write_text(f"{HEAD}{tree}...\n")
    refused(path, *words)


def test_asdf_bytes(tmp_path):
    asdf = pytest.importorskip("asdf")
    path = tmp_path / "kernel.asdf"
    filters = {name: np.ones((4, 9), complex) for name in ("gamma", "zeta")}
    asdf.AsdfFile({"nrs1": filters}).write_to(path)
    content = path.read_bytes()
    open_sirs_kernel(path, "NRS1")
    changed = bytearray(content)
    changed[content.index(b"\xd3BLK") + 54 + 20] ^= 1  # a value, of which only the checksum of its block tells
    path.write_bytes(changed)
    refused(path)
    for damaged in (content[:-100], content[:300], b"", b"x" * 99, b"#ASDF"):
        path.write_bytes(damaged)
        refused(path)
    filters["zeta"] = np.full((4, 9), np.nan)
    asdf.AsdfFile({"nrs1": filters}).write_to(path)
    refused(path, "finite")
    path.unlink()
    refused(path, "cannot be read")
    os.mkfifo(path)
    refused(path, "pipe")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "5",
        '{"apertures": 5}',
        '{"apertures": [5]}',
        '{"apertures": {}}',
        '{"apertures": [{"id": "ANY", "ystart": "x"}]}',
        '{"apertures": [{"id": "ANY", "ystart": [1]}]}',
        '{"apertures": [{"id": "ANY", "ystart": 1e400}]}',
        '{"apertures": [{"id": "ANY", "bkg_order": 1e9}]}',
        '{"apertures": [{"id": "ANY", "bkg_order": "x"}]}',
        '{"apertures": [{"id": "ANY", "bkg_fit": ["poly"]}]}',
        '{"apertures": [{"id": "ANY", "smoothing_length": 1000000001}]}',
        '{"apertures": [{"id": "ANY", "src_coeff": 5}]}',
        '{"apertures": [{"id": "ANY", "src_coeff": [[1], [NaN]]}]}',
        '{"apertures": [{"id": "ANY", "bkg_coeff": [["x"], [2]]}]}',
        '{"apertures": [{"id": "ANY", "independent_var": 5}]}',
        '{"apertures": [{"id": "ANY", "use_source_posn": "perhaps"}]}',
        '{"apertures": [{"id": "ANY", "extract_width": Infinity}]}',
        '{"a":' * 100_000,
        "\xff\xfe",
    ],
    ids=lambda text: text[:60],
)
def test_apertures(tmp_path, content):
    path = tmp_path / "extract1d.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(NsxrError) as error:
        read_aperture(path, xr.Dataset(attrs={"SLTNAME": "S200A1"}))
    assert "\n" not in str(error.value)


def test_aperture_in_a_pipe_and_limits(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(ReferenceFileError, match="pipe"):
        read_aperture(tmp_path / "x.json", xr.Dataset())
    assert read_aperture({"bkg_order": 3, "ystart": 1}, xr.Dataset()).bkg_order == 3
    for name, value in (("bkg_order", 10**9), ("bkg_order", 0.5), ("ystop", float("nan")), ("smoothing_length", 10**9)):
        with pytest.raises(ParameterError, match=name):
            Aperture(**{name: value})
    json.dumps(vars(Aperture()))
