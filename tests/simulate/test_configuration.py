import numpy as np
import pytest

from nsxr.errors import ParameterError
from nsxr.model.readout import Readout, irs2_layout
from nsxr.simulate import Artifacts, simulate_exposure, simulate_trace
from nsxr.simulate.configuration import READOUTS, SUBARRAYS, configure
from nsxr.simulate.headers import Segment, integration_times, primary_header


def setup(readout="NRSRAPID", subarray="FULL", detector="NRS1", **changes):
    values = {"groups": 5, "integrations": 3} | changes
    return configure(readout=readout, subarray=subarray, detector=detector, **values)


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
@pytest.mark.parametrize(
    ("readout", "subarray"), [*((r, "FULL") for r in READOUTS), *(("NRSRAPID", s) for s in SUBARRAYS if s != "FULL")]
)
def test_header_describes_the_readout(readout, subarray, detector):
    configuration = setup(readout, subarray, detector)
    header = primary_header(configuration, Segment(1, 1, 1, 3))
    seen = Readout.from_header(header)
    assert seen.raw_rows == configuration.raw_rows
    assert (seen.n_columns, seen.column_start) == (configuration.columns.size, configuration.columns[0])
    assert (seen.row_start, seen.is_irs2, seen.n_frames) == (
        configuration.row_start,
        configuration.is_irs2,
        READOUTS[readout][0],
    )
    assert seen.group_time == pytest.approx(seen.n_frames * seen.frame_time, rel=1e-6)
    assert abs(header["FASTAXIS"]) == 2
    assert (header["FASTAXIS"] > 0) == (detector == "NRS1")
    if not configuration.is_irs2:
        amplifier = seen.row_coordinates(configuration.rows.size)["amplifier"][1]
        np.testing.assert_array_equal(amplifier, configuration.output_of_row)


@pytest.mark.parametrize(
    ("subarray", "corners"),
    [("ALLSLITS", (897, 895)), ("SUBS200A1", (1054, 930)), ("SUBS400A1", (978, 1006)), ("SUBS200B1", (918, 1068))],
)
def test_starts_in_nrs2_are_mirrored_detector_columns(subarray, corners):
    size = SUBARRAYS[subarray].rows
    assert setup(subarray=subarray).row_start + 1 == corners[0]
    # detector column c of NRS2, from 1, is science row 2049 - c; the last one comes first
    assert setup(subarray=subarray, detector="NRS2").row_start + 1 == 2049 - (corners[1] + size - 1)


def test_frame_times_follow_from_the_number_of_slots():
    for name, subarray in SUBARRAYS.items():
        fast = 512 if name == "FULL" else subarray.rows
        by_count = (fast + 12) * (subarray.columns + 1) * 1e-5
        assert subarray.frame_time == pytest.approx(by_count, abs=0.0005), name
    order = setup("NRSIRS2RAPID").time_order
    assert setup("NRSIRS2RAPID").frame_time == pytest.approx((order.slots * order.lines + 714) * 1e-5, abs=2e-5)


def test_irs2_slots_follow_the_published_layout():
    """Twin: science pixel i of an output is read in slot i + 6 ((i + 8) // 16), reference i in i + 18 (i // 4) + 9."""
    order = setup("NRSIRS2RAPID").time_order
    science = np.arange(512)
    reference = np.arange(128)
    expected_science = science + 6 * ((science + 8) // 16)
    expected_reference = reference + 18 * (reference // 4) + 9
    assert order.slots == 712
    for output, (rows, slot) in enumerate(zip(order.rows, order.slot, strict=True)):
        np.testing.assert_array_equal(rows, np.arange(640 * output, 640 * (output + 1)))
        in_time = slot[::-1] if output % 2 == 0 else slot
        is_reference = irs2_layout("NRS1").is_interleaved[rows]
        is_reference = is_reference[::-1] if output % 2 == 0 else is_reference
        np.testing.assert_array_equal(in_time[~is_reference], expected_science)
        np.testing.assert_array_equal(np.sort(in_time[is_reference]), expected_reference)
        # first pair of a block in odd slots, second in even ones
        assert (in_time[is_reference].reshape(-1, 4) % 2 == [1, 1, 0, 0]).all()


@pytest.mark.parametrize("readout", ["NRSRAPID", "NRSIRS2RAPID"])
def test_nrs2_is_nrs1_turned_upside_down(readout):
    first, second = (setup(readout, detector=d, columns=6).time_order for d in ("NRS1", "NRS2"))
    series = [np.arange(first.slots * first.lines, dtype=np.float32) + 1e5 * k for k in range(len(first.rows))]
    rows = setup(readout).raw_rows
    np.testing.assert_array_equal(second.image(series, rows), first.image(series, rows)[::-1, ::-1])


def test_outputs_alternate_in_direction():
    order = setup(columns=2).time_order
    image = order.image([np.arange(order.slots * 2, dtype=np.float32)] * 4, 2048)
    steps = np.diff(image[:, 0].reshape(4, 512), axis=1)
    np.testing.assert_array_equal(steps, np.array([1, -1, 1, -1])[:, None] * np.ones((1, 511)))
    np.testing.assert_array_equal(image[:, 1] - image[:, 0], order.slots)


def test_integrations_follow_each_other():
    times = integration_times(setup(subarray="SUB2048"))
    day = 86400
    duration = 5 * SUBARRAYS["SUB2048"].frame_time
    np.testing.assert_allclose((times["int_end_MJD_UTC"] - times["int_start_MJD_UTC"]) * day, duration, atol=1e-4)
    assert (np.diff(times["int_start_MJD_UTC"]) * day > duration).all()
    np.testing.assert_array_equal(times["integration_number"], [1, 2, 3])


def test_wrong_parameters_are_all_named():
    with pytest.raises(ParameterError, match=r"readout is 'FAST'.*detector is 'NRS3'.*groups is 0"):
        setup("fast", detector="NRS3", groups=0)
    with pytest.raises(ParameterError, match="NRSIRS2 exists for FULL only"):
        setup("NRSIRS2", "SUB512")
    with pytest.raises(ParameterError, match="mode MOS needs subarray FULL"):
        setup(subarray="ALLSLITS", scene="MOS")
    with pytest.raises(ParameterError, match="columns is 2049"):
        setup(columns=2049)
    with pytest.raises(ParameterError, match="white_noise, snowballs"):
        Artifacts(white_noise=-1, snowballs=float("nan"))


@pytest.mark.parametrize("seed", [-1, 1.5, "x", None, True, 2**70])
def test_seeds_are_whole_numbers_from_zero(seed, tmp_path):
    for simulate in (lambda: simulate_trace(seed=seed), lambda: simulate_exposure(tmp_path, seed=seed)):
        with pytest.raises(ParameterError, match="seed is"):
            simulate()
