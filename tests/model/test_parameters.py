"""Parameters are read from hints and docstrings, and their values are checked once."""

from typing import Annotated

import numpy as np
import pytest
import xarray as xr

from nsxr.errors import ParameterError
from nsxr.model.parameters import Choices, Range, Unit, closest, parameters_of, said
from nsxr.pipelines.detector1 import DETECTOR1


def smooth(
    data,
    *,
    width: Annotated[int, Range(1, 9), Unit("pixel")] = 3,
    limit: Annotated[float, Range(0, 10, is_open=True)] | None = None,
    way: Annotated[str, Choices("mean", "median", avg="mean")] = "mean",
    is_strict: bool = False,
):
    """Smooth.

    Parameters
    ----------
    data : Dataset
        Not a parameter.
    width, limit : int
        How wide,
        and how far.
    way : {"mean", "median"}
        How.

    Returns
    -------
    Dataset
        Something.
    """


DECLARED = parameters_of(smooth)


def test_hints_defaults_and_docstring_are_one_declaration():
    assert list(DECLARED) == ["width", "limit", "way", "is_strict"]
    width = DECLARED["width"]
    assert (width.kind, width.default, width.unit, width.limits) == (int, 3, "pixel", "from 1 to 9")
    assert width.meaning == DECLARED["limit"].meaning == "How wide, and how far."
    assert DECLARED["limit"].type_name == "number or none"
    assert DECLARED["limit"].limits == "above 0 to 10"
    assert DECLARED["way"].limits == "mean, median"
    assert DECLARED["is_strict"].meaning == ""
    assert list(parameters_of(smooth, leave_out=["width", "way"])) == ["limit", "is_strict"]


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("width", np.int32(4), 4),
        ("width", 4.0, 4),
        ("width", np.array(4), 4),
        ("limit", 3, 3.0),
        ("limit", np.float32(0.5), 0.5),
        ("limit", None, None),
        ("way", "AVG", "mean"),
        ("way", np.str_("median"), "median"),
        ("is_strict", np.bool_(True), True),
    ],
)
def test_values_become_plain(name, given, value):
    found = DECLARED[name].check(given)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("width", True, "width is True, expected a whole number"),
        ("width", 4.5, "width is 4.5, expected a whole number"),
        ("width", None, "width is None, expected a whole number"),
        ("width", 0, "width is 0, expected a whole number from 1 to 9 [pixel]"),
        ("width", 1e30, "expected a whole number from 1 to 9"),
        ("width", 10**4000, "a number of very many digits, expected a whole number from 1 to 9"),
        ("limit", 10**4000, "a number of very many digits, expected a number or none"),
        ("limit", 0, "limit is 0, expected a number above 0 to 10"),
        ("limit", np.nan, "limit is nan, expected a finite number"),
        ("limit", np.float32(np.inf), "limit is inf, expected a finite number"),
        ("limit", 1j, "limit is a complex, expected a number or none"),
        ("limit", [1.0], "limit is a list, expected a number or none"),
        ("limit", xr.Dataset(), "limit is a Dataset, expected a number or none"),
        ("limit", np.arange(3), "limit is a ndarray, expected a number or none"),
        ("way", "best", "way is 'best', expected one of mean, median"),
        ("way", 3, "way is 3, expected a word"),
        ("is_strict", "no", "is_strict is 'no', expected true or false"),
        ("is_strict", 1, "is_strict is 1, expected true or false"),
    ],
)
def test_wrong_values_are_one_line(name, given, words):
    with pytest.raises(ParameterError) as caught:
        DECLARED[name].check(given)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_long_texts_are_shortened():
    assert len(said("x" * 10**6)) < 100
    assert said("a\nb") == "'a\\nb'"


def test_every_parameter_of_every_step_is_declared_whole():
    for step, declared in DETECTOR1.steps.items():
        for name, one in declared.parameters.items():
            assert one.kind in (bool, int, float, str, xr.DataArray), (step, name)
            assert one.meaning[:1].isupper() or one.meaning[:1] in '`"(', (step, name)
            assert one.meaning.endswith("."), (step, name)
            assert (one.kind is str) == (one.choices is not None), (step, name)
            assert (one.kind in (int, float)) == (one.range is not None), (step, name)
            assert one.check(one.default) == one.default or one.default is None, (step, name)


def test_all_problems_of_all_steps_are_told_at_once():
    with pytest.raises(ParameterError) as caught:
        DETECTOR1.settings(
            {"jump": {"edge_size": "x"}, "ramp_fit": {"algorithm": 3}, "refpix": {"siglimit": 0}}, ["jmup"]
        )
    assert str(caught.value).count(";") == 3
    for words in ("jump.edge_size is 'x'", "ramp_fit.algorithm is 3", "refpix.siglimit is 0", "did you mean 'jump'"):
        assert words in str(caught.value)


def test_settings_are_filled_in_as_the_steps_take_them():
    given = {"ramp_fit": {"algorithm": "OLS_C"}, "saturation": {"n_pix_grow_sat": 2}}
    filled = DETECTOR1.filled(DETECTOR1.settings(given))
    assert filled["ramp_fit"]["algorithm"] == "ols"
    assert filled["jump"]["algorithm"] == "two-point"  # jumps are looked for in the way of the fit
    assert filled["saturation"] == {**DETECTOR1.steps["saturation"].defaults, "n_pix_grow_sat": 2}
    assert "rejection_threshold" not in filled["jump"]  # left open
    assert DETECTOR1.filled(DETECTOR1.settings(filled)) == filled


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("threshold", "rejection_threshold"),
        ("Rejection", "rejection_threshold"),
        ("shower_treshold", "shower_threshold"),
        ("rejection_treshold", "rejection_threshold"),
        ("find", "find_showers"),
        ("d", None),
        (5, None),
    ],
)
def test_which_name_was_meant(given, meant):
    names = ("rejection_threshold", "three_group_rejection_threshold", "shower_threshold", "find_showers")
    assert closest(given, names) == meant


def test_a_part_of_a_name_is_enough_for_a_hint():
    with pytest.raises(ParameterError, match="'threshold', did you mean 'rejection_threshold'"):
        DETECTOR1.settings({"jump": {"threshold": 5}})
