import json

import pytest

from nsxr.associate.associations import read_association
from nsxr.errors import InputFileError

MEMBERS = [
    {"expname": "one_rate.fits", "exptype": "science"},
    {"expname": "two_rate.fits", "exptype": "background"},
    {"expname": "three_rate.fits", "exptype": "Background"},
    {"expname": "leak_rate.fits", "exptype": "imprint"},
    {"expname": "star_cal.fits", "exptype": "target_acquisition"},
]


def written(folder, content):
    path = folder / "asn.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_roles_and_places(tmp_path):
    path = written(tmp_path, {"products": [{"name": "one", "members": MEMBERS}]})
    (one,) = read_association(path)
    assert one.name == "one"
    assert one.science == (tmp_path / "one_rate.fits",)
    assert [file.name for file in one.background] == ["two_rate.fits", "three_rate.fits"]
    assert [file.name for file in one.imprint] == ["leak_rate.fits"]
    assert len(one.members) == 4
    (elsewhere,) = read_association(path, "rates")
    assert str(elsewhere.science[0]) == "rates/one_rate.fits"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": [1', "no JSON file"),
        ("[]", "has no products"),
        ({"products": []}, "has no products"),
        ({"products": [{"name": "x"}]}, "product 0 has no members"),
        ({"products": [{"members": [{"expname": 3}]}]}, "a member of product 0 lacks"),
        ({"products": [{"name": "x", "members": MEMBERS[1:]}]}, "product x has no member with the exptype science"),
        (
            {"products": [{"members": [{"expname": "../x_rate.fits", "exptype": "science"}]}]},
            "'../x_rate.fits' is not the name of a file",
        ),
    ],
)
def test_what_is_no_association(tmp_path, content, message):
    with pytest.raises(InputFileError, match=message):
        read_association(written(tmp_path, content))


def test_missing_file(tmp_path):
    with pytest.raises(InputFileError, match="cannot be read"):
        read_association(tmp_path / "none.json")


def test_association_of_the_observatory(real_data):
    found = read_association(real_data / "mos_jw02565" / "manual_calwebb2_asn.json")
    assert found[0].science[0].name.endswith("_rate.fits")
    assert len(found[0].background) == 2
