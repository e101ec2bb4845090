import gzip

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import nsxr
from nsxr.errors import InputFileError
from nsxr.formats.pixels import PixelSource
from nsxr.model.provenance import software
from nsxr.pipelines.detector1 import DETECTOR1
from nsxr.products.describe import describe
from nsxr.products.write import write_products
from nsxr.simulate import simulate_exposure


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated")
    options = {"readout": "NRSRAPID", "subarray": "SUB32", "groups": 4, "integrations": 2, "detector": "NRS2"}
    made = simulate_exposure(folder, **options)
    exposure = nsxr.open_exposure(made.uncal)
    references = nsxr.open_references(folder / "references", exposure)
    tree = nsxr.detector1(exposure, references, skip=["dark_current"], jump={"rejection_threshold": 5.0})
    write_products(tree, folder, "x", ("fits", "zarr"), progress=False)
    return folder, made


def has(text, *words):
    for word in words:
        assert word in text, text


def test_raw_exposure(calibrated, monkeypatch):
    monkeypatch.delattr(PixelSource, "read")  # no pixel is read
    _, made = calibrated
    text = describe(made.uncal[0])
    has(text, made.uncal[0].name, "NIRSPEC NRS2 NRS_WATA", "NRSRAPID SUB32", "rows 1042 to 1073")
    has(text, "columns 618 to 649", "2 integrations of 4 groups of 0.01496 s", "corrections: none")
    has(text, "(2, 4, 32, 32) 16 bit", "table of 2 rows, 7 columns", "2026-01-15")


@pytest.mark.parametrize(("date", "odd"), [("15/01/2026", True), ("someday", True), ("2026-01-15", False)])
def test_a_date_that_is_none_is_told(calibrated, tmp_path, date, odd):
    _, made = calibrated
    with fits.open(made.uncal[0]) as hdus:
        hdus[0].header["DATE-OBS"] = date
        hdus.writeto(tmp_path / "x.fits")
    text = describe(tmp_path / "x.fits")
    has(text, date)
    assert ("DATE-OBS is no date" in text) == odd


def test_segment(segments):
    has(describe(segments[1]), "segment:     2 of 3, integrations 3 to 4")


def test_gzipped_and_remote(calibrated, tmp_path):
    _, made = calibrated
    path = tmp_path / "x_uncal.fits.gz"
    path.write_bytes(gzip.compress(made.uncal[0].read_bytes()))
    assert describe(path).splitlines()[1:] == describe(made.uncal[0]).splitlines()[1:]
    assert describe(str(path)) == describe(path)


def test_one_is_counted_as_one(calibrated, tmp_path):
    _, made = calibrated
    with fits.open(made.uncal[0]) as hdus:
        hdus["SCI"].data = hdus["SCI"].data[:1, :1]
        hdus[0].header.update(NINTS=1, NGROUPS=1)
        hdus.writeto(tmp_path / "x.fits")
    has(describe(tmp_path / "x.fits"), "1 integration of 1 group of 0.01496 s")


def test_product_fits(calibrated):
    folder, _ = calibrated
    text = describe(folder / "x_rate.fits")
    has(text, "x_rate.fits: ImageModel", "by version nsxr", "VAR_RNOISE", "(32, 32) -32 bit")
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith("  ")}
    assert lines["superbias"] == "COMPLETE: superbias reference jwst_nirspec_superbias_sim_nrs2_sub32_nrsrapid.fits"
    assert lines["dark_current"] == "SKIPPED: on request"
    has(
        text,
        "rejection_threshold 5.0",
        f"made by:     nsxr {software()['nsxr']}",
        f"numpy {np.__version__}",
        "inputs:      jw01234001001",
    )


@pytest.mark.parametrize("name", ["x_rate.fits", "x.zarr"])
def test_steps_come_once_and_in_the_order_in_which_they_ran(calibrated, name):
    folder, _ = calibrated
    text = describe(folder / name).partition("corrections")[2].partition("noise:")[0]
    assert [line.split()[0] for line in text.splitlines()[1:]] == list(DETECTOR1.steps)
    assert "algorithm" in text.partition("  jump")[2].partition("picture_frame")[0]


def test_steps_of_other_software_are_in_their_place(calibrated, tmp_path):
    folder, _ = calibrated
    with fits.open(folder / "x_rate.fits") as hdus:
        hdus[0].header.update(S_IPC="COMPLETE", S_MSBSUB="SKIPPED", S_FLAT="SKIPPED")
        hdus.writeto(tmp_path / "x.fits")
    names = [line.split()[0] for line in describe(tmp_path / "x.fits").splitlines() if line.startswith("  ")]
    assert names[names.index("saturation") + 1] == "ipc"
    assert names[names.index("gain_scale") + 1 :][:2] == ["master_background", "flat_field"]


def test_product_zarr(calibrated):
    folder, _ = calibrated
    text = describe(folder / "x.zarr")
    has(text, "x.zarr: Zarr store", "NRSRAPID SUB32", "rate ", "rateints", "(integration 2, row 32, column 32)")
    has(text, "rejection_threshold 5.0", "SKIPPED", "superbias reference jwst_nirspec_superbias_sim")


def test_reference(calibrated):
    _, made = calibrated
    text = describe(made.references["dark"])
    has(text, "DarkModel", "DARK NRS2 SUB32, DUMMY", "(9, 32, 32)", "DQ_DEF")
    assert "corrections" not in text


def test_what_is_neither(tmp_path, calibrated):
    _, made = calibrated
    garbage = tmp_path / "garbage.fits"
    garbage.write_bytes(np.random.default_rng(1).bytes(5000))
    cut = tmp_path / "cut.fits"
    cut.write_bytes(made.uncal[0].read_bytes()[:20000])
    (tmp_path / "folder").mkdir()
    cases = {garbage: "not a FITS file", cut: "cut off", tmp_path / "folder": "Zarr", tmp_path / "none": "no such file"}
    for path, words in cases.items():
        with pytest.raises(InputFileError, match=words) as error:
            describe(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        (
            (2.6, 1.5, 0.5, 0.8, 0.9),
            "light 0.5 DN (level of the frame 0.2 DN, 90 % of the variance removed); 80 % of the pixels are dark\n",
        ),
        ((2.6, 1.5, 1.5, 0.0, 0.0), "nothing was removed, because almost no pixels are dark"),
        ((2.6, 0.1, 0.1, 0.9, 0.0), "there is almost no correlated noise"),
        ((2.6, 1.5, 1.5, 0.9, 0.01), "light that could be hidden looks like this noise"),
    ],
)
def test_correlated_noise_is_told(tmp_path, calibrated, numbers, told):
    folder, _ = calibrated
    with fits.open(folder / "x_rate.fits") as hdus:
        for name, value in zip(("FLKWHITE", "FLKNOISE", "FLKLEFT", "FLKDARK", "FLKDONE"), numbers, strict=True):
            hdus[0].header[name] = value
        hdus[0].header["FLKLEVEL"] = 0.2
        hdus.writeto(tmp_path / "x.fits")
    has(describe(tmp_path / "x.fits"), told)


@pytest.mark.parametrize("form", ["fits", "zarr"])
def test_noise_of_rates_has_their_unit(tmp_path, calibrated, form):
    folder, _ = calibrated
    cleaned = nsxr.clean_flicker_noise(nsxr.open_exposure(folder / "x_rate.fits"))
    tree = xr.DataTree.from_dict({"rate": cleaned})
    (path,) = write_products(tree, tmp_path, "again", (form,), progress=False)
    assert " DN/s, correlated " in describe(path)
    assert "level of the frame" not in describe(path)  # that of the ramps was told in DN


def test_stores_tell_correlated_noise(calibrated):
    folder, _ = calibrated
    lines = [
        next(line for line in describe(folder / name).splitlines() if line.startswith("noise:"))
        for name in ("x_rate.fits", "x.zarr")
    ]
    assert lines[0] == lines[1]
