"""Names of steps and references are those of the observatory, and functions declare what they are given."""

from typing import Annotated

import pytest
import xarray as xr

import nsxr
from nsxr.formats.keywords import product_keywords
from nsxr.model.declarations import Needs, Takes, declaration_of, step, taken_by
from nsxr.model.history import record
from nsxr.model.parameters import Choices, Range, Unit
from nsxr.model.readout import Readout
from nsxr.model.steps import REFERENCES, STATUS, STEPS, serves

HEADER = {"DETECTOR": "NRS1", "SUBARRAY": "FULL", "SUBSTRT1": 1, "SUBSTRT2": 1, "SUBSIZE1": 2048, "SUBSIZE2": 2048}


@pytest.mark.parametrize(("table", "start"), [(STEPS, "S_"), (REFERENCES, "R_")])
def test_keywords_fit_into_headers_and_have_comments(table, start):
    for name, one in table.items():
        assert one.comment, name
        assert name == "pictureframe" or one.keyword.startswith(start), name  # the observatory has none for that
        assert len(one.keyword) <= 8, name
    keywords = [one.keyword for name, one in table.items() if one.keyword and name != "master_background_mos"]
    assert len(set(keywords)) == len(keywords)
    assert all(len(f"{one.keyword}: {one.comment}") < 60 for one in table.values())


def test_a_kernel_of_side_reference_pixels_is_named_in_products():
    known = {kind: xr.Dataset(attrs={"reference_type": kind, "filename": f"{kind}.asdf"}) for kind in REFERENCES}
    done = record(xr.Dataset(), "refpix", list(known.values()))
    keywords = product_keywords(done, "x_rate.fits", "ImageModel")
    assert keywords["R_SIRSKL"] == ("sirskernel.asdf", "SIRS refpix reference file name")
    assert keywords["S_REFPIX"][0] == "COMPLETE"
    assert {key for key in keywords if key.startswith("R_")} == {one.keyword for one in REFERENCES.values()} - {""}


def test_every_status_keyword_means_one_step():
    assert set(STATUS.values()) == set(STEPS) - {"master_background_mos"}
    assert STATUS["S_MSBSUB"] == "master_background"


@step("ipc", references=[Needs("ipc"), Takes("gain", of="gain_scale")], off="it is off")
def correct(
    exposure: xr.Dataset,
    ipc: xr.Dataset,
    gain: xr.Dataset | None = None,
    *,
    strength: Annotated[float, Range(0, 2), Unit("1")] = 1.0,
    method: Annotated[str, Choices("a", "b")] = "a",
) -> xr.Dataset:
    """Undo it.

    Parameters
    ----------
    strength : float
        How much.
    method : str
        Which way.
    """
    return exposure


def test_a_function_declares_itself_and_is_not_wrapped():
    declared = declaration_of(correct)
    assert declared.function is correct
    assert (declared.name, declared.keyword, declared.summary) == ("ipc", "S_IPC", "Undo it.")
    assert declared.defaults == {"strength": 1.0, "method": "a"}
    assert declared.parameters["strength"].meaning == "How much."
    assert declared.parameters["method"].limits == "a, b"


def test_reference_pixels_are_of_use_to_irs2_alone():
    irs2, other = (
        Readout.from_header({**HEADER, "READPATT": pattern, "NOUTPUTS": outputs}, ramps=False)
        for pattern, outputs in (("NRSIRS2", 5), ("NRS", 4))
    )
    assert [kind for kind in REFERENCES if not serves(kind, other)] == ["refpix"]
    assert all(serves(kind, irs2) for kind in REFERENCES)


def test_parts_and_options_are_parameters_of_the_step_and_what_is_given_is_not():
    option = declaration_of(correct).parameters["strength"]

    @step("jump", parts=[correct], given=["method"], options=[option])
    def both(exposure, *, is_last: bool = True, **parameters):
        return exposure

    declared = declaration_of(both)
    assert list(declared.parameters) == ["strength", "is_last"]
    assert declared.arguments({"strength": 2.0, "is_last": False}) == {"is_last": False}
    assert taken_by(correct, {"method": "b", "is_last": True}) == {"method": "b"}


@pytest.mark.parametrize(
    ("name", "references", "words"),
    [
        ("ipcc", [], "'ipcc' of nothing is not in nsxr.model.steps.STEPS"),
        ("ipc", [Needs("ipcc")], "no reference type 'ipcc'"),
        ("ipc", [Needs("ipc")], "nothing has no argument 'ipc'"),
    ],
)
def test_declarations_that_cannot_be_are_refused(name, references, words):
    def nothing(exposure):
        return exposure

    with pytest.raises(TypeError, match=words):
        step(name, references=references)(nothing)
    with pytest.raises(TypeError, match="nothing is no step"):
        declaration_of(nothing)


def test_functions_that_users_call_carry_their_declaration():
    assert declaration_of(nsxr.flag_saturation).name == "saturation"
