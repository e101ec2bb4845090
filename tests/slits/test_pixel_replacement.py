import numpy as np
import pytest
import xarray as xr

from nsxr.errors import ModelError, ParameterError
from nsxr.model.dq import PixelFlag
from nsxr.model.history import steps
from nsxr.slits.pixel_replacement import replace_pixels
from nsxr.testing import assert_lazy_and_chunk_invariant, make_slit

CUTOUT = ("cross_dispersion", "dispersion")
VARIANCES = ("var_poisson", "var_rnoise", "var_flat")
DO_NOT_USE, ESTIMATED = int(PixelFlag.DO_NOT_USE), int(PixelFlag.FLUX_ESTIMATED)
OUTSIDE = int(PixelFlag.DO_NOT_USE | PixelFlag.NON_SCIENCE)


def slit_with_holes(sci, missing, variances=(1.0, 2.0, 3.0), edge=0):
    """Return a slit with NaN and flags where pixels are missing, and ``edge`` rows outside at both ends."""
    sci = np.array(sci, np.float32)
    missing = np.broadcast_to(missing, sci.shape)
    wavelength = np.ones(sci.shape[-2:], np.float32)
    dq = np.where(missing, np.uint32(DO_NOT_USE | PixelFlag.JUMP_DET), np.uint32(PixelFlag.WARM))
    sci[missing] = np.nan
    if edge:
        for rows in (slice(None, edge), slice(-edge, None)):
            sci[..., rows, :] = wavelength[rows] = np.nan
            dq[..., rows, :] = OUTSIDE
    values = [np.where(np.isnan(sci), np.nan, variance) for variance in variances]
    place = {"dims": CUTOUT, "row_start": 0, "column_start": 0}
    return make_slit(sci, values, dq, wavelength=wavelength, units="MJy", **place)


def make_model(slit, value=7.0, variance=0.25, **attrs):
    values = np.broadcast_to(value, slit["sci"].shape).astype(np.float32)
    return xr.Dataset(
        {
            "model": (slit["sci"].dims, values, {"units": "MJy"} | attrs),
            "model_variance": (slit["sci"].dims, np.where(np.isnan(values), np.nan, np.float32(variance))),
        },
        coords={dim: slit[dim] for dim in CUTOUT},
    ).assign(model_variance=lambda m: m["model_variance"].assign_attrs(units="(MJy)2"))


@pytest.fixture
def trace(rng):
    """Return a trace with noise, and which pixels are missing: some alone, a cluster, and a column."""
    row, column = np.arange(16)[:, None], np.arange(40)
    signal = 200 * (1 + 0.3 * np.sin(column / 5)) * np.exp(-0.5 * ((row - 7 - 0.04 * column) / 0.9) ** 2)
    variances = [0.1 * signal + 0.01, np.full(signal.shape, 0.5), (0.01 * signal) ** 2]
    missing = rng.random(signal.shape) < 0.04
    missing[7:10, 20:22] = True
    missing[:, 30] = True
    return signal + rng.normal(0, np.sqrt(variances[0] + 0.5)), missing, variances


def slow_mingrad(images, row, column):
    """Return the mean of a pair of neighbours in each of the images; the first decides which pair."""
    pairs = [((row, column - 1), (row, column + 1)), ((row - 1, column), (row + 1, column))]
    gradients = [abs(images[0][a] - images[0][b]) for a, b in pairs]
    if np.isnan(gradients).all():
        return None
    a, b = pairs[int(np.nanargmin(gradients))]
    return [images[0][a] / 2 + images[0][b] / 2] + [((i[a] ** 0.5 + i[b] ** 0.5) / 2) ** 2 for i in images[1:]]


def slow_profile(images, row, column, n):
    """Return the median of neighbouring columns, scaled by least squares, for each of the images."""
    sci, errors = images[0], [np.sqrt(image) for image in images[1:]]
    around = [c for c in range(column - n, column + n + 1) if c != column and 0 <= c < sci.shape[1]]
    around = [c for c in around if np.isfinite(sci[:, c]).any()]
    here = sci[:, column]
    if not around or not np.isfinite(here).any():
        return None
    snr = np.nanmax(abs(sci[:, around]) / np.sqrt(sum(e[:, around] ** 2 for e in errors)))
    unit = np.nanmax(abs(sci[:, around]), axis=0) if snr >= 5 else 1.0

    def median(image):
        lines = image[:, around] / unit
        return np.array([np.nanmedian(line) if np.isfinite(line).any() else np.nan for line in lines])

    profile, size = median(sci), 1.0
    if snr >= 5:
        good = np.isfinite(here) & np.isfinite(profile)
        peak = np.nanmax(here)
        size = peak * np.linalg.lstsq(abs(profile[good])[:, None], abs(here[good] / peak), rcond=None)[0][0]
    return [profile[row] * size] + [(median(error)[row] * size) ** 2 for error in errors]


@pytest.mark.parametrize("faint", [False, True])
@pytest.mark.parametrize("algorithm", ["mingrad", "fit_profile"])
def test_loops_find_the_same(trace, algorithm, faint):
    sci, missing, variances = trace
    slit = slit_with_holes(sci / 1000 if faint else sci, missing, variances, edge=2)
    result = replace_pixels(slit, algorithm=algorithm, n_adjacent_cols=2)
    images = [slit[name].values.astype(float) for name in ("sci", *VARIANCES)]
    replaced = 0
    for row, column in np.argwhere(np.isnan(slit["sci"].values)):
        estimate = None
        if slit["dq"].values[row, column] != OUTSIDE:
            if algorithm == "fit_profile":
                estimate = slow_profile(images, row, column, 2)
            elif 2 <= row < 15 and 2 <= column < 39:
                estimate = slow_mingrad(images, row, column)
        found = [float(result[name][row, column]) for name in ("sci", *VARIANCES)]
        flag = int(result["dq"][row, column])
        if estimate is None or np.isnan(estimate[0]):
            assert np.isnan(found).all()
            assert flag == int(slit["dq"][row, column])
        else:
            replaced += 1
            np.testing.assert_allclose(found, estimate, rtol=1e-5, err_msg=f"{row}, {column}")
            assert flag == ESTIMATED | PixelFlag.JUMP_DET
    assert replaced > 10
    kept = np.isfinite(slit["sci"].values)
    for name in ("sci", "dq", *VARIANCES):
        np.testing.assert_array_equal(result[name].values[kept], slit[name].values[kept])


def test_mingrad_takes_the_direction_along_which_little_changes():
    row, column = np.mgrid[:8, :9]
    missing = (row == 4) & (column == 4)
    for sci in (10.0 * row**2 + column, row + 10.0 * column**2):
        result = replace_pixels(slit_with_holes(sci, missing))
        assert float(result["sci"][4, 4]) == sci[4, 4]


def test_mingrad_leaves_edges_and_pixels_without_a_pair():
    sci = np.ones((9, 12))
    missing = np.zeros(sci.shape, bool)
    missing[[0, 1, 8, 4, 4], [5, 5, 5, 0, 1]] = True
    missing[4, 11] = True
    missing[4:6, 6:8] = True
    missing[3:6, 6] = missing[4, 5:8] = True  # a cross: no pair around its middle
    result = replace_pixels(slit_with_holes(sci, missing))
    left = np.isnan(result["sci"].values)
    assert left[[0, 1, 8, 4, 4, 4, 4], [5, 5, 5, 0, 1, 11, 6]].all()
    assert (result["dq"].values[left] & DO_NOT_USE > 0).all()
    assert not left[3, 6]


def test_fit_profile_finds_what_is_a_profile_times_a_spectrum():
    row, column = np.arange(14)[:, None], np.arange(30)
    truth = np.exp(-0.5 * ((row - 6.3) / 1.1) ** 2) * (100 + 30 * np.sin(column))
    missing = np.zeros(truth.shape, bool)
    missing[6, 4] = missing[5:8, 12:14] = missing[7, 29] = missing[3, 0] = True
    result = replace_pixels(slit_with_holes(truth, missing), algorithm="fit_profile")
    np.testing.assert_allclose(result["sci"], truth, rtol=1e-5)


# what jwst 3.0.0 makes of row 3, column 4 of the image below, and of its three variances
@pytest.mark.parametrize(
    ("algorithm", "rtol", "expected"),
    [
        ("mingrad", 1e-6, [85.0, 8.485564231872559, 0.5488613247871399, 0.7225000262260437]),
        ("fit_profile", 2e-4, [85.20271301269531, 8.584304809570312, 0.5548532605171204, 0.7259501814842224]),
    ],
)
def test_values_of_the_pipeline(algorithm, rtol, expected):
    row, column = np.mgrid[:7, :9]
    sci = np.array([1, 4, 30, 60, 20, 5, 2])[:, None] * (10 + column) / 10 + (3 * row + 5 * column) % 4
    variances = [0.1 * sci, 0.5 + 0.1 * ((row + 2 * column) % 3), 1e-4 * sci**2]
    missing = np.zeros(sci.shape, bool)
    missing[3, 4] = missing[2, 6] = True
    result = replace_pixels(slit_with_holes(sci, missing, variances), algorithm=algorithm)
    np.testing.assert_allclose([float(result[name][3, 4]) for name in ("sci", *VARIANCES)], expected, rtol=rtol)


def test_trace_model_gives_value_and_variance():
    missing = np.zeros((6, 7), bool)
    missing[0, 2] = missing[3, 4] = missing[5, 5] = True
    slit = slit_with_holes(np.ones((6, 7)), missing, edge=1)
    value = np.full((6, 7), 7.0)
    value[3, 5] = np.nan
    slit["dq"][3, 5] |= np.uint32(DO_NOT_USE)
    result = replace_pixels(slit, algorithm="trace_model", model=make_model(slit, value))
    found = {name: float(result[name][3, 4]) for name in ("sci", *VARIANCES)}
    assert found == {"sci": 7, "var_poisson": 0, "var_rnoise": 0.25, "var_flat": 0}
    assert int(result["dq"][3, 4]) == ESTIMATED | PixelFlag.JUMP_DET
    # what the model lacks, and what is outside the slit, stays
    assert float(result["sci"][3, 5]) == 1
    assert int(result["dq"][3, 5]) == int(slit["dq"][3, 5])
    xr.testing.assert_identical(
        result[["sci", "dq"]].isel(cross_dispersion=[0, 5]).drop_attrs(),
        slit[["sci", "dq"]].isel(cross_dispersion=[0, 5]).drop_attrs(),
    )


def test_flagged_pixels_with_a_value_are_replaced_and_their_value_is_not_used():
    row, column = np.mgrid[:8, :9]
    slit = slit_with_holes(row + 10.0 * column, np.zeros((8, 9), bool))
    slit["dq"][4, 4] |= np.uint32(DO_NOT_USE)
    slit["sci"][4, 4] = 1e6
    slit["dq"][4, 5] |= np.uint32(DO_NOT_USE)
    slit["sci"][4, 5] = -1e6
    result = replace_pixels(slit)
    np.testing.assert_allclose(result["sci"][4, 4:6], (row + 10 * column)[4, 4:6])


@pytest.mark.parametrize("algorithm", ["mingrad", "fit_profile", "trace_model"])
def test_lazy_in_every_chunking(trace, algorithm):
    first = "integration"
    sci, missing, variances = trace
    several = np.stack([sci, np.roll(sci, 3, axis=1), 2 * sci])
    holes = np.stack([missing, np.roll(missing, 2, axis=0), missing])
    slit = slit_with_holes(several, holes, variances, edge=1)
    chunkings = ({first: 1}, {first: 2, "dispersion": 11}, {"cross_dispersion": 5})
    if algorithm == "trace_model":
        result = assert_lazy_and_chunk_invariant(
            lambda s, m: replace_pixels(s, algorithm="trace_model", model=m),
            slit,
            make_model(slit),
            chunkings=chunkings,
        )
        common = make_model(slit.isel({first: 0}))
        xr.testing.assert_identical(replace_pixels(slit, algorithm="trace_model", model=common), result)
    else:
        result = assert_lazy_and_chunk_invariant(replace_pixels, slit, chunkings=chunkings, algorithm=algorithm)
        alone = replace_pixels(slit.isel({first: 2}), algorithm=algorithm)
        for name in ("sci", "dq", *VARIANCES):
            np.testing.assert_array_equal(result[name][2], alone[name])
    for name in slit.data_vars:
        assert result[name].dims == slit[name].dims
        assert result[name].dtype == slit[name].dtype
        assert result[name].attrs.get("units") == slit[name].attrs.get("units")
    replaced = result["dq"] & ESTIMATED > 0
    assert replaced.any()
    assert not (replaced & (np.isnan(slit["wavelength"]) | (result["dq"] & DO_NOT_USE > 0))).any()
    assert steps(result)[-1]["step"] == "pixel_replace"
    assert steps(result)[-1]["parameters"]["algorithm"] == algorithm


@pytest.mark.parametrize("algorithm", ["mingrad", "fit_profile"])
def test_slits_without_pixels_or_variances(algorithm):
    empty = slit_with_holes(np.ones((5, 6)), True)
    xr.testing.assert_equal(replace_pixels(empty, algorithm=algorithm), empty)
    tiny = slit_with_holes(np.ones((2, 2)), np.eye(2, dtype=bool))
    assert replace_pixels(tiny, algorithm=algorithm).sizes == tiny.sizes
    row, column = np.mgrid[:8, :9]
    bare = slit_with_holes(10.0 + 0 * row, (row == 4) & (column == 4)).drop_vars(VARIANCES)
    assert float(replace_pixels(bare, algorithm=algorithm)["sci"][4, 4]) == pytest.approx(10)
    zeros = slit_with_holes(0.0 * row, (row == 4) & (column == 4), (0.0, 0.0, 0.0))
    replace_pixels(zeros, algorithm=algorithm)


def test_wrong_input_is_refused():
    slit = slit_with_holes(np.ones((6, 7)), np.eye(6, 7, dtype=bool))
    with pytest.raises(ParameterError, match="algorithm"):
        replace_pixels(slit, algorithm="median")
    with pytest.raises(ParameterError, match="n_adjacent_cols"):
        replace_pixels(slit, algorithm="fit_profile", n_adjacent_cols=0)
    with pytest.raises(ParameterError, match="no model was given"):
        replace_pixels(slit, algorithm="trace_model")
    with pytest.raises(ParameterError, match="a model was given"):
        replace_pixels(slit, model=make_model(slit))
    with pytest.raises(ModelError, match="dq"):
        replace_pixels(slit.drop_vars("dq"))

    def fill(model):
        replace_pixels(slit, algorithm="trace_model", model=model)

    with pytest.raises(ModelError, match="lacks model_variance"):
        fill(make_model(slit).drop_vars("model_variance"))
    with pytest.raises(ModelError, match="units"):
        fill(make_model(slit, units="DN/s"))
    with pytest.raises(ModelError, match="labels"):
        fill(make_model(slit).assign_coords(dispersion=np.arange(1, 8)))
    with pytest.raises(ModelError, match="sizes"):
        fill(make_model(slit).isel(dispersion=slice(5)))
