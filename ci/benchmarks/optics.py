"""Measure how long optics, cut-outs and slices take, and print a table in Markdown.

    python ci/benchmarks/optics.py [--repeat 3]

The exposures are full frames of simulated skies with compact optics. The optics of the observatory have polynomials of
degree 5 instead of 3. They can be given as a folder of references: ``--references FOLDER``. Each time is the best one:
seconds of the clock, and seconds of the processors in brackets. Kernels are compiled before.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

import nsxr
from nsxr.compute.blocks import compute_together
from nsxr.formats.fits_headers import keywords
from nsxr.simulate.compact_optics import write_compact_optics
from nsxr.simulate.configuration import configure
from nsxr.simulate.headers import Segment, primary_header, science_header
from nsxr.simulate.observation import Observation, observe

FILTERS = {"PRISM": "CLEAR", "G395H": "F290LP"}
PEER = {
    "open the optics": "",
    "MOS PRISM, 42 slitlets: graph": "",
    "MOS PRISM, 42 slitlets: graph and wavelengths": "27 (CPU)",
    "MOS PRISM, {}: graph and wavelengths": "100 for 81 (CPU)",
    "IFU G395H: slices and wavelengths of a frame": "",
    "IFU G395H: slices, wavelengths and sky of a frame": "27",
    "wavelength and slit_y of 2048 x 2048 pixels": "",
    "all coordinates of 2048 x 2048 pixels": "7.6-10",
    "write 42 slits as FITS, with a gwcs": "18",
    "write 42 slits as FITS, without": "",
    "open 42 slits of FITS": "18",
    "open the optics in this file": "",
}
"""What the jwst package took [s], as measured once on two cores. Empty: not measured."""


def exposure_of(observed: Observation) -> xr.Dataset:
    """Return lazy count rates of an observation, in the chunks of an opened file."""
    configuration = observed.configuration
    header = keywords(primary_header(configuration, Segment(1, 1, 1, 1), contiguous=False))
    rate = np.asarray(observed.light.rate, np.float32)
    images = {name: (("row", "column"), rate, {"units": "(DN/s)2"}) for name in ("var_poisson", "var_rnoise")}
    images |= {"sci": (("row", "column"), rate, {"units": "DN/s"})}
    images |= {"dq": (("row", "column"), np.zeros(rate.shape, np.uint32))}
    attrs = {**header, "sci_header": science_header(configuration).tostring(sep="\n")}
    labels = {dim: np.arange(2048) for dim in ("row", "column")}
    return xr.Dataset(images, coords=labels, attrs=attrs).chunk(row=512)


def timed(repeat: int, work: Callable[[], object]) -> tuple[float, float]:
    """Return the shortest time of a function: of the clock, and of the processors."""
    found = []
    for _ in range(repeat + 1):  # the first one compiles and imports
        clock, processors = time.perf_counter(), time.process_time()
        work()
        found.append((time.perf_counter() - clock, time.process_time() - processors))
    return min(found[1:])


class Bench:
    """The exposures that all measurements share.

    Parameters
    ----------
    folder : Path
        Where references and metafiles are written.
    references : Path, optional
        Folder with references to use instead of compact optics.
    """

    def __init__(self, folder: Path, references: Path | None) -> None:
        self.folder = folder
        self.references = references
        self.shutters = self._observe("MOS", "PRISM")
        self.slices = self._observe("IFU", "G395H")

    def _observe(self, mode: str, grating: str) -> tuple[xr.Dataset, Path | dict[str, Path], Path | None]:
        folder = self.folder / mode
        folder.mkdir()
        where = self.references or write_compact_optics(folder, grating=grating, filter=FILTERS[grating])
        configuration = configure(
            subarray="FULL",
            scene=mode,
            grating=grating,
            readout="NRSRAPID",
            groups=2,
            integrations=1,
            detector="NRS1",
        )
        observed = observe(configuration, "default", where, folder, seed=1, peak_rate=100.0)
        return exposure_of(observed), where, observed.metafile

    def works(self) -> dict[str, Callable[[], object]]:
        """Return what is measured, by name."""
        rate, where, metafile = self.shutters
        optics = nsxr.open_optics(where, rate)
        names = nsxr.list_slits(rate, optics, shutters=metafile)["slit"].to_numpy().tolist()
        frame, slices_where, _ = self.slices
        slices = nsxr.open_optics(slices_where, frame)
        tall = replace(optics.slits["S1600A1"], slit_y_low=-2000.0, slit_y_high=2000.0)
        row, column = np.arange(2048.0)[:, np.newaxis], np.arange(2048.0)
        written = self.folder / "jw_cal.fits"

        def cut(n: int) -> xr.DataTree:
            return nsxr.cut_slits(rate, optics, shutters=metafile, slits=names[:n])

        def wavelengths(n: int) -> object:
            return compute_together(*[node["wavelength"] for node in cut(n).children.values()])

        def locate(*coordinates: str) -> object:
            return nsxr.locate_slices(frame, slices, coordinates=coordinates).compute()

        def write(with_optics: bool) -> None:
            path = written if with_optics else written.with_name("jw_plain_cal.fits")
            nsxr.write_slits(cut(42), path, optics=optics if with_optics else None, overwrite=True, progress=False)

        results: list[Callable[[], object]] = [
            lambda: nsxr.open_optics(where, rate),
            lambda: cut(42),
            lambda: wavelengths(42),
            lambda: wavelengths(len(names)),
            lambda: locate("wavelength"),
            lambda: locate("wavelength", "slit_y", "ra", "dec"),
            lambda: optics.forward(column, row, tall, sky=False),
            lambda: optics.forward(column, row, tall),
            lambda: write(True),
            lambda: write(False),
            lambda: nsxr.open_slits(written),
            lambda: nsxr.open_optics(written),
        ]
        return dict(zip([name.format(f"all {len(names)} slitlets") for name in PEER], results, strict=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, metavar="N")
    parser.add_argument("--references", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    print("| work | nsxr [s] (CPU) | peer [s] |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        works = Bench(Path(folder), arguments.references).works()
        for (name, work), peer in zip(works.items(), PEER.values(), strict=True):
            clock, processors = timed(arguments.repeat, work)
            print(f"| {name} | {clock:.2f} ({processors:.2f}) | {peer} |", flush=True)


if __name__ == "__main__":
    main()
