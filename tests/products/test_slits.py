"""Slits in files: what is read is what was written, real products survive a round trip."""

import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from nsxr.errors import InputFileError, ModelError, OutputExistsError, ParameterError
from nsxr.model.dq import PixelFlag
from nsxr.products.slits_read import open_slits
from nsxr.products.slits_write import write_slits
from nsxr.simulate import simulate_trace
from nsxr.slits.background import combine_backgrounds, subtract_background
from nsxr.slits.collection import iterate_slits
from nsxr.slits.pixel_replacement import replace_pixels
from nsxr.testing import forbid_computes
from tests.products.slit_files import simulated_slits, write_cal, write_groups

REAL = os.environ.get("NSXR_REAL_DATA")
needs_real_data = pytest.mark.skipif(REAL is None, reason="NSXR_REAL_DATA is not set: no real products to read")
REAL_FILES = (
    "mos_jw02565/jw02565007001_03101_00002_nrs2_cal.fits",
    "mos_jw02565/jw02565-o007_s000020115_nirspec_clear-prism_cal.fits",
    "mos_jw04233/jw04233006001_03101_00002_nrs1_phot.186.4233_44597.fits",
)


def test_shutter_slitlets_are_nodes_of_a_tree(tmp_path: Path) -> None:
    each = simulated_slits()
    path = write_cal(tmp_path / "x_cal.fits", each)
    with forbid_computes():
        slits = open_slits(path)
    assert list(slits.children) == ["1", "2", "3"]
    assert slits.attrs["filename"] == "x_cal.fits"
    for (name, slit), made in zip(iterate_slits(slits), each, strict=True):
        assert name == made.attrs["SLTNAME"]
        xr.testing.assert_equal(slit.compute(), made)
        assert slit["sci"].dims == ("row", "column")
        assert slit["sci"].attrs["units"] == "MJy"
        assert slit["var_rnoise"].attrs["units"] == "(MJy)2"
        assert slit["wavelength"].attrs["units"] == "um"
        assert slit["sci"].dtype == np.float32
        assert slit["dq"].dtype == np.uint32
        assert slit.attrs["S_BKDSUB"] == "COMPLETE"


def test_series(tmp_path: Path) -> None:
    made = simulated_slits(1, integrations=6)[0]
    path = write_cal(tmp_path / "x_calints.fits", [made], "SlitModel")
    ((_, slit),) = iterate_slits(open_slits(path, chunks={"integration": 4}))
    assert slit["sci"].chunksizes["integration"] == (4, 2)
    np.testing.assert_array_equal(slit["sci"], made["sci"])
    assert slit["wavelength"].dims == ("row", "column")
    np.testing.assert_allclose(slit["int_mid_MJD_UTC"], 60001 + np.arange(6) / 100)
    with pytest.raises(ParameterError, match="chunks along dispersion"):
        open_slits(path, chunks={"dispersion": 4})


def test_gzipped(tmp_path: Path) -> None:
    path = write_cal(tmp_path / "x_cal.fits", simulated_slits(1))
    with open(path, "rb") as plain, gzip.open(tmp_path / "x_cal.fits.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    ((_, one),) = iterate_slits(open_slits(path))
    ((_, other),) = iterate_slits(open_slits(tmp_path / "x_cal.fits.gz"))
    xr.testing.assert_equal(one, other)


@pytest.mark.parametrize("ending", ["fits", "zarr"])
@pytest.mark.parametrize("kind", ["shutters", "fixed slits", "series", "resampled"])
def test_round_trip(tmp_path: Path, ending: str, kind: str) -> None:
    each = simulated_slits(1, integrations=3) if kind == "series" else simulated_slits(3)
    extra = {"EXP_TYPE": "NRS_FIXEDSLIT"} if kind == "fixed slits" else {}
    extra |= {"S_RESAMP": "COMPLETE"} if kind == "resampled" else {}
    before = open_slits(write_cal(tmp_path / "x_cal.fits", each, **extra))
    path = write_slits(before, tmp_path / f"y_cal.{ending}", progress=False)
    after = open_slits(path)
    if ending == "zarr":
        groups = xr.open_datatree(path, engine="zarr").children
        assert len(groups) == {"series": 1}.get(kind, 0)
    for (name, one), (other_name, other) in zip(iterate_slits(before), iterate_slits(after), strict=True):
        assert name == other_name
        assert one["sci"].dims == other["sci"].dims
        xr.testing.assert_equal(one, other)
        assert one["sci"].attrs["units"] == other["sci"].attrs["units"]
        assert {k: other.attrs.get(k) for k in one.attrs if k.isupper() and len(k) < 9} == {
            k: v for k, v in one.attrs.items() if k.isupper() and len(k) < 9
        } | ({k: other.attrs[k] for k in ("DATE", "CAL_VER", "FILENAME") if k in one.attrs} if ending == "fits" else {})
    with pytest.raises(OutputExistsError):
        write_slits(before, path, progress=False)
    write_slits(before, path, overwrite=True, progress=False)


def test_slits_with_other_histories_are_padded_together(tmp_path: Path) -> None:
    slits = {str(n): slit for n, slit in enumerate(simulated_slits(2))}
    slits["1"] = replace_pixels(slits["1"])
    path = write_slits(xr.DataTree.from_dict(slits), tmp_path / "y_cal.zarr", progress=False)
    assert not xr.open_datatree(path, engine="zarr").children
    again = open_slits(path)
    assert "nsxr_steps" not in again["0"].attrs
    assert again["1"].attrs["nsxr_steps"] == slits["1"].attrs["nsxr_steps"]


def test_older_stores_have_other_dims(tmp_path: Path) -> None:
    each = simulated_slits(2)
    stored = {slit.attrs["SLTNAME"]: slit.rename(row="cross_dispersion", column="dispersion") for slit in each}
    slits = open_slits(write_groups(tmp_path / "x_cal.zarr", {"/": xr.Dataset(), **stored}))
    for slit in each:
        xr.testing.assert_equal(slits[slit.attrs["SLTNAME"]].to_dataset(), slit)
    resampled = stored["1"].assign(weight=xr.ones_like(stored["1"]["sci"]))
    slits = open_slits(write_groups(tmp_path / "x_s2d.zarr", {"/": resampled}))
    xr.testing.assert_equal(slits["1"].to_dataset(), resampled)


@pytest.mark.parametrize("has_header", [True, False])
def test_labels_of_a_cut_survive(tmp_path: Path, has_header: bool) -> None:
    slit = simulate_trace(background=50.0, seed=1)[0]
    if has_header:
        ((_, slit),) = iterate_slits(open_slits(write_cal(tmp_path / "x_cal.fits", [slit])))
    cut = slit.isel(column=slice(30, 200), row=slice(4, None))
    ((_, again),) = iterate_slits(open_slits(write_slits(cut, tmp_path / "y_cal.fits", progress=False)))
    xr.testing.assert_equal(again.drop_vars("var_flat", errors="ignore"), cut.drop_vars("var_flat", errors="ignore"))
    assert again.attrs["SLTSTRT1"] == cut["column"][0] + 1
    for keyword in ("SRCNAME", "SHUTSTA", "PIXAR_SR", "SLTNAME"):
        assert again.attrs[keyword] == slit.attrs[keyword]


def test_a_combined_background_can_be_kept(tmp_path: Path) -> None:
    each = [simulate_trace(background=50.0, signal_to_noise=0.1, bad_pixels="none", seed=n)[0] for n in range(4)]
    each = [slit.assign_attrs(filename=f"e{n}_cal.fits", S_BKDSUB=None) for n, slit in enumerate(each)]
    combined = combine_backgrounds(each[1:])
    path = write_slits(combined, tmp_path / "combinedbackground.fits", progress=False)
    ((_, kept),) = iterate_slits(open_slits(path))
    for name in ("sci", "dq", "var_poisson", "var_rnoise"):
        np.testing.assert_array_equal(kept[name], combined[name])
    direct, later = (subtract_background(each[0], [background]) for background in (combined, kept))
    np.testing.assert_allclose(later["var_rnoise"], direct["var_rnoise"], rtol=1e-6)


@needs_real_data
@pytest.mark.parametrize("file", REAL_FILES)
def test_real_products_survive(tmp_path: Path, file: str) -> None:
    original = Path(str(REAL), file)
    written = write_slits(open_slits(original), tmp_path / "copy_cal.fits", progress=False)
    with fits.open(original) as one, fits.open(written) as other:
        for hdu in one[1:]:
            if hdu.name == "ERR":
                np.testing.assert_allclose(other[hdu.name, hdu.ver].data, hdu.data, rtol=1e-6)
            elif hdu.name not in ("ASDF", "INT_TIMES"):
                np.testing.assert_array_equal(other[hdu.name, hdu.ver].data, hdu.data)
        changed = {"DATE", "FILENAME", "CAL_VER", "CAL_VCS", "COMMENT", "HISTORY", ""}
        for key in set(one[0].header) - changed:
            assert other[0].header[key] == one[0].header[key], key
        for key in set(one["SCI"].header) - changed:
            assert other["SCI"].header[key] == one["SCI"].header[key], key


@needs_real_data
def test_real_resampled_slit() -> None:
    path = Path(str(REAL), "mos_jw02565/jw02565007001_03101_00002_nrs2_s2d.fits")
    ((_, slit),) = iterate_slits(open_slits(path))
    assert slit["dispersion"][0] == 0
    empty = (slit["dq"] & PixelFlag.DO_NOT_USE) > 0
    np.testing.assert_array_equal(empty, (slit["weight"] == 0) | np.isnan(slit["sci"]))


def test_refused(tmp_path: Path) -> None:
    path = write_cal(tmp_path / "x_cal.fits", simulated_slits(1))
    whole = path.read_bytes()
    (tmp_path / "cut_cal.fits").write_bytes(whole[:-6000])
    with pytest.raises(InputFileError, match="cut off"):
        open_slits(tmp_path / "cut_cal.fits")
    other = write_cal(tmp_path / "miri_cal.fits", simulated_slits(1), INSTRUME="MIRI")
    with pytest.raises(InputFileError, match="INSTRUME is 'MIRI'"):
        open_slits(other)
    fits.HDUList([fits.PrimaryHDU(header=fits.Header({"INSTRUME": "NIRSPEC"}))]).writeto(tmp_path / "x1d.fits")
    with pytest.raises(InputFileError, match="has no slits"):
        open_slits(tmp_path / "x1d.fits")
    with pytest.raises(InputFileError, match="no such file"):
        open_slits(tmp_path / "none_cal.fits")
    with pytest.raises(InputFileError, match="no such Zarr"):
        open_slits(tmp_path / "none.zarr")
    with pytest.raises(ModelError, match="'dq' is missing"):
        write_slits(simulated_slits(1)[0].drop_vars("dq"), tmp_path / "y_cal.fits", progress=False)
    assert not list(tmp_path.glob(".y*"))
