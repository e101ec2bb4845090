import gzip
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import dask
import fsspec
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from dask.base import tokenize
from distributed import Client, LocalCluster

import nsxr
from nsxr.errors import InputFileError
from nsxr.formats.fits_headers import keywords, scan
from nsxr.formats.fits_tables import GROUP_COLUMNS, TIME_COLUMNS
from nsxr.formats.pixels import PixelSource
from nsxr.model.history import record, steps
from nsxr.model.readout import irs2_layout
from nsxr.products.write import write_products
from nsxr.simulate import simulate_exposure, small_exposure
from nsxr.simulate.configuration import SUBARRAYS
from nsxr.testing import count_computes, forbid_computes


@pytest.fixture
def reads(monkeypatch):
    """List of the keys with which pixels were read."""
    keys = []
    plain = PixelSource.read

    def read(self, key):
        keys.append(key)
        return plain(self, key)

    monkeypatch.setattr(PixelSource, "read", read)
    return keys


def pixels(path, name="SCI"):
    with fits.open(path) as hdus:
        return np.array(hdus[name].data)


# values


def test_raw_pixels_are_those_that_astropy_reads(sub32, irs2):
    for path in (sub32, irs2):
        exposure = nsxr.open_exposure(path)
        assert exposure["sci"].dtype == np.float32
        assert exposure["sci"].attrs["units"] == "DN"
        np.testing.assert_array_equal(exposure["sci"].values, pixels(path))


def test_files_and_memory_hold_the_same_exposure(sub32):
    small = small_exposure(readout="NRSRAPID", subarray="SUB32", groups=3, integrations=5, columns=None).exposure
    exposure = nsxr.open_exposure(sub32)
    np.testing.assert_array_equal(exposure["sci"].values, small["sci"].values)
    for name in small.coords:
        np.testing.assert_array_equal(exposure[name].values, small[name].values, err_msg=name)
        assert exposure[name].dtype == small[name].dtype, name
    for key in small.attrs.keys() - {"nsxr_steps", "fits_header", "sci_header"}:
        assert exposure.attrs[key] == small.attrs[key]


def test_the_whole_range_of_raw_values_is_read_exactly(sub32, changed):
    extremes = np.array([0, 1, 32767, 32768, 32769, 65535], dtype=np.uint16)

    def edit(hdus):
        data = hdus["SCI"].data.copy()
        data[0, 0, 0, :6] = extremes
        hdus["SCI"].data = data

    exposure = nsxr.open_exposure(changed(sub32, edit))
    np.testing.assert_array_equal(exposure["sci"][0, 0, 0, :6].values, extremes)


INDICES = [
    (0, 1, 2, 3),
    (-1, -2, -3, -1),
    (slice(None), -1, slice(3, 20, 5), slice(30, 2, -3)),
    (slice(None, None, -2), slice(None), 31, slice(None)),
    (slice(4, None, -1), slice(-2, None), slice(None, None, -7), slice(None, None, 4)),
    (slice(2, 2), slice(None), slice(None), slice(None)),
    (slice(1, 3), 0, slice(40, 50), slice(None)),
    ([4, 0, 2], slice(None), [5, 1, 1], slice(-3, None)),
    (slice(None), [2, 0], slice(10, None, -1), [31, -32]),
]


@pytest.mark.parametrize("index", INDICES)
def test_indices_pick_what_numpy_picks(sub32, index):
    plain = nsxr.open_exposure(sub32, chunks=None)["sci"]
    expected = pixels(sub32)
    for axis in range(3, -1, -1):
        expected = expected[(slice(None),) * axis + (index[axis],)]
    np.testing.assert_array_equal(plain[index].values, expected)
    np.testing.assert_array_equal(nsxr.open_exposure(sub32)["sci"][index].values, expected)


def test_pointwise_indices_pick_what_numpy_picks(sub32):
    plain = nsxr.open_exposure(sub32, chunks=None)["sci"]
    at = {"row": [3, 3, 0, 31], "column": [1, 30, 0, 7]}
    picked = plain.isel({dim: xr.DataArray(places, dims="point") for dim, places in at.items()})
    np.testing.assert_array_equal(
        picked.transpose("integration", "group", "point").values, pixels(sub32)[:, :, at["row"], at["column"]]
    )


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i4", "u1", ">i2"])
@pytest.mark.parametrize("shape", [(7,), (4, 5), (2, 3, 4)])
def test_every_coding_and_number_of_axes_is_read(tmp_path, rng, dtype, shape):
    data = rng.integers(0, 100, shape).astype(dtype)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(data, name="X")]).writeto(tmp_path / "x.fits")
    source = scan(tmp_path / "x.fits").image("X", "float64")
    np.testing.assert_array_equal(source.read((slice(None),) * len(shape)), data)
    np.testing.assert_array_equal(
        source.read((slice(None, None, -2),) * len(shape)), data[(slice(None, None, -2),) * len(shape)]
    )


# laziness


def test_opening_reads_no_pixel_and_computes_nothing(sub32, irs2, segments, reads):
    with forbid_computes():
        for path in (sub32, irs2, segments):
            exposure = nsxr.open_exposure(path)
            assert exposure["sci"].chunks is not None
            assert all(c.chunks is None for c in exposure.coords.values())
    assert reads == []


def test_only_what_is_asked_for_is_read(irs2, reads):
    nsxr.open_exposure(irs2)["sci"].isel(group=1, row=slice(640, 1280)).load(scheduler="synchronous")
    rows = {(range(3200)[key[2]].start, range(3200)[key[2]].stop) for key in reads}
    assert rows == {(640, 1280)}


def test_chunks_are_those_of_the_band_layout(irs2, sub32):
    assert nsxr.open_exposure(irs2)["sci"].chunks[2] == (640,) * 5
    assert nsxr.open_exposure(sub32)["sci"].chunks[2] == (32,)
    assert nsxr.open_exposure(irs2, chunks={"row": 100})["sci"].chunks[2] == (100,) * 32


def test_graphs_hold_no_pixels_and_no_open_files(irs2, monkeypatch):
    exposure = nsxr.open_exposure(irs2)
    pickled = pickle.dumps(exposure["sci"].data)
    assert len(pickled) < exposure["sci"].nbytes / 10
    np.testing.assert_array_equal(pickle.loads(pickled).compute(), pixels(irs2))
    copy = pickle.loads(pickle.dumps(nsxr.open_exposure(irs2, chunks=None)))
    np.testing.assert_array_equal(copy["sci"].values, pixels(irs2))


def test_a_changed_file_gives_another_graph(sub32, changed):
    path = changed(sub32)
    before, again = nsxr.open_exposure(path), nsxr.open_exposure(path)
    assert before["sci"].data.name == again["sci"].data.name

    def edit(hdus):
        hdus["SCI"].data = hdus["SCI"].data + np.uint16(1)

    with fits.open(path, mode="update", memmap=False) as hdus:
        edit(hdus)
    after = nsxr.open_exposure(path)
    assert after["sci"].data.name != before["sci"].data.name
    source = scan(path).image("SCI", "float32")
    assert tokenize(source) == tokenize(scan(path).image("SCI", "float32"))
    assert tokenize(source) != tokenize(scan(sub32).image("SCI", "float32"))


def test_threads_read_the_same_array_at_once(sub32):
    plain = nsxr.open_exposure(sub32, chunks=None)["sci"].variable
    expected = pixels(sub32)

    def read(i):
        return plain[i % 5, i % 3].values

    with ThreadPoolExecutor(2) as pool:
        for i, frame in enumerate(pool.map(read, range(60))):
            np.testing.assert_array_equal(frame, expected[i % 5, i % 3])
    with dask.config.set(scheduler="threads", num_workers=2):
        np.testing.assert_array_equal(nsxr.open_exposure(sub32, chunks={"row": 5})["sci"].values, expected)


def test_workers_of_a_cluster_read_for_themselves(irs2):
    with (
        LocalCluster(processes=True, n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster),
    ):
        mean = nsxr.open_exposure(irs2)["sci"].mean(("group", "column"), dtype=np.float64).compute()
    np.testing.assert_allclose(mean.values, pixels(irs2).mean((1, 3)))


# where files are


def test_a_relative_path_holds_wherever_it_is_read(sub32, tmp_path, monkeypatch):
    monkeypatch.chdir(sub32.parent)
    exposure = nsxr.open_exposure(sub32.name)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(exposure["sci"].values, pixels(sub32))


def test_gzipped_files(sub32, tmp_path):
    path = tmp_path / f"{sub32.name}.gz"
    path.write_bytes(gzip.compress(sub32.read_bytes()))
    exposure = nsxr.open_exposure(path)
    np.testing.assert_array_equal(exposure["sci"].values, pixels(sub32))
    np.testing.assert_array_equal(exposure["sci"][3:0:-1, 2, ::5].values, pixels(sub32)[3:0:-1, 2, ::5])
    assert exposure.attrs["filename"] == path.name


def test_urls(sub32):
    files = fsspec.filesystem("memory")
    for ending, content in (("", sub32.read_bytes()), (".gz", gzip.compress(sub32.read_bytes()))):
        files.pipe(f"/nsxr/x_uncal.fits{ending}", content)
        exposure = nsxr.open_exposure(f"memory://nsxr/x_uncal.fits{ending}")
        np.testing.assert_array_equal(exposure["sci"].values, pixels(sub32))
    first = scan("memory://nsxr/x_uncal.fits").image("SCI", "float32")
    files.pipe("/nsxr/x_uncal.fits", sub32.read_bytes().replace(b"SIMULATED", b"simulated"))
    assert tokenize(first) != tokenize(scan("memory://nsxr/x_uncal.fits").image("SCI", "float32"))
    files.pipe("/nsxr/x_uncal.fits", sub32.read_bytes()[:20000])
    with pytest.raises(InputFileError, match="cut off"):
        nsxr.open_exposure("memory://nsxr/x_uncal.fits")
    files.rm("/nsxr", recursive=True)
    with pytest.raises(InputFileError, match="no such object"):
        nsxr.open_exposure("memory://nsxr/x_uncal.fits")


def test_xarray_opens_raw_files_without_naming_the_engine(sub32):
    with xr.open_dataset(sub32) as exposure:
        np.testing.assert_array_equal(exposure["sci"].values, pixels(sub32))
    with xr.open_dataset(sub32, engine="nirspec", chunks={}, drop_variables="int_mid_MJD_UTC") as exposure:
        assert "int_mid_MJD_UTC" not in exposure
        assert exposure["sci"].chunks is not None


# labels


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
@pytest.mark.parametrize("subarray", list(SUBARRAYS))
def test_labels_are_detector_pixels(tmp_path, subarray, detector):
    options = {"readout": "NRSRAPID", "groups": 1, "integrations": 1, "columns": 8, "references": False}
    (path,) = simulate_exposure(tmp_path, subarray=subarray, detector=detector, **options).uncal
    exposure = nsxr.open_exposure(path)
    size, second = SUBARRAYS[subarray], detector == "NRS2"
    header = fits.getheader(path)
    assert exposure.sizes == {"integration": 1, "group": 1, "row": size.rows, "column": 8}
    np.testing.assert_array_equal(exposure["row"], header["SUBSTRT2"] - 1 + np.arange(size.rows))
    np.testing.assert_array_equal(exposure["column"], size.column_start[second] - 1 + np.arange(8))
    amplifier = exposure["amplifier"].values
    if subarray == "FULL":
        np.testing.assert_array_equal(amplifier[::512], [4, 3, 2, 1] if second else [1, 2, 3, 4])
    else:
        assert (amplifier == 1).all()


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_labels_of_raw_irs2_frames(tmp_path, detector):
    options = {"readout": "NRSIRS2", "groups": 1, "columns": 8, "references": False}
    (path,) = simulate_exposure(tmp_path, detector=detector, **options).uncal
    exposure = nsxr.open_exposure(path)
    layout = irs2_layout(detector)
    np.testing.assert_array_equal(exposure["row"], np.arange(3200))
    np.testing.assert_array_equal(exposure["science_row"], layout.science_row)
    assert exposure["amplifier"].values[[0, -1]].tolist() == ([0, 4] if detector == "NRS1" else [4, 0])


def test_times_and_groups_become_coordinates(sub32):
    exposure = nsxr.open_exposure(sub32)
    times, groups = pixels(sub32, "INT_TIMES"), pixels(sub32, "GROUP")
    np.testing.assert_array_equal(exposure["integration"], times["integration_number"])
    np.testing.assert_array_equal(exposure["group"], [1, 2, 3])
    for name in TIME_COLUMNS:
        assert exposure[name].dims == ("integration",)
        assert exposure[name].dtype == np.dtype("f8")
        np.testing.assert_array_equal(exposure[name], times[name])
    for name in set(GROUP_COLUMNS) & set(exposure.coords):
        assert exposure[name].dims == ("integration", "group")
        values = exposure[name].values.reshape(-1)
        np.testing.assert_array_equal(values, groups[name].astype(values.dtype), err_msg=name)
    assert "bary_end_time" in exposure.coords


def test_segments_take_their_own_rows_of_a_table_for_the_whole_exposure(segments, sub32, changed):
    whole = pixels(sub32, "INT_TIMES")

    def edit(hdus):
        hdus["INT_TIMES"].data = fits.FITS_rec.from_columns(fits.BinTableHDU(whole).columns)

    exposure = nsxr.open_exposure(changed(segments[1], edit))
    assert exposure["integration"].values.tolist() == [3, 4]
    np.testing.assert_array_equal(exposure["int_mid_MJD_UTC"], whole["int_mid_MJD_UTC"][2:4])


# headers


def test_headers_are_carried_over(sub32):
    exposure = nsxr.open_exposure(sub32)
    for text, ext in ((exposure.attrs["fits_header"], 0), (exposure.attrs["sci_header"], "SCI")):
        header = fits.getheader(sub32, ext)
        again = fits.Header.fromstring(text, sep="\n")
        assert again.cards == header.cards or [c.image for c in again.cards] == [c.image for c in header.cards]
    assert "Simulated by nsxr.simulate" in str(
        fits.Header.fromstring(exposure.attrs["fits_header"], sep="\n")["HISTORY"]
    )


def test_attributes_are_plain_and_describe_the_exposure_alone(sub32, changed):
    def edit(hdus):
        header = hdus[0].header
        header["HIERARCH long keyword name"] = 1.5
        header["TITLE"] = "long " * 30
        header["COMPLX"] = 1 + 2j
        header["NOTHING"] = None
        header.add_comment("a comment")

    attrs = nsxr.open_exposure(changed(sub32, edit)).attrs
    json.dumps(attrs)
    assert {type(value) for value in attrs.values()} <= {str, int, float}  # netCDF has no booleans
    structural = {"SIMPLE", "BITPIX", "NAXIS", "EXTEND", "PCOUNT", "GCOUNT", "BZERO", "BSCALE", "CHECKSUM", "DATASUM"}
    assert not structural & attrs.keys()
    assert not {"COMMENT", "HISTORY", "", "NOTHING"} & attrs.keys()
    assert attrs["TITLE"] == ("long " * 30).strip()
    assert attrs["NGROUPS"] == 3
    assert attrs["TSOVISIT"] == fits.getheader(sub32)["TSOVISIT"]
    assert attrs["filename"] == sub32.name


def test_a_damaged_keyword_is_left_out():
    header = fits.Header()
    header["GOOD"] = 1
    header.append(fits.Card.fromstring("BAD     = 'no end"))
    assert keywords(header) == {"GOOD": 1}


# products


def products(exposure):
    """Rates made by hand: last group less first, and variances that tell pixels apart."""
    sci = exposure["sci"]
    slope = (sci.isel(group=-1, drop=True) - sci.isel(group=0, drop=True)) / np.float32(3)
    dq = (slope > 100).astype(np.uint32) * np.uint32(0x80000005)
    units = {"sci": "DN/s", "var_poisson": "(DN/s)2", "var_rnoise": "(DN/s)2"}
    empty = xr.Dataset(coords=slope.coords, attrs=exposure.attrs)
    new = {"sci": slope, "dq": dq, "var_poisson": abs(slope) + 1, "var_rnoise": xr.full_like(slope, 0.25)}
    rateints = record(empty, "ramp_fit", parameters={"algorithm": "OLS_C"}, units=units, **new)
    first = rateints.isel(integration=0, drop=True)
    rate = first.drop_vars([name for name in TIME_COLUMNS if name in first.coords])
    return xr.DataTree.from_dict({"rate": rate, "rateints": rateints})


def test_products_read_back_equal(sub32, tmp_path):
    exposure = nsxr.open_exposure(sub32)
    ramp = record(
        exposure,
        "dq_init",
        pixeldq=xr.zeros_like(exposure["sci"][0, 0], dtype=np.uint32) + np.uint32(2**31 + 1),
        groupdq=xr.zeros_like(exposure["sci"], dtype=np.uint8) + np.uint8(4),
    )
    tree = products(exposure)
    write_products(tree, tmp_path, "x", progress=False, steps={"dq_init": ramp})
    written = {"rate": tree["rate"].to_dataset(), "rateints": tree["rateints"].to_dataset(), "dq_init": ramp}
    for name, dataset in written.items():
        with count_computes() as counter:
            again = xr.open_dataset(tmp_path / f"x_{name}.fits", engine="nirspec", chunks={})
        assert counter.computes == 0
        assert steps(again) == steps(dataset)
        assert set(again.data_vars) == set(dataset.data_vars), name
        for variable, array in dataset.data_vars.items():
            assert again[variable].dims == array.dims
            assert again[variable].dtype == array.dtype
            np.testing.assert_array_equal(again[variable].values, array.values, err_msg=f"{name} {variable}")
            units = array.attrs.get("units")
            assert again[variable].attrs.get("units") == units
        assert {"row", "column", "amplifier"} <= set(again.coords)
        for coordinate in set(again.coords):
            np.testing.assert_array_equal(again[coordinate].values, dataset[coordinate].values, err_msg=coordinate)
        assert again.attrs["READPATT"] == "NRSRAPID"
