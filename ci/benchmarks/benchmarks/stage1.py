"""Stage 1 on small simulated exposures: one through a single output, one full frame."""

import subprocess
import sys
from pathlib import Path

import dask

import nsxr

EXPOSURES = {
    "SUB512 100 x 10": "--readout NRSRAPID --subarray SUB512 --groups 10 --integrations 100 --scene BOTS",
    "FULL IRS2 1 x 5": "--readout NRSIRS2RAPID --subarray FULL --groups 5 --integrations 1 --scene IFU",
}


class Stage1:
    """From the raw file to both products."""

    params = tuple(EXPOSURES)
    param_names = ("exposure",)
    timeout = 600
    number = 1
    repeat = 3

    def setup_cache(self) -> dict[str, str]:
        """Simulate the exposures once for all benchmarks."""
        folders = {}
        for number, (name, options) in enumerate(EXPOSURES.items()):
            folder = Path.cwd() / f"exposure{number}"
            program = Path(sys.executable).with_name("nsxr")
            subprocess.run([str(program), "simulate", "-o", str(folder), "--seed", "1", *options.split()], check=True)
            folders[name] = str(folder)
        return folders

    def setup(self, folders: dict[str, str], name: str) -> None:
        """Open the exposure and its references; compile the kernels."""
        folder = Path(folders[name])
        self.exposure = nsxr.open_exposure(next(folder.glob("*_uncal.fits")))
        references = folder / "references"
        self.references = nsxr.open_references(references if references.is_dir() else folder, self.exposure)
        self.result = nsxr.detector1(self.exposure, self.references)

    def time_build_graph(self, folders: dict[str, str], name: str) -> None:
        """Build the graph of both products; nothing is computed."""
        nsxr.detector1(self.exposure, self.references)

    def track_tasks_built(self, folders: dict[str, str], name: str) -> int:
        """Count the tasks of both products as built."""
        return len({key for part in self._parts() for key in part.__dask_graph__()})

    def track_tasks_run(self, folders: dict[str, str], name: str) -> int:
        """Count the tasks of both products after fusion, those that the scheduler sees."""
        optimized = dask.optimize(*self._parts())
        return len({key for part in optimized for key in part.__dask_graph__()})

    def time_calibrate(self, folders: dict[str, str], name: str) -> None:
        """Compute both products in memory."""
        dask.compute(*self._parts())

    def peakmem_calibrate(self, folders: dict[str, str], name: str) -> None:
        """Peak memory of the same, the process with its imports included."""
        dask.compute(*self._parts())

    def track_tasks_of_one_amplifier(self, folders: dict[str, str], name: str) -> int:
        """Count the tasks behind the rate of one amplifier's rows."""
        rate = self.result["rate"]["sci"]
        part = rate.isel(row=(rate["amplifier"] == 1).values)
        return len(dask.optimize(part)[0].__dask_graph__())

    def _parts(self) -> list:
        return [self.result[kind][name] for kind in ("rate", "rateints") for name in ("sci", "dq", "var_poisson")]


for _name in ("track_tasks_built", "track_tasks_run", "track_tasks_of_one_amplifier"):
    getattr(Stage1, _name).unit = "tasks"
