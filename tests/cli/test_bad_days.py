"""Bad days: damaged files, full disks, signals, several runs at once: one clear line, and no damaged output."""

import gzip
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner

from nsxr import cli
from nsxr.model.dq import PixelFlag
from nsxr.products.write import write_whole
from nsxr.simulate import simulate_exposure

ROOT = "jw01234001001_03101_00001_nrs1"
BAD = "jw01234001001_03101_00002_nrs1"
RECIPE = f"{ROOT}_recipe.toml"
PRODUCTS = {"fits": [f"{ROOT}_rate.fits", f"{ROOT}_rateints.fits", RECIPE], "zarr": [f"{ROOT}.zarr", RECIPE]}
PRODUCTS["both"] = sorted({*PRODUCTS["fits"], *PRODUCTS["zarr"]})
LEFT_OUT = ("saturation", "superbias", "refpix", "linearity", "dark_current", "clean_flicker_noise")
BRIEF = [word for step in LEFT_OUT for word in ("--skip", step)]
"""Options that make a run short, for tests of what is written rather than of what is computed."""
ALONE = ("--skip", "clean_flicker_noise")
"""An option with which no pixel changes others: a lost pixel tells nothing of the noise that pixels share."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    settings = {"readout": "NRSRAPID", "subarray": "SUB32", "groups": 6, "integrations": 3}
    return simulate_exposure(tmp_path_factory.mktemp("sub32"), **settings)


@pytest.fixture(scope="module")
def raw(made):
    return made.uncal[0]


@pytest.fixture(scope="module")
def folder(made):
    return made.references["gain"].parent


@pytest.fixture
def run(run, folder):
    """Return a function that runs nsxr detector1 and checks that nothing unforeseen comes out."""

    def invoke(*words, status, references=folder):
        return run("detector1", *words, "--references", references, status=status)

    return invoke


@pytest.fixture
def briefly(run):
    """Return the same function, with most steps left out."""
    return lambda *words, **checks: run(*words, *BRIEF, **checks)


def contents(directory):
    """Return all files below a directory, hidden ones too, with their bytes."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def before_writing(monkeypatch, act):
    """Let something happen when the exposure and its references are open and nothing has been computed."""

    def write(*words, **settings):
        act()
        return write_whole(*words, **settings)

    monkeypatch.setattr("nsxr.cli.calibration.write_whole", write)


# raw files


def cut(length):
    return lambda content: content[:length]


def garbage(content):
    return content[:4000] + np.random.default_rng(1).bytes(4000) + content[8000:]


def said(key, value):
    """Return a function that writes a value on a card of the primary header, as it stands."""

    def change(content):
        at = content.index(f"{key:<8}= ".encode())
        return content[:at] + f"{key:<8}= {value:<70}".encode() + content[at + 80 :]

    return change


def damaged_gzip(content):
    """Return a gzip file with one wrong byte among its pixels, of which only its checksum tells."""
    packed = bytearray(gzip.compress(content, compresslevel=0, mtime=0))
    packed[-len(packed) // 3] ^= 0x55
    return bytes(packed)


@pytest.mark.parametrize(
    ("damage", "ending", "reason"),
    [
        (lambda content: content[: len(content) // 2], "", "the file is cut off in extension SCI, it has"),
        (cut(2000), "", "not a FITS file, or damaged"),
        (cut(0), "", "the file is empty"),
        (garbage, "", "headers run into each other"),
        (said("TGROUP", "-1.0"), "", "keyword TGROUP is -1.0, expected a number from"),
        (said("NFRAMES", "'N/A'"), "", "missing header keywords NFRAMES ('N/A'); they describe the readout"),
        (lambda content: b"<html>" + content, "", "not a FITS file, it starts with b'<html>SIM'"),
        (damaged_gzip, ".gz", "not a whole gzip file (CRC check failed"),
        (lambda content: gzip.compress(content)[:-1000], ".gz", "not a whole gzip file"),
    ],
    ids=[
        "cut in pixels",
        "cut in header",
        "empty",
        "garbage in header",
        "time",
        "frames",
        "no FITS",
        "damaged gzip",
        "cut gzip",
    ],
)
def test_a_damaged_raw_file_is_named_and_the_others_are_done(run, raw, tmp_path, damage, ending, reason):
    bad = tmp_path / f"{BAD}_uncal.fits{ending}"
    bad.write_bytes(damage(raw.read_bytes()))
    result = run(bad, raw, "-o", tmp_path / "out", *ALONE, status=1)
    assert names(tmp_path / "out") == PRODUCTS["fits"]
    assert [Path(line).name for line in result.stdout.splitlines()] == PRODUCTS["fits"]
    *_, why, head, last = result.stderr.splitlines()
    assert why.startswith(f"Error: {BAD}: {bad}: ")
    assert reason in why
    assert (head, last) == ("1 of 2 exposures done; failed:", f"  {BAD}")


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_raw_file_that_is_cut_off_while_it_is_needed(run, raw, tmp_path, monkeypatch, ending):
    mine = tmp_path / f"{ROOT}_uncal.fits{ending}"
    mine.write_bytes(gzip.compress(raw.read_bytes()) if ending else raw.read_bytes())
    before_writing(monkeypatch, lambda: os.truncate(mine, mine.stat().st_size // 2))
    result = run(mine, "-o", tmp_path / "out", *ALONE, status=1)
    assert result.stderr.startswith(f"Error: {mine}: ")
    assert result.stderr.count("\n") == 1
    assert names(tmp_path / "out") == []


def test_errors_that_nobody_has_foreseen_do_not_stop_the_others_either(run, raw, tmp_path, monkeypatch):
    other = tmp_path / f"{BAD}_uncal.fits"
    shutil.copy(raw, other)

    def write(finals, create, folder, root, *words, **settings):
        if root == BAD:
            raise ZeroDivisionError
        return write_whole(finals, create, folder, root, *words, **settings)

    monkeypatch.setattr("nsxr.cli.calibration.write_whole", write)
    result = run(other, raw, "-o", tmp_path / "out", *ALONE, status=1)
    assert names(tmp_path / "out") == PRODUCTS["fits"]
    assert result.stderr.count(f"Error: {BAD}: ZeroDivisionError\n") == 1
    assert result.stderr.endswith(f"1 of 2 exposures done; failed:\n  {BAD}\n")


# references


@pytest.fixture
def copied(folder, tmp_path):
    """Return a copy of the references."""
    return Path(shutil.copytree(folder, tmp_path / "references"))


@pytest.mark.parametrize("kind", ["superbias", "gain", "raw"])
def test_files_that_vanish_while_they_are_needed_are_named(run, made, raw, copied, tmp_path, monkeypatch, kind):
    mine = tmp_path / raw.name
    shutil.copy(raw, mine)
    run(mine, "-o", tmp_path / "out", *ALONE, status=0)
    older = contents(tmp_path / "out")
    lost = mine if kind == "raw" else copied / made.references[kind].name
    before_writing(monkeypatch, lost.unlink)
    result = run(mine, "-o", tmp_path / "out", *ALONE, "--overwrite", references=copied, status=1)
    assert result.stderr == f"Error: [Errno 2] No such file or directory: '{lost}'\n"
    assert contents(tmp_path / "out") == older


FLAGS = {  # what a NaN does to a pixel: flags of the rate, and whether it has a rate
    "saturation": (PixelFlag.NO_SAT_CHECK, True),
    "superbias": (PixelFlag.UNRELIABLE_BIAS | PixelFlag.DO_NOT_USE, False),
    "linearity": (PixelFlag.NO_LIN_CORR, True),
    "dark": (PixelFlag.UNRELIABLE_DARK, True),
    "gain": (PixelFlag.NO_GAIN_VALUE | PixelFlag.DO_NOT_USE, False),
    "readnoise": (PixelFlag.DO_NOT_USE, False),
}


@pytest.fixture(scope="module")
def rate(made, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("rate")
    words = ["detector1", made.uncal[0], "--references", folder, "-o", out, *ALONE]
    CliRunner().invoke(cli.main, [str(word) for word in words], catch_exceptions=False)
    return fits.getdata(out / f"{ROOT}_rate.fits", "SCI"), fits.getdata(out / f"{ROOT}_rate.fits", "DQ")


@pytest.mark.parametrize("where", [np.s_[..., 12, 9], np.s_[...]], ids=["one pixel", "all pixels"])
@pytest.mark.parametrize("kind", FLAGS)
def test_nan_in_a_reference_is_flagged_and_harms_no_other_pixel(run, made, raw, copied, rate, tmp_path, kind, where):
    with fits.open(copied / made.references[kind].name, mode="update", memmap=False) as hdus:
        for hdu in hdus[1:]:
            if hdu.is_image and hdu.data.dtype.kind == "f":
                hdu.data[where] = np.nan
    words = () if where is Ellipsis else ALONE  # with all pixels lost, no other one can change
    run(raw, "-o", tmp_path / "out", *words, references=copied, status=0)
    with fits.open(tmp_path / "out" / f"{ROOT}_rate.fits", memmap=False) as hdus:
        sci, dq, variance = (hdus[name].data for name in ("SCI", "DQ", "VAR_RNOISE"))
    flags, has_rate = FLAGS[kind]
    lost = np.zeros(sci.shape, bool)
    lost[where] = True
    assert ((dq[lost] & np.uint32(flags)) == np.uint32(flags)).all()
    assert (np.isfinite(sci) == (np.isfinite(rate[0]) & (has_rate | ~lost))).all()
    assert (np.isfinite(variance) == np.isfinite(sci)).all()
    assert ((dq[~np.isfinite(sci)] & np.uint32(PixelFlag.DO_NOT_USE)) != 0).all()
    np.testing.assert_array_equal(sci[~lost], rate[0][~lost])
    np.testing.assert_array_equal(dq[~lost], rate[1][~lost])


# disks


@pytest.fixture
def disk(tmp_path):
    """Return a function that mounts a small disk of its own, and remounts it."""
    place = tmp_path / "disk"

    def mount(*words):
        place.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *words, str(place)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


def small_disk(disk):
    if shutil.which("mount") is None:
        pytest.skip("there is no mount here")
    return disk("-t", "tmpfs", "-o", "size=4m", "nsxr")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("form", ["fits", "zarr", "both"])
def test_a_full_disk_leaves_older_products_as_they_were(briefly, raw, disk, form, share):
    """The disk fills up at several moments: some fraction of what the products need is free."""
    out = small_disk(disk) / "out"
    free = shutil.disk_usage(out.parent).free
    briefly(raw, "-o", out, "--format", form, status=0)
    needed = free - shutil.disk_usage(out.parent).free
    older = contents(out)
    filler = out.parent / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(out.parent).free - int(share * needed)))
    result = briefly(raw, "-o", out, "--format", form, "--overwrite", status=1)
    assert result.stderr == f"Error: [Errno 28] products cannot be written to {out}: No space left on device\n"
    assert contents(out) == older
    filler.unlink()
    briefly(raw, "-o", out, "--format", form, "--overwrite", status=0)
    assert names(out) == PRODUCTS[form]


def test_a_read_only_disk_is_named(briefly, raw, disk):
    out = small_disk(disk) / "out"
    briefly(raw, "-o", out, status=0)
    older = contents(out)
    disk("-o", "remount,ro")
    for words in (["-o", out, "--overwrite"], ["-o", out.parent / "new"]):
        error = briefly(raw, *words, status=1).stderr
        assert error == f"Error: [Errno 30] products cannot be written to {words[1]}: Read-only file system\n"
    assert contents(out) == older
    assert names(out.parent) == ["out"]


def test_an_output_directory_that_cannot_be_made_is_named(briefly, raw, tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        error = briefly(raw, "-o", out, status=1).stderr
        assert error.startswith("Error: ")
        assert f"products cannot be written to {out}: " in error
        assert error.count("\n") == 1
    assert names(tmp_path) == ["file"]


def test_a_file_that_may_not_grow(raw, folder, tmp_path):
    """The limit of a file's size, which quotas and batch systems set, is met while the file is made."""
    program = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
from nsxr import cli
cli.main()
"""
    words = ["detector1", raw, "--references", folder, "-o", tmp_path / "out", *BRIEF]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"Error: [Errno 27] products cannot be written to {tmp_path / 'out'}: File too large\n"
    assert names(tmp_path / "out") == []


# signals, and several runs at once

SLOW = """
import signal, sys, time
from pathlib import Path
from nsxr import cli
from nsxr.formats.fits_layout import BlockFile

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have background jobs ignore it
mark, go = Path(sys.argv.pop()), Path(sys.argv.pop())
write = BlockFile.__setitem__

def slowly(self, index, block):
    mark.touch()
    for _ in range(2000):  # until allowed to go on, or nobody wants the block any more
        if go.exists() or not Path(self.path).exists():
            break
        time.sleep(0.01)
    write(self, index, block)

BlockFile.__setitem__ = slowly
cli.main()
"""


@pytest.fixture
def slow_run(raw, folder, tmp_path):
    """Return a function that starts nsxr in a process that stops in the middle of its work, until a file appears."""
    started = []

    def start(*more):
        mark, go = tmp_path / "mark", tmp_path / "go"
        words = ["detector1", raw, "--references", folder, "-o", tmp_path / "out", "--format", "both", *BRIEF]
        words = [*words, *more, go, mark]
        command = [sys.executable, "-c", SLOW, *map(str, words)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        while not mark.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        return process, go

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [
        (signal.SIGINT, 1, "\nAborted!\n"),
        (signal.SIGTERM, 143, "Terminated!\n"),
        (signal.SIGHUP, 129, "Terminated!\n"),
    ],
)
def test_a_run_that_is_stopped_leaves_older_products_and_nothing_else(
    briefly, raw, slow_run, tmp_path, number, status, said
):
    briefly(raw, "-o", tmp_path / "out", "--format", "both", status=0)
    older = contents(tmp_path / "out")
    process, _ = slow_run("--overwrite")
    assert len(names(tmp_path / "out")) > len(PRODUCTS["both"])
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == status
    assert said in errors
    assert contents(tmp_path / "out") == older


def test_a_closed_terminal_does_not_end_what_nohup_keeps(slow_run, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does for what it starts
    try:
        process, go = slow_run()
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    go.touch()
    assert process.wait(timeout=30) == 0
    assert names(tmp_path / "out") == PRODUCTS["both"]


def test_what_a_killed_run_leaves_is_removed_by_the_next(briefly, raw, slow_run, tmp_path):
    process, _ = slow_run()
    process.kill()
    process.wait()
    left = [name for name in names(tmp_path / "out") if name.endswith(".partial")]
    assert len(left) == 4  # rate, rateints, Zarr, recipe
    (tmp_path / "out" / f".{BAD}_rate.fits.01234567.partial").touch()  # of another exposure, perhaps at work
    (tmp_path / "mark").unlink()
    briefly(raw, "-o", tmp_path / "out", "--format", "both", status=0)
    assert names(tmp_path / "out") == [f".{BAD}_rate.fits.01234567.partial", *PRODUCTS["both"]]


def test_of_two_runs_into_one_output_the_second_is_refused_at_once(briefly, raw, slow_run, tmp_path):
    briefly(raw, "-o", tmp_path / "expected", "--format", "both", "--set", "jump.rejection_threshold=5", status=0)
    process, go = slow_run("--set", "jump.rejection_threshold=5")
    for words in ([], ["--overwrite"], ["--format", "zarr"]):
        result = briefly(raw, "-o", tmp_path / "out", *words, status=1)
        expected = f"another run is writing {ROOT} to {tmp_path / 'out'} now; wait for it, or choose another directory"
        assert result.stderr == f"Error: {expected}\n"
    go.touch()
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert names(tmp_path / "out") == PRODUCTS["both"]
    for name in PRODUCTS["fits"][:2]:
        with fits.open(tmp_path / "out" / name) as mine, fits.open(tmp_path / "expected" / name) as straight:
            for hdu, other in zip(mine, straight, strict=True):
                if hdu.is_image and hdu.data is not None:
                    np.testing.assert_array_equal(hdu.data, other.data)
    briefly(raw, "-o", tmp_path / "out", "--overwrite", status=0)  # the lock is gone


@pytest.mark.parametrize("kind", ["superbias", "raw", "gzip"])
def test_files_that_change_while_they_are_needed_are_named(run, made, raw, copied, tmp_path, monkeypatch, kind):
    """Of the same size, so that nothing else would tell."""
    mine = tmp_path / f"{ROOT}_uncal.fits{'.gz' if kind == 'gzip' else ''}"
    content = raw.read_bytes()
    mine.write_bytes(gzip.compress(content, compresslevel=0, mtime=0) if kind == "gzip" else content)
    changed = copied / made.references[kind].name if kind == "superbias" else mine

    def change():
        before = changed.read_bytes()
        changed.write_bytes(damaged_gzip(content) if kind == "gzip" else before[:-4000] + bytes(4000))
        assert changed.stat().st_size == len(before)

    before_writing(monkeypatch, change)
    result = run(mine, "-o", tmp_path / "out", *ALONE, references=copied, status=1)
    assert result.stderr.startswith(f"Error: {changed}: the file has changed since it was opened: ")
    assert result.stderr.count("\n") == 1
    assert names(tmp_path / "out") == []
