"""Damage small exposures, references, products, Zarr stores and archives at random, and open them.

Each case copies one sample to a folder of its own, damages it, and opens, reads, checks or resumes it in this process.
A case fails if it raises an error that is neither one of nsxr nor of the operating system, if it takes too long or too
much memory, if something outside the folder changes, or if the pixels of a store changed although its checksums are
reported to be right. The command prints one line for each failure, with the options that run this case alone, and a
table.

    python ci/fuzz.py                       10 000 cases, ten minutes on one core
    python ci/fuzz.py --short               as many as 30 seconds allow
    python ci/fuzz.py --seed 3 --case 712   one case, with its traceback
"""

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr
from common import make_parser

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nsxr
from nsxr import archive as archives
from nsxr.errors import NsxrError
from nsxr.formats.zarr_read import open_store
from nsxr.products.checker import check_product
from nsxr.products.describe import describe
from nsxr.products.fits_read import read_dataset
from nsxr.products.slits_read import open_slits
from nsxr.products.spectra_read import open_spectra
from nsxr.products.spectra_write import write_spectra
from nsxr.products.write import write_products
from nsxr.references.apertures import read_aperture
from nsxr.references.sirs_kernels import open_sirs_kernel
from nsxr.simulate import simulate_exposure, simulate_trace
from nsxr.simulate.compact_optics import write_compact_optics
from nsxr.storage.folder import Folder
from tests.optics.exposures import make_rates

MEMORY = 2**31  # bytes, on top of the memory of the samples
SECONDS = 10  # of one case
SHORT = 30  # seconds
BLOCK = 2880

VALUES = [
    *("T", "F", "0", "-1", "1", "2", "3", "7", "65536", "2147483648", "-2147483649", "1E20", "1E400", "NaN"),
    *(
        "9" * 20,
        "9" * 60,
        "''",
        "'x'",
        "'N/A'",
        "'" + "y" * 60 + "'",
        "'../../ESCAPED'",
        "'unclosed",
        "",
        "1+1",
        "0x10",
    ),
    *("'NRS2'", "'FULL'", "'NRSIRS2'", "'NRSRAPID'", "'SUB2048'", "1.5", "(1,2)", "'\xe9\xff'", "'a\0b'", "'1PJ(9)'"),
]
JUNK: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 1e20, float("nan"), "", "x", "../../victim", "/", [], {}, [[]], [0]),
    *(
        [-1],
        [2**40],
        [2**40] * 3,
        {"name": "pickle"},
        [{"name": "pickle"}],
        {"": {}},
        "numcodecs.pickle",
        "\0",
        "é" * 9,
    ),
]


class Hang(BaseException):
    """A case takes too long; no code that catches exceptions catches this."""


@dataclass(frozen=True)
class Sample:
    """A file or a folder, and ``act``, which opens it or calibrates with it.

    ``suffix`` is the end of the name of the file or folder.
    """

    name: str
    suffix: str
    path: Path
    act: Callable[[Path], None]


# --- what is done with a sample


def compute(*datasets: xr.Dataset) -> None:
    """Compute datasets and drop the results."""
    for dataset in datasets:
        dataset.compute()


def exposure(path: Path) -> None:
    """Open a raw file."""
    quietly(describe, path)
    opened = nsxr.open_exposure(path)
    compute(opened)


def quietly(function: Callable[..., Any], *given: Any) -> None:
    """Call a function, and go on if it refuses."""
    with suppress(NsxrError, OSError):
        function(*given)


def with_references(good: Path, references: Path, kind: str) -> Callable[[Path], None]:
    """Return a function that calibrates a good exposure with one damaged reference."""

    def act(path: Path) -> None:
        quietly(describe, path)
        opened = nsxr.open_exposure(good)
        found = nsxr.open_references(references, opened, {kind: path})
        compute(found[kind])
        compute(*(node.to_dataset() for node in nsxr.detector1(opened, found).children.values()))

    return act


def calibrated(references: Path) -> Callable[[Path], None]:
    """Return a function that calibrates a damaged exposure."""

    def act(path: Path) -> None:
        opened = nsxr.open_exposure(path)
        found = nsxr.open_references(references, opened)
        compute(*(node.to_dataset() for node in nsxr.detector1(opened, found).children.values()))

    return act


def rate(path: Path) -> None:
    """Open count rates."""
    quietly(describe, path)
    quietly(lambda: [node.load() for node in nodes(open_slits(path))])
    quietly(lambda: list(check_product(path)))
    compute(read_dataset(path))


def nodes(found: xr.Dataset | xr.DataTree) -> Iterator[xr.Dataset]:
    """Yield the Datasets of a tree, or the single Dataset."""
    if isinstance(found, xr.Dataset):
        yield found
    else:
        yield from (node.to_dataset() for node in found.subtree if node.has_data)


def slits(path: Path) -> None:
    """Open cut-outs of slits."""
    quietly(describe, path)
    compute(*nodes(open_slits(path)))


def gwcs(path: Path) -> None:
    """Read the optics of slits, and compute the wavelengths that their file does not have."""
    quietly(slits, path)
    nsxr.open_optics(path)


def spectra(path: Path) -> None:
    """Open spectra."""
    quietly(describe, path)
    compute(*nodes(open_spectra(path)))


def stored(original: Path) -> Callable[[Path], None]:
    """Return a function that opens and checks a Zarr store, and compares its pixels."""
    expected = {name: node.to_dataset().load() for name, node in open_store(Folder.at(original)).children.items()}

    def act(path: Path) -> None:
        quietly(describe, path)
        quietly(lambda: compute(*nodes(open_spectra(path))))
        quietly(lambda: compute(*nodes(open_slits(path))))
        problems = list(check_product(path))
        found = {name: node.to_dataset().load() for name, node in open_store(Folder.at(path)).children.items()}
        if not problems:
            require_same(found, expected)

    return act


def require_same(found: dict[str, xr.Dataset], expected: dict[str, xr.Dataset]) -> None:
    """Raise AssertionError if pixels differ although the check reported no problem."""
    assert set(found) == set(expected), "nodes are lost, and the check is silent"
    for name, dataset in expected.items():
        for variable in ("sci", "dq", "var_poisson", "var_rnoise"):
            same = np.array_equal(found[name][variable].values, dataset[variable].values, equal_nan=True)
            assert same, f"{name}/{variable} has other pixels, and the check is silent"


def archived(original: Path, node: str) -> Callable[[Path], None]:
    """Return a function that lists, checks, resumes and opens an archive, and compares its pixels."""
    tree = archives.open_archive(original)[node]
    expected = {name: tree[name].to_dataset().load() for name in ("rate", "rateints")}

    def act(path: Path) -> None:
        problems = list(archives.check_archive(path))
        quietly(archives.list_exposures, path)
        quietly(archives.resume_archive, path)
        found = archives.open_archive(path)
        if not problems:
            require_same({name: found[f"{node}/{name}"].to_dataset().load() for name in expected}, expected)
        compute(*nodes(found))

    return act


def aperture(path: Path) -> None:
    """Read an aperture."""
    read_aperture(path, xr.Dataset(attrs={"SLTNAME": "S200A1"}))


# --- samples


def make_samples(folder: Path) -> list[Sample]:
    """Simulate and write the samples that will be damaged."""
    made = simulate_exposure(folder, readout="NRSRAPID", subarray="SUB32", groups=3, integrations=2)
    raw, references = made.uncal[0], made.references["gain"].parent
    irs2 = simulate_exposure(
        folder / "irs2", readout="NRSIRS2RAPID", subarray="FULL", groups=2, integrations=1, columns=4
    ).uncal[0]
    opened = nsxr.open_exposure(raw)
    products = nsxr.detector1(opened, nsxr.open_references(references, opened))
    write_products(products, folder, "x", ("fits", "zarr"), progress=False)
    node = archives.add_exposure(folder / "a.zarr", raw, references, progress=False)
    plans = folder / "p.zarr"
    shutil.copytree(folder / "a.zarr", plans)
    document = json.loads((plans / node / "zarr.json").read_text())
    (plans / ".nsxr").mkdir(exist_ok=True)
    plan = json.loads(document["attributes"]["nsxr_plan"]) | {"node": node.replace("_00001/", "_00002/")}
    plan["sources"] = [str(folder / "nothing_uncal.fits")]
    (plans / ".nsxr" / f"{plan['node'].replace('/', '-')}.json").write_text(json.dumps(plan))
    (plans / ".nsxr" / f"{node.replace('/', '-')}.claim1").write_text(json.dumps({"host": "other", "pid": 1}))
    cut_out, _ = simulate_trace(columns=60)
    write_spectra(nsxr.extract_spectrum(cut_out).compute(), folder / "x_x1d.fits", progress=False)
    nsxr.write_slits(cut_out, folder / "x_cal.fits", progress=False)
    rates = make_rates("FIXEDSLIT", rows=(900, 1150))
    files = write_compact_optics(folder / "optics", grating="PRISM", filter="CLEAR", shutters=False)
    optics = nsxr.open_optics(files, rates)
    cut_outs = nsxr.cut_slits(rates, optics, slits=["S200A1"])["S200A1"].to_dataset().isel(column=slice(200, 216))
    nsxr.write_slits(cut_outs.drop_vars("wavelength"), folder / "y_cal.fits", optics=optics, progress=False)
    entry = {"id": "ANY", "ystart": 3, "ystop": 8, "bkg_coeff": [[1.0], [2.0, 0.1]], "bkg_order": 1, "bkg_fit": "poly"}
    (folder / "extract1d.json").write_text(json.dumps({"reftype": "EXTRACT1D", "apertures": [entry]}))
    found = [
        Sample("raw", "_uncal.fits", raw, exposure),
        Sample("raw, calibrated", "_uncal.fits", raw, calibrated(references)),
        Sample("raw IRS2", "_uncal.fits", irs2, exposure),
        Sample("rate", "_rate.fits", folder / "x_rate.fits", rate),
        Sample("rateints", "_rateints.fits", folder / "x_rateints.fits", rate),
        Sample("cal", "_cal.fits", folder / "x_cal.fits", slits),
        Sample("gwcs", "_cal.fits", folder / "y_cal.fits", gwcs),
        Sample("x1d", "_x1d.fits", folder / "x_x1d.fits", spectra),
        Sample("store", ".zarr", folder / "x.zarr", stored(folder / "x.zarr")),
        Sample("archive", ".zarr", folder / "a.zarr", archived(folder / "a.zarr", node)),
        Sample("journal", ".zarr", plans, archived(folder / "a.zarr", node)),
        Sample("aperture", ".json", folder / "extract1d.json", aperture),
        *(
            Sample(kind, ".fits", made.references[kind], with_references(raw, references, kind))
            for kind in ("dark", "superbias", "gain", "linearity", "saturation", "mask", "readnoise")
        ),
    ]
    try:
        import asdf
    except ImportError:
        return found
    filters = {name: np.ones((4, 9), complex) for name in ("gamma", "zeta")}
    asdf.AsdfFile({"meta": {"reftype": "SIRSKERNEL"}, "nrs1": filters}).write_to(folder / "kernel.asdf")
    return [*found, Sample("kernel", ".asdf", folder / "kernel.asdf", lambda path: open_sirs_kernel(path, "NRS1"))]


# --- damage


def damaged_bytes(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Return the content of a file, damaged without knowledge of its format."""
    size = max(len(content), 1)
    at, length = rng.randrange(size), min(int(2 ** rng.uniform(0, 13)), size)
    ways = ["flip", "noise", "cut", "drop", "repeat", "zeros", "block lost", "block twice", "swap", "append"]
    what = rng.choice(ways)
    if what == "flip":
        changed = bytearray(content or b"\0")
        for _ in range(rng.choice([1, 1, 2, 20])):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed), what
    block = at // BLOCK * BLOCK
    pieces = {
        "noise": (content[:at], rng.randbytes(length), content[at + length :]),
        "cut": (content[:at],),
        "drop": (content[:at], content[at + length :]),
        "repeat": (content[: at + length], content[at:]),
        "zeros": (content[:at], bytes(length), content[at + length :]),
        "block lost": (content[:block], content[block + BLOCK :]),
        "block twice": (content[: block + BLOCK], content[block:]),
        "swap": (content[:block], content[block + BLOCK : block + 2 * BLOCK], content[block : block + BLOCK]),
        "append": (content, rng.choice([b"\0", bytes(BLOCK), content[:BLOCK], b"XTENSION= 'IMAGE   '"])),
    }[what]
    rest = content[block + 2 * BLOCK :] if what == "swap" else b""
    return b"".join(pieces) + rest, f"{what} at {at}, {length}"


def damaged_cards(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Return the content of a FITS file with one or two cards changed."""
    cards = ((start, content[start : start + 80]) for start in range(0, len(content), 80))
    starts = [start for start, card in cards if card[8:10] == b"= " and card[:1].isalpha()]
    said = []
    for _ in range(rng.choice([1, 1, 1, 2])):
        start = rng.choice(starts)
        key = content[start : start + 8]
        what = rng.choice(["value", "value", "value", "value", "key", "lost", "other", "end"])
        card = {
            "value": key + b"= " + rng.choice(VALUES).rjust(20).encode("latin-1"),
            "key": rng.choice([b"NAXIS1", b"EXTNAME", b"\xe9\xff", b"", b"END", b"naxis", b"SIMPLE"]).ljust(8)
            + content[start + 8 : start + 80],
            "lost": b"",
            "other": content[(other := rng.choice(starts)) : other + 80],
            "end": b"END",
        }[what]
        content = content[:start] + card[:80].ljust(80) + content[start + 80 :]
        said.append(f"{key.decode('ascii', 'replace').strip()} {what}: {card[:50]!r}")
    return content, "; ".join(said)


def damaged_json(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Return the content of a JSON file with one value replaced, left out or moved."""
    document = json.loads(content)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in entries:
            places.append((value, key))
            walk(inner)

    walk(document)
    holder, key = rng.choice(places)
    what = rng.choice(["replace", "replace", "lose", "rename", "inner"])
    value = rng.choice(JUNK) if rng.random() < 0.7 else (other := rng.choice(places))[0][other[1]]
    value = json.loads(json.dumps(value))
    if what == "lose":
        del holder[key]
    elif what == "rename" and isinstance(holder, dict):
        holder[rng.choice(["", "x", "../x", "zarr_format"])] = holder.pop(key)
    elif what == "inner" and isinstance(holder[key], str) and holder[key][:1] in ("{", "["):
        holder[key] = damaged_json(holder[key].encode(), rng)[0].decode()
    else:
        holder[key] = value
    return json.dumps(document).encode(), f"{what} {key}: {value!r:.60}"


def damage_folder(path: Path, rng: random.Random) -> str:
    """Damage one file of a folder, or the folder itself; return what was done."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    documents = [file for file in files if file.suffix == ".json" or ".claim" in file.name]
    journal = [file for file in files if ".nsxr" in file.parts]
    chosen = rng.choice([files, documents, journal or documents])
    file = rng.choice(chosen)
    name = file.relative_to(path)
    what = rng.choice(["bytes", "json", "json", "json", "lose", "pipe", "link", "folder", "swap", "junk"])
    if what == "bytes" or (what == "json" and file not in documents):
        content, said = damaged_bytes(file.read_bytes(), rng)
        file.write_bytes(content)
        return f"{name}: {said}"
    if what == "json":
        content, said = damaged_json(file.read_bytes(), rng)
        file.write_bytes(content)
        return f"{name}: {said}"
    if what == "swap":
        other = rng.choice(files)
        mine, theirs = file.read_bytes(), other.read_bytes()
        file.write_bytes(theirs)
        other.write_bytes(mine)
        return f"{name}: swapped with {other.relative_to(path)}"
    if what == "junk":
        junk = file.parent / rng.choice([".zarray", ".zgroup", ".claim1", "x.json", "zarr.json.partial", "é", "c"])
        if not junk.exists():
            junk.write_bytes(rng.choice([b"", b"{}", b"[]", b"\0" * 99, b'{"zarr_format": 2}']))
        return f"{name}: {junk.name} beside it"
    file.unlink()
    if what == "pipe" and chosen is not files:  # zarr itself waits at pipes among its chunks
        os.mkfifo(file)
    elif what == "link":
        file.symlink_to(rng.choice(["nothing", ".", "zarr.json", *(["/dev/zero"] if chosen is not files else [])]))
    elif what == "folder":
        file.mkdir()
    return f"{name}: {what}"


def damage(sample: Sample, case: Path, rng: random.Random) -> tuple[Path, str]:
    """Copy a sample into the folder of a case and damage it."""
    path = case / f"jw01234001001_03101_00001_nrs1{sample.suffix}"
    if sample.path.is_dir():
        shutil.copytree(sample.path, path)
        return path, damage_folder(path, rng)
    content = sample.path.read_bytes()
    ways: list[Callable[[bytes, random.Random], tuple[bytes, str]]] = [damaged_bytes]
    if sample.suffix.endswith(".fits"):
        ways += [damaged_cards, damaged_cards]
    elif sample.suffix == ".json":
        ways += [damaged_json, damaged_json, damaged_json]
    said = []
    for _ in range(rng.choice([1, 1, 1, 2])):
        try:
            content, word = rng.choice(ways)(content, rng)
        except (ValueError, IndexError):  # there is nothing to damage in this way
            continue
        said.append(word)
    path.write_bytes(content)
    return path, "; ".join(said)


# --- run


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise Hang in the block after some seconds."""

    def ring(*_: Any) -> None:
        raise Hang(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def listed(folder: Path) -> list[tuple[str, int, int]]:
    """Return the files outside the folder of a case, with sizes and times."""
    return [(str(p), p.lstat().st_size, p.lstat().st_mtime_ns) for p in sorted(folder.rglob("*"))]


def run(number: int, seed: int, samples: list[Sample], outside: Path, loud: bool = False) -> tuple[str, str]:
    """Run one case; return the outcome and, if it is a failure, what happened."""
    rng = random.Random(f"{seed} {number}")
    sample = rng.choice(samples)
    with tempfile.TemporaryDirectory(dir=outside) as folder:
        path, said = damage(sample, Path(folder), rng)
        if loud:
            print(f"{sample.name}: {said}")
        try:
            with limited(SECONDS):
                sample.act(path)
            return f"{sample.name}: opened", ""
        except NsxrError as error:
            text = str(error)
            if "\n" in text or len(text) > 2000:
                return f"{sample.name}: FAILED", f"{said}\n    a message of several lines, or too long: {text[:200]!r}"
            return f"{sample.name}: refused", ""
        except OSError as error:
            return f"{sample.name}: {type(error).__name__}", ""
        except (Exception, Hang) as error:
            if loud:
                traceback.print_exc()
            where = traceback.extract_tb(error.__traceback__)
            own = next((f for f in reversed(where) if "/nsxr/" in f.filename), where[-1])
            place = f"{Path(own.filename).name}:{own.lineno}"
            return f"{sample.name}: FAILED", f"{said}\n    {type(error).__name__} at {place}: {str(error)[:150]!r}"


def main() -> int:
    """Run the cases that the command line asks for."""
    parser = make_parser(__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help=f"stop after {SHORT} seconds")
    parser.add_argument("--case", type=int, help="run this case alone")
    parser.add_argument("--only", help="samples whose name starts with this")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    begun = time.monotonic()
    outcomes: Counter[str] = Counter()
    failures = 0
    with tempfile.TemporaryDirectory(prefix="nsxr-fuzz-") as top, dask.config.set(scheduler="synchronous"):
        (Path(top) / "samples").mkdir()
        samples = make_samples(Path(top) / "samples")
        for sample in samples:  # samples are good before the damage; this also compiles the kernels
            sample.act(sample.path)
        outside = Path(top) / "outside"
        (outside / "victim").mkdir(parents=True)
        (outside / "victim" / "precious").write_text("x")
        chosen = [sample for sample in samples if not given.only or sample.name.startswith(given.only)]
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        before = listed(Path(top))
        numbers = range(given.cases) if given.case is None else [given.case]
        for count, number in enumerate(numbers, start=1):
            outcome, text = run(number, given.seed, chosen, outside, given.case is not None)
            outcomes[outcome] += 1
            if count % 50 == 0 or given.case is not None or count == len(numbers):
                after = listed(Path(top))
                changed = {p for p, *_ in set(before) ^ set(after)} - {str(outside)}
                if changed:
                    text += f"\n    changed outside its folder, here or in 50 cases before: {sorted(changed)[:3]}"
                    before = after
            if text:
                failures += 1
                print(f"case {number} --seed {given.seed}: {outcome.partition(':')[0]}: {text}", flush=True)
            if given.short and time.monotonic() - begun > SHORT:
                break
    for outcome, n in sorted(outcomes.items()):
        print(f"{n:6d}  {outcome}")
    print(f"{failures} of {sum(outcomes.values())} cases failed, {time.monotonic() - begun:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
