"""IRS2: against a plain version written from the definition, and against injected noise."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from nsxr.errors import ModelError, ParameterError, ReferenceFileError
from nsxr.kernels.ramps import irs2
from nsxr.model.readout import from_detector, irs2_layout, to_detector
from nsxr.ramps.reference_pixels import irs2 as refpix_irs2
from nsxr.ramps.reference_pixels.high_interleaved import replacement_rows
from nsxr.ramps.reference_pixels.irs2 import subtract_interleaved_reference
from nsxr.ramps.reference_pixels.refpix import subtract_reference_pixels
from nsxr.ramps.saturation import flag_saturation
from nsxr.simulate import small_exposure
from nsxr.simulate.artifacts import QUIET
from nsxr.testing import assert_lazy_and_chunk_invariant

COLUMNS = 16
SLOTS = 712 * COLUMNS
BAD_REFERENCE = np.uint32(1 << 17)


def weights(alpha, beta, bad=()):
    dims = ("output", "frequency")
    contents = {"alpha": (dims, alpha.astype(np.complex64)), "beta": (dims, beta.astype(np.complex64))}
    for i, name in enumerate(("bad_output", "bad_parity", "bad_mask")):
        if bad:
            contents[name] = ("bad", np.array([row[i] for row in bad]))
    attrs = {"reference_type": "refpix", "filename": "refpix.fits"}
    return xr.Dataset(contents, coords={"output": [1, 2, 3, 4]}, attrs=attrs)


@pytest.fixture
def random_weights(rng):
    return weights(*(rng.normal(size=(2, 4, SLOTS)) + 1j * rng.normal(size=(2, 4, SLOTS))))


def slots():
    i, j = np.arange(512), np.arange(128)
    return (
        (i + 4 * ((i + 8) // 16), i + 6 * ((i + 8) // 16)),
        (j + 16 * (j // 4) + 8, j + 18 * (j // 4) + 9),
    )


def first_guess(sparse, bad):
    """Mean of the good pairs of the same parity, up to 4 blocks away, for (line, block, sample, copy)."""
    filled = sparse.copy()
    for block, pair in bad:
        near = [b for b in range(block - 4, block + 5) if 0 <= b < 32 and (b, pair) not in bad]
        filled[:, block, pair] = sparse[:, near][:, :, pair].mean((1, 2))[:, None]
    return filled


def plain_correction(sci, detector, alpha, beta, bad=frozenset()):
    """The whole correction on one integration, complex transforms, float64.

    Pairs in ``bad``, (block in time, pair), are left out of all outputs but the reference output.
    """
    (x_sci, t_sci), (x_ref, t_ref) = slots()
    frames = to_detector(np.asarray(sci, np.float64), detector)
    mean = frames.mean(0)
    groups, lines, _ = frames.shape
    sectors = (frames - mean).reshape(groups, lines, 5, 640).transpose(2, 0, 1, 3).copy()
    sectors[::2] = sectors[::2, :, :, ::-1]
    series = np.zeros((5, groups, lines, 712))
    series[..., t_sci], series[..., t_ref] = sectors[..., x_sci], sectors[..., x_ref]
    filled = np.zeros(712, bool)
    filled[t_sci] = filled[t_ref] = True
    time = np.arange(lines * 712.0).reshape(lines, 712)
    border = np.r_[0:4, lines - 4 : lines]
    used = filled.copy()
    for block, pair in bad:
        used[22 * block + 9 + 2 * pair + np.arange(2)] = False
    for s, g in np.ndindex(5, groups):
        fitted = used if s else filled
        line = np.polyfit(time[border][:, fitted].ravel(), series[s, g][border][:, fitted].ravel(), 1)
        series[s, g, :, filled] -= np.polyval(line, time[:, filled]).T
    n = lines * 712
    edge, width = round(30268 * lines / 2048), round(5000 * lines / 2048)
    half = np.concatenate([np.ones(edge), (1 + np.cos(np.arange(width) * np.pi / width)) / 2])
    response = np.concatenate([half, np.zeros(n // 2 + 1 - 2 * half.size - 1), half[::-1], [1]])
    response = np.concatenate([response, response[1:-1][::-1]])
    window = np.sin(np.arange(1, 32) * np.pi / 32)
    out = np.empty((groups, lines, 2048))
    for g in range(groups):
        flat = series[0, g].ravel()
        known = np.tile(filled, lines)
        shifts = range(-15, 16)
        total = sum(w * np.roll(flat * known, -k) for w, k in zip(window, shifts, strict=True))
        norm = sum(w * np.roll(known * 1.0, -k) for w, k in zip(window, shifts, strict=True))
        start = np.where(known, flat, total / norm)
        reference, normal = start.copy(), np.zeros((lines, 712), bool)
        normal[:, t_sci] = True
        for _ in range(3):
            reference = np.fft.ifft(np.fft.fft(reference) * response).real
            reference[normal.ravel()] = start[normal.ravel()]
        for k in range(4):
            in_blocks = series[k + 1, g][:, :704].reshape(lines, 32, 22)
            samples = first_guess(in_blocks[:, :, 9:13].reshape(lines, 32, 2, 2), bad)
            for step in range(1 + bool(bad)):
                sparse = np.zeros((lines, 712))
                # eight slots: two for each pixel, two pixels of a pair, pairs by turns; a view
                copies = sparse[:, :704].reshape(lines, 32, 22)[:, :, 7:15].reshape(lines, 32, 2, 2, 2)
                copies[:] = samples.swapaxes(2, 3)[:, :, :, None]
                noise = np.fft.ifft(beta[k] * np.fft.fft(sparse.ravel()) + alpha[k] * np.fft.fft(reference)).real
                noise = noise.reshape(lines, 712)
                if step == 0:
                    predicted = (
                        noise[:, :704].reshape(lines, 32, 22)[:, :, 7:15].reshape(copies.shape).mean(3).swapaxes(2, 3)
                    )
                    for block, pair in bad:
                        samples[:, block, pair] = predicted[:, block, pair]
            corrected = series[k + 1, g][:, t_sci] - noise[:, t_sci]
            if k % 2:  # outputs 2 and 4 were reversed
                corrected = corrected[:, ::-1]
            out[g, :, 512 * k : 512 * (k + 1)] = corrected
    science = irs2_layout("NRS1").is_science
    return from_detector(out + mean[:, science], detector)


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_equals_plain_version(make_irs2, rng, random_weights, detector):
    exposure = make_irs2(rng.normal(0, 5, (2, 4, 3200, COLUMNS)), detector)
    result = assert_lazy_and_chunk_invariant(
        subtract_reference_pixels,
        exposure,
        random_weights,
        chunkings=({"integration": 1, "row": 640}, {"group": 3, "row": 700}),
        rtol=2e-6,
        bad_pairs="jwst",
        ovr_corr_mitigation_ftr=100.0,
    )
    alpha, beta = random_weights["alpha"].values.astype(complex), random_weights["beta"].values.astype(complex)
    expected = [plain_correction(exposure["sci"].values[i], detector, alpha, beta) for i in range(2)]
    assert np.std(expected - exposure["sci"].values[:, :, irs2_layout(detector).science_rows_raw]) > 1
    np.testing.assert_allclose(result["sci"], expected, atol=2e-4)
    assert result.sizes["row"] == result["groupdq"].sizes["row"] == result["pixeldq"].sizes["row"] == 2048
    np.testing.assert_array_equal(result["row"], np.arange(2048))


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_bad_pairs_are_left_out(make_irs2, rng, random_weights, detector):
    bad = {(3, 0), (12, 1), (13, 1), (13, 0)}  # in time, for each output
    column = []
    for output in range(1, 5):
        for block, pair in bad:
            first = 8 + 20 * block + 2 * pair
            column.append(640 * output + (638 - first if output % 2 == 0 else first))
    rows = np.array(column) if detector == "NRS1" else 3199 - np.array(column)
    exposure = make_irs2(np.random.default_rng(5).normal(0, 5, (2, 4, 3200, COLUMNS)), detector)
    exposure["pixeldq"][rows, 3] = BAD_REFERENCE  # one pixel of a pair condemns the pair
    small = random_weights.assign(alpha=0.1 * random_weights["alpha"], beta=0.1 * random_weights["beta"])
    result = assert_lazy_and_chunk_invariant(
        subtract_reference_pixels,
        exposure,
        small,
        chunkings=({"integration": 1, "row": 640}, {"group": 3, "row": 700}),
        rtol=3e-6,
    )
    assert result["bad_reference_pairs_listed"] == result["bad_reference_pairs"] == 16
    alpha, beta = small["alpha"].values.astype(complex), small["beta"].values.astype(complex)
    expected = [plain_correction(exposure["sci"].values[i], detector, alpha, beta, bad) for i in range(2)]
    np.testing.assert_allclose(result["sci"], expected, atol=2e-4)
    patched = subtract_interleaved_reference(exposure, small, bad_pairs="jwst", ovr_corr_mitigation_ftr=100.0)
    assert np.abs(result["sci"] - patched["sci"]).max() > 0.1


def test_other_integrations_are_untouched(make_irs2, rng):
    sci = rng.normal(0, 5, (3, 4, 3200, COLUMNS))
    spoiled = sci.copy()
    row = 2 * 640 + 8 + 3 * 20
    spoiled[1, 2:, row : row + 2] += 300  # from the third group on
    spoiled[1, :, 8:10] -= 500  # of the reference output
    reference = weights(np.full((4, SLOTS), 0.5), np.full((4, SLOTS), 0.5))
    clean, result = (subtract_interleaved_reference(make_irs2(s), reference) for s in (sci, spoiled))
    assert clean["bad_reference_pairs"] == 0
    assert result["bad_reference_pairs"] == 2
    assert result["bad_reference_pairs_telegraph"] == 1
    np.testing.assert_array_equal(result["sci"][[0, 2]], clean["sci"][[0, 2]])
    assert 0 < np.abs(result["sci"][1] - clean["sci"][1]).max() < 10
    options = {"bad_pairs": "jwst", "ovr_corr_mitigation_ftr": 7.0}
    clean, peer = (subtract_interleaved_reference(make_irs2(s), reference, **options) for s in (sci, spoiled))
    assert (peer["sci"][0] != clean["sci"][0]).any()


def test_less_noise_than_with_neighbours_instead():
    """Noise left near a bad block with pairs left out, relative to patching, on simulated correlated noise."""
    artifacts = replace(QUIET, common_pink=3.0, output_pink=1.0, white_noise=5.2)
    simulated = small_exposure(
        readout="NRSIRS2RAPID", groups=16, columns=128, scene="dark", seed=4, artifacts=artifacts, rounded=False
    )
    exposure = simulated.exposure
    exposure["pixeldq"] = xr.zeros_like(exposure["sci"][0, 0], dtype=np.uint32)
    exposure["groupdq"] = xr.zeros_like(exposure["sci"], dtype=np.uint8)
    refpix = simulated.references["refpix"]
    excess = {}
    flagged = exposure.copy(deep=True)
    for output in range(1, 5):
        for block in (10, 11, 12, 20, 21, 22):
            first = 640 * output + 8 + 20 * block
            flagged["pixeldq"][first : first + 4] = BAD_REFERENCE
    all_used = subtract_interleaved_reference(exposure, refpix, bad_pairs="jwst", ovr_corr_mitigation_ftr=1e3)["sci"]
    for rule in ("robust", "peer"):
        result = subtract_interleaved_reference(flagged, refpix, bad_pairs=rule, ovr_corr_mitigation_ftr=1e3)["sci"]
        excess[rule] = float(result.var() - all_used.var())
    assert 0 < excess["robust"] < 0.75 * excess["peer"]


def test_amplifiers_follow_the_rows(make_irs2, rng, random_weights):
    for detector, expected in (("NRS1", [1, 2, 3, 4]), ("NRS2", [4, 3, 2, 1])):
        result = subtract_interleaved_reference(make_irs2(np.zeros((1, 2, 3200, COLUMNS)), detector), random_weights)
        np.testing.assert_array_equal(result["amplifier"][::512], expected)


def test_mean_over_groups_and_single_groups_stay(make_irs2, rng, random_weights):
    exposure = make_irs2(rng.normal(1000, 5, (1, 3, 3200, COLUMNS)))
    rows = irs2_layout("NRS1").science_rows_raw
    result = subtract_interleaved_reference(exposure, random_weights)
    np.testing.assert_allclose(result["sci"].mean("group"), exposure["sci"].isel(row=rows).mean("group"), rtol=1e-5)
    single = exposure.isel(group=slice(0, 1))
    np.testing.assert_array_equal(
        subtract_interleaved_reference(single, random_weights)["sci"], single["sci"][:, :, rows]
    )


def test_noise_common_to_all_outputs_goes(make_irs2, rng):
    """Slow noise in readout time, seen by all outputs, is taken away by alpha = 1 and the line."""
    lines = COLUMNS
    (x_sci, t_sci), (x_ref, t_ref) = slots()
    slow = np.cumsum(rng.normal(0, 0.2, (4, lines * 712)), axis=1).reshape(4, lines, 712)
    sectors = np.empty((5, 4, lines, 640))
    sectors[..., x_sci], sectors[..., x_ref] = slow[..., t_sci], slow[..., t_ref]
    sectors[::2] = sectors[::2, :, :, ::-1]
    frames = sectors.transpose(1, 2, 0, 3).reshape(4, lines, 3200)
    for detector in ("NRS1", "NRS2"):
        exposure = make_irs2(from_detector(frames, detector)[None], detector)
        only_reference_output = weights(np.ones((4, SLOTS)), np.zeros((4, SLOTS)))
        result = subtract_interleaved_reference(exposure, only_reference_output)["sci"]
        before = (exposure["sci"] - exposure["sci"].mean("group")).values.std()
        after = (result - result.mean("group")).values.std()
        assert after < 0.05 * before


def test_replacements_are_good_pixels_of_the_same_kind():
    bad = np.zeros(640, bool)
    bad[[8, 28, 48, 108, 109, 110, 111, 88, 89, 90, 91, 128, 129, 130, 131]] = True
    sources = replacement_rows(bad)
    assert sources[50].tolist() == [50, 50]
    assert sources[28].tolist() == [30, 30]  # both neighbours bad: the other pair of its block
    assert sources[48].tolist() == [68, 68]
    assert sources[8].tolist() == [10, 10]
    assert sources[108].tolist() == [-1, -1]
    bad[:] = False
    bad[68] = True
    assert replacement_rows(bad)[68].tolist() == [48, 88]


def test_science_rows_are_never_overwritten(make_irs2, rng, random_weights):
    exposure = make_irs2(rng.normal(0, 5, (1, 3, 3200, COLUMNS)))
    clean = subtract_interleaved_reference(exposure, random_weights, bad_pairs="jwst", ovr_corr_mitigation_ftr=100.0)
    raw_row = irs2_layout("NRS1").science_rows_raw[700]
    exposure["pixeldq"][raw_row, 5] = BAD_REFERENCE
    result = subtract_interleaved_reference(exposure, random_weights, bad_pairs="jwst", ovr_corr_mitigation_ftr=100.0)
    np.testing.assert_array_equal(result["sci"], clean["sci"])
    assert result["pixeldq"][700, 5] == BAD_REFERENCE
    assert (result["pixeldq"].values != 0).sum() == 1


@pytest.mark.parametrize("rule", ["robust", "peer"])
@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_pixels_listed_as_bad_are_not_used(make_irs2, rng, random_weights, detector, rule):
    sci = rng.normal(0, 5, (1, 3, 3200, COLUMNS))
    bad = [(1, 1, 1 << 2), (2, 1, 1 << 5)]  # even outputs read backwards: parity 1 is the second pair
    listed = np.array([640 + 8 + 40, 640 + 8 + 41, 1280 + 8 + 100 + 2, 1280 + 8 + 100 + 3])
    rows = listed if detector == "NRS1" else 3199 - listed
    spoiled = sci.copy()
    spoiled[:, :, rows] = rng.normal(0, 500, (1, 3, 4, COLUMNS))
    reference = weights(random_weights["alpha"].values, random_weights["beta"].values, bad)
    results = [
        subtract_interleaved_reference(make_irs2(s, detector), reference, bad_pairs=rule, ovr_corr_mitigation_ftr=1e3)[
            "sci"
        ]
        for s in (sci, spoiled)
    ]
    np.testing.assert_array_equal(*results)


def test_weights_of_wrong_length_are_refused(make_irs2, random_weights):
    with pytest.raises(ReferenceFileError, match=r"11391 frequencies, expected 11392"):
        subtract_interleaved_reference(
            make_irs2(np.zeros((1, 2, 3200, COLUMNS))), random_weights.isel(frequency=slice(1, None))
        )


@pytest.mark.parametrize("correct", [flag_saturation, subtract_interleaved_reference])
def test_half_of_the_rows_is_refused(make_irs2, random_weights, correct):
    half = make_irs2(np.zeros((1, 2, 3200, COLUMNS))).isel(row=slice(0, 1600))
    with pytest.raises(ModelError, match="has 1600 rows, expected all 3200"):
        correct(half, random_weights)


def test_unknown_rules_are_refused(make_irs2, random_weights):
    with pytest.raises(ParameterError, match=r"bad_pairs is 'guess', expected 'robust' or 'jwst'"):
        subtract_reference_pixels(make_irs2(np.zeros((1, 2, 3200, COLUMNS))), random_weights, bad_pairs="guess")


@pytest.mark.parametrize("columns", [1, 2, 3, 7, 8, 11])
def test_lines_are_fitted_to_no_column_twice_and_to_none_beyond(rng, columns):
    sector = refpix_irs2._sector(1, "NRS1")
    time = 712 * np.arange(columns) + np.flatnonzero(sector.row_of_slot >= 0)[:, None] - 0.5 * (712 * columns - 1)
    frame = np.zeros((640, columns), np.float32)
    frame[sector.row_of_slot[sector.row_of_slot >= 0]] = 3 + 0.01 * time + rng.normal(0, 1, time.shape)
    sources = np.repeat(np.arange(640)[:, None], 2, 1)
    found = irs2.fit_line(frame, np.zeros_like(frame), sources, sector.row_of_slot, False, 4)
    used = [c for c in range(columns) if c < 4 or c >= columns - 4]
    values = frame[sector.row_of_slot[sector.row_of_slot >= 0]][:, used]
    expected = np.polyfit(time[:, used].ravel(), values.ravel().astype(float), 1)
    np.testing.assert_allclose(found, expected[::-1], rtol=1e-3, atol=1e-6)
