import json
import os
from functools import partial
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from nsxr.errors import DegradedResultWarning, ModelError, ParameterError, ReferenceFileError
from nsxr.model.dq import PixelFlag
from nsxr.model.history import steps
from nsxr.model.variables import check
from nsxr.references.apertures import Aperture, read_aperture
from nsxr.slits.collection import map_slits
from nsxr.spectra.box_extraction import extract_box
from nsxr.testing import assert_lazy_and_chunk_invariant
from nsxr.testing import make_slit as make_cut_out

CUTOUT = ("cross_dispersion", "dispersion")
PARTS = ("poisson", "rnoise", "flat")
make_slit = partial(make_cut_out, dims=CUTOUT)
AREA = 4.8e-13
REGIONS = ((-0.5,), (1.9,), (7.2,), (9.5,))


@pytest.fixture
def noisy(rng):
    """Return a slit with noise, holes, and corners without wavelength."""

    def make(*shape, units="DN/s"):
        dq = np.where(rng.random(shape) < 0.05, PixelFlag.DO_NOT_USE, 0)
        sci = np.where(rng.random(shape) < 0.05, np.nan, rng.normal(3, 2, shape))
        wavelength = np.linspace(0.6, 5.2, shape[-1]) + 0.002 * np.arange(shape[-2])[:, None]
        wavelength[0, : shape[-1] // 2] = wavelength[-1, shape[-1] // 3 :] = np.nan
        variances = [rng.uniform(0.1, 2, shape) for _ in PARTS]
        return make_slit(sci, variances, dq, wavelength=wavelength, units=units, PIXAR_SR=AREA)

    return make


def part_inside(row, lower, upper):
    """Return the part of a pixel between the lower edge of one pixel and the upper edge of another."""
    return max(0.0, min(upper + 0.5, row + 0.5) - max(lower - 0.5, row - 0.5))


def twin(slit, boxes, regions=(), fit="poly", order=0, smoothing=0):
    """Extract column by column in loops: ``boxes`` and ``regions`` are limits for each column."""
    sci = slit["sci"].values.astype(float)
    sci[(slit["dq"].values & 1) > 0] = np.nan
    known = np.isfinite(slit["wavelength"].values)
    rows, found = np.arange(sci.shape[0]), []
    y = np.linspace(-1, 1, rows.size)
    for column in range(sci.shape[1]):
        window = np.clip(np.arange(column - smoothing // 2, column + smoothing // 2 + 1), 0, sci.shape[1] - 1)
        smoothed = [float(np.nanmean(row)) if np.isfinite(row).any() else np.nan for row in sci[:, window]]
        good = np.isfinite(sci[:, column])
        weights = np.array([sum(part_inside(r, *box[column]) for box in boxes) for r in rows]) * known[:, column]
        level, factors = np.zeros(rows.size), np.zeros(rows.size)
        if regions and fit == "poly":
            used = good & [any(part_inside(r, *region[column]) > 0 for region in regions) for r in rows]
            if used.sum() > order:
                level = np.polyval(np.polyfit(y[used], np.array(smoothed)[used], order), y)
                for row in rows[used]:  # what one pixel more of signal adds to the background in the box
                    response = np.polyfit(y[used], (rows == row)[used].astype(float), order)
                    factors[row] = np.polyval(response, y) @ weights
        elif regions:
            within = [any(low <= r <= high for low, high in (region[column] for region in regions)) for r in rows]
            level[:] = np.nanmedian(np.array(smoothed)[within])
            factors = 1.2 * weights.sum() * (good & within) / (good & within).sum()
        summed = np.where(good, weights, 0)
        variance = [np.where(good, slit[f"var_{part}"].values[:, column], 0) for part in PARTS]
        flux = np.nansum((sci[:, column] - level) * weights) if summed.any() else np.nan
        entry = {"flux": flux, "npixels": summed.sum(), "coverage": summed.sum() / max(weights.sum(), 1e-9)}
        entry["background"] = summed @ level / max(summed.sum(), 1e-9)
        entry["wavelength"] = np.nansum(slit["wavelength"].values[:, column] * weights) / weights.sum()
        for part, v in zip(PARTS, variance, strict=True):
            entry[f"bkgd_var_{part}"] = v @ factors**2 / (summed.sum() ** 2 or 1)
            entry[f"flux_var_{part}"] = v @ (summed**2 + factors**2)
        found.append(entry)
    return {name: np.array([entry[name] for entry in found]) for name in found[0]}


@pytest.mark.parametrize("units", ["DN/s", "MJy", "MJy/sr"])
@pytest.mark.parametrize(
    ("extra", "order"),
    [
        ({}, None),
        ({"bkg_fit": "poly", "bkg_order": 2}, 2),
        ({"bkg_fit": "mean", "bkg_order": 2, "smoothing_length": 5}, 0),
        ({"bkg_fit": "median"}, 0),
        ({"bkg_fit": "median", "smoothing_length": 3}, 0),
    ],
)
def test_loops_find_the_same(noisy, units, extra, order):
    slit = noisy(16, 24, units=units)
    aperture = {"src_coeff": [[3.2, 0.05], [7.9, 0.04, 0.001]], **extra}
    column = np.arange(24)
    box = np.stack([3.7 + 0.05 * column, 7.4 + 0.04 * column + 0.001 * column**2], axis=1)
    regions = []
    if extra:
        aperture["bkg_coeff"] = [[-0.5], [1.8], [13.1], [15.5]]
        regions = [np.tile([0, 1.3], (24, 1)), np.tile([13.6, 15], (24, 1))]
    fit = "median" if extra.get("bkg_fit") == "median" else "poly"
    expected = twin(slit, [box], regions, fit, order, extra.get("smoothing_length", 0))
    spectrum = extract_box(slit, aperture, use_source_posn=False)
    to_flux = {"DN/s": 1, "MJy": 1e6, "MJy/sr": 1e6 * AREA}[units]
    to_brightness = 1 / AREA if units == "MJy" else 1
    for name, values in expected.items():
        scale = {"flux": to_flux, "back": to_brightness, "bkgd": to_brightness**2, "flux_": to_flux**2}
        factor = scale["flux_"] if name.startswith("flux_") else scale.get(name[:4], 1)
        np.testing.assert_allclose(spectrum[name], values * factor, rtol=1e-9, atol=1e-12 * factor, err_msg=name)
    brightness = 0 if units == "MJy" else expected["flux"] / expected["npixels"]
    np.testing.assert_allclose(spectrum["surf_bright"], brightness)
    variance = 0 if units == "MJy" else expected["flux_var_poisson"] / expected["npixels"] ** 2
    np.testing.assert_allclose(spectrum["sb_var_poisson"], variance)
    assert float(spectrum["extraction_start"]) == pytest.approx(1200 + box[:, 0].mean())
    assert float(spectrum["extraction_stop"]) == pytest.approx(1200 + box[:, 1].mean())


# what extract1d of jwst 3.0.0 returns for the image below, MJy/sr or DN/s
PUBLISHED = [
    (
        {"ystart": 2.75, "ystop": 5.5, "bkg_coeff": REGIONS, "bkg_order": 1},
        None,
        {
            "flux": [9.92741935, 6.82258065, -5.85591398, 2.22133758, -11.75],
            "flux_var_rnoise": [11.14468783, 11.34314516, 10.59603798, 12.38157988, 11.34314516],
            "flux_var_poisson": [2.84032258, 6.49123309, 5.44677419, 7.00103706, 2.84032258],
            "background": [47.32258065, 47.67741935, 34.85591398, 46.77866242, 56.25],
            "bkgd_var_rnoise": [4.70718783, 4.78064516, 4.72103798, 5.94407988, 4.78064516],
            "npixels": [3.75, 3.75, 2.75, 3.75, 3.75],
        },
    ),
    (
        {"src_coeff": ((2.5, 0.1), (5.7, 0.2)), "bkg_coeff": REGIONS, "bkg_fit": "median"},
        None,
        {
            "flux": [8.0, 6.2, -6.0, 0.3, -10.6],
            "flux_var_rnoise": [12.4912, 13.7808, 14.3636, 15.93, 16.0512],
            "flux_var_poisson": [3.3632, 6.3003, 6.8016, 9.83, 4.0128],
            "background": [41.6, 42.9, 31.2, 45.5, 52.2],
            "bkgd_var_rnoise": [6.4512, 7.8408, 9.3636, 9.8, 9.3312],
            "npixels": [3.2, 3.3, 2.4, 3.5, 3.6],
        },
    ),
    (
        {"extract_width": 3.5, "ystart": 2, "ystop": 7, "bkg_coeff": REGIONS, "smoothing_length": 3},
        np.array([4.0, 4.25, 4.5, 4.75, 5.0]),
        {
            "flux": [9.66666667, 7.66666667, -5.16666667, -1.36666667, -8.02777778],
            "flux_var_rnoise": [10.33333333, 10.58333333, 9.45833333, 11.15, 10.39583333],
            "flux_var_poisson": [2.58333333, 6.08680556, 4.66666667, 6.945, 2.58333333],
            "background": [44.33333333, 44.33333333, 31.66666667, 47.36666667, 49.77777778],
            "bkgd_var_rnoise": [4.08333333, 4.08333333, 4.08333333, 4.9, 4.08333333],
            "npixels": [3.5, 3.5, 2.5, 3.5, 3.5],
        },
    ),
]


@pytest.mark.parametrize(("aperture", "center", "expected"), PUBLISHED)
def test_values_of_the_pipeline(aperture, center, expected):
    row, column = np.mgrid[:10, :5]
    sci = 10.0 + (3 * row**2 + 5 * column + 2 * row * column) % 7
    sci[4, 2] = sci[1, 3] = np.nan
    variances = [0.5 * (1 + row * column % 4), 1.0 + (row + column) % 3, 0.1 * ((row + 2 * column) % 5)]
    spectrum = extract_box(make_slit(sci, variances), aperture, center=center, use_source_posn=center is not None)
    npixels = spectrum["npixels"].values
    for name, values in expected.items():  # the pipeline's kernel gives backgrounds as sums
        power = {"background": 1, "bkgd_var_rnoise": 2}.get(name, 0)
        np.testing.assert_allclose(spectrum[name] * npixels**power, values, rtol=1e-6, err_msg=name)


def test_stored_spectrum_of_a_real_slit():
    folder = os.environ.get("NSXR_REAL_DATA")
    if not folder:
        pytest.skip("NSXR_REAL_DATA is not set")
    stem = Path(folder) / "mos_jw02565" / "jw02565007001_03101_00002_nrs2"
    names = {"sci": "SCI", "wavelength": "WAVELENGTH", **{f"var_{part}": f"VAR_{part.upper()}" for part in PARTS}}
    with fits.open(f"{stem}_s2d.fits") as file:
        images = {name: file[extension].data.astype(np.float32) for name, extension in names.items()}
        attrs = {key: file["SCI"].header[key] for key in ("SRCTYPE", "SLTNAME", "SPORDER", "PIXAR_SR")}
    with fits.open(f"{stem}_x1d.fits") as file:
        header, stored = file["EXTRACT1D"].header, file["EXTRACT1D"].data.copy()
    start, stop = header["EXTRYSTR"] - 1, header["EXTRYSTP"] - 1
    slit = xr.Dataset({name: (CUTOUT, image) for name, image in images.items()}, attrs=attrs)
    slit["sci"].attrs["units"] = "MJy"
    spectrum = extract_box(slit, {"ystart": start, "ystop": stop})

    np.testing.assert_allclose(spectrum["wavelength"], stored["WAVELENGTH"], rtol=1e-6)
    # ends of the spectrum hold sums of 0 with variance NaN, as missing pixels of a resampled image do: version 1.15
    # did not look at the variance of a pixel, later ones and this do
    there = np.isfinite(stored["FLUX_ERROR"])
    assert there.sum() == 395
    np.testing.assert_allclose(spectrum["flux"][there], stored["FLUX"][there], rtol=1e-6)
    np.testing.assert_allclose(spectrum["npixels"][there], stored["NPIXELS"][there], rtol=1e-6)
    np.testing.assert_array_equal(spectrum["surf_bright"], stored["SURF_BRIGHT"])
    np.testing.assert_array_equal(spectrum["dq"][there], stored["DQ"][there])
    np.testing.assert_array_equal(spectrum["coverage"][there], 1)
    # version 1.15 weighted variances with the part of a pixel inside, later ones and this with its square; the sum of
    # whole rows with those parts is what is stored
    rows = [(13, 13, 14 - start), (14, 18, 1.0), (19, 19, stop - 18)]
    total = np.zeros(there.sum())
    for part in PARTS:
        name = f"flux_var_{part}"
        linear = sum(w * extract_box(slit, {"ystart": a, "ystop": b})[name].values for a, b, w in rows)[there]
        total += linear
        np.testing.assert_allclose(linear, stored[name.upper()][there], rtol=1e-6)
        assert (spectrum[name][there] <= stored[name.upper()][there]).all()
    np.testing.assert_allclose(np.sqrt(total), stored["FLUX_ERROR"][there], rtol=1e-6)


def test_background_is_taken_off_with_its_error(rng):
    row = np.arange(20)[:, None]
    truth = np.where((row > 7) & (row < 12), 5.0, 0.0) + 2 + 0.3 * row
    sci = truth + rng.normal(0, np.sqrt(3), (20, 4000))
    coefficients = ((-0.5,), (5.5,), (13.5,), (19.5,))
    aperture = Aperture(ystart=7, ystop=12, bkg_coeff=coefficients, bkg_order=1, use_source_posn=False)
    spectrum = extract_box(make_slit(sci), aperture)
    variance = sum(spectrum[f"flux_var_{part}"] for part in PARTS)
    pulls = (spectrum["flux"] - 20) / np.sqrt(variance)
    assert abs(float(pulls.mean())) < 4 / np.sqrt(4000)
    assert float(pulls.std()) == pytest.approx(1, abs=0.04)  # 1.22 without the background's part of the variance
    kept = extract_box(make_slit(sci), aperture, subtract_background=False)
    np.testing.assert_allclose(kept["flux"], spectrum["flux"] + 6 * spectrum["background"])
    np.testing.assert_array_equal(kept["background"], 0)


def test_missing_pixels_are_left_out_and_coverage_says_so():
    dq = np.zeros((8, 5))
    dq[3, 1] = PixelFlag.DO_NOT_USE
    dq[3:6, 2] = PixelFlag.DO_NOT_USE
    dq[3, 3] = PixelFlag.FLUX_ESTIMATED
    slit = make_slit(np.full((8, 5), 2.0), dq=dq)
    for part in PARTS:
        slit[f"var_{part}"][4, 0] = np.nan
    spectrum = extract_box(slit, {"ystart": 3, "ystop": 5}, use_source_posn=False)
    np.testing.assert_array_equal(spectrum["flux"], [4, 4, np.nan, 6, 6])
    np.testing.assert_array_equal(spectrum["npixels"], [2, 2, 0, 3, 3])
    np.testing.assert_allclose(spectrum["coverage"], [2 / 3, 2 / 3, 0, 2 / 3, 1])
    holes = PixelFlag.OTHER_BAD_PIXEL
    np.testing.assert_array_equal(spectrum["dq"], [holes, holes, PixelFlag.DO_NOT_USE, 0, 0])
    np.testing.assert_array_equal(spectrum["flux_var_rnoise"], [2, 2, 0, 3, 3])


@pytest.mark.parametrize("lost", PARTS)
@pytest.mark.parametrize("fit", ["none", "poly", "median"])
@pytest.mark.parametrize("where", ["everywhere", "one pixel"])
def test_one_kind_of_variance_that_is_not_known_leaves_the_others_alone(noisy, lost, fit, where):
    slit = noisy(10, 30)
    aperture = {"ystart": 3, "ystop": 6} | ({} if fit == "none" else {"bkg_coeff": REGIONS, "bkg_fit": fit})
    slit["sci"][4, 7], slit["dq"][4, 7], slit["wavelength"][4, 7] = 3, 0, 1.5
    before = extract_box(slit, aperture, use_source_posn=False)
    slit[f"var_{lost}"][(Ellipsis,) if where == "everywhere" else (4, 7)] = np.nan
    after = extract_box(slit, aperture, use_source_posn=False)
    if where == "one pixel":  # its error is not known
        assert after["dq"][7] == before["dq"][7] | PixelFlag.DO_NOT_USE
        before["dq"][7] |= np.uint32(PixelFlag.DO_NOT_USE)
    for name in before.data_vars:
        if name in (f"flux_var_{lost}", f"sb_var_{lost}"):
            assert np.isnan(after[name][7])
        elif name != f"bkgd_var_{lost}":
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)


@pytest.mark.parametrize("value", [np.nan, -1.0, -1e-30, np.inf])
@pytest.mark.parametrize("kind", PARTS)
def test_columns_without_a_known_error_are_not_used(kind, value):
    slit = make_slit(np.full((8, 5), 2.0))
    slit[f"var_{kind}"][4, 1] = slit[f"var_{kind}"][0, 3] = value  # inside the box, and beside it
    spectrum = extract_box(slit, {"ystart": 3, "ystop": 5}, use_source_posn=False)
    np.testing.assert_array_equal(spectrum["flux"], 6)
    np.testing.assert_array_equal(spectrum["dq"], [0, PixelFlag.DO_NOT_USE, 0, 0, 0])


def test_columns_with_more_than_half_of_the_box_missing_are_not_used():
    sci = np.full((8, 4), 2.0)
    for column in range(4):
        sci[2 : 2 + column, column] = np.nan
    spectrum = extract_box(make_slit(sci), {"ystart": 2, "ystop": 5}, use_source_posn=False)
    holes, lost = PixelFlag.OTHER_BAD_PIXEL, PixelFlag.DO_NOT_USE
    np.testing.assert_array_equal(spectrum["dq"], [0, holes, holes, holes | lost])
    np.testing.assert_array_equal(spectrum["npixels"], [4, 3, 2, 1])
    np.testing.assert_array_equal(spectrum["flux"], [8, 6, 4, 2])


def test_box_follows_the_centre():
    slit = make_slit(np.arange(12.0)[:, None] + np.zeros((12, 7)))
    width = {"extract_width": 3, "ystart": 0, "ystop": 5}
    number = extract_box(slit, width, center=6.0)
    np.testing.assert_allclose(number["flux"], 18)
    assert float(number["extraction_start"]) == 1205
    assert float(number["extraction_stop"]) == 1207
    track = np.linspace(5, 7, 7)
    np.testing.assert_allclose(extract_box(slit, width, center=track)["flux"], 3 * track)
    np.testing.assert_allclose(extract_box(slit, width, center=track, position_offset=-1)["flux"], 3 * track - 3)
    # limits without a width move as they are, by what the centre is off in the middle column
    np.testing.assert_allclose(extract_box(slit, {"ystart": 1, "ystop": 3}, center=track)["flux"], 18)
    sloping = {"src_coeff": [[1.5, 0.2], [4.5, 0.2]]}  # around 3.6 in column 3
    np.testing.assert_allclose(extract_box(slit, sloping, center=6.6)["flux"], 3 * (6 + 0.2 * np.arange(7)))
    nowhere = extract_box(slit, width, center=30.0)
    assert np.isnan(nowhere["flux"]).all()
    assert (nowhere["dq"] == PixelFlag.DO_NOT_USE).all()


def test_who_decides_on_the_position():
    slit = make_slit(np.arange(12.0)[:, None] + np.zeros((12, 3)))
    aperture = {"extract_width": 3, "ystart": 1, "ystop": 5}

    def middle(slit, aperture=aperture, **parameters):
        return float(extract_box(slit, aperture, center=8.0, **parameters)["flux"][0]) / 3

    assert middle(slit) == 8
    assert middle(slit, use_source_posn=False) == 3
    assert middle(slit, {**aperture, "use_source_posn": False}) == 3
    assert middle(slit, {**aperture, "use_source_posn": False}, use_source_posn=True) == 8
    assert middle(slit.assign_attrs(SRCTYPE="EXTENDED")) == 3
    assert middle(slit.assign_attrs(SRCTYPE="EXTENDED"), use_source_posn=True) == 8
    assert middle(slit.assign_attrs(EXP_TYPE="NRS_IFU")) == 3
    with pytest.warns(DegradedResultWarning, match="no center"):
        extract_box(slit, aperture)
    with pytest.raises(ParameterError, match="no center"):
        extract_box(slit, aperture, use_source_posn=True)


def test_boxes_below_a_row_and_columns_outside():
    slit = make_slit(np.ones((6, 5)))
    narrow = extract_box(slit, {"src_coeff": [[2.6], [2.9]], "xstart": 0.5, "xstop": 3.9}, use_source_posn=False)
    np.testing.assert_allclose(narrow["npixels"], [0, 0.3, 0.3, 0.3, 0])
    assert np.isnan(narrow["wavelength"][[0, 4]]).all()
    whole = extract_box(slit)
    np.testing.assert_array_equal(whole["flux"], 6)
    two = extract_box(slit, {"src_coeff": [[-0.5], [1.5], [1.0], [2.0]]}, use_source_posn=False)
    np.testing.assert_allclose(two["npixels"], 2.5)


def test_rows_of_the_detector_and_a_resampled_grid_give_the_same(noisy):
    resampled = noisy(10, 14, units="MJy/sr")
    aperture = {"extract_width": 3.5, "bkg_coeff": [[-0.5], [1.5]]}
    slits = xr.DataTree.from_dict({"a": resampled, "b": resampled.rename(cross_dispersion="row", dispersion="column")})
    spectra = map_slits(lambda slit: extract_box(slit, aperture, center=4.0), slits)
    xr.testing.assert_identical(spectra["a"].to_dataset(), spectra["b"].to_dataset())


@pytest.mark.parametrize("fit", ["poly", "median"])
def test_series_are_lazy_and_keep_their_times(noisy, fit):
    slit = noisy(5, 12, 20, units="MJy/sr")
    aperture = Aperture(ystart=3.2, ystop=7.1, bkg_coeff=((-0.5,), (1.5,), (9.5,), (11.5,)), bkg_fit=fit)
    spectrum = assert_lazy_and_chunk_invariant(
        extract_box,
        slit,
        chunkings=({"integration": 1}, {"integration": 2, "dispersion": 7}, {"cross_dispersion": 5}),
        aperture=aperture,
        center=5.5,
    )
    check(spectrum, *(name for name in spectrum.data_vars if not name.startswith("extraction_")))
    np.testing.assert_array_equal(spectrum["mid_time"], slit["mid_time"])
    np.testing.assert_array_equal(spectrum["dispersion"], slit["dispersion"])
    assert "cross_dispersion" not in spectrum.dims
    units = {name: spectrum[name].attrs["units"] for name in ("flux", "sb_var_flat", "bkgd_var_rnoise", "wavelength")}
    assert units == {"flux": "Jy", "sb_var_flat": "(MJy/sr)2", "bkgd_var_rnoise": "(MJy/sr)2", "wavelength": "um"}
    assert spectrum["flux_var_poisson"].attrs["units"] == "(Jy)2"
    alone = extract_box(slit.isel(integration=3), aperture, center=5.5)
    np.testing.assert_array_equal(spectrum["flux"][3], alone["flux"])
    lazy = extract_box(slit.chunk(integration=2), aperture, center=5.5)
    np.testing.assert_array_equal(cloudpickle.loads(cloudpickle.dumps(lazy))["flux"], spectrum["flux"])


def test_record_names_the_reference(tmp_path):
    slit = make_slit(np.ones((6, 4)), SLTNAME="S200A1")
    path = tmp_path / "extract1d.json"
    path.write_text(json.dumps({"apertures": [{"id": "ANY", "extract_width": 3}]}))
    spectrum = extract_box(slit, read_aperture(path, slit), center=2.5)
    done = steps(spectrum)[-1]
    assert done["step"] == "extract_1d"
    assert done["references"] == {"extract1d": "extract1d.json"}
    assert done["parameters"]["extract_width"] == 3
    assert done["parameters"]["center"] == 2.5
    assert spectrum.attrs["SLTNAME"] == "S200A1"


def test_parts_that_the_slit_lacks_are_left_out():
    slit = make_slit(np.ones((6, 4))).drop_vars(["var_flat", "dq"])
    spectrum = extract_box(slit)
    assert "flux_var_rnoise" in spectrum
    assert not {"flux_var_flat", "sb_var_flat", "bkgd_var_flat"} & set(spectrum)


@pytest.mark.parametrize("area", [{}, {"PIXAR_SR": 0.0}])
def test_unknown_area_of_a_pixel_is_an_error(area):
    with pytest.raises(ModelError, match="area"):
        extract_box(make_slit(np.ones((6, 4)), units="MJy/sr", **area))
    slit = make_slit(np.ones((6, 4)), units="MJy", **area)
    np.testing.assert_allclose(extract_box(slit)["flux"], 6e6)  # fluxes need none
    with pytest.raises(ModelError, match="area"):
        extract_box(slit, {"bkg_coeff": [[-0.5], [1.5]]}, use_source_posn=False)


def test_wrong_input_is_refused():
    slit = make_slit(np.ones((6, 4)))
    with pytest.raises(ModelError, match="wavelength"):
        extract_box(slit.drop_vars("wavelength"))
    with pytest.raises(ModelError, match="units"):
        extract_box(make_slit(np.ones((6, 4)), units="DN"))
    with pytest.raises(ParameterError, match="center has sizes"):
        extract_box(slit, {"extract_width": 3}, center=np.ones(5))
    with pytest.raises(ParameterError, match="smoothing_length"):
        extract_box(slit, smoothing_length=2)
    with pytest.raises(ReferenceFileError, match="no aperture"):
        extract_box(slit, {"apertures": []})
