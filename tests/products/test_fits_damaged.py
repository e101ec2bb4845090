"""FITS files whose bytes got lost, came twice or lie: one line, nothing allocated, and no pixel that is none."""

import gzip
import os
import resource
import shutil
import time
from contextlib import contextmanager

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import nsxr
from nsxr.errors import InputFileError, ModelError, NsxrError, ParameterError
from nsxr.formats.fits_blocks import BLOCK
from nsxr.formats.fits_headers import clean_header, scan
from nsxr.model.history import parsed_steps
from nsxr.model.names import plain_name
from nsxr.products.checker import check_product
from nsxr.products.describe import describe
from nsxr.products.fits_read import read_dataset
from nsxr.products.slits_read import open_slits
from nsxr.products.slits_write import write_slits
from nsxr.products.write import product_paths, write_products
from nsxr.simulate import simulate_trace


def fails(path, *words, opener=nsxr.open_exposure):
    with pytest.raises(InputFileError) as error:
        opener(path)
    message = str(error.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message, message
    return message


@contextmanager
def little_memory(more=2**28):
    """Let the process have not much more memory than it has."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# blocks


@pytest.fixture(scope="module")
def hdus(sub32):
    return scan(sub32).hdus


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("act", ["drop", "repeat", "insert zeros"])
def test_blocks_that_got_lost_or_came_twice(tmp_path, sub32, hdus, number, act):
    """One block of the data, or of a header, of each HDU."""
    content, path = sub32.read_bytes(), tmp_path / "x_uncal.fits"
    if number >= len(hdus):
        pytest.skip("there are fewer HDUs")
    hdu = hdus[number]
    start = hdu.offset if hdu.size else hdu.offset - BLOCK
    block = content[start : start + BLOCK]
    new = {"drop": b"", "repeat": block + block, "insert zeros": bytes(BLOCK) + block}[act]
    path.write_bytes(content[:start] + new + content[start + BLOCK :])
    message = fails(path)
    assert any(
        words in message for words in ("are no HDU", "cut off", "has no end", "run into each other", "of zeros")
    ), message


@pytest.mark.parametrize("tail", [b"\0", bytes(BLOCK), b" " * BLOCK, b"x" * 100, b"XTENSION", b"XTENSION= 'IMAGE   '"])
def test_bytes_after_the_last_hdu(tmp_path, sub32, tail):
    path = tmp_path / "x_uncal.fits"
    path.write_bytes(sub32.read_bytes() + tail)
    fails(path)
    path = tmp_path / "y_uncal.fits.gz"
    path.write_bytes(gzip.compress(sub32.read_bytes() + tail))
    fails(path)


def test_extensions_that_come_twice(sub32, changed):
    def twice(name, version=None):
        def edit(hdus):
            more = hdus[name].copy()
            if version is not None:
                more.header["EXTVER"] = version
            hdus.append(more)

        return edit

    for name in ("SCI", "GROUP", "INT_TIMES"):
        for version in (None, 2):
            fails(changed(sub32, twice(name, version)), f"extension {name} comes 2 times")


def test_real_structure_is_found_where_astropy_finds_it(sub32, irs2):
    for path in (sub32, irs2):
        with fits.open(path) as theirs:
            expected = [(h.name, h.fileinfo()["datLoc"], h.fileinfo()["datSpan"]) for h in theirs]
        assert [(h.name, h.offset, h.end - h.offset) for h in scan(path).hdus] == expected


# sizes


def with_card(content, offset, key, value):
    """Return a file with a card of one header replaced; the header starts before an offset."""
    start = content.rindex(key.encode().ljust(8) + b"=", 0, offset)
    return content[:start] + f"{key:<8}= {value:>20}".encode().ljust(80) + content[start + 80 :]


LIES = [
    *(("SCI", f"NAXIS{n}", value) for n in (1, 4) for value in ("-1", "1" + 20 * "0", "1E20", "4611686018427387904")),
    *(("SCI", "NAXIS", value) for value in ("-1", "1000", "5", "T", "'4'")),
    *(("SCI", key, value) for key, value in (("GCOUNT", "-1"), ("GCOUNT", "0"), ("PCOUNT", "-100"), ("PCOUNT", "1E9"))),
    *(("SCI", "BITPIX", value) for value in ("0", "17", "-16", "sixteen")),
    *(("GROUP", "TFIELDS", value) for value in ("2147483648", "-1", "0", "999", "12")),
    *(("GROUP", "NAXIS1", value) for value in ("0", "1", "100000")),
    *(("INT_TIMES", "NAXIS2", value) for value in ("4611686018427387904", "-5")),
    ("INT_TIMES", "TFORM1", "'1PJ(99999999)'"),
    ("INT_TIMES", "TFORM1", "'999999999999J'"),
    ("INT_TIMES", "TFORM2", "'nonsense'"),
]


@pytest.mark.parametrize(("name", "key", "value"), LIES)
def test_sizes_that_lie(tmp_path, sub32, name, key, value):
    path = tmp_path / "x_uncal.fits"
    path.write_bytes(with_card(sub32.read_bytes(), scan(sub32).extensions[name].offset, key, value))
    start = time.monotonic()
    with little_memory():
        fails(path)
    assert time.monotonic() - start < 60  # not forever


def test_gzip_bombs(tmp_path):
    """Two megabytes that unpack to two gigabytes of zeros, with the start of a FITS file in front, and without."""
    card = "SIMPLE  =                    T".ljust(80).encode()
    zeros = gzip.compress(bytes(2**24), compresslevel=1)
    for front in (card, b"", fits.Header([("SIMPLE", True), ("BITPIX", 8), ("NAXIS", 0)]).tostring().encode()):
        path = tmp_path / "x_uncal.fits.gz"
        path.write_bytes(gzip.compress(front) + zeros * 128)
        start = time.monotonic()
        with little_memory():
            fails(path)
        assert time.monotonic() - start < 60  # not forever


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_what_is_no_file(tmp_path, kind):
    path = tmp_path / "x_uncal.fits"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        import socket

        with socket.socket(socket.AF_UNIX) as own:
            own.bind(str(path))
        with pytest.raises((NsxrError, OSError)):
            nsxr.open_exposure(path)
        return
    fails(path, "expected a file")


# cards


def test_cards_that_cannot_be_parsed_are_left_out(sub32, tmp_path):
    content = sub32.read_bytes()
    for number, card in enumerate(
        (
            b"TARGPROP= 'no end of this text",
            b"TARGPROP= \xe9\xff\x00\x01",
            b"TARGPROP= 1.2.3.4",
            b"T\xc3\xa4RGPROP= 'x'",
            b"TARGPROP= (1.0, 2.0)",
            b"CONTINUE  'of nothing'",
            b"HIERARCH  = = = ",
            b"TARGPROP= 1E400",
            b"= = = = =",
            b"\0" * 80,
            b"TARGPROP= " + b"9" * 70,
        )
    ):
        start = content.index(b"TARGPROP=")
        path = tmp_path / f"x{number}_uncal.fits"
        path.write_bytes(content[:start] + card.ljust(80)[:80] + content[start + 80 :])
        exposure = nsxr.open_exposure(path)
        np.testing.assert_array_equal(exposure["sci"].values, nsxr.open_exposure(sub32)["sci"].values)
        for key in scan(path).primary:
            str(scan(path).primary[key])
        assert exposure.attrs["fits_header"].isascii()
        fits.Header.fromstring(exposure.attrs["fits_header"], sep="\n").tostring()
        describe(path)


def test_a_clean_header_is_not_touched(sub32):
    text = scan(sub32).hdus[0].text
    assert clean_header(text).tostring(endcard=False, padding=False) == text.rstrip()[: len(text)].ljust(len(text))


# products


@pytest.fixture(scope="module")
def rate(tmp_path_factory):
    from nsxr.simulate import simulate_exposure

    folder = tmp_path_factory.mktemp("rate")
    made = simulate_exposure(folder, readout="NRSRAPID", subarray="SUB32", groups=3, integrations=2)
    exposure = nsxr.open_exposure(made.uncal)
    tree = nsxr.detector1(exposure, nsxr.open_references(made.references["gain"].parent, exposure))
    write_products(tree, folder, "x", ("fits", "zarr"), progress=False)
    return folder / "x_rate.fits"


@pytest.mark.parametrize(
    "record",
    [b'{"step": "dq', b"\xff\xfe", b"[]", b"7", b'{"step": 5}', b'{"a":' * 9, b'{"step":"x","status":"x"}'],
)
def test_steps_that_say_nothing(rate, tmp_path, record):
    path = tmp_path / "x_rate.fits"
    shutil.copy(rate, path)
    with fits.open(path) as hdus:
        width = hdus["NSXR_STEPS"].data.dtype["RECORD"].itemsize
        start = hdus["NSXR_STEPS"].fileinfo()["datLoc"] + 48
    content = path.read_bytes()
    path.write_bytes(content[:start] + record.ljust(width, b"\0") + content[start + width :])
    fails(path, "NSXR_STEPS", opener=read_dataset)


def test_steps_in_steps():
    for text in ("[" * 100_000, "nonsense", "{}", "[5]", None, 7, '[{"step": "x"}]'):
        with pytest.raises(ModelError, match="nsxr_steps"):
            parsed_steps(text)
    assert parsed_steps("[]") == []


def test_images_of_slits_that_do_not_go_together(tmp_path):
    from slit_files import simulated_slits, write_cal

    path = write_cal(tmp_path / "x_cal.fits", simulated_slits(3))
    open_slits(path)

    def edited(edit):
        copy = tmp_path / "y_cal.fits"
        with fits.open(path, memmap=False) as hdus:
            edit(hdus)
            hdus.writeto(copy, overwrite=True)
        return copy

    def without(*keys):
        def edit(hdus):
            for key in keys:
                del hdus[key]

        return edit

    def again(key):
        return lambda hdus: hdus.append(hdus[key].copy())

    fails(edited(without(("DQ", 2))), "DQ 2 is missing", opener=open_slits)
    fails(edited(without(("VAR_RNOISE", 1))), "VAR_RNOISE 1 is missing", opener=open_slits)
    fails(edited(without(("DQ", 1), ("DQ", 2), ("DQ", 3))), "DQ 1 is missing", opener=open_slits)
    fails(edited(without(("SCI", 3))), "without SCI", opener=open_slits)
    fails(edited(again(("SCI", 2))), "SCI 2 comes more than once", opener=open_slits)
    fails(edited(again(("DQ", 2))), "DQ 2 comes more than once", opener=open_slits)


# names and links


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("S200A1", "S200A1"),
        (17, "17"),
        ("x/../../ESCAPED", "x_.._.._ESCAPED"),
        ("..", "slit"),
        ("../x", "_x"),
        ("", "slit"),
        ("a\0b\n", "a_b"),
        ("é", "slit"),
        ("y" * 999, "y" * 80),
        (".hidden", "hidden"),
        ("GJ 1214b", "GJ_1214b"),
    ],
)
def test_names_stay_where_they_are_put(text, name):
    assert plain_name(text, "slit") == name


@pytest.mark.parametrize("root", ["../x", "/x", "a/b", "", ".", "..", "a\0b", "x" * 300])
def test_products_stay_in_their_folder(tmp_path, root):
    with pytest.raises(ParameterError, match="without folders"):
        product_paths(["rate"], tmp_path, root, ("fits",))


def test_planted_links_are_not_followed(rate, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    out = tmp_path / "out"
    out.mkdir()
    for name in (".x.lock", ".x_rate.fits.partial", ".x_quicklook.png.partial"):
        (out / name).symlink_to(victim)
    tree = nsxr.detector1
    dataset = read_dataset(rate)
    import xarray as xr

    tree = xr.DataTree.from_dict({"rate": dataset})
    with pytest.raises(OSError, match="symbolic links"):
        write_products(tree, out, "x", progress=False)
    (out / ".x.lock").unlink()
    write_products(tree, out, "x", progress=False)
    from nsxr.cli.options import put

    put(out / "x_quicklook.png", lambda path: path.write_text("picture"))
    assert (out / "x_quicklook.png").read_text() == "picture"
    assert victim.read_text() == "precious"
    (out / ".y.lock").symlink_to(tmp_path / "new")
    with pytest.raises(OSError, match="symbolic links"):
        write_products(tree, out, "y", progress=False)
    assert not (tmp_path / "new").exists()


# checks


def test_check_of_fits_products(rate, tmp_path):
    path = tmp_path / "x_rate.fits"
    assert list(check_product(rate)) == []
    with fits.open(rate, memmap=False) as hdus:
        hdus.writeto(path, checksum=True)
    assert list(check_product(path)) == []
    content = bytearray(path.read_bytes())
    sci = scan(path).extensions["SCI"]
    content[sci.offset + 100] ^= 1
    path.write_bytes(content)
    (line,) = check_product(path)
    assert line.startswith("SCI 1: data changed, their sum is ")
    content[sci.offset + 100] ^= 1
    at = content.index(b"SIMULATED")
    content[at : at + 9] = b"FABULATED"
    path.write_bytes(content)
    assert list(check_product(path)) == ["PRIMARY: header or data changed, CHECKSUM does not fit them"]


def cut_after(path, name, target):
    """Copy a file up to the end of an extension."""
    target.write_bytes(path.read_bytes()[: scan(path).extensions[name].hdu.end])
    return list(check_product(target))


def test_check_finds_what_was_cut_off_between_extensions(rate, sub32, tmp_path):
    names = list(scan(rate).extensions)
    for name in names[:-1]:
        found = cut_after(rate, name, tmp_path / "x.fits")
        assert found[-1].startswith("ASDF is missing, the last extension of products")
        kept = names[: names.index(name) + 1]
        lost = [other for other in ("ERR", "DQ", "VAR_POISSON", "VAR_RNOISE") if other not in kept]
        assert [line.split()[0] for line in found[:-1]] == lost
    assert cut_after(rate, names[-1], tmp_path / "x.fits") == []
    assert list(check_product(sub32)) == []
    found = cut_after(sub32, "SCI", tmp_path / "x.fits")
    assert [line.split()[0] for line in found] == ["GROUP", "INT_TIMES", "ASDF"]


@pytest.mark.parametrize("lost", ["INT_TIMES", "VAR_RNOISE", "SCI"])
def test_check_finds_an_extension_that_was_taken_out(rate, tmp_path, lost):
    path = rate.with_name("x_rateints.fits")
    assert list(check_product(path)) == []
    with fits.open(path, memmap=False) as hdus:
        del hdus[lost]
        hdus.writeto(tmp_path / "y.fits")
    (line,) = check_product(tmp_path / "y.fits")
    assert line.startswith(f"{lost} ")


def test_check_looks_at_every_slit(tmp_path):
    slits = {name: simulate_trace(columns=40, seed=1)[0].assign_attrs(SLTNAME=name) for name in ("a", "b")}
    path = write_slits(xr.DataTree.from_dict(slits), tmp_path / "x_cal.fits", progress=False)
    assert list(check_product(path)) == []
    with fits.open(path, memmap=False) as hdus:
        del hdus["VAR_POISSON", 2]
        hdus.writeto(tmp_path / "y_cal.fits")
    (line,) = check_product(tmp_path / "y_cal.fits")
    assert line == "VAR_POISSON 2 is missing beside SCI 2, which each MultiSlitModel has"


# a file that is another one


def test_a_file_replaced_by_one_of_the_same_size_and_time(sub32, tmp_path):
    path = tmp_path / "x_uncal.fits"
    shutil.copy(sub32, path)
    status = path.stat()
    exposure = nsxr.open_exposure(path)
    other = tmp_path / "other"
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(other, path)
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    with pytest.raises(InputFileError, match="has changed since it was opened"):
        exposure["sci"].load(scheduler="synchronous")
    exposure = nsxr.open_exposure(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    with open(path, "r+b") as file:  # in place
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(InputFileError, match="has changed since it was opened"):
        exposure["sci"].load(scheduler="synchronous")
