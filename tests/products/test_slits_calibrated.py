"""Calibrated slits in files: all factors and variances come back, and each slit keeps its own history."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import nsxr
from nsxr.errors import InputFileError
from nsxr.formats.extensions import FRAME_IMAGES, SLIT_IMAGES
from nsxr.model.history import record, record_skip, steps
from nsxr.model.variables import units_of
from nsxr.products.describe import describe
from nsxr.slits.collection import iterate_slits, map_slits
from tests.products.slit_files import simulated_slits

OWN = ("var_pathloss", "var_barshadow", "var_photom", "var_background", "wavelength_uncorrected")
TEXTS = {
    "source_places": "[-0.25, 0.5]",
    "nod_shifts": "[1.149, null]",
    "background_members": json.dumps([f"jw01234001001_0310{n}_00001_nrs1_rate.fits" for n in range(3)]),
}
FITTED = ("trace_model", "var_trace_model")
FACTORS = ("pathloss_point", "pathloss_uniform", "barshadow", "flatfield_point", "photom_point", "photom_uniform")


def reference(kind: str) -> xr.Dataset:
    return xr.Dataset(attrs={"reference_type": kind, "filename": f"{kind}.fits"})


def calibrated(number: int = 4) -> xr.DataTree:
    """Slits with every variable of a calibrated slit. Every second one is extended, with other units and history."""
    made = {}
    rng = np.random.default_rng(5)
    for n, slit in enumerate(simulated_slits(number)):
        names = (*OWN, *FITTED, *FACTORS, "var_flat", "flatfield_common")
        images = {name: slit["sci"].copy(data=rng.random(slit["sci"].shape, np.float32)) for name in names}
        slit = slit.assign_coords(slit_y=images["var_flat"].assign_attrs(units="1"))
        slit = record(slit, "extract_2d").assign_attrs(PHOTMJSR=1.5 + n % 2, QUANTITY=n)
        if n % 2:
            slit = record_skip(slit, "wavecorr", "the source is not a point").assign_attrs(SRCTYPE="EXTENDED")
            slit["sci"].attrs["units"] = "MJy/sr"
            del images["wavelength_uncorrected"], images["var_background"]
        else:
            slit = record(slit, "wavecorr", [reference("wavecorr")]).assign_attrs(SRCTYPE="POINT", **TEXTS)
            images["sky_part"] = images["var_flat"]
            images["subtracted"] = (4 * images["var_flat"]).astype(np.uint8)
            images["noise_used"] = (images["var_flat"] > 0.5).astype(np.uint8)
        slit = record(slit, "pathloss", [reference("pathloss")], {"source_x": 0.1 * n, "light": "x"}, **images)
        made[slit.attrs["SLTNAME"]] = slit
    return xr.DataTree.from_dict(made)


@pytest.fixture(params=["fits", "zarr"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[xr.DataTree, xr.DataTree]:
    tree = calibrated()
    return tree, nsxr.open_slits(nsxr.write_slits(tree, tmp_path / f"x_cal.{request.param}", progress=False)).compute()


def test_all_variables_come_back(both: tuple[xr.DataTree, xr.DataTree]) -> None:
    before, after = both
    assert list(before.children) == list(after.children)
    for (_, one), (_, other) in zip(iterate_slits(before), iterate_slits(after), strict=True):
        xr.testing.assert_equal(one, other)
        assert set(one.coords) == set(other.coords)
        assert one["sci"].attrs["units"] == other["sci"].attrs["units"]
        assert {"flatfield_point", "var_photom"} <= set(other.data_vars)


def test_each_slit_keeps_its_history_and_keywords(both: tuple[xr.DataTree, xr.DataTree]) -> None:
    before, after = both
    for n, ((_, one), (_, other)) in enumerate(zip(iterate_slits(before), iterate_slits(after), strict=True)):
        assert steps(one) == steps(other)
        assert other.attrs["S_WAVCOR"] == ("SKIPPED" if n % 2 else "COMPLETE")
        assert (other.attrs["PHOTMJSR"], other.attrs["QUANTITY"]) == (1.5 + n % 2, n)
        assert other.attrs["SRCTYPE"] == ("EXTENDED" if n % 2 else "POINT")
        assert {key: other.attrs[key] for key in TEXTS if key in other.attrs} == ({} if n % 2 else TEXTS)


def assert_steps_told(path: Path) -> None:
    """Check that a description has each step once, and what was done to some of the slits only."""
    lines = [line.strip() for line in describe(path).partition("corrections")[2].splitlines()[1:]]
    done = dict(line.split(maxsplit=1) for line in lines[: lines.index("contents:")])
    assert len(done) == lines.index("contents:")
    assert done["wavecorr"].startswith("COMPLETE: ")
    assert "; SKIPPED: " in done["wavecorr"]


def test_the_primary_header_has_steps_that_any_slit_had(tmp_path: Path) -> None:
    path = nsxr.write_slits(calibrated(), tmp_path / "x_cal.fits", progress=False)
    with fits.open(path) as file:
        header = file[0].header
        assert (header["S_WAVCOR"], header["S_PTHLOS"], header["S_EXTR2D"]) == ("COMPLETE",) * 3
        assert header["R_WAVCOR"] == "wavecorr.fits"
        assert "PHOTMJSR" not in header
        assert file["SCI", 2].header["PHOTMJSR"] == 2.5
        history = " ".join(map(str, header["HISTORY"]))
        assert history.count("pathloss: done, with light = x") == 1  # parameters of single slits are in the table
        total = sum(file[name, 1].data for name in ("VAR_POISSON", "VAR_RNOISE", "VAR_FLAT"))
        np.testing.assert_allclose(file["ERR", 1].data, np.sqrt(total), rtol=1e-6)
        assert {hdu.name for hdu in file if hdu.ver == 1} >= set(SLIT_IMAGES) - {"WHT", "FLATFIELD_UN"}
    assert_steps_told(path)


def test_a_file_of_one_history_has_no_column_for_slits(tmp_path: Path) -> None:
    tree = map_slits(lambda slit: record(slit, "extract_2d"), xr.DataTree.from_dict({"a": simulated_slits(1)[0]}))
    tree["b"] = xr.DataTree(tree["a"].to_dataset().assign_attrs(SLTNAME="b"))
    with fits.open(nsxr.write_slits(tree, tmp_path / "x_cal.fits", progress=False)) as file:
        assert file["NSXR_STEPS"].columns.names == ["STEP", "STATUS", "RECORD"]
        assert json.loads(file["NSXR_STEPS"].data["RECORD"][0])["step"] == "extract_2d"


def test_data_models(tmp_path: Path) -> None:
    def model(slits: xr.Dataset | xr.DataTree) -> str:
        path = nsxr.write_slits(slits, tmp_path / "x_cal.fits", overwrite=True, progress=False)
        return str(fits.getheader(path)["DATAMODL"])

    one = record(simulated_slits(1)[0], "extract_2d")
    series = record(simulated_slits(1, integrations=2)[0], "extract_2d")
    assert model(calibrated(2)) == "MultiSlitModel"
    assert model(one) == "MultiSlitModel"
    assert model(series) == "SlitModel"


def test_each_kind_of_slits_is_a_group_in_zarr(tmp_path: Path) -> None:
    path = nsxr.write_slits(calibrated(40), tmp_path / "x_cal.zarr", progress=False)
    assert sum(one.is_file() for one in path.rglob("*")) < 200
    stored = xr.open_datatree(path, engine="zarr")
    assert [dict(node.sizes)["slit"] for node in stored.children.values()] == [20, 20]
    for node in stored.children.values():
        assert {"wavelength", "slit_y"} <= set(node["sci"].coords)  # by the attribute "coordinates" of CF
        assert (node["wavelength"].attrs["standard_name"], node["wavelength"].attrs["units"]) == (
            "radiation_wavelength",
            "um",
        )
        assert node["slit_y"].attrs["units"] == "1"
        assert node["source_type"].to_series().nunique() == 1
    assert_steps_told(path)


def test_lazy_slits_are_written_like_slits_in_memory(tmp_path: Path) -> None:
    tree = calibrated(3)
    path = nsxr.write_slits(map_slits(lambda slit: slit.chunk(), tree), tmp_path / "x_cal.zarr", progress=False)
    for (_, one), (_, other) in zip(iterate_slits(tree), iterate_slits(nsxr.open_slits(path)), strict=True):
        xr.testing.assert_equal(one, other.compute())


def test_values_that_were_changed_after_reading_are_kept(tmp_path: Path) -> None:
    for ending in ("fits", "zarr"):
        slits = nsxr.open_slits(nsxr.write_slits(calibrated(2), tmp_path / f"x_cal.{ending}", progress=False))
        changed = map_slits(lambda slit: slit.assign_attrs(SRCTYPE="EXTENDED", PTHLOSS="UNIFORM"), slits)
        again = nsxr.open_slits(nsxr.write_slits(changed, tmp_path / f"y_cal.{ending}", progress=False))
        assert {(slit.attrs["SRCTYPE"], slit.attrs["PTHLOSS"]) for _, slit in iterate_slits(again)} == {
            ("EXTENDED", "UNIFORM")
        }


def frame() -> xr.Dataset:
    """A calibrated frame of the IFU, small, with three slices."""
    rng = np.random.default_rng(3)
    shape = (12, 20)
    images = {name: rng.random(shape, np.float32) for name in ("sci", *FRAME_IMAGES.values())}
    images |= {name: rng.random(shape, np.float32) for name in ("var_poisson", "var_rnoise")}
    images["dq"] = rng.integers(0, 8, shape, dtype=np.uint32)
    images["subtracted"], images["noise_used"] = (rng.integers(0, n, shape, dtype=np.uint8) for n in (4, 2))
    images["slice"] = np.repeat(np.array([0, 1, 2, 3], np.uint8), 3)[:, None] * np.ones(shape, np.uint8)
    found = xr.Dataset({k: (("row", "column"), v, {"units": units_of(k, "MJy/sr")}) for k, v in images.items()})
    found = found.set_coords(["slice", "slit_y"]).assign_coords(row=np.arange(12), column=np.arange(20))
    header = {
        "TELESCOP": "JWST",
        "INSTRUME": "NIRSPEC",
        "DETECTOR": "NRS1",
        "EXP_TYPE": "NRS_IFU",
        "READPATT": "NRSRAPID",
    }
    header |= {
        "SUBARRAY": "SUB",
        "SUBSTRT1": 1,
        "SUBSTRT2": 1,
        "SUBSIZE1": 20,
        "SUBSIZE2": 12,
        "NINTS": 1,
        "NGROUPS": 2,
    }
    header |= {"FASTAXIS": 2, "SLOWAXIS": 1, "NFRAMES": 1, "TFRAME": 1.0, "TGROUP": 1.0, "GROUPGAP": 0, "FRMDIVSR": 1}
    return record(found.assign_attrs({**header, "SRCTYPE": "EXTENDED", "PHOTMJSR": 1.5}), "photom")


def test_a_frame_of_the_ifu_comes_back(tmp_path: Path) -> None:
    made = frame()
    path = nsxr.write_slits(made, tmp_path / "x_cal.fits", progress=False)
    with fits.open(path) as file:
        assert file[0].header["DATAMODL"] == "IFUImageModel"
        assert (file[0].header["S_PHOTOM"], file[0].header["SRCTYPE"]) == ("COMPLETE", "EXTENDED")
        assert "PHOTMJSR" not in file[0].header
        assert (file["SCI"].header["PHOTMJSR"], file["SCI"].header["BUNIT"]) == (1.5, "MJy/sr")
        assert {hdu.name for hdu in file} >= {"SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE", *FRAME_IMAGES}
        assert file["REGIONS"].header["BITPIX"] == 32  # as in the observatory's files
        total = made["var_poisson"] + made["var_rnoise"] + made["var_flat"]
        np.testing.assert_allclose(file["ERR"].data, np.sqrt(total), rtol=1e-6)
    again = nsxr.open_exposure(path)
    assert again.chunks
    xr.testing.assert_equal(again.compute().drop_vars("amplifier", errors="ignore"), made)
    assert {name: a.attrs["units"] for name, a in again.variables.items() if "units" in a.attrs} == {
        name: a.attrs["units"] for name, a in made.variables.items() if a.attrs.get("units")
    }
    assert (steps(again), again.attrs["PHOTMJSR"]) == (steps(made), 1.5)
    with pytest.raises(InputFileError, match="frame of the IFU"):
        nsxr.open_slits(path)
    stored = nsxr.open_exposure(nsxr.write_slits(made, tmp_path / "x_cal.zarr", progress=False))
    xr.testing.assert_equal(stored.compute(), made)
    assert stored.attrs["DATAMODL"] == "IFUImageModel"
    with pytest.raises(InputFileError, match="frame of the IFU"):
        nsxr.open_slits(tmp_path / "x_cal.zarr")
