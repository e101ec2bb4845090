"""Wavelengths of files without WAVELENGTH are those of the gwcs in it; what a hostile tree asks for is refused."""

import io
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import nsxr
from nsxr.errors import InputFileError
from nsxr.formats.fits_headers import scan
from nsxr.formats.gwcs_read import read_gwcs, wcs_bytes
from nsxr.products.slits_read import open_slits
from nsxr.slits.collection import iterate_slits
from nsxr.storage.options import StorageOptions
from nsxr.testing import forbid_computes
from tests.products.slit_files import simulated_slits, write_cal

REAL = os.environ.get("NSXR_REAL_DATA")
needs_real_data = pytest.mark.skipif(REAL is None, reason="NSXR_REAL_DATA is not set: no real products to read")
HEAD = "#ASDF 1.0.0\n#ASDF_STANDARD 1.5.0\n%YAML 1.1\n%TAG ! tag:stsci.edu:asdf/\n--- !core/asdf-1.1.0\n"
WCS = "wcs: !<tag:stsci.edu:gwcs/wcs-1.2.0>"
REAL_FILES = [
    "mos_jw02565/jw02565007001_03101_00002_nrs2_cal.fits",
    "mos_jw02565/jw02565007001_03101_00002_nrs2_s2d.fits",
    "mos_jw02565/jw02565-o007_s000020115_nirspec_clear-prism_cal.fits",
    "mos_jw04233/jw04233006001_03101_00003_nrs1_phot.186.4233_44597.fits",
    "mos_jw01345/jw01345062001_03101_00001_nrs2_phot.138.1345_933.fits",
]


def without_wavelength(path: Path, target: Path, tree: bytes | None = None) -> Path:
    """Copy a file without its WAVELENGTH extensions, with a given ASDF extension or its own."""
    with fits.open(path) as hdus:
        kept = fits.HDUList([hdu for hdu in hdus if hdu.name != "WAVELENGTH" and (tree is None or hdu.name != "ASDF")])
        if tree is not None:
            data = np.frombuffer(tree, np.uint8)
            rows = np.array([(data,)], dtype=[("ASDF_METADATA", "u1", (len(data),))])
            kept.append(fits.BinTableHDU(rows, name="ASDF"))
        kept.writeto(target)
    return target


def only(path: Path) -> xr.Dataset:
    ((_, slit),) = iterate_slits(open_slits(path))
    return slit


def test_a_file_without_a_gwcs_has_no_wavelengths(tmp_path: Path) -> None:
    cal = write_cal(tmp_path / "x_cal.fits", simulated_slits(2))
    plain = without_wavelength(cal, tmp_path / "z_cal.fits", f"{HEAD}meta: {{}}\n...\n".encode())
    assert all("wavelength" in slit for _, slit in iterate_slits(open_slits(cal)))
    assert all("wavelength" not in slit for _, slit in iterate_slits(open_slits(plain)))


@pytest.mark.parametrize(
    ("node", "blocks", "reason"),
    [
        ("{steps: [{lookup_table: !core/ndarray-1.0.0 {source: 'http://127.0.0.1:9/x'}}]}", b"", "127.0.0.1:9"),
        ("{steps: [{$ref: 'file:///etc/hosts#/a'}]}", b"", "etc/hosts"),
        ("{lut: !core/externalarray-1.0.0 {fileuri: 's3://b/k', shape: [2]}}", b"", "s3://b/k"),
        ("{lut: !core/ndarray-1.0.0 {source: 0, shape: [90000, 90000], strides: [0, 0]}}", b"", "shape"),
        (f"[&a0 [x, y], {', '.join(f'&a{n + 1} [*a{n}, *a{n}]' for n in range(40))}]", b"", "more than 1000000 nodes"),
        ("{}", b"\xd3BLK\0\x30" + bytes(4) + b"zlib" + bytes(40), "compressed"),
        ("{}", b"\xd3BLK\0\x30" + bytes(8) + (1 << 40).to_bytes(8, "big") * 3 + bytes(16), "cut off"),
        ("[" * 5000, b"", "cannot be evaluated"),
        ("[" * 200 + "]" * 200, b"", "more than 100 nested lists"),
    ],
    ids=["url", "ref", "externalarray", "strides", "aliases", "compressed", "beyond", "deep", "nested"],
)
def test_a_hostile_tree_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str, blocks: bytes, reason: str
) -> None:
    tree = f"{HEAD}meta:\n  {WCS} {node}\n...\n".encode() + blocks
    path = without_wavelength(write_cal(tmp_path / "x_cal.fits", simulated_slits(1)), tmp_path / "y_cal.fits", tree)
    monkeypatch.setattr("nsxr.formats.gwcs_read.read_transform", lambda *_: pytest.fail("a transform was read"))
    slit = only(path)
    with pytest.raises(InputFileError, match=reason) as caught:
        slit["wavelength"].compute()
    assert "y_cal.fits: WAVELENGTH is missing" in str(caught.value)
    assert "\n" not in str(caught.value)
    slit["sci"].compute()


def test_a_small_made_gwcs(tmp_path: Path) -> None:
    gwcs = pytest.importorskip("gwcs")
    asdf = pytest.importorskip("asdf")
    from astropy import units as u
    from astropy.modeling.models import Identity, Mapping, Polynomial1D, Tabular1D
    from gwcs import coordinate_frames as frames

    slits = simulated_slits(2)
    wcs, truth = [], []
    for number, slit in enumerate(slits):
        shape = slit["sci"].shape
        table = Tabular1D(points=np.arange(shape[1]), lookup_table=600 + number + np.arange(shape[1]) ** 2 / 10.0)
        model = Mapping((0, 1, 0)) | Identity(1) & Polynomial1D(1, c0=1.0, c1=0.1) & table
        spectral = frames.SpectralFrame(axes_order=(2,), unit=(u.nm,), name="spectral")
        plane = frames.CoordinateFrame(
            2, ["SPATIAL"] * 2, axes_order=(0, 1), name="plane", unit=(u.deg, u.deg), axes_names=("a", "b")
        )
        detector = frames.Frame2D(name="detector", unit=(u.pix, u.pix))
        wcs.append(gwcs.WCS([(detector, model), (frames.CompositeFrame([plane, spectral], name="world"), None)]))
        truth.append(np.broadcast_to((600 + number + np.arange(shape[1]) ** 2 / 10.0) / 1000, shape))
    content = io.BytesIO()
    asdf.AsdfFile({"slits": [{"meta": {"wcs": one}} for one in wcs]}).write_to(content)
    path = without_wavelength(write_cal(tmp_path / "x_cal.fits", slits), tmp_path / "y_cal.fits", content.getvalue())
    with forbid_computes():
        opened = open_slits(path)
    for (_, slit), expected in zip(iterate_slits(opened), truth, strict=True):
        found = pickle.loads(pickle.dumps(slit["wavelength"]))
        assert found.attrs["units"] == "um"
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        np.testing.assert_allclose(found[2:4, 5], expected[2:4, 5], rtol=1e-6)
    damaged = bytearray(content.getvalue())
    damaged[content.getvalue().rindex(b"\xd3BLK") + 54 + 20] ^= 1  # a value of a table of the second slit
    broken = without_wavelength(tmp_path / "x_cal.fits", tmp_path / "z_cal.fits", bytes(damaged))
    with pytest.raises(InputFileError, match=r"z_cal\.fits: WAVELENGTH is missing"):
        open_slits(broken).compute()
    shutil.copy(tmp_path / "x_cal.fits", path)
    nsxr.formats.gwcs_read._parsed.cache_clear()
    with pytest.raises(InputFileError, match="changed"):
        opened["1/wavelength"].compute()


@needs_real_data
@pytest.mark.parametrize("name", REAL_FILES)
def test_real_coordinates_are_the_stored_wavelengths(tmp_path: Path, name: str) -> None:
    path = without_wavelength(Path(str(REAL), name), tmp_path / Path(name).name)
    stored, found = open_slits(Path(str(REAL), name)), open_slits(path)
    for (_, one), (_, other) in zip(iterate_slits(stored), iterate_slits(found), strict=True):
        np.testing.assert_allclose(other["wavelength"], one["wavelength"], atol=3e-7)  # float32


@needs_real_data
def test_real_resampled_slit_of_2022() -> None:
    stem = Path(str(REAL), "fs_jw01492/jw01492-o005_s00004_nirspec_f100lp-g140m-s1600a1-sub2048")
    slit = only(Path(f"{stem}_s2d.fits"))
    wavelength = fits.getdata(f"{stem}_x1d.fits", "EXTRACT1D")["WAVELENGTH"]
    np.testing.assert_allclose(slit["wavelength"].mean("cross_dispersion"), wavelength, atol=1e-6)


@needs_real_data
@pytest.mark.parametrize("name", REAL_FILES)
@pytest.mark.filterwarnings("ignore")  # newer libraries warn about older files
def test_every_frame_is_that_of_the_gwcs_library(name: str) -> None:
    pytest.importorskip("gwcs")
    datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
    path = Path(str(REAL), name)
    tree = wcs_bytes(scan(str(path), (), StorageOptions(None)))
    assert tree is not None
    with datamodels.open(path) as model:
        for version, slit in enumerate(slits_of(model), start=1):
            wcs, steps = slit.meta.wcs, read_gwcs(tree, version)
            row, column = np.mgrid[: slit.data.shape[0], : slit.data.shape[1]]
            frames = list(wcs.available_frames)
            assert [step.frame for step in steps.steps] == frames
            for frame in frames[1:]:
                theirs = wcs(column, row) if frame == "world" else wcs.get_transform("detector", frame)(column, row)
                ours = steps.evaluate(column, row, frame)
                assert len(ours) == len(theirs)
                for one, other in zip(ours, theirs, strict=True):
                    np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)  # NaN at the same pixels


def slits_of(model: object) -> list:
    """Return the slits of a data model; a model without slits is a slit itself."""
    return next((list(getattr(model, name)) for name in ("exposures", "slits") if hasattr(model, name)), [model])
