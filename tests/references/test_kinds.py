"""A reference of the wrong type is refused in one line, whichever correction it is given to."""

import pytest
import xarray as xr

import nsxr
from nsxr.diagnostics.noise import noise_spectrum
from nsxr.errors import MissingReferenceError, ModelError, ParameterError, ReferenceFileError
from nsxr.model.dq import PixelFlag
from nsxr.ramps.read_noise import rescale_read_noise
from nsxr.references.limits import flag_unphysical
from nsxr.references.match import require_kind
from nsxr.simulate import small_exposure
from nsxr.testing import forbid_computes


@pytest.fixture(scope="module")
def made():
    return small_exposure(readout="NRSRAPID", subarray="SUB512S", groups=3, columns=8)


@pytest.fixture(scope="module")
def ramps(made):
    return nsxr.initialize_dq(made.exposure, made.references["mask"])


@pytest.mark.parametrize(
    ("correct", "wanted", "given"),
    [
        (nsxr.initialize_dq, ["mask"], ["gain"]),
        (nsxr.flag_saturation, ["saturation"], ["superbias"]),
        (nsxr.flag_saturation, ["saturation", "superbias"], ["saturation", "saturation"]),
        (nsxr.subtract_superbias, ["superbias"], ["dark"]),
        (nsxr.correct_linearity, ["linearity"], ["saturation"]),
        (nsxr.subtract_dark, ["dark"], ["superbias"]),
        (nsxr.flag_jumps, ["readnoise", "gain"], ["gain", "readnoise"]),
        (nsxr.flag_jumps, ["readnoise", "gain"], ["readnoise", "readnoise"]),
        (nsxr.fit_ramps, ["readnoise", "gain"], ["gain", "readnoise"]),
        (nsxr.fit_ramps, ["readnoise", "gain"], ["gain", "gain"]),
        (rescale_read_noise, ["readnoise", "gain"], ["gain", "readnoise"]),
    ],
)
def test_other_references_are_refused(made, ramps, correct, wanted, given):
    found, expected = next((g, w) for g, w in zip(given, wanted, strict=True) if g != w)
    with forbid_computes(), pytest.raises(ReferenceFileError, match="is of type '") as caught:
        correct(ramps.chunk(), *(made.references[kind] for kind in given))
    pairs = {(found, expected), (expected, found)}  # both are wrong where two are swapped
    assert any(f"is of type {f!r}, expected {e!r}" in str(caught.value) for f, e in pairs)


@pytest.mark.parametrize("swapped", [("gain", "readnoise"), ("mask", "saturation"), ("superbias", "dark")])
def test_stage_1_refuses_references_under_the_name_of_others(made, swapped):
    one, other = swapped
    references = {**made.references, one: made.references[other], other: made.references[one]}
    with pytest.raises(ReferenceFileError, match=rf"is of type '({one}|{other})', expected '({one}|{other})'"):
        nsxr.detector1(made.exposure, references)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda dark: dark.drop_attrs(deep=False), "no attribute 'reference_type', expected 'dark'"),
        (lambda dark: xr.Dataset(attrs=dark.attrs), "lacks variable 'sci', variable 'dq', dim 'row' with labels"),
        (lambda dark: dark.drop_vars("row"), "lacks dim 'row' with labels"),
        (lambda dark: dark.isel(column=0), "lacks dim 'column' with labels"),
        (lambda dark: dark.assign_attrs(n_frames=None).drop_vars("dq"), "lacks variable 'dq';"),
    ],
)
def test_what_a_reference_lacks_is_said(made, change, words):
    require_kind(made.references["dark"], "dark")
    with pytest.raises(ReferenceFileError, match=words):
        require_kind(change(made.references["dark"]), "dark")


def test_stage_1_refuses_what_was_corrected_before(made, ramps):
    for one in (ramps, nsxr.subtract_superbias(ramps, made.references["superbias"])):
        with pytest.raises(ModelError, match=r"has had dq_init.* already, expected a raw exposure"):
            nsxr.detector1(one, made.references)


def test_fit_without_references_and_noise_of_no_integration(made, ramps):
    with pytest.raises(MissingReferenceError, match=r"references missing: readnoise .*gain .*dark "):
        nsxr.fit_rates(ramps, {})
    with pytest.raises(ParameterError, match="integration is 3, expected 0 to 0"):
        noise_spectrum(made.exposure, 1, integration=3)


@pytest.mark.parametrize("value", [1e-30, 0.05, 0.0])
def test_values_near_zero_are_outside(made, value):
    noise = flag_unphysical("readnoise", made.references["readnoise"].map(lambda a: a.where(a["row"] != 970, value)))
    assert noise["sci"].sel(row=970).isnull().all()
    assert noise["sci"].sel(row=971).notnull().all()
    linearity = made.references["linearity"]
    changed = linearity["coefficients"].copy(deep=True)
    changed[1, 6] = value
    dq = flag_unphysical("linearity", linearity.assign(coefficients=changed))["dq"] & PixelFlag.NO_LIN_CORR.value
    assert (dq[6] != 0).all()
    assert (dq[7] == linearity["dq"][7] & PixelFlag.NO_LIN_CORR.value).all()
