import numpy as np
import pytest
import xarray as xr

import nsxr
from nsxr.diagnostics.picture_frame import build_picture_frame, write_picture_frame
from nsxr.errors import MissingReferenceError, ModelError, OutputExistsError, ParameterError
from nsxr.kernels.ramps.picture_frame import fit_amplitudes, leading_pattern, segment_means, shrink_amplitudes
from nsxr.model.dq import GroupFlag, PixelFlag
from nsxr.model.history import steps
from nsxr.pipelines.detector1 import DETECTOR1
from nsxr.ramps.picture_frame import estimate_picture_frame, find_background, subtract_picture_frame
from nsxr.simulate import Artifacts, small_exposure
from nsxr.testing import assert_lazy_and_chunk_invariant, forbid_computes

GROUPS = 6
SMALL = small_exposure(readout="NRSRAPID", groups=GROUPS, columns=64, scene="dark")
TEMPLATE = SMALL.references["pictureframe"]


def make_ramps(seed, amplitude=2.0, white=4.0, groups=GROUPS, integrations=1, pedestal=5.0, line=1.0, light=False):
    """Ramps with everything known: pattern, levels of outputs and lines, white noise."""
    random = np.random.default_rng(seed)
    amplitudes = amplitude * random.standard_normal((integrations, groups))
    shape = (integrations, groups, 2048, 64)
    pattern = TEMPLATE["sci"].values
    sci = amplitudes[..., None, None] * pattern + white * random.standard_normal(shape)
    sci += np.repeat(pedestal * random.standard_normal((integrations, groups, 4)), 512, axis=2)[..., None]
    sci += line * random.standard_normal((integrations, groups, 1, 64))
    if light:
        sci[:, :, 300:310] += 30.0 * np.arange(groups)[:, None, None]
    border = np.where(SMALL.references["mask"]["dq"].values & PixelFlag.REFERENCE_PIXEL.value, 1 << 31, 0)
    exposure = SMALL.exposure.isel(group=slice(0, groups), integration=[0] * integrations)
    ramps = exposure.assign_coords(integration=np.arange(1, integrations + 1)).assign(
        sci=(exposure["sci"].dims, sci.astype(np.float32), {"units": "DN"}),
        pixeldq=(("row", "column"), border.astype(np.uint32)),
        groupdq=(exposure["sci"].dims, np.zeros(shape, np.uint8)),
    )
    ramps = ramps.drop_vars([name for name in ramps.coords if name.startswith("int_")])
    return ramps, amplitudes - amplitudes.mean(1, keepdims=True)


@pytest.mark.parametrize("light", [False, True])
def test_amplitudes_are_found_beside_steps_lines_and_light(light):
    ramps, truth = make_ramps(3, integrations=2, light=light)
    found = estimate_picture_frame(ramps, TEMPLATE)
    pull = (found["amplitude"].values - truth) / found["uncertainty"].values
    assert (found["uncertainty"].values < 0.1).all()
    assert np.abs(pull).max() < 4
    is_background = find_background(ramps)
    assert is_background.dims == ("integration", "row", "column")
    assert is_background.values[:, 300:310].any() != light
    assert is_background.values[:, 400:1600, 8:-8].mean() > 0.97
    assert not is_background.values[:, :4].any()


def test_uncertainties_mean_what_they_say():
    pulls = []
    for seed in range(12):
        ramps, truth = make_ramps(100 + seed, amplitude=3.0)
        found = estimate_picture_frame(ramps, TEMPLATE)
        pulls.append((found["amplitude"].values - truth) / found["uncertainty"].values)
    assert 0.7 < np.std(pulls) < 1.3  # 60 independent ones


def test_correction_takes_the_pattern_out_and_nothing_else():
    ramps, truth = make_ramps(5, white=1.0)
    corrected = subtract_picture_frame(ramps, TEMPLATE)
    taken = (ramps["sci"] - corrected["sci"]).values
    np.testing.assert_allclose(taken, truth[..., None, None] * TEMPLATE["sci"].values, atol=0.3)
    assert corrected["picture_frame_amplitude"].dims == ("integration", "group")
    assert corrected["picture_frame_uncertainty"].attrs["units"] == "DN"
    (entry,) = [entry for entry in steps(corrected) if entry["step"] == "picture_frame"]
    assert entry["references"] == {"pictureframe": TEMPLATE.attrs["filename"]}


def test_nothing_is_subtracted_where_there_is_nothing():
    touched = 0
    for seed in range(12):
        ramps, _ = make_ramps(200 + seed, amplitude=0.0)
        touched += bool(estimate_picture_frame(ramps, TEMPLATE)["amplitude"].values.any())
    assert touched <= 2


def test_flagged_groups_and_nans_do_not_count():
    ramps, _ = make_ramps(6)
    expected = estimate_picture_frame(ramps, TEMPLATE)
    jump, bad, gone = (
        (slice(20, 22), slice(40, 42)),
        (slice(1000, 1004), slice(2, 4)),
        (slice(1500, 1502), slice(9, 11)),
    )
    sci, groupdq = ramps["sci"].values.copy(), ramps["groupdq"].values.copy()
    sci[:, 3:, *jump] += 5000
    groupdq[:, 3, *jump] = GroupFlag.JUMP_DET.value
    sci[:, 2, *bad] -= 7000
    groupdq[:, 2, *bad] = GroupFlag.DO_NOT_USE.value
    sci[:, :, *gone] = np.nan
    spoiled = ramps.assign(sci=ramps["sci"].copy(data=sci), groupdq=ramps["groupdq"].copy(data=groupdq))
    found = estimate_picture_frame(spoiled, TEMPLATE)
    np.testing.assert_allclose(found["amplitude"], expected["amplitude"], atol=0.02)
    assert np.isnan(subtract_picture_frame(spoiled, TEMPLATE)["sci"].values[:, :, *gone]).all()


def test_segments_agree_with_numpy():
    random = np.random.default_rng(8)
    sci = random.normal(0, 3, (2, 3, 5, 12)).astype(np.float32)
    groupdq = np.where(random.random(sci.shape) < 0.1, 4, 0).astype(np.uint8)
    is_used, template = random.random((2, 5, 12)) < 0.8, random.normal(0, 1, (5, 12)).astype(np.float32)
    edges = np.array([0, 5, 12])
    mean, pattern, count = segment_means(sci, groupdq, is_used, template, edges, 3, 4, 2.0)
    for i, g, r, s in np.ndindex(mean.shape):
        part = slice(edges[s], edges[s + 1])
        keep = is_used[i, r, part] & (groupdq[i, 1 : g + 1, r, part] == 0).all(0) & (g > 0)
        values, of_template = (sci[i, g, r, part] - sci[i, 0, r, part])[keep], template[r, part][keep]
        if values.size:
            inside = np.abs(values - np.median(values)) <= 2 * 1.4826 * np.median(np.abs(values - np.median(values)))
            inside |= values.size == 1
            assert count[i, g, r, s] == inside.sum()
            np.testing.assert_allclose(mean[i, g, r, s], values[inside].mean(), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(pattern[i, g, r, s], of_template[inside].mean(), rtol=1e-4, atol=1e-5)
        else:
            assert count[i, g, r, s] == 0


def test_fit_agrees_with_least_squares():
    random = np.random.default_rng(9)
    count, pattern = random.integers(1, 9, (1, 1, 40, 3)), random.normal(0, 1, (1, 1, 40, 3))
    output = np.repeat([1, 2], 20)
    level = (output[:, None] - 1) * 3 + np.arange(3)
    mean = 1.7 * pattern + level + 0.01 * random.normal(0, 1, pattern.shape)
    amplitude, _ = fit_amplitudes(mean, pattern, count, output, 100.0)
    design = np.column_stack([pattern.ravel(), level.ravel()[:, None] == np.arange(6)])
    root = np.sqrt(count.ravel())
    expected = np.linalg.lstsq(design * root[:, None], mean.ravel() * root, rcond=None)[0][0]
    np.testing.assert_allclose(amplitude[0, 0], expected, rtol=1e-6)
    flat, _ = fit_amplitudes(mean, np.ones_like(pattern), count, output, 100.0)
    assert np.isnan(flat).all()


def test_shrinkage_keeps_what_is_clear_and_drops_what_is_noise():
    error = np.full((1, 5), 0.1)
    clear, _ = shrink_amplitudes(np.array([[np.nan, 3.0, -2.0, 4.0, 1.0]]), error)
    np.testing.assert_allclose(clear, np.array([[0.0, 3.0, -2.0, 4.0, 1.0]]) - 1.2, rtol=0.01)
    nothing, left = shrink_amplitudes(np.array([[np.nan, 0.1, -0.1, 0.05, 0.1]]), error)
    assert not nothing.any()
    assert not left.any()
    lost, _ = shrink_amplitudes(np.array([[np.nan, 3.0, np.nan, 4.0, 1.0]]), error)
    assert lost[0, 2] == 0
    assert abs(lost.sum()) < 1e-5


@pytest.mark.parametrize("method", ["fit", "median"])
def test_lazy_pure_and_the_same_for_every_chunking(method):
    ramps, _ = make_ramps(11, groups=3, integrations=2)
    result = assert_lazy_and_chunk_invariant(
        subtract_picture_frame,
        ramps,
        TEMPLATE,
        chunkings=({"integration": 1, "row": 512}, {"row": 128}, {"group": 1, "row": 1024}),
        method=method,
    )
    assert result["sci"].dtype == np.float32
    assert result["sci"].attrs["units"] == "DN"


def test_medians_agree_with_numpy():
    ramps, _ = make_ramps(12)
    is_background = xr.DataArray(np.random.default_rng(1).random((2048, 64)) < 0.7, dims=("row", "column"))
    corrected = subtract_picture_frame(ramps, TEMPLATE, is_background, method="median")
    row, column = np.meshgrid(ramps["row"], ramps["column"], indexing="ij")
    centre = (row >= 76) & (row < 1984) & (column >= 76) & (column < 1984)
    edge = np.zeros_like(centre)
    for axis in (row, column):
        edge |= ((axis >= 4) & (axis < 75)) | ((axis >= 1985) & (axis < 2043))
    edge &= (row >= 4) & (row < 2043) & (column >= 4) & (column < 2043)
    assert not centre.any()  # these columns are all edge
    np.testing.assert_array_equal(corrected["sci"], ramps["sci"])
    shifted = ramps.assign_coords(column=np.arange(64) + 20)
    template = TEMPLATE.assign_coords(column=np.arange(64) + 20)
    column = column * 0 + np.arange(64) + 20
    centre = (row >= 76) & (row < 1984) & (column >= 76) & is_background.values
    edge = ((row >= 4) & (row < 75)) | ((row >= 1985) & (row < 2043)) | ((column < 75) & (row >= 4) & (row < 2043))
    edge &= is_background.values
    corrected = subtract_picture_frame(shifted, template, is_background, method="median")["sci"].values[0]
    sci, pattern = ramps["sci"].values[0], TEMPLATE["sci"].values
    np.testing.assert_array_equal(corrected[0], sci[0])
    for g in range(1, GROUPS):
        change = sci[g] - sci[0]
        scale = (np.median(change[centre]) - np.median(change[edge])) / (
            np.median(pattern[centre]) - np.median(pattern[edge])
        )
        expected = sci[g] - scale * (pattern - np.median(pattern[edge])) - np.median(change[edge])
        np.testing.assert_allclose(corrected[g], expected, atol=1e-4)


def test_template_is_found_in_darks_lazily(tmp_path):
    darks = [make_ramps(seed, amplitude=2.0, line=0.3)[0].chunk({"row": 512}) for seed in (31, 32, 33)]
    with forbid_computes():
        built = build_picture_frame(darks)
    pattern = built["sci"].values
    truth = TEMPLATE["sci"].values - np.repeat(TEMPLATE["sci"].values.reshape(4, -1).mean(1), 512)[:, None]
    truth = truth / np.sqrt(np.mean(truth**2))
    assert np.sqrt(np.mean(pattern**2)) == pytest.approx(1, rel=1e-4)
    inner = slice(8, -8)  # blocks at the edge are means over a steep slope
    assert abs(np.corrcoef(pattern[inner].ravel(), truth[inner].ravel())[0, 1]) > 0.98
    np.testing.assert_allclose(build_picture_frame([d.compute() for d in darks])["sci"], pattern)
    path = write_picture_frame(built, tmp_path / "frame.fits")
    with pytest.raises(OutputExistsError, match="already"):
        write_picture_frame(built, path)


def test_written_template_is_read_back(tmp_path):
    ones = np.linspace(-3, 3, 2048 * 2048).reshape(2048, 2048).astype(np.float32)
    labels = {"row": np.arange(2048), "column": np.arange(2048)}
    attributes = {"detector": "NRS1", "pedigree": "INFLIGHT", "useafter": "2022-01-01T00:00:00"}
    template = xr.Dataset({"sci": (("row", "column"), ones)}, coords=labels, attrs=attributes)
    path = write_picture_frame(template, tmp_path / "frame.fits")
    (read,) = nsxr.open_references({"pictureframe": path}, SMALL.exposure, types=["pictureframe"]).values()
    assert read.attrs["reference_type"] == "pictureframe"
    assert read["sci"].attrs["units"] == "1"
    np.testing.assert_array_equal(read["sci"], ones)


def test_leading_pattern_is_the_first_principal_one():
    random = np.random.default_rng(4)
    times, image = random.normal(0, 1, 30), random.normal(0, 1, (16, 6))
    output = np.repeat([1, 2], 8)
    blocks = times[:, None, None] * image + 0.01 * random.normal(0, 1, (30, 16, 6))
    blocks[:, 3, 2] = np.nan
    found = leading_pattern(blocks, output, limit=100.0)
    expected = image - np.repeat(image.reshape(2, -1).mean(1), 8)[:, None]
    there = np.isfinite(found)
    assert there.sum() == 95
    assert abs(np.corrcoef(found[there], expected[there])[0, 1]) > 0.99
    assert np.isnan(leading_pattern(np.zeros((3, 16, 6)), output)).all()


def test_what_cannot_be_done_says_so():
    ramps, _ = make_ramps(1, groups=2)
    with pytest.raises(ParameterError, match="'fit' or 'median'"):
        subtract_picture_frame(ramps, TEMPLATE, method="mean")
    with pytest.raises(ModelError, match="is_background"):
        subtract_picture_frame(ramps, TEMPLATE, xr.DataArray(np.ones((3, 4), bool), dims=("row", "column")))
    with pytest.raises(ParameterError, match="at least one"):
        build_picture_frame([ramps.isel(group=[0])])
    with pytest.raises(ParameterError, match="same pixels"):
        build_picture_frame([ramps, ramps.isel(column=slice(2, None))])
    for alone, reason in ((ramps.isel(group=[0]), "1 group"), (ramps.assign_attrs(SUBARRAY="ALLSLITS"), "ALLSLITS")):
        left = subtract_picture_frame(alone, TEMPLATE)
        assert reason in steps(left)[-1]["reason"]
        xr.testing.assert_identical(left["sci"], alone["sci"])


def test_pipeline_has_the_step_and_leaves_it_out_by_default():
    made = small_exposure(
        readout="NRSRAPID", groups=4, columns=32, scene="dark", artifacts=Artifacts(picture_frame=2.0, cosmic_rays=0)
    )
    references = {kind: found for kind, found in made.references.items() if kind != "pictureframe"}
    assert "pictureframe" not in DETECTOR1.reference_types(made.exposure)
    rate = nsxr.detector1(made.exposure, references)["rate"].to_dataset()
    (entry,) = [entry for entry in steps(rate) if entry["step"] == "picture_frame"]
    assert entry["status"] == "SKIPPED"
    with pytest.raises(MissingReferenceError, match=r"pictureframe \(picture_frame\)"):
        nsxr.detector1(made.exposure, references, picture_frame={"correct": True})
    alone, frame = ["clean_flicker_noise"], {"correct": True}
    stages = nsxr.correct_ramps(made.exposure, made.references, skip=["refpix", *alone], picture_frame=frame)
    assert stages["picture_frame"]["picture_frame_amplitude"].values.std() > 0.5
    tree = nsxr.detector1(made.exposure, made.references, skip=alone, picture_frame=frame)
    done = {entry["step"]: entry for entry in steps(tree["rate"].to_dataset())}
    assert done["picture_frame"]["status"] == "COMPLETE"
    both = nsxr.detector1(made.exposure, made.references, picture_frame=frame)
    done = {entry["step"]: entry for entry in steps(both["rate"].to_dataset())}
    assert "together" in done["picture_frame"]["reason"]
    assert "pictureframe" in done["clean_flicker_noise"]["references"]
