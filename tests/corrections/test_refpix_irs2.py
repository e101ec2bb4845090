"""IRS2: against a plain version written from the definition, and against injected noise."""

import numpy as np
import pytest
import xarray as xr

from nsxr.corrections.refpix import subtract_reference_pixels
from nsxr.corrections.refpix_irs2 import find_bad_interleaved, replacement_rows, subtract_interleaved_reference
from nsxr.errors import ReferenceFileError
from nsxr.model.readout import from_detector, irs2_layout, to_detector
from nsxr.testing import assert_lazy_and_chunk_invariant

COLUMNS = 16
SLOTS = 712 * COLUMNS
BAD_REFERENCE = np.uint32(1 << 17)


@pytest.fixture
def make_irs2(make_exposure):
    def make(sci, detector="NRS1"):
        changes = {"SUBARRAY": "FULL", "READPATT": "NRSIRS2RAPID", "SUBSTRT1": 1, "SUBSTRT2": 1, "NOUTPUTS": 5}
        exposure = make_exposure(sci, DETECTOR=detector, **changes)
        return exposure.assign_attrs(SUBSIZE1=2048, SUBSIZE2=2048)

    return make


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


def plain_correction(sci, detector, alpha, beta):
    """The whole correction on one integration without bad pixels, complex transforms, float64."""
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
    for s, g in np.ndindex(5, groups):
        line = np.polyfit(time[border][:, filled].ravel(), series[s, g][border][:, filled].ravel(), 1)
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
            sparse = np.zeros((lines, 712))
            for block in range(0, 704, 22):
                sparse[:, block + 7 : block + 15] = series[k + 1, g][
                    :, block + np.array([9, 11, 9, 11, 10, 12, 10, 12])
                ]
            noise = np.fft.ifft(beta[k] * np.fft.fft(sparse.ravel()) + alpha[k] * np.fft.fft(reference)).real
            corrected = series[k + 1, g][:, t_sci] - noise.reshape(lines, 712)[:, t_sci]
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
        ovr_corr_mitigation_ftr=100.0,
    )
    alpha, beta = random_weights["alpha"].values.astype(complex), random_weights["beta"].values.astype(complex)
    expected = [plain_correction(exposure["sci"].values[i], detector, alpha, beta) for i in range(2)]
    assert np.std(expected - exposure["sci"].values[:, :, irs2_layout(detector).science_rows_raw]) > 1
    np.testing.assert_allclose(result["sci"], expected, atol=2e-4)
    assert result.sizes["row"] == result["groupdq"].sizes["row"] == result["pixeldq"].sizes["row"] == 2048
    np.testing.assert_array_equal(result["row"], np.arange(2048))


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


def test_high_pairs_are_found_and_others_kept(make_irs2, rng):
    sci = rng.normal(0, 5, (2, 5, 3200, COLUMNS))
    high, noisy, different, flagged = 640 + 8, 640 + 28, 2 * 640 + 10, 3 * 640 + 48
    sci[0, :, high : high + 2] += 100  # in one integration alone
    sci[:, :, noisy : noisy + 2] *= 8
    sci[:, :, different] += 60
    sci[:, :, different + 1] -= 60
    exposure = make_irs2(sci)
    exposure["pixeldq"][flagged, 7] = BAD_REFERENCE
    exposure["pixeldq"][3, 7] = BAD_REFERENCE  # of a science row of the reference output
    with_limit = assert_chunked_equal(exposure)
    for row in (high, high + 1, noisy, noisy + 1, different, different + 1, flagged):
        assert with_limit[row], row
    assert with_limit.sum() == 7
    assert not with_limit[~irs2_layout("NRS1").is_interleaved].any()


def assert_chunked_equal(exposure):
    bad = find_bad_interleaved(exposure, n_sigma=6).values
    chunked = exposure.chunk({"integration": 1, "group": 2, "row": 640})
    np.testing.assert_array_equal(find_bad_interleaved(chunked, n_sigma=6).values, bad)
    return bad


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
    clean = subtract_interleaved_reference(exposure, random_weights, ovr_corr_mitigation_ftr=100.0)
    raw_row = irs2_layout("NRS1").science_rows_raw[700]
    exposure["pixeldq"][raw_row, 5] = BAD_REFERENCE
    result = subtract_interleaved_reference(exposure, random_weights, ovr_corr_mitigation_ftr=100.0)
    np.testing.assert_array_equal(result["sci"], clean["sci"])
    assert result["pixeldq"][700, 5] == BAD_REFERENCE
    assert (result["pixeldq"].values != 0).sum() == 1


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_pixels_listed_as_bad_are_not_used(make_irs2, rng, random_weights, detector):
    sci = rng.normal(0, 5, (1, 3, 3200, COLUMNS))
    bad = [(1, 1, 1 << 2), (2, 1, 1 << 5)]  # even outputs read backwards: parity 1 is the second pair
    listed = np.array([640 + 8 + 40, 640 + 8 + 41, 1280 + 8 + 100 + 2, 1280 + 8 + 100 + 3])
    rows = listed if detector == "NRS1" else 3199 - listed
    spoiled = sci.copy()
    spoiled[:, :, rows] = rng.normal(0, 500, (1, 3, 4, COLUMNS))
    reference = weights(random_weights["alpha"].values, random_weights["beta"].values, bad)
    results = [
        subtract_interleaved_reference(make_irs2(s, detector), reference, ovr_corr_mitigation_ftr=1e3)["sci"]
        for s in (sci, spoiled)
    ]
    np.testing.assert_array_equal(*results)


def test_weights_of_wrong_length_are_refused(make_irs2, random_weights):
    with pytest.raises(ReferenceFileError, match=r"11391 frequencies, expected 11392"):
        subtract_interleaved_reference(
            make_irs2(np.zeros((1, 2, 3200, COLUMNS))), random_weights.isel(frequency=slice(1, None))
        )
