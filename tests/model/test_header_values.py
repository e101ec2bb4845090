"""Whatever a header says: one line that names keyword, value and file, or a result that does not hang on it."""

import re
from datetime import UTC, datetime

import numpy as np
import pytest
from astropy.io import fits

import nsxr
from nsxr.errors import InputFileError, ModelError
from nsxr.model.keywords import KEYWORDS, parse, parse_date, read, require, start_of
from nsxr.model.readout import Readout
from nsxr.simulate import simulate_exposure

ODD = ["'N/A'", "''", "", "'eight'", "'NaN'", "0", "-1", "1.5", "1E30", "99999999999999999999", "T", "'2022-01-01'"]
"""Values as they stand on a card."""

NEEDED = [
    *("DETECTOR", "READPATT", "SUBARRAY", "SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2"),
    *("NINTS", "NGROUPS", "NFRAMES", "TFRAME", "TGROUP"),
]
OTHERS = [
    *("GROUPGAP", "FRMDIVSR", "DRPFRMS1", "NOUTPUTS", "EXSEGNUM", "EXSEGTOT", "INTSTART", "INTEND"),
    *("EXPSTART", "EXPEND", "EFFEXPTM", "DATE-OBS", "PATT_NUM"),
]


@pytest.fixture(scope="module")
def sub32(tmp_path_factory):
    return simulate_exposure(
        tmp_path_factory.mktemp("sub32"), readout="NRSRAPID", subarray="SUB32", groups=3, integrations=2
    )


@pytest.fixture
def changed(tmp_path, sub32):
    """Return a function that copies a file and writes values on the cards of its primary header, as they stand."""
    number = 0

    def change(path=None, **values):
        nonlocal number
        number += 1
        content = bytearray((path or sub32.uncal[0]).read_bytes())
        for key, value in values.items():
            key = key.replace("_OBS", "-OBS")
            at = next(at for at in range(0, 80 * 400, 80) if content[at : at + 10] == f"{key:<8}= ".encode())
            content[at : at + 80] = f"{key:<8}= {value:<70}".encode()
        copy = tmp_path / f"{number}_{(path or sub32.uncal[0]).name}"
        copy.write_bytes(content)
        return copy

    return change


def opened(path):
    """Return an exposure, or why it cannot be opened."""
    try:
        return nsxr.open_exposure(path), ""
    except InputFileError as error:
        return None, str(error)


@pytest.mark.parametrize("key", NEEDED + OTHERS)
def test_odd_values_are_named_or_make_no_difference(changed, key):
    known = nsxr.open_exposure(changed())
    before = Readout.of(known)
    for value in ODD:
        path = changed(**{key.replace("-", "_"): value})
        exposure, message = opened(path)
        if exposure is None:
            assert str(path) in message
            assert key in message
            assert "\n" not in message
            continue
        if key in ("READPATT", "SUBARRAY"):
            continue  # any word
        assert key not in NEEDED
        after = Readout.of(exposure)
        assert after == before or (key == "FRMDIVSR" and after.frame_divisor is None), value
        assert exposure.coords.equals(known.coords)


@pytest.mark.parametrize(
    ("key", "value"), [("NGROUPS", "'3.0'"), ("NINTS", "2.0"), ("GROUPGAP", "'0'"), ("TFRAME", "'15E-3'")]
)
def test_numbers_may_be_written_as_text(changed, key, value):
    exposure = nsxr.open_exposure(changed(**{key: value, **({"TGROUP": "0.015"} if key == "TFRAME" else {})}))
    assert exposure.sizes["group"] == 3
    assert not isinstance(exposure.attrs[key], str)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"TGROUP": "-1.0"},
            "keyword TGROUP is -1.0, expected a number from 1e-06 to 1000000 (time from group to",
        ),
        ({"NFRAMES": "4"}, "expected (NFRAMES + GROUPGAP) x TFRAME, (4 + 0) x 0.01496 s = 0.05984 s"),
        ({"GROUPGAP": "1"}, "keyword TGROUP is 0.01496, expected (NFRAMES + GROUPGAP) x TFRAME, (1 + 1) x 0.01496 s"),
        ({"NFRAMES": "'8.5'"}, "keyword NFRAMES is '8.5', expected a whole number from 1 to 1000"),
        ({"SUBSTRT1": "2040"}, "SUBSTRT1 and SUBSIZE1 are 2040 and 32, expected a subarray within 2048 pixels"),
        ({"NOUTPUTS": "4"}, "keyword NOUTPUTS is 4, expected 1 for a subarray of 32 rows"),
        ({"INTSTART": "4", "INTEND": "5"}, "keyword INTEND is 5, but NINTS says 2 integrations in all"),
        ({"INTSTART": "2"}, "2 integrations where INTSTART and INTEND, or NINTS, say 1 (2 to 2)"),
        ({"NINTS": "9", "INTSTART": "'one'"}, "keyword INTSTART is 'one', expected a whole number from 1"),
        (
            {"DETECTOR": "'N/A'", "TFRAME": "0"},
            "missing header keywords DETECTOR ('N/A'); they describe the readout; ",
        ),
    ],
)
def test_what_cannot_be_is_one_line(changed, values, words):
    path = changed(**values)
    with pytest.raises(InputFileError, match=re.escape(words)) as error:
        nsxr.open_exposure(path)
    assert str(path) in str(error.value)


def test_a_gap_that_is_not_said_follows_from_the_times(header):
    times = {"NFRAMES": 4, "TFRAME": 2.0, "TGROUP": 12.0}
    assert Readout.from_header(header(GROUPGAP="N/A", **times)).group_gap == 2
    assert Readout.from_header(header(GROUPGAP=None, NFRAMES=1)).group_gap == 0
    with pytest.raises(InputFileError, match=r"TGROUP is 13, expected .* \(4 \+ 2\) x 2 s = 12 s"):
        Readout.from_header(header(GROUPGAP="", **{**times, "TGROUP": 13.0}))


def test_frames_dropped_before_the_first_group_count_for_its_time(header):
    assert Readout.from_header(header(groups=1, DRPFRMS1=3)).first_group_time == 8.0  # frames 4 of 2 s
    assert Readout.from_header(header(groups=1, DRPFRMS1=3, DRPFRMS3=3, NFRAMES=5)).first_group_time == 12.0
    assert Readout.from_header(header(groups=1, integrations=1, DRPFRMS1=3, DRPFRMS3=0)).first_group_time == 8.0
    with pytest.raises(InputFileError, match="DRPFRMS1 and DRPFRMS3 are 3 and 0"):
        Readout.from_header(header(groups=1, DRPFRMS1=3, DRPFRMS3=0))
    assert Readout.from_header(header(groups=2, DRPFRMS1=3, DRPFRMS3=0)).first_group_time == 8.0


def test_times_do_not_matter_where_there_are_no_groups(header):
    """A count rate opens whatever its header says of groups."""
    readout = Readout.from_header(header(TGROUP=-1, NFRAMES="many", NINTS=None, GROUPGAP=True), ramps=False)
    assert (readout.n_frames, readout.group_gap, readout.n_integrations) == (1, 0, 1)
    with pytest.raises(InputFileError, match="SUBSIZE1 is 0"):
        Readout.from_header(header(SUBSIZE1=0), ramps=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2022-03-01T04:05:06", (2022, 3, 1, 4, 5, 6)),
        ("2022-03-01 04:05", (2022, 3, 1, 4, 5)),
        ("2022/3/1", (2022, 3, 1)),
        ("Mar 01 2022 04:05:06", (2022, 3, 1, 4, 5, 6)),
        ("1 March, 2022", (2022, 3, 1)),
        ("01-MAR-2022 00:00:01.5", (2022, 3, 1, 0, 0, 1, 500000)),
        ("20220301", (2022, 3, 1)),
        ("2022-060T12:00:00Z", (2022, 3, 1, 12)),
        ("2022-03-01T04:05:06+02:00", (2022, 3, 1, 2, 5, 6)),
        ("2022-03-01T04:05:06.123456789", (2022, 3, 1, 4, 5, 6, 123456)),
    ],
)
def test_dates_in_any_spelling(text, expected):
    assert parse_date(text) == datetime(*expected, tzinfo=UTC)


@pytest.mark.parametrize("text", ["2022-13-01", "yesterday", "", "N/A", "2022", "9999-12-31T23:59:59-05:00", "3.5"])
def test_what_is_no_date(text):
    assert parse_date(text) is None


def test_start_of_an_exposure():
    day = datetime(2022, 3, 1, tzinfo=UTC)
    assert start_of({"DATE-OBS": "2022-03-01", "TIME-OBS": "04:05:06.5"}) == day.replace(
        hour=4, minute=5, second=6, microsecond=500000
    )
    assert start_of({"DATE-OBS": "2022/03/01", "TIME-OBS": "N/A"}) == day
    assert start_of({"DATE-OBS": "2022-03-01T04:00:00"}) == day.replace(hour=4)
    assert start_of({"DATE-OBS": 2022}) is start_of({}) is None


def parsed(key, value):
    try:
        return parse(key, value), ""
    except ValueError as error:
        return None, str(error)


@pytest.mark.parametrize("key", KEYWORDS)
def test_every_keyword_takes_or_refuses_anything(key):
    values = [None, "", "N/A", "8.0", "0x8", "1e400", "٣", True, np.bool_(False), 10**400, -1, 0.5, float("nan"), b"8"]
    for value in [*values, np.float32(3), np.int64(7), [], {}, float("-inf"), "x" * 500, fits.card.Undefined()]:
        found, message = parsed(key, value)
        if message:
            assert message.startswith(f"keyword {key} is ")
            assert len(message) < 300
        if found is not None and KEYWORDS[key].kind in ("whole", "number"):
            assert KEYWORDS[key].least <= found <= KEYWORDS[key].most
            assert type(found) is (int if KEYWORDS[key].kind == "whole" else float)


def test_what_does_not_matter_gets_its_default():
    assert read({"EFFEXPTM": "long"}, "EFFEXPTM", matters=False) == 0
    assert read({"INTSTART": "N/A"}, "INTSTART") == 1
    assert read({}, "PIXAR_SR") is None
    with pytest.raises(InputFileError, match=r"^a\.fits: keyword EFFEXPTM is 'long', expected a number from 0"):
        read({"EFFEXPTM": "long", "filename": "a.fits"}, "EFFEXPTM")
    with pytest.raises(InputFileError, match=r"missing header keywords EXPSTART, EXPEND \('N/A'\); the reason"):
        require({"EXPEND": "N/A"}, "EXPSTART", "EXPEND", purpose="the reason")


@pytest.mark.parametrize("dim", ["integration", "group", "row", "column"])
def test_a_dim_that_is_gone_is_named_with_what_to_do(sub32, dim):
    exposure = nsxr.open_exposure(sub32.uncal)
    references = nsxr.open_references(sub32.references["gain"].parent, exposure)
    for call in (nsxr.detector1, lambda e, r: nsxr.open_references("anywhere", e)):
        with pytest.raises(ModelError, match=re.escape(f"a single position, give a list: .isel({dim}=[0])")):
            call(exposure.isel({dim: 0}), references)
    with pytest.raises(
        ModelError, match=re.escape("put them in order: .transpose('integration', 'group', 'row', 'column')")
    ):
        nsxr.detector1(exposure.transpose("row", ...), references)
    assert nsxr.detector1(exposure.isel(integration=[0]), references)["rate"]["sci"].dims == ("row", "column")
