"""Whatever is written goes to local places: URLs are refused, whichever function they are given to."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import nsxr
from nsxr.compute.cluster import connected
from nsxr.errors import ParameterError
from nsxr.simulate import simulate_exposure, simulate_trace, write_references
from nsxr.storage.urls import local_path

IMAGE = xr.DataArray(np.zeros((2, 2), np.float32), dims=("row", "column"))
TREE = xr.DataTree.from_dict({"rate": xr.Dataset({"sci": IMAGE})})


def report(path):
    with connected(None, 1, None, path):
        raise AssertionError("not refused")


WRITERS = {
    "write_products": lambda path: nsxr.write_products(TREE, path, "x"),
    "write_spectra": lambda path: nsxr.write_spectra(nsxr.extract_spectrum(simulate_trace(columns=40)[0]), path),
    "write_slits": lambda path: nsxr.write_slits(simulate_trace(columns=40)[0], path),
    "write_white_light_curve": lambda path: nsxr.write_white_light_curve(curve(), path),
    "write_picture_frame": lambda path: nsxr.write_picture_frame(xr.Dataset({"sci": IMAGE}), path),
    "simulate_exposure": simulate_exposure,
    "write_references": write_references,
    "performance report": report,
}


def curve():
    times = {name: ("integration", [1.0]) for name in ("int_mid_MJD_UTC", "int_mid_BJD_TDB")}
    return xr.Dataset({"flux": ("integration", [1.0])}, times, {"DETECTOR": "NRS1"})


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("url", ["s3://bucket/out", Path("s3://bucket/out.fits")], ids=["text", "path"])
def test_urls_are_refused_and_make_no_folders(writer, url, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    pytest.importorskip("bokeh")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match=r"s3:/.*bucket/out.* is a URL, but products are written to local"):
        WRITERS[writer](url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out", "./s3", "a:b/c", "C:/out", "/tmp/with:colon/out", "x.y/z", ""])
def test_local_names_pass(name):
    assert local_path(name) == Path(name)


@pytest.mark.parametrize("name", ["simplecache::s3://b/c", "file:///tmp/x", "gs:/bucket", "memory://x"])
def test_urls_of_every_kind_are_told(name):
    with pytest.raises(ParameterError, match="is a URL"):
        local_path(name)


def test_messages_keep_secrets():
    with pytest.raises(ParameterError) as caught:
        local_path("https://me:word@host/x?signature=1")
    assert "word@" not in str(caught.value)
    assert "signature" not in str(caught.value)
