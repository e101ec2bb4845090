"""What the header of a slit means."""

import pytest
import xarray as xr

from nsxr.errors import ModelError
from nsxr.model.slit_header import SlitHeader


def of(**attrs: object) -> SlitHeader:
    return SlitHeader.of(xr.Dataset(attrs=attrs))


def test_an_empty_header_says_nothing() -> None:
    header = of()
    assert (header.name, header.shutters, header.source_id, header.source_y, header.fixed_slit) == (
        "",
        "",
        None,
        None,
        None,
    )
    assert (header.order, header.exposure_time, header.background_members) == (1, 0.0, None)
    assert header.has_planned_source
    assert not header.is_extended
    assert header.called("slit 3") == "slit 3"
    with pytest.raises(AttributeError):
        header.name = "x"  # type: ignore[misc]


def test_values_are_read_once_as_they_are_meant() -> None:
    header = of(SLTNAME=" 12 ", SOURCEID="-7", SRCTYPE="extended ", SRCYPOS="0.25", SPORDER=-2, filename="a_cal.fits")
    assert (header.name, header.source_id, header.source_y, header.order) == ("12", -7, 0.25, 2)
    assert header.is_extended
    assert not header.has_planned_source  # virtual
    assert header.called("slit 3") == "a_cal.fits"


@pytest.mark.parametrize(
    ("attrs", "nods", "sky", "members"),
    [
        ({"S_BKDSUB": "COMPLETE"}, True, True, None),
        ({"S_BKDSUB": "SKIPPED"}, False, False, None),
        ({"S_MSBSUB": "COMPLETE"}, False, True, None),
        ({"background_members": '["a", "b"]'}, False, True, ("a", "b")),
        ({"S_BKDSUB": "COMPLETE", "background_members": "[]"}, True, True, ()),
    ],
)
def test_what_was_subtracted(attrs: dict[str, str], nods: bool, sky: bool, members: tuple[str, ...] | None) -> None:
    header = of(**attrs)
    assert (header.has_nods_subtracted, header.is_sky_subtracted, header.background_members) == (nods, sky, members)


@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        ({"SHUTSTA": "11x", "SRCNAME": "BKG_3"}, False),
        ({"SLTNAME": "S200A1", "FXD_SLIT": "S200A1"}, True),
        ({"SLTNAME": "S200A2", "FXD_SLIT": "S200A1"}, False),
        ({"SLTNAME": "S200A2", "FXD_SLIT": "NONE"}, True),
        ({"SLTNAME": "5", "SHUTSTA": "1x1", "FXD_SLIT": "S200A1"}, True),
    ],
)
def test_where_a_source_is_planned(attrs: dict[str, str], expected: bool) -> None:
    assert of(**attrs).has_planned_source is expected


@pytest.mark.parametrize("text", ["a, b", "{}", 3])
def test_members_that_are_no_list_are_refused(text: object) -> None:
    with pytest.raises(ModelError, match=r"background_members is .*, expected a JSON list"):
        of(background_members=text)
