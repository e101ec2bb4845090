"""Exposures of a programme: what saturated in one is remembered by the next, in any order, resumed or not."""

import shutil

import dask
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from click.testing import CliRunner

import nsxr
from nsxr.archive import writer
from nsxr.cli import main
from nsxr.errors import ParameterError
from nsxr.model.dq import PixelFlag
from nsxr.simulate import simulate_exposure, small_exposure
from nsxr.testing import forbid_computes

PERSISTENCE, SATURATED = np.uint32(PixelFlag.PERSISTENCE.value), np.uint32(PixelFlag.SATURATED.value)
NAMES = [f"jw01234001001_03101_0000{n}_nrs1" for n in (1, 2, 3)]
NODES = [f"01234/001/001_03101_0000{n}/nrs1" for n in (1, 2, 3)]
CLEANING = "clean_flicker_noise"
LEFT_OUT = ("superbias", "refpix", "linearity", "dark_current", "jump", CLEANING)
QUICKLY = [word for step in LEFT_OUT for word in ("--skip", step)]
WINDOW = ("--set", "persistence.persistence_time=60", *QUICKLY)
"""Saturation is remembered for a minute. Steps that do not matter for this are left out."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three exposures, a pixel of the first one saturated; the second follows at once, the third an hour later."""
    folder = tmp_path_factory.mktemp("programme")
    first = simulate_exposure(folder, readout="NRSRAPID", subarray="SUB32", groups=4, integrations=2)
    paths = [folder / f"{name}_uncal.fits" for name in NAMES]
    for number, seconds in ((1, 20.0), (2, 3600.0)):
        shutil.copy(first.uncal[0], paths[number])
        with fits.open(paths[number], mode="update", memmap=False) as hdus:
            hdus[0].header["EXPOSURE"] = str(number + 1)
            for key in ("EXPSTART", "EXPMID", "EXPEND"):
                hdus[0].header[key] += seconds / 86400
            for column in hdus["INT_TIMES"].columns.names[1:]:
                hdus["INT_TIMES"].data[column] += seconds / 86400
    with fits.open(paths[0], mode="update", memmap=False) as hdus:
        hdus["SCI"].data[-1, 2:, 20, 10] = 65535
    return {"files": paths, "references": first.references["gain"].parent}


def run(*words):
    result = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def glowing(dq):
    return {tuple(int(x) for x in place) for place in np.argwhere((dq.values & PERSISTENCE) != 0)}


SPOT = {(row, column) for row in (19, 20, 21) for column in (9, 10, 11)}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_files_in_any_order(tmp_path, made, order):
    files = [made["files"][i] for i in order]
    run("detector1", *files, "--references", made["references"], "-o", tmp_path, *WINDOW)
    found = [glowing(xr.open_dataset(tmp_path / f"{name}_rate.fits", engine="nirspec")["dq"]) for name in NAMES]
    assert found == [set(), SPOT, set()]


def test_without_a_window_nothing_is_flagged(tmp_path, made):
    run("detector1", *made["files"], "--references", made["references"], "-o", tmp_path, "--skip", CLEANING)
    for name in NAMES:
        assert not glowing(xr.open_dataset(tmp_path / f"{name}_rate.fits", engine="nirspec")["dq"])


def test_archives_in_any_order_and_resumed(tmp_path, made, monkeypatch):
    words = ["--references", made["references"], *WINDOW]
    run("archive", "add", tmp_path / "straight.zarr", *made["files"], *words)
    run("archive", "add", tmp_path / "back.zarr", *reversed(made["files"]), *words)
    with monkeypatch.context() as patched:

        def stop(*arguments):
            raise OSError("stopped")

        patched.setattr(writer, "_write", stop)
        result = CliRunner().invoke(
            main, ["archive", "add", str(tmp_path / "late.zarr"), *map(str, made["files"]), *map(str, words)]
        )
        assert result.exit_code == 1
    monkeypatch.chdir(tmp_path)  # the plan holds whole paths
    run("archive", "resume", tmp_path / "late.zarr")
    trees = [nsxr.open_archive(tmp_path / f"{name}.zarr") for name in ("straight", "back", "late")]
    for node, expected in zip(NODES, [set(), SPOT, set()], strict=True):
        rates = [tree[f"{node}/rate"].to_dataset() for tree in trees]
        assert glowing(rates[0]["dq"]) == expected
        for other in rates[1:]:
            xr.testing.assert_equal(rates[0], other)
    run("archive", "check", tmp_path / "late.zarr")


def test_a_file_that_cannot_be_read_fails_alone(tmp_path, made):
    bad = tmp_path / f"{NAMES[1].replace('00002', '00009')}_uncal.fits"
    bad.write_bytes(made["files"][1].read_bytes()[:5000])
    words = ["detector1", bad, *made["files"][:2], "--references", made["references"], "-o", tmp_path, *WINDOW]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 1
    assert "2 of 3 exposures done" in result.output
    assert glowing(xr.open_dataset(tmp_path / f"{NAMES[1]}_rate.fits", engine="nirspec")["dq"]) == SPOT


def later(exposure, days):
    """The same exposure at another time."""
    moved = exposure.assign_coords({n: c + days for n, c in exposure.coords.items() if str(n).startswith("int_")})
    times = {key: exposure.attrs[key] + days for key in ("EXPSTART", "EXPMID", "EXPEND")}
    return moved.assign_attrs(exposure.attrs | times)


@pytest.mark.parametrize("readout", ["NRSIRS2RAPID", "NRSRAPID"])
def test_a_programme_is_one_graph_in_any_order(readout):
    settings = {"readout": readout, "groups": 4, "columns": 16}
    made = small_exposure(**settings, seed=1)
    raw = made.exposure["sci"].values.copy()
    raw[:, 2:, 1000:1010, 6] = 65535
    first = made.exposure.assign(sci=made.exposure["sci"].copy(data=raw))
    second = later(small_exposure(**settings, seed=2).exposure, 100 / 86400)
    third = later(small_exposure(**settings, seed=3).exposure, 0.2)
    window = {"persistence": {"persistence_time": 600.0}, "skip": [CLEANING]}
    alone = nsxr.detector1(second, made.references, **window)
    with forbid_computes():
        rows = 640 if readout == "NRSIRS2RAPID" else 256
        chunked = [e.chunk({"row": rows}).assign_coords(e.coords) for e in (second, third, first)]
        results = nsxr.detector1(chunked, made.references, **window)
    dq = dask.compute(*(tree["rate"]["dq"] for tree in results), scheduler="synchronous")
    flagged = [(image & PERSISTENCE) != 0 for image in dq]
    saturated = (dq[2] & SATURATED) != 0
    assert int(saturated.sum()) >= 10
    xr.testing.assert_equal(flagged[0].drop_vars("amplifier"), (saturated | flagged[0] & False).drop_vars("amplifier"))
    assert not flagged[1].any()
    assert not flagged[2].any()
    assert not ((alone["rate"]["dq"] & PERSISTENCE) != 0).any()
    same = nsxr.detector1([first, second], [made.references] * 2, **window)[1]
    xr.testing.assert_equal(same["rate"].to_dataset().compute(), results[0]["rate"].to_dataset().compute())
    off = nsxr.detector1([first, second], made.references, skip=[CLEANING])[1]
    alone = nsxr.detector1(second, made.references, skip=[CLEANING])
    xr.testing.assert_identical(off["rate"]["dq"], alone["rate"]["dq"])
    with pytest.raises(ParameterError, match="2 exposures and 1 mappings"):
        nsxr.detector1([first, second], [made.references])
