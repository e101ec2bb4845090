"""The command line: what it writes, what it refuses, and that errors are one line."""

import ast
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from click.shell_completion import ShellComplete

import nsxr
from nsxr import cli
from nsxr.errors import DegradedResultWarning
from nsxr.model.history import steps
from nsxr.pipelines.detector1 import DETECTOR1
from nsxr.pipelines.recipe import Recipe
from nsxr.pipelines.spec2 import SPEC2
from nsxr.simulate import simulate_exposure

ROOT = "jw01234001001_03101_00001_nrs1"
SUB32 = {"readout": "NRSRAPID", "subarray": "SUB32", "groups": 4, "integrations": 3}


@pytest.fixture
def fails(run):
    """Return a function that runs nsxr, expecting an error, and returns its one line."""

    def invoke(*words):
        error = run(*words, status=1).stderr
        assert error.startswith("Error: ")
        assert error.count("\n") == 1
        return error

    return invoke


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return simulate_exposure(tmp_path_factory.mktemp("sub32"), **SUB32)


@pytest.fixture(scope="module")
def detector1_words(made):
    return "detector1", made.uncal[0], "--references", made.references["gain"].parent


QUICKLY = ("--skip", "clean_flicker_noise")
"""An option that makes a run short, for tests of what is written rather than of what is computed."""


def written(result):
    return [Path(line).name for line in result.stdout.splitlines()]


def test_help_names_commands_options_and_steps(run):
    text = run("--help").stdout
    assert all(name in text for name in ("demo", "detector1", "info", "simulate"))
    assert "0.1.0" in run("--version").stdout
    listed = " ".join(run("--help").stdout.split())
    for name in cli.main.list_commands(None):
        command = cli.main.get_command(None, name)
        assert f" {name} {command.get_short_help_str(200)} " in f"{listed} "
        text = run(name, "--help").stdout
        for option in command.params:
            assert option.opts[-1].upper().lstrip("-") in text.upper(), option
    text = " ".join(run("detector1", "--help").stdout.split())
    assert all(step in text for step in DETECTOR1.steps)


def test_simulate_writes_what_it_says(run, tmp_path):
    words = ("--subarray", "SUB512S", "--groups", 2, "--integrations", 3, "--segments", 2, "--detector", "NRS2")
    result = run("simulate", "-o", tmp_path, *words, "--seed", 5)
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert all(path.is_file() for path in paths)
    raw = [path for path in paths if path.name.endswith("_uncal.fits")]
    assert [path.name for path in raw] == [f"jw01234001001_03101_00001-seg00{i}_nrs2_uncal.fits" for i in (1, 2)]
    header = fits.getheader(raw[0])
    assert (header["READPATT"], header["EXP_TYPE"], header["NGROUPS"], header["NINTS"]) == (
        "NRSRAPID",
        "NRS_BRIGHTOBJ",
        2,
        3,
    )
    again = simulate_exposure(
        tmp_path / "again",
        readout="NRSRAPID",
        subarray="SUB512S",
        groups=2,
        integrations=3,
        segments=2,
        detector="NRS2",
        seed=5,
        references=False,
    )
    assert [path.read_bytes() for path in again.uncal] == [path.read_bytes() for path in raw]


def test_simulate_looks_at_a_sky(run, tmp_path):
    star = {"name": "star", "offset": [0, 0], "spectrum": {"continuum": {"flux": 1e-3}}}
    (tmp_path / "sky.json").write_text(json.dumps({"sources": [star], "transit": {"depth": 0.1}}))
    words = [
        "--mode",
        "BOTS",
        "--sky",
        tmp_path / "sky.json",
        "--subarray",
        "SUB512S",
        "--groups",
        2,
        "--grating",
        "G395M",
    ]
    told = run("simulate", "-o", tmp_path / "made", *words, "--integrations", 6).stdout.split()
    made = tmp_path / "made"
    assert f"{made}/jw01234001001_03101_00001_nrs1_uncal.fits" in told
    exposure = nsxr.open_exposure(made / "jw01234001001_03101_00001_nrs1_uncal.fits")
    optics = nsxr.open_optics(made / "references", exposure)
    assert (optics.grating, optics.exposure_type) == ("G395M", "NRS_BRIGHTOBJ")
    with fits.open(made / "jw01234001001_03101_00001_nrs1_truth.fits") as truth:
        assert truth["LIGHT_CURVE"].data["factor"].min() == pytest.approx(0.9)
        rate, wavelength = truth["RATE"].data, truth["WAVELENGTH"].data
        column = int(rate.sum(axis=0).argmax())
        row = int(rate[:, column].argmax())
    row, column = row + int(exposure["row"][0]), column + int(exposure["column"][0])
    seen = optics.forward(column, row, "S1600A1").wavelength
    assert seen == pytest.approx(
        wavelength[row - int(exposure["row"][0]), column - int(exposure["column"][0])], rel=1e-6
    )


def test_simulate_refuses(run, fails, tmp_path):
    error = fails("simulate", "-o", tmp_path, "--subarray", "SUB32", "--readout", "NRSIRS2", "--scene", "IFU")
    assert "readout NRSIRS2 exists for FULL only" in error
    assert "mode IFU needs subarray FULL" in error
    assert "'SUB33' is not one of" in run("simulate", "--subarray", "SUB33", status=2).stderr
    sky = ["--sky", tmp_path / "none.json"]
    assert "none.json does not exist" in fails("simulate", "-o", tmp_path, "--mode", "MOS", *sky)
    assert "mode flat with G235H does not disperse" in fails("simulate", "-o", tmp_path, "--mode", "flat", *sky)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (None, ["_rate.fits", "_rateints.fits", "_recipe.toml"]),
        ("fits", ["_rate.fits", "_rateints.fits", "_recipe.toml"]),
        ("zarr", [".zarr", "_recipe.toml"]),
        ("both", ["_rate.fits", "_rateints.fits", ".zarr", "_recipe.toml"]),
    ],
)
def test_formats_hold_the_same_pixels_as_python_gives(run, made, detector1_words, tmp_path, form, names):
    result = run(*detector1_words, "-o", tmp_path, *(("--format", form) if form else ()))
    assert written(result) == [ROOT + name for name in names]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(ROOT + name for name in names)
    exposure = nsxr.open_exposure(made.uncal[0])
    expected = nsxr.detector1(exposure, nsxr.open_references(made.references, exposure))
    for node in ("rate", "rateints"):
        found = []
        if form != "zarr":
            found.append(xr.open_dataset(tmp_path / f"{ROOT}_{node}.fits", engine="nirspec", chunks={}))
        if form in ("zarr", "both"):
            found.append(xr.open_dataset(tmp_path / f"{ROOT}.zarr", group=node, engine="zarr", chunks={}))
        for dataset in found:
            for name in ("sci", "dq", "var_poisson", "var_rnoise"):
                np.testing.assert_array_equal(dataset[name], expected[node][name], err_msg=f"{node} {name}")


def test_parameters_skips_saved_steps_and_named_references(run, made, tmp_path):
    named = [
        word for kind, path in made.references.items() if kind != "dark" for word in ("--reference", f"{kind}={path}")
    ]
    settings = ["--set", "jump.rejection_threshold=7", "--set", "jump.flag_4_neighbors=False"]
    settings += ["--set", "jump.expand_large_events=false", "--set", "ramp_fit.lastgroup=2", "--skip", "dark_current"]
    result = run("detector1", made.uncal[0], *named, "-o", tmp_path, *settings, "--save", "jump", "--save", "superbias")
    assert written(result) == [f"{ROOT}_{name}.fits" for name in ("rate", "rateints", "jump", "superbias")] + [
        f"{ROOT}_recipe.toml"
    ]
    rate = xr.open_dataset(tmp_path / f"{ROOT}_rate.fits", engine="nirspec", chunks={})
    done = steps(rate)
    assert [entry["step"] for entry in done] == list(DETECTOR1.steps)  # snowballs would be a second entry of jump
    by_name = {entry["step"]: entry for entry in done}
    assert by_name["jump"]["parameters"]["rejection_threshold"] == 7
    assert by_name["jump"]["parameters"]["flag_4_neighbors"] is False
    assert by_name["ramp_fit"]["parameters"]["lastgroup"] == 2
    assert by_name["dark_current"]["status"] == rate.attrs["S_DARK"] == "SKIPPED"
    assert by_name["linearity"]["references"] == {"linearity": made.references["linearity"].name}
    saved = xr.open_dataset(tmp_path / f"{ROOT}_superbias.fits", engine="nirspec", chunks={})
    exposure = nsxr.open_exposure(made.uncal[0])
    stages = nsxr.correct_ramps(exposure, nsxr.open_references(made.references, exposure))
    np.testing.assert_array_equal(saved["sci"], stages["superbias"]["sci"])


def test_a_named_reference_wins_over_the_directory(run, made, detector1_words, tmp_path):
    gain = tmp_path / "another_gain.fits"
    with fits.open(made.references["gain"]) as hdus:
        hdus["SCI"].data *= 2
        hdus.writeto(gain)
    run(*detector1_words, "-o", tmp_path, "--reference", f"gain={gain}", *QUICKLY)
    assert fits.getheader(tmp_path / f"{ROOT}_rate.fits")["R_GAIN"] == gain.name


def test_segments_are_one_exposure_and_exposures_are_two(run, made, detector1_words, tmp_path):
    folder = made.references["gain"].parent
    cut = simulate_exposure(tmp_path / "cut", **SUB32, segments=2, references=False)
    other = tmp_path / "jw01234002001_03101_00001_nrs1_uncal.fits"
    other.write_bytes(made.uncal[0].read_bytes())
    words = ("--references", folder, "-o", tmp_path / "out", *QUICKLY)
    result = run("detector1", *reversed(cut.uncal), other, *words)
    kinds = ("rate.fits", "rateints.fits", "recipe.toml")
    names = [f"{root}_{kind}" for root in (ROOT, other.name[:30]) for kind in kinds]
    assert written(result) == names
    assert result.stderr == "2 exposures done\n"
    run(*detector1_words, "-o", tmp_path / "whole", *QUICKLY)
    for kind in ("rate", "rateints"):
        whole = fits.getdata(tmp_path / "whole" / f"{ROOT}_{kind}.fits", "SCI")
        for name in names:
            if name.endswith(f"_{kind}.fits"):
                np.testing.assert_array_equal(fits.getdata(tmp_path / "out" / name, "SCI"), whole)


def test_nothing_is_overwritten_unless_asked(run, fails, detector1_words, tmp_path):
    words = (*detector1_words, "-o", tmp_path, "--quicklook", *QUICKLY)
    assert written(run(*words))[-1] == f"{ROOT}_quicklook.png"
    picture = tmp_path / f"{ROOT}_quicklook.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert "already there" in fails(*words)
    for path in {*tmp_path.iterdir()} - {picture}:
        path.unlink()
    assert picture.name in fails(*words)  # the picture alone is a reason, before anything is computed
    assert list(tmp_path.iterdir()) == [picture]
    picture.write_bytes(b"old")
    run(*words, "--overwrite")
    assert sorted(tmp_path.iterdir()) == sorted(before)
    assert picture.read_bytes() == before[picture]


def test_a_failing_picture_leaves_nothing_half_made(fails, detector1_words, tmp_path, monkeypatch):
    class Figure:
        def savefig(self, path, **_):
            Path(path).write_bytes(b"half")
            raise OSError("no space left")

    monkeypatch.setattr("nsxr.plot.quicklook.plot_quicklook", lambda *_: Figure())
    assert "no space left" in fails(*detector1_words, "-o", tmp_path, "--quicklook", *QUICKLY)
    names = [f"{ROOT}_rate.fits", f"{ROOT}_rateints.fits", f"{ROOT}_recipe.toml"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--set", "jmup.rejection_threshold=3"], "no step 'jmup', did you mean 'jump'?"),
        (["--set", "jump.rejection_treshold=3"], "did you mean 'rejection_threshold'?"),
        (["--set", "jump.rejection_threshold=high"], "jump.rejection_threshold is 'high', expected a number"),
        (["--set", "jump.rejection_threshold=True"], "expected a number"),
        (["--set", "jump.flag_4_neighbors=1"], "expected true or false"),
        (["--set", "jump.edge_size=2.5"], "expected a whole number"),
        (["--set", "ramp_fit.algorithm=3"], "ramp_fit.algorithm is 3, expected a word"),
        (["--set", "ramp_fit.algorithm=best"], "algorithm is 'best', expected one of ols"),
        (["--set", "ramp_fit.firstgroup=first"], "ramp_fit.firstgroup is 'first', expected a whole number or none"),
        (["--set", "ramp_fit.firstgroup=-1"], "expected a whole number from 0 to 65535"),
        (["--set", "jump.rejection_threshold=1e400"], "rejection_threshold is inf, expected a finite number"),
        (["--set", "jump.rejection_threshold=1e30"], "expected a number from 0 to 1000000 [sigma]"),
        (["--set", f"jump.rejection_threshold={'1+' * 100_000}1"], "expected a number or none"),
        (["--set", f"jump.rejection_threshold={'[' * 190}"], "expected a number or none"),
        (
            ["--set", f"jump.edge_size={'9' * 190}"],
            "a number of very many digits, expected a whole number from 0",
        ),
        (["--set", "1+" * 100_000], "not of the form STEP.PARAMETER=VALUE"),
        (["--set", "dq_init.user_supplied_dq=mask.fits"], "from Python"),
        (["--set", "jump.rejection_threshold=-1"], "rejection_threshold"),
        (["--set", "jump.rejection_threshold"], "not of the form STEP.PARAMETER=VALUE"),
        (["--set", "jump=3"], "not of the form STEP.PARAMETER=VALUE"),
        (["--skip", "drak_current"], "did you mean 'dark_current'?"),
        (["--skip", "ramp_fit"], "'ramp_fit' cannot be skipped"),
        (["--save", "rate"], "steps rate cannot be saved; known: group_scale"),
        (["--reference", "gain"], "not of the form TYPE=PATH"),
        (["--reference", "gian=gain.fits"], "unknown reference types gian"),
        (["--reference", "gain=nowhere.fits"], "nowhere.fits: no such file"),
        (["--references", "nowhere"], "nowhere is not a directory"),
        (["--recipe", "nowhere.toml"], "nowhere.toml: no such file, expected a recipe"),
        (["-o", "s3://bucket/out"], "s3://bucket/out is a URL, but products are written to local directories only"),
        (["-o", "file:///tmp/out"], "file:///tmp/out is a URL"),
    ],
)
def test_wrong_requests_are_one_line_and_write_nothing(fails, detector1_words, tmp_path, words, expected):
    out = tmp_path / "out"
    assert expected in fails(*detector1_words, "-o", out, *words)
    assert not out.exists()


def test_wrong_files_are_one_line(run, fails, made, detector1_words, tmp_path):
    references = detector1_words[2:]
    assert "nothing_uncal.fits: no such file" in fails("detector1", tmp_path / "nothing_uncal.fits", *references)
    notes = tmp_path / "notes.txt"
    notes.write_text("some notes")
    assert "does not end in .fits" in fails("detector1", notes, *references)
    no_fits = tmp_path / "x_uncal.fits"
    no_fits.write_text("some notes")
    assert str(no_fits) in fails("detector1", no_fits, *references)
    assert str(no_fits) in fails("info", no_fits)
    truth = made.truth
    assert truth.name in fails("detector1", truth, *references, "-o", tmp_path)
    cut = tmp_path / "cut_uncal.fits"
    cut.write_bytes(made.uncal[0].read_bytes()[:20000])
    assert "cut_uncal.fits" in fails("detector1", cut, *references, "-o", tmp_path)
    assert "would both be written as" in fails("detector1", made.uncal[0], made.uncal[0], *references)
    other = simulate_exposure(tmp_path / "nrs2", **SUB32, detector="NRS2")
    error = fails("detector1", made.uncal[0], *references, "--reference", f"gain={other.references['gain']}")
    assert "NRS2" in error
    assert "give references" in run("detector1", made.uncal[0], status=2).stderr


def test_missing_references_are_named_together(fails, made, tmp_path):
    words = ["--reference", f"mask={made.references['mask']}", "--reference", f"gain={made.references['gain']}"]
    error = fails("detector1", made.uncal[0], *words, "-o", tmp_path / "out")
    assert "saturation (saturation)" in error
    assert "dark (dark_current)" in error
    assert "readnoise (jump, ramp_fit)" in error
    assert not (tmp_path / "out").exists()


def test_info_before_and_after(run, fails, made, detector1_words, tmp_path):
    before = run("info", made.uncal[0]).stdout
    assert "3 integrations of 4 groups" in before
    assert "corrections: none" in before
    run(*detector1_words, "-o", tmp_path, "--format", "both")
    for path in (tmp_path / f"{ROOT}_rate.fits", tmp_path / f"{ROOT}.zarr"):
        text = run("info", path).stdout
        assert "ramp_fit             COMPLETE" in text
    assert "GAIN NRS1 SUB32" in run("info", made.references["gain"]).stdout
    assert "nothing.fits: no such file" in fails("info", tmp_path / "nothing.fits")


def test_warnings_are_lines_on_standard_error(run, made, tmp_path):
    cut = simulate_exposure(tmp_path / "cut", **SUB32, segments=2, references=False)
    folder = made.references["gain"].parent
    result = run("detector1", cut.uncal[0], "-o", tmp_path / "out", "--references", folder)
    assert result.stderr == ""
    both = run("detector1", *cut.uncal, "-o", tmp_path / "both", "--references", folder)
    assert both.stderr == ""
    three = simulate_exposure(tmp_path / "three", **SUB32, segments=3, references=False)
    part = run("detector1", *three.uncal[:2], "-o", tmp_path / "part", "--references", folder)
    name = ROOT.replace("_nrs1", "-seg001-seg002_nrs1")
    assert part.stderr.startswith(f"Warning: {name}: 2 segments from ")
    assert part.stderr.count("\n") == 1
    more = run("detector1", *three.uncal[:2], made.uncal[0], "-o", tmp_path / "more", "--references", folder, status=1)
    assert "would both be written as" in more.stderr


def test_warnings_are_told_once_for_each_exposure_and_counted(run, monkeypatch, detector1_words, made, tmp_path):
    def calibrate(paths, recipe, root, wanted, client=None):
        def warn(block):
            warnings.warn("too dark", DegradedResultWarning, stacklevel=1)
            return block

        da.zeros(64, chunks=1).map_blocks(warn, dtype=float).compute(scheduler="threads")
        warnings.warn(f"{root} is\ntoo bright", DegradedResultWarning, stacklevel=1)
        return []

    monkeypatch.setattr("nsxr.cli.calibration.calibrate", calibrate)
    other = tmp_path / "jw01234002001_03101_00001_nrs1_uncal.fits"
    other.write_bytes(made.uncal[0].read_bytes())
    lines = run(*detector1_words, other).stderr.splitlines()
    roots = (ROOT, other.name[:30])
    assert sorted(lines[:-1]) == sorted(
        line for root in roots for line in (f"Warning: {root}: too dark", f"Warning: {root} is too bright")
    )
    assert lines[-1] == "2 exposures done, 4 warnings"


def test_segments_one_after_the_other_keep_their_numbers(run, made, tmp_path):
    cut = simulate_exposure(tmp_path / "cut", **SUB32, segments=3, references=False)
    words = ("--references", made.references["gain"].parent, "-o", tmp_path / "out", "--overwrite", *QUICKLY)
    for number, path in enumerate(cut.uncal, start=1):
        name = ROOT.replace("_nrs1", f"-seg00{number}_nrs1")
        assert written(run("detector1", path, *words))[0] == f"{name}_rate.fits"
    run("detector1", *cut.uncal, *words)
    parts = [fits.getdata(path, "SCI") for path in sorted((tmp_path / "out").glob("*-seg*_rateints.fits"))]
    whole = fits.getdata(tmp_path / "out" / f"{ROOT}_rateints.fits", "SCI")
    assert [part.shape[0] for part in parts] == [1, 1, 1]
    assert whole.shape[0] == 3


def test_verbose_says_which_exposure_references_and_seconds(run, detector1_words, made, tmp_path, caplog):
    run("-v", *detector1_words, "-o", tmp_path, *QUICKLY)
    said = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    assert said[0] == f"1 of 1: {ROOT}"
    assert f"gain: {made.references['gain']}" in said
    assert re.fullmatch(rf"1 of 1: {ROOT} took \d+\.\d s", said[-1])


def test_a_recipe_does_the_same_again_and_options_win(run, made, detector1_words, tmp_path):
    run(*detector1_words, "-o", tmp_path, "--set", "jump.rejection_threshold=7", "--skip", "dark_current")
    recipe = tmp_path / f"{ROOT}_recipe.toml"
    run("detector1", made.uncal[0], "--recipe", recipe, "-o", tmp_path / "again")
    assert (tmp_path / "again" / recipe.name).read_text() == recipe.read_text()
    with (
        fits.open(tmp_path / f"{ROOT}_rate.fits") as first,
        fits.open(tmp_path / "again" / f"{ROOT}_rate.fits") as second,
    ):
        assert steps_of(first) == steps_of(second)
        for one, other in zip(first[1:], second[1:], strict=True):
            assert one.data is None or one.data.tobytes() == other.data.tobytes()
    gain = tmp_path / "another_gain.fits"
    gain.write_bytes(made.references["gain"].read_bytes())
    words = ("--set", "jump.rejection_threshold=8", "--reference", f"gain={gain}", "-o", tmp_path / "other")
    run("detector1", made.uncal[0], "--recipe", recipe, *words)
    changed = Recipe.read(tmp_path / "other" / recipe.name)
    expected = Recipe.read(recipe)
    assert changed.named == {**expected.named, "gain": str(gain)}
    assert changed.parameters["jump"] == {**expected.parameters["jump"], "rejection_threshold": 8.0}
    assert changed.skip == ("dark_current",)


def steps_of(hdus):
    return [card.value for card in hdus[0].header.cards if card.keyword.startswith(("S_", "R_", "NSXR"))]


def test_urls_are_no_places_for_products(fails):
    for words in (["simulate", "-o", "s3://b/c"], ["demo", "-o", "gs://b/c"], ["extract", "x.fits", "-o", "s3://b/c"]):
        assert "is a URL, but products are written to local directories only" in fails(*words)


def test_seeds_and_sizes_of_simulations_are_checked(fails, tmp_path):
    assert "seed is -1, expected a whole number from 0" in fails("simulate", "-o", tmp_path, "--seed", -1)
    assert "seed is -5" in fails("demo", "-o", tmp_path, "--seed", -5)
    assert "groups is 1000000000, expected 1 to 65535" in fails("simulate", "-o", tmp_path, "--groups", 10**9)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("width", [40, 80, 200])
def test_parameters_are_listed_and_fit_the_terminal(run, fails, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    text = run("parameters").stdout
    for step, declared in [*DETECTOR1.steps.items(), *SPEC2.steps.items()]:
        assert re.search(rf"^{step}:", text, re.MULTILINE)
        for name, parameter in declared.parameters.items():
            assert f"  {name} =" in text
            assert parameter.meaning
    assert max(map(len, text.splitlines())) <= width
    one = run("parameters", "jump").stdout
    assert "rejection_threshold" in one
    assert "persistence_time" not in one
    assert "did you mean 'jump'?" in fails("parameters", "jmup")


def test_defaults_are_shown_as_they_can_be_given(run):
    def shown(*words):
        return dict(re.findall(r"^  (\w+) = (.*?)   ", run("parameters", *words).stdout, re.MULTILINE))

    some = shown()
    assert some["n_pix_grow_sat"] == "1"
    assert some["after_jump_flag_dn1"] == "0.0"
    assert (some["use_side_ref_pixels"], some["rescale_read_noise"]) == ("true", "false")
    for pipeline in (DETECTOR1, SPEC2):
        for step, kind in pipeline.steps.items():
            own = shown(step)
            for name, declared in kind.parameters.items():
                if declared.default is not None:
                    given = cli.recipes.step_parameters([f"{step}.{name}={own[name]}"], pipeline)[step][name]
                    assert declared.check(given, "") == declared.default


OFF = [name for name, step in DETECTOR1.steps.items() if step.off]


def test_steps_are_listed(run):
    lines = run("steps").stdout.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [*DETECTOR1.steps, *SPEC2.steps]
    by_name = {line.split()[0]: line for line in lines[1:]}
    assert "S_REFPIX" in by_name["refpix"]
    assert "refpix (R_REFPIX, IRS2 only), sirskernel (R_SIRSKL, if given)" in by_name["refpix"]
    off = [line.split()[0] for line in lines if line.startswith("  ") and line.split()[1] == "off"]
    assert OFF == ["picture_frame"]
    assert off == [*OFF, "badpix_selfcal", "clean_flicker_noise", "adaptive_trace_model", "pixel_replace"]


def test_words_are_completed():
    def completed(option, typed):
        complete = ShellComplete(cli.main, {}, "nsxr", "_NSXR_COMPLETE")
        return [item.value for item in complete.get_completions(["detector1", option], typed)]

    assert completed("--skip", "d") == ["dq_init", "dark_current"]
    assert completed("--save", "ramp") == []
    assert completed("--run", "") == OFF
    assert completed("--skip", "ramp") == ["ramp_fit"]
    assert completed("--set", "jump.rej") == ["jump.rejection_threshold="]
    assert completed("--reference", "ga") == ["gain="]


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "nsxr", "--version"], capture_output=True, text=True, check=True)
    assert "0.1.0" in done.stdout


def test_what_nsxr_writes_is_told_in_a_line(run, fails, tmp_path):
    recipe, curve, other = tmp_path / "x_recipe.toml", tmp_path / "x_whtlt.ecsv", tmp_path / "x.ecsv"
    recipe.write_text(Recipe(skip=("jump",), parameters={"saturation": {"n_pix_grow_sat": 2}}).as_toml())
    curve.write_text("# %ECSV 1.0\n# ---\n# datatype:\nMJD_UTC whitelight_flux\n1.0 2.0\n1.5 2.0\n")
    assert run("info", recipe).stdout.startswith("x_recipe.toml: recipe, parameters of 1 step, skips jump; ")
    assert run("info", curve).stdout.startswith("x_whtlt.ecsv: white light curve, 2 rows; ")
    assert "nothing is compared" in run("check", curve).stderr
    other.write_text("a,b\n")
    assert "not a FITS file" in fails("info", other)
    recipe.write_text("skip = 1\n")
    assert "expected a list" in fails("info", recipe)


def test_several_files_are_checked_at_once(run, made, tmp_path):
    good = made.uncal[0]
    assert run("check", good, made.references["gain"]).stderr.endswith("2 files done\n")
    bad = tmp_path / "bad.fits"
    bad.write_bytes(b"x" * 2880)
    result = run("check", bad, good, status=1)
    assert result.stderr.splitlines() == [
        f"Error: {bad}: not a FITS file, it starts with b'xxxxxxxxx', expected 'SIMPLE  ='",
        f"no problems in {good}",
        "1 of 2 files done; failed:",
        f"  {bad}",
    ]


def test_help_needs_none_of_the_libraries_of_the_commands():
    code = """
import sys
sys.argv = ["nsxr"]
from nsxr.cli import main
main(["--help"], standalone_mode=False)
print(sorted(sys.modules))
"""
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "click" in loaded
    assert not {"numpy", "xarray", "dask", "numba", "astropy"} & set(ast.literal_eval(loaded.splitlines()[-1]))
