"""What is given to public functions is checked at the door: mix-ups are one line, or just work."""

import inspect
import pickle
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import nsxr
from nsxr.errors import ParameterError
from nsxr.model.arguments import checks_arguments
from nsxr.simulate import simulate_exposure, simulate_trace, small_exposure


@pytest.fixture(scope="module")
def small():
    return small_exposure(readout="NRSRAPID", subarray="SUB32", groups=4, integrations=1, columns=8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: nsxr.detector1("x_uncal.fits", "refs"), "exposure is 'x_uncal.fits', expected a Dataset"),
        (lambda s: nsxr.detector1("x_uncal.fits", "refs"), "open files first, with nsxr.open_exposure"),
        (lambda s: nsxr.detector1(s.exposure, "refs"), "open files first, with nsxr.open_references"),
        (lambda s: nsxr.detector1(s.exposure, Path("refs")), "references is a PosixPath, expected a mapping"),
        (lambda s: nsxr.detector1(s.exposure, [s.references]), "references is a list; one exposure takes one mapping"),
        (lambda s: nsxr.detector1([s.exposure] * 2, [s.references]), "2 exposures and 1 mappings of references"),
        (lambda s: nsxr.detector1(["a.fits"], s.references), "open files first, with nsxr.open_exposure"),
        (lambda s: nsxr.detector1([3], s.references), "exposure[0] is 3, expected a Dataset"),
        (lambda s: nsxr.detector1(s.exposure, {"gain": "gain.fits"}), "references['gain'] is 'gain.fits'"),
        (lambda s: nsxr.detector1(s.exposure, s.references["gain"]), "references is a Dataset, expected a mapping"),
        (lambda s: nsxr.detector1(s.exposure, s.references, skip=True), "skip is True, expected a list of texts"),
        (lambda s: nsxr.detector1(s.exposure, s.references, skip=["jump", 3]), "skip[1] is 3, expected a text"),
        (lambda s: nsxr.detector1(s.exposure, s.references, skip="jmup"), "no step 'jmup', did you mean 'jump'?"),
        (lambda s: nsxr.detector1(s.exposure, s.references, jump=3), "'jump' must be a mapping, not 3"),
        (lambda s: nsxr.detector1(s.exposure, s.references, jump={"edge_size": True}), "jump.edge_size is True"),
        (lambda s: s.exposure.nsxr.detector1("refs"), "references is 'refs', expected a mapping"),
        (lambda s: nsxr.open_exposure(5), "paths is 5, expected a path or a list of paths"),
        (
            lambda s: nsxr.open_exposure("x.fits", chunks="auto"),
            "chunks is 'auto', expected 'raw' or a mapping or none",
        ),
        (lambda s: nsxr.open_references(s.references["gain"], s.exposure), "source is a Dataset, expected a path"),
        (lambda s: nsxr.write_products(s.exposure, "out", "x"), "tree is a Dataset, expected a DataTree"),
        (lambda s: nsxr.write_products(xr.DataTree(), "out", "x", overwrite="no"), "overwrite is 'no', expected true"),
        (lambda s: nsxr.write_products(xr.DataTree(), "out", "x", progress="no"), "expected true or false or 'force'"),
        (lambda s: nsxr.flag_jumps(s.exposure, s.references["readnoise"], "gain.fits"), "with nsxr.open_references"),
        (lambda s: nsxr.calibrate_flux(slit(), "photom.fits", "area.fits"), "with nsxr.open_spec2_references"),
        (lambda s: nsxr.fit_trace_model("x_cal.fits"), "open files first, with nsxr.open_slits"),
        (lambda s: nsxr.fit_trace_model(s.exposure, position=np.nan), "position is nan, expected a finite number"),
        (lambda s: nsxr.fit_trace_model(s.exposure, position=1e400), "position is inf, expected a finite number"),
        (lambda s: nsxr.fit_trace_model(s.exposure, half_width=True), "half_width is True, expected a number or none"),
        (lambda s: nsxr.combine_spectra(s.exposure), "spectra is a Dataset, expected a list of Datasets"),
        (lambda s: nsxr.noise_spectrum(s.exposure, "1"), "amplifier is '1', expected a whole number"),
        (lambda s: small_exposure(seed=-1), "seed is -1, expected a whole number from 0"),
        (lambda s: nsxr.extract_spectrum(slit(), position=np.nan), "position is nan, expected a finite number"),
        (
            lambda s: nsxr.extract_source([slit()], half_width=1e9),
            "half_width is 1000000000.0, expected a number above 0",
        ),
        (
            lambda s: nsxr.extract_source([slit()], rejection_threshold="a"),
            "rejection_threshold is 'a', expected a number",
        ),
        (lambda s: nsxr.map_slits("flag", slit()), "function is 'flag', expected a function"),
        (lambda s: simulate_trace(columns=10**12), "columns is 1000000000000, expected a whole number from 1 to 2048"),
    ],
)
def test_mix_ups_are_one_line(small, call, words):
    with pytest.raises(ParameterError) as caught:
        call(small)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def slit():
    return simulate_trace(columns=20)[0]


@pytest.mark.parametrize("chunks", [{"rows": 5}, {"row": 0}, {"row": -5}, {"row": 2.5}, {"row": True}, {"row": 10**30}])
def test_chunks_are_lengths_along_dims(chunks, tmp_path):
    made = simulate_exposure(
        tmp_path, readout="NRSRAPID", subarray="SUB32", groups=1, integrations=1, columns=4, references=False
    )
    with pytest.raises(ParameterError, match=r"^chunks along .*, expected "):
        nsxr.open_exposure(made.uncal[0], chunks=chunks)
    assert nsxr.open_exposure(made.uncal[0], chunks={"row": np.int64(8), "group": -1})["sci"].chunks[2] == (8,) * 4


def test_a_name_alone_and_numpy_scalars_just_work(small, tmp_path):
    tree = nsxr.detector1(small.exposure, small.references, skip="dark_current", jump={"edge_size": np.int64(30)})
    assert tree["rate"].attrs["nsxr_steps"].count('"SKIPPED"') >= 1
    expected = nsxr.detector1(small.exposure, small.references, skip=["dark_current"], jump={"edge_size": 30})
    assert tree["rate"].attrs["nsxr_steps"] == expected["rate"].attrs["nsxr_steps"]
    (path,) = nsxr.write_products(tree, tmp_path, "x", formats="zarr", overwrite=np.bool_(False), progress=False)
    assert path.name == "x.zarr"


def test_the_door_changes_neither_names_nor_pickles():
    for name in nsxr.__all__:
        function = getattr(nsxr, name)
        assert pickle.loads(pickle.dumps(function)) is function
        assert function.__name__ == name
        assert function.__doc__
    shown = inspect.signature(nsxr.detector1).parameters
    assert shown["jump"].kind is inspect.Parameter.KEYWORD_ONLY
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'references'"):
        nsxr.detector1(xr.Dataset())


def test_hints_that_say_nothing_refuse_nothing():
    @checks_arguments
    def anything(one, two: "int" = 0, *three, four=None, **five):
        return one, two, three, four, five

    assert anything("a", "b", 3, four={}, five=5) == ("a", "b", (3,), {}, {"five": 5})
