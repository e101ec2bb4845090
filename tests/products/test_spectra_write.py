import os
import warnings
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.table import Table
from spectra_samples import COLUMNS, PARTS, SLIT, slitlets, spectrum

from nsxr.errors import ModelError, OutputExistsError
from nsxr.formats.fits_tables import TIME_COLUMNS
from nsxr.formats.keywords import is_of_product
from nsxr.products.spectra_read import open_spectra
from nsxr.products.spectra_write import write_spectra
from nsxr.slits.collection import iterate_slits, map_slits
from nsxr.spectra.combination import combine_spectra
from nsxr.testing import count_computes, forbid_computes

OWN_TABLES = ("NSXR_STEPS", "NSXR_PROVENANCE", "ASDF")
VARIANCES = ("VAR_POISSON", "VAR_RNOISE", "VAR_FLAT")
X1D = [
    *("WAVELENGTH", "FLUX", "FLUX_ERROR", *(f"FLUX_{name}" for name in VARIANCES)),
    *("SURF_BRIGHT", "SB_ERROR", *(f"SB_{name}" for name in VARIANCES), "DQ"),
    *("BACKGROUND", "BKGD_ERROR", *(f"BKGD_{name}" for name in VARIANCES), "NPIXELS"),
]
OWN = ["COVERAGE", "RELATIVE_ERROR_FLAT", "RELATIVE_ERROR_PHOTOM", "COLUMN"]
TIMES = ["MJD-BEG", "MJD-AVG", "MJD-END", "TDB-BEG", "TDB-MID", "TDB-END"]


def lazy(dataset, **chunks):
    names = [name for name in dataset.coords if name not in dataset.indexes and dataset[name].ndim]
    names = [name for name in names if name in ("wavelength",)]
    return dataset.assign_coords({name: dataset[name].chunk() for name in names}).chunk(chunks)


def same_columns(data, dataset, names=None):
    for name in names or [n for n in data.dtype.names if n.lower() in dataset.variables]:
        found = np.asarray(data[name])
        np.testing.assert_array_equal(found, dataset[name.lower()].values, err_msg=name)


def test_x1d_has_the_layout_of_the_peer(rng, tmp_path):
    dataset = spectrum(rng)
    path = write_spectra(dataset, tmp_path / "new" / "a_x1d.fits")
    with fits.open(path) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "EXTRACT1D", *OWN_TABLES]
        assert hdus[0].header["DATAMODL"] == "MultiSpecModel"
        assert hdus[0].header["FILENAME"] == "a_x1d.fits"
        assert not set(SLIT) & set(hdus[0].header)
        table = hdus["EXTRACT1D", 1]
        assert table.columns.names == [*X1D, *OWN]
        units = {c.name: c.unit for c in table.columns}
        assert units["WAVELENGTH"] == "um"
        assert units["FLUX"] == units["FLUX_ERROR"] == "Jy"
        assert units["FLUX_VAR_FLAT"] == "Jy^2"
        assert units["SURF_BRIGHT"] == units["BKGD_ERROR"] == "MJy/sr"
        assert units["BKGD_VAR_RNOISE"] == "MJy^2 / sr^2"
        formats = {c.format for c in table.columns if c.name not in ("DQ", "COLUMN")}
        assert formats == {"D"}
        assert table.data["DQ"].dtype == np.uint32
        same_columns(table.data, dataset)
        np.testing.assert_array_equal(table.data["COLUMN"], dataset["dispersion"])
        for column, prefix in (("FLUX_ERROR", "flux"), ("SB_ERROR", "sb"), ("BKGD_ERROR", "bkgd")):
            variance = sum(dataset[f"{prefix}_var_{part}"].values for part in PARTS)
            np.testing.assert_array_equal(table.data[column], np.sqrt(variance))
        header = table.header
        assert {key: header[key] for key in SLIT} == SLIT
        assert (header["EXTRXSTR"], header["EXTRXSTP"]) == (1, COLUMNS)
        # detector rows 1027.25 and 1031.5 from 0; the cut-out begins at row 1024 + 2
        assert (header["EXTRYSTR"], header["EXTRYSTP"]) == (1027.25 - 1026 + 1, 1031.5 - 1026 + 1)
        assert header["POSPLAN"] == 1029.123456789
        assert (header["POSFIT"], header["POSERR"]) == (1029.2, 0.0123)


def test_errors_do_without_the_variance_of_the_flat_field(rng, tmp_path):
    dataset = spectrum(rng)
    dataset["flux_var_flat"].values[3:5] = np.nan
    with fits.open(write_spectra(dataset, tmp_path / "a_x1d.fits", progress=False)) as hdus:
        table = hdus["EXTRACT1D"].data
        np.testing.assert_array_equal(np.isnan(table["FLUX_VAR_FLAT"]), np.isin(np.arange(COLUMNS), (3, 4)))
        variance = table["FLUX_VAR_POISSON"] + table["FLUX_VAR_RNOISE"] + np.nan_to_num(table["FLUX_VAR_FLAT"])
        np.testing.assert_allclose(table["FLUX_ERROR"], np.sqrt(variance), rtol=1e-12)


def test_files_hold_what_fits_asks_for(rng, tmp_path):
    """Astropy verifies, and reads units; nothing warns but for units with spaces, which are those of the peer."""
    for name, dataset in {"a": spectrum(rng), "b": lazy(with_gaps(spectrum(rng)))}.items():
        path = write_spectra(dataset, tmp_path / f"{name}_x1d.fits")
        with fits.open(path) as hdus:
            hdus.verify("exception")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert str(Table.read(path, hdu=1)["SB_VAR_FLAT"].unit) == "MJy2 / sr2"
        assert os.path.getsize(path) % 2880 == 0


def with_gaps(dataset):
    wavelength = dataset["wavelength"].copy(deep=True)
    wavelength[[0, 5, -1]] = np.nan
    return dataset.assign_coords(wavelength=wavelength)


@pytest.mark.parametrize("is_lazy", [False, True])
@pytest.mark.parametrize("dims", [("dispersion",), ("integration", "dispersion")])
def test_columns_without_wavelength_are_left_out(rng, tmp_path, dims, is_lazy):
    dataset = with_gaps(spectrum(rng, dims))
    path = write_spectra(lazy(dataset) if is_lazy else dataset, tmp_path / "a_x1d.fits")
    kept = np.isfinite(dataset["wavelength"].values)
    with fits.open(path) as hdus:
        data = hdus["EXTRACT1D"].data
        if "integration" in dims:
            np.testing.assert_array_equal(data["N_ALONGDISP"], COLUMNS - 3)
            assert np.isnan(data["FLUX"][:, -3:]).all()
            assert (data["DQ"][:, -3:] == 1).all()
            np.testing.assert_array_equal(data["FLUX"][:, :-3], dataset["flux"].values[:, kept])
            np.testing.assert_array_equal(data["WAVELENGTH"][2, :-3], dataset["wavelength"].values[kept])
        else:
            assert len(data) == COLUMNS - 3
            same_columns(data, dataset.isel(dispersion=kept))
    again = open_spectra(path)["S1600A1"].to_dataset()
    np.testing.assert_array_equal(again["dispersion"], dataset["dispersion"][kept])
    np.testing.assert_array_equal(again["dq"], dataset["dq"].isel(dispersion=kept))


@pytest.mark.parametrize("ending", ["fits", "zarr"])
@pytest.mark.parametrize("is_lazy", [False, True])
@pytest.mark.parametrize("dims", [("dispersion",), ("integration", "dispersion")])
def test_without_any_wavelength_all_columns_are_kept(rng, tmp_path, dims, is_lazy, ending):
    dataset = spectrum(rng, dims)
    dataset = dataset.assign_coords(wavelength=dataset["wavelength"] * np.nan)
    again = open_spectra(write_spectra(lazy(dataset) if is_lazy else dataset, tmp_path / f"a_x1d.{ending}"))
    ((_, again),) = iterate_slits(again)
    for name in ("flux", "flux_var_poisson", "dq"):
        np.testing.assert_array_equal(again[name], dataset[name])
    np.testing.assert_array_equal(again["dispersion"], dataset["dispersion"])
    assert np.isnan(again["wavelength"]).all()


def test_x1dints_has_a_row_for_each_integration(rng, tmp_path):
    dataset = spectrum(rng, ("integration", "dispersion"), EXSEGNUM=2)
    path = write_spectra(lazy(dataset, integration=1), tmp_path / "a_x1dints.fits")
    with fits.open(path) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "EXTRACT1D", "INT_TIMES", *OWN_TABLES]
        assert hdus[0].header["DATAMODL"] == "TSOMultiSpecModel"
        table = hdus["EXTRACT1D"]
        expected = ["INT_NUM", *X1D, "N_ALONGDISP", "SEGMENT", *TIMES]
        assert table.columns.names == [*expected, *OWN, "SOURCE_TYPE"]
        names = [name for name in X1D if name.lower() in dataset.data_vars]
        same_columns(table.data, dataset, [*names, "COVERAGE"])
        np.testing.assert_array_equal(table.data["INT_NUM"], [3, 4, 5, 6])
        shared = np.broadcast_to(dataset["relative_error_photom"], (4, COLUMNS))
        np.testing.assert_array_equal(table.data["RELATIVE_ERROR_PHOTOM"], shared)
        noise = dataset["flux_var_poisson"] + dataset["flux_var_rnoise"]  # all integrations share the flat field
        np.testing.assert_array_equal(table.data["FLUX_ERROR"], np.sqrt(noise))
        np.testing.assert_array_equal(dataset.nsxr.err, np.sqrt(noise))
        np.testing.assert_array_equal(table.data["SEGMENT"], 2)
        np.testing.assert_array_equal(table.data["SOURCE_TYPE"], "POINT")
        assert (table.data["WAVELENGTH"] == dataset["wavelength"].values).all()
        for column, name in zip(TIMES, TIME_COLUMNS, strict=True):
            np.testing.assert_array_equal(table.data[column], dataset[name])
            np.testing.assert_array_equal(hdus["INT_TIMES"].data[name], dataset[name])
        assert {c.unit for c in table.columns if c.name in TIMES} == {"d"}


def test_c1d(rng, tmp_path):
    combined = combine_spectra([spectrum(rng).assign(dq=lambda d: d["dq"] & np.uint32(0)) for _ in range(2)])
    path = write_spectra(combined.chunk(), tmp_path / "a_c1d.fits")
    with fits.open(path) as hdus:
        assert hdus[0].header["DATAMODL"] == "MultiCombinedSpecModel"
        table = hdus["COMBINE1D"]
        expected = ["WAVELENGTH", "FLUX", "ERROR", "SURF_BRIGHT", "SB_ERROR", "DQ", "WEIGHT", "N_INPUT"]
        assert table.columns.names[:8] == expected
        np.testing.assert_array_equal(table.data["WEIGHT"], combined["combination_weight"])
        names = [name for name in combined if name.startswith("flux_var")]
        np.testing.assert_allclose(table.data["ERROR"], np.sqrt(sum(combined[n] for n in names)), rtol=1e-15)
    again = open_spectra(path)["S1600A1"].to_dataset()
    xr.testing.assert_equal(again.drop_vars(set(again.coords) - {"wavelength"}), combined.drop_vars("dispersion"))
    assert set(combined.coords) == {"dispersion", "wavelength"}
    assert {n: a.attrs["units"] for n, a in again.items() if "units" in a.attrs} == {
        n: a.attrs["units"] for n, a in combined.items() if "units" in a.attrs
    }


def test_a_table_for_each_node(rng, tmp_path):
    nodes = {name: spectrum(rng, columns=n, SLTNAME=name) for name, n in {"S200A1": 8, "S1600A1": 12}.items()}
    tree = xr.DataTree.from_dict(nodes)
    tree.attrs = {"TELESCOP": "JWST", "SUBSTRT1": 1, "SUBSTRT2": 1025}
    path = write_spectra(tree, tmp_path / "a_x1d.fits")
    with fits.open(path) as hdus:
        tables = [hdu for hdu in hdus if hdu.name == "EXTRACT1D"]
        assert [(table.ver, table.header["SLTNAME"]) for table in tables] == [(1, "S200A1"), (2, "S1600A1")]
        assert [hdu.name for hdu in hdus].count("NSXR_STEPS") == 1
        for table, node in zip(tables, nodes.values(), strict=True):
            same_columns(table.data, node)


@pytest.mark.parametrize("is_lazy", [False, True])
def test_a_table_for_each_slitlet_without_padding(rng, tmp_path, is_lazy):
    tree = slitlets(rng)
    path = write_spectra(map_slits(lazy, tree) if is_lazy else tree, tmp_path / "a_x1d.fits")
    with fits.open(path) as hdus:
        tables = [hdu for hdu in hdus if hdu.name == "EXTRACT1D"]
        assert [len(table.data) for table in tables] == [12, 7, 10]
        assert [table.header["SLTNAME"] for table in tables] == ["5", "30", "31"]
        assert [table.header["SRCTYPE"] for table in tables] == ["POINT", "EXTENDED", "POINT"]
        assert [table.header["POSFIT"] for table in tables] == [1040.5, 1050.25, 1061.125]
        # 0-based row 1038 of the detector in a cut-out that begins at row 1024 + 8
        assert tables[0].header["EXTRYSTR"] == 1038 - 1032 + 1
        for table, one in zip(tables, tree.children.values(), strict=True):
            same_columns(table.data, one.to_dataset())
            np.testing.assert_array_equal(table.data["COLUMN"], one["dispersion"])


def test_steps_that_differ_are_kept_for_each_slit(rng, tmp_path):
    nodes = {name: spectrum(rng, SLTNAME=name) for name in ("S200A1", "S1600A1")}
    changed = nodes["S1600A1"].attrs["nsxr_steps"].replace("profile", "box")
    nodes["S1600A1"].attrs["nsxr_steps"] = changed
    path = write_spectra(xr.DataTree.from_dict(nodes), tmp_path / "a_x1d.fits")
    again = open_spectra(path)
    for name, node in nodes.items():
        assert again[name].attrs["nsxr_steps"] == node.attrs["nsxr_steps"]


def test_what_is_missing_is_zero_variance_or_nan(rng, tmp_path):
    dataset = spectrum(rng).drop_vars(["flux_var_flat", "surf_bright", "sb_var_poisson", "coverage", "npixels"])
    dataset = dataset.drop_vars(["sb_var_rnoise", "sb_var_flat", "position_fitted", "dispersion"])
    with fits.open(write_spectra(dataset, tmp_path / "a_x1d.fits")) as hdus:
        data = hdus["EXTRACT1D"].data
        assert "COVERAGE" not in data.names
        assert "POSFIT" not in hdus["EXTRACT1D"].header
        assert (data["FLUX_VAR_FLAT"] == 0).all()
        assert np.isnan(data["SURF_BRIGHT"]).all()
        assert np.isnan(data["SB_ERROR"]).all()
        assert (data["NPIXELS"] == 0).all()
        variance = dataset["flux_var_poisson"].values + dataset["flux_var_rnoise"].values
        np.testing.assert_array_equal(data["FLUX_ERROR"], np.sqrt(variance))
        np.testing.assert_array_equal(data["COLUMN"], np.arange(COLUMNS))


def test_weights_of_pixels_stay_out_of_tables(rng, tmp_path):
    maps = {name: (("row", "dispersion"), np.ones((5, COLUMNS), "f4")) for name in ("weight", "var_background")}
    dataset = spectrum(rng, background_members="[]").assign(maps)
    with fits.open(write_spectra(dataset, tmp_path / "a_x1d.fits")) as hdus:
        assert hdus["EXTRACT1D"].columns.names == [*X1D, *OWN]
    again = open_spectra(write_spectra(dataset, tmp_path / "a.zarr"))["S1600A1"].to_dataset()
    xr.testing.assert_identical(again.compute()["var_background"], dataset["var_background"])


def test_count_rates_have_their_own_units(rng, tmp_path):
    path = write_spectra(spectrum(rng, units="DN/s"), tmp_path / "a_x1d.fits")
    with fits.open(path) as hdus:
        units = {c.name: c.unit for c in hdus["EXTRACT1D"].columns}
    assert (units["FLUX"], units["BACKGROUND"], units["SB_VAR_FLAT"]) == ("DN/s", "DN/s", "DN^2 / s^2")
    assert open_spectra(path)["S1600A1"]["flux_var_flat"].attrs["units"] == "(DN/s)2"


@pytest.mark.parametrize("name", ["a_x1d.fits", "a.zarr"])
def test_everything_in_one_compute_with_late_positions(rng, tmp_path, name):
    nodes = {slit: spectrum(rng, SLTNAME=slit) for slit in ("S200A1", "S1600A1")}
    late = {}
    for slit, node in nodes.items():
        position = xr.DataArray(da.from_array(np.array(1029.5)))
        late[slit] = lazy(node, dispersion=5).assign_coords(position_fitted=position, extraction_start=position - 2)
    tree = xr.DataTree.from_dict(late)
    with count_computes() as counter:
        path = write_spectra(tree, tmp_path / name)
    assert counter.computes == 1
    again = open_spectra(path)
    for slit, node in nodes.items():
        np.testing.assert_array_equal(again[slit]["flux"], node["flux"])
        assert float(again[slit]["position_fitted"]) == 1029.5
        assert float(again[slit]["extraction_start"]) == 1027.5
    with forbid_computes():
        write_spectra(xr.DataTree.from_dict(nodes), tmp_path / f"b{Path(name).suffix}")


def test_series_in_zarr_has_wavelength_as_its_index(rng, tmp_path):
    dataset = with_gaps(spectrum(rng, ("integration", "dispersion")))
    path = write_spectra(lazy(dataset, integration=1), tmp_path / "a.zarr")
    with xr.open_zarr(path) as stored:
        assert stored["flux"].dims == ("integration", "wavelength")
        assert "wavelength" in stored.indexes
        assert np.isfinite(stored["wavelength"]).all()
        assert stored["wavelength"].attrs["units"] == "um"
        assert stored.sizes == {"integration": 4, "wavelength": COLUMNS - 3}
        assert set(TIME_COLUMNS) <= set(stored.coords)
        line = stored["flux"].sel(wavelength=float(dataset["wavelength"][4]))
        np.testing.assert_array_equal(line, dataset["flux"].isel(dispersion=4))
    kept = dataset.isel(dispersion=np.isfinite(dataset["wavelength"].values))
    again = open_spectra(path)["S1600A1"].to_dataset()
    assert again["flux"].chunks is not None
    xr.testing.assert_equal(again.compute(), kept)


def test_slitlets_in_zarr(rng, tmp_path):
    tree = slitlets(rng)
    again = open_spectra(write_spectra(map_slits(lazy, tree), tmp_path / "a.zarr"))
    assert not xr.open_datatree(tmp_path / "a.zarr", engine="zarr").children  # one group for spectra of one kind
    assert sorted(again.children) == sorted(tree.children) == ["30", "31", "5"]
    for name, node in tree.children.items():
        found = again[name].to_dataset()
        xr.testing.assert_equal(found.compute(), node.to_dataset())
        assert {key: found.attrs[key] for key in found.attrs if not is_of_product(key)} == node.attrs
        assert (found.attrs["FILENAME"], found.attrs["DATAMODL"]) == ("a.zarr", "MultiSpecModel")


def test_nothing_appears_when_a_block_fails(rng, tmp_path):
    def fail(block):
        raise RuntimeError("a block failed")

    dataset = spectrum(rng)
    for name in ("a_x1d.fits", "a.zarr"):
        write_spectra(dataset, tmp_path / name)
        before = open_spectra(tmp_path / name)["S1600A1"].to_dataset().compute()
        broken = lazy(dataset)
        broken["flux"].data = broken["flux"].data.map_blocks(fail, dtype="f8", meta=np.empty(0))
        with pytest.raises(RuntimeError, match="a block failed"):
            write_spectra(broken, tmp_path / name, overwrite=True)
        xr.testing.assert_identical(open_spectra(tmp_path / name)["S1600A1"].to_dataset().compute(), before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "a_x1d.fits"]


def test_older_files_stay_unless_overwritten(rng, tmp_path):
    path = write_spectra(spectrum(rng), tmp_path / "a_x1d.fits")
    before = path.read_bytes()
    with pytest.raises(OutputExistsError):
        write_spectra(spectrum(rng), path)
    assert path.read_bytes() == before
    write_spectra(spectrum(rng), path, overwrite=True)
    assert path.read_bytes() != before


def test_inputs_stay_as_they_were(rng, tmp_path):
    for dataset in (spectrum(rng), spectrum(rng, ("integration", "dispersion")), slitlets(rng)):
        before = dataset.copy(deep=True)
        write_spectra(dataset, tmp_path / "a_x1d.fits", overwrite=True)
        write_spectra(dataset, tmp_path / "a.zarr", overwrite=True)
        xr.testing.assert_identical(dataset, before)


def test_what_fits_in_no_product_is_refused_first(rng, tmp_path):
    one, series = spectrum(rng), spectrum(rng, ("integration", "dispersion"))
    cases = {
        "write them separately": xr.DataTree.from_dict({"a": one, "b": series}),
        "no spectra": xr.DataTree(),
        "'dq' is missing": one.drop_vars("dq"),
        "wavelength": one.drop_vars("wavelength"),
        "dtype float32": one.assign(flux=one["flux"].astype("f4")),
        "units": one.assign(flux=one["flux"].assign_attrs(units="mJy")),
    }
    for message, dataset in cases.items():
        with pytest.raises(ModelError, match=message):
            write_spectra(dataset, tmp_path / "a_x1d.fits")
    assert not list(tmp_path.iterdir())
