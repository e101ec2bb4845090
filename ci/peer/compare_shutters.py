"""Compare the slitlets of MSA metafiles with those that jwst finds: names, sources, states, centres, positions, ends.

    python ci/peer/compare_shutters.py METAFILE... [--peer FOLDER]

Two differences are meant. The centre of a slitlet is the shutter of its primary source, also where jwst takes the
shutter of another source. Fixed slits without a primary source stay in the list. Ends with status 1 otherwise.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import add_peer, call_peer, make_parser, peer_python, write_head, write_row

from nsxr.errors import InputFileError
from nsxr.formats.msa_metafile import read_metafile
from nsxr.optics.shutters import FIXED_SLIT_IDS, find_slitlets
from nsxr.optics.slit import Slit, Slitlet

SCALES = dict.fromkeys((1, 2, 3, 4), (1.35, 1.15))


def place(quadrant: int, number: int) -> Slit:
    """Return a slit for a shutter. Its position does not matter here."""
    return Slit(str(number), quadrant, 0.0, 0.0, 7.8e-5, 1.78e-4, -0.55, 0.55, (0.6, 5.3), -1)


def described(slit: Slitlet, program: str) -> list[object]:
    """Return what the program for jwst writes of a slitlet."""
    source = slit.source
    named = (source.id, source.name) if source else (slit.slitlet_id, f"{program}_BKG{slit.slitlet_id}")
    x, y = (source.x, source.y) if source else (0.0, 0.0)
    texts = (slit.name, *named, slit.state, slit.xcen, slit.ycen, slit.quadrant, slit.shutter_id)
    return [*map(str, texts), x, y, slit.slit_y_low, slit.slit_y_high]


def is_same(mine: list[object], theirs: list[object]) -> bool:
    """Return whether two slitlets agree; positions in metafiles have single precision."""
    numbers = zip(mine[8:], theirs[8:], strict=True)
    return mine[:8] == theirs[:8] and all(abs(float(str(a)) - float(str(b))) < 1e-6 for a, b in numbers)


def main() -> int:
    """Print the numbers of slitlets that agree and differ; return 1 if one differs without a reason."""
    parser = make_parser(__doc__)
    parser.add_argument("metafiles", nargs="+", type=Path)
    add_peer(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "slitlets.json"
        call_peer(peer_python(options.peer), "run_shutters.py", target, *options.metafiles)
        by_peer = json.loads(target.read_text("utf-8"))
    fixed = {name: replace(place(5, 1), name=name) for name in FIXED_SLIT_IDS}
    failed = 0
    write_head("metafile", "MSAMETID", "dither", "slitlets", "equal", "other centre", "fixed slits more", "different")
    for key, theirs in by_peer.items():
        path, program, metadata_id, dither = key.split("|")
        try:
            found = find_slitlets(
                read_metafile(path),
                int(metadata_id),
                int(dither),
                place=place,
                fixed_slits=fixed,
                scales=SCALES,
                program=program,
            )
        except InputFileError as error:
            is_refused = isinstance(theirs, str)
            failed += not is_refused
            write_row(Path(path).name, metadata_id, dither, f"{'both refuse' if is_refused else 'jwst reads'}: {error}")
            continue
        others = {} if isinstance(theirs, str) else {one[0]: one for one in theirs}
        counts = dict.fromkeys(("equal", "centre", "fixed", "different"), 0)
        for slit in found:
            other = others.pop(slit.name, None)
            if other is None:
                counts["fixed" if slit.name in FIXED_SLIT_IDS and slit.is_background else "different"] += 1
            elif is_same(described(slit, program), other):
                counts["equal"] += 1
            else:
                counts["centre" if slit.source and str(slit.ycen) != other[5] else "different"] += 1
        counts["different"] += len(others)
        failed += counts["different"]
        write_row(Path(path).name, metadata_id, dither, len(found), *counts.values())
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
