"""Stage 1 on small simulated exposures: one read by a single amplifier, one full frame."""

import subprocess
import sys
from pathlib import Path

import cloudpickle
import dask
import xarray as xr

import nsxr

EXPOSURES = {
    "SUB512 100 x 10": "--readout NRSRAPID --subarray SUB512 --groups 10 --integrations 100 --scene BOTS",
    "FULL IRS2 1 x 5": "--readout NRSIRS2RAPID --subarray FULL --groups 5 --integrations 1 --scene IFU",
}


def simulate() -> dict[str, str]:
    """Simulate the exposures into the current folder."""
    folders = {}
    for number, (name, options) in enumerate(EXPOSURES.items()):
        folder = Path.cwd() / f"exposure{number}"
        program = Path(sys.executable).with_name("nsxr")
        subprocess.run([str(program), "simulate", "-o", str(folder), "--seed", "1", *options.split()], check=True)
        folders[name] = str(folder)
    return folders


def opened(folder: Path) -> tuple[xr.Dataset, dict[str, xr.Dataset]]:
    """Open an exposure and its references."""
    exposure = nsxr.open_exposure(next(folder.glob("*_uncal.fits")))
    return exposure, nsxr.open_references(folder / "references", exposure)


class Stage1:
    """Stage 1 from the raw file to both products."""

    params = tuple(EXPOSURES)
    param_names = ("exposure",)
    timeout = 600
    number = 1
    repeat = 3

    def setup_cache(self) -> dict[str, str]:
        """Simulate the exposures once for all benchmarks."""
        return simulate()

    def setup(self, folders: dict[str, str], name: str) -> None:
        """Open the exposure and its references; compile the kernels."""
        self.exposure, self.references = opened(Path(folders[name]))
        self.result = nsxr.detector1(self.exposure, self.references)

    def time_build_graph(self, folders: dict[str, str], name: str) -> None:
        """Build the graph of both products; nothing is computed."""
        nsxr.detector1(self.exposure, self.references)

    def track_tasks_built(self, folders: dict[str, str], name: str) -> int:
        """Count the tasks of both products as built."""
        return len({key for part in self._parts() for key in part.__dask_graph__()})

    def track_tasks_run(self, folders: dict[str, str], name: str) -> int:
        """Count the tasks of both products after fusion, which the scheduler sees."""
        optimized = dask.optimize(*self._parts())
        return len({key for part in optimized for key in part.__dask_graph__()})

    def track_tasks_per_chunk(self, folders: dict[str, str], name: str) -> float:
        """Return the tasks of both products after fusion, for each chunk of the raw exposure."""
        return self.track_tasks_run(folders, name) / self.exposure["sci"].data.npartitions

    def track_graph_bytes(self, folders: dict[str, str], name: str) -> int:
        """Return the bytes of the pickled graph of both products, as sent to a scheduler."""
        return sum(len(cloudpickle.dumps(dict(part.__dask_graph__()))) for part in dask.optimize(*self._parts()))

    def time_calibrate(self, folders: dict[str, str], name: str) -> None:
        """Compute both products in memory."""
        dask.compute(*self._parts())

    def peakmem_calibrate(self, folders: dict[str, str], name: str) -> None:
        """Compute both products in memory; the peak includes the process and its imports."""
        dask.compute(*self._parts())

    def track_tasks_of_one_amplifier(self, folders: dict[str, str], name: str) -> int:
        """Count the tasks behind the rate of one amplifier's rows."""
        rate = self.result["rate"]["sci"]
        part = rate.isel(row=(rate["amplifier"] == 1).values)
        return len(dask.optimize(part)[0].__dask_graph__())

    def _parts(self) -> list:
        return [self.result[kind][name] for kind in ("rate", "rateints") for name in ("sci", "dq", "var_poisson")]


class Corrections:
    """The exposure after each correction, from the file. The cost of a step is the difference to the step before."""

    params = (
        tuple(EXPOSURES),
        ("group_scale", "dq_init", "saturation", "superbias", "refpix", "linearity", "dark_current", "jump"),
    )
    param_names = ("exposure", "step")
    timeout = 600
    number = 1
    repeat = 3

    def setup_cache(self) -> dict[str, str]:
        """Simulate the exposures once for all benchmarks."""
        return simulate()

    def setup(self, folders: dict[str, str], name: str, step: str) -> None:
        """Build the graph up to the step."""
        exposure, references = opened(Path(folders[name]))
        result = nsxr.correct_ramps(exposure, references)[step]
        self.stored = [array.data for array in result.data_vars.values() if array.chunks is not None]

    def time_up_to(self, folders: dict[str, str], name: str, step: str) -> None:
        """Compute the exposure after a step, from the file."""
        dask.compute(*self.stored)

    def peakmem_up_to(self, folders: dict[str, str], name: str, step: str) -> None:
        """Compute the exposure after a step, for its peak memory."""
        dask.compute(*self.stored)

    def track_tasks(self, folders: dict[str, str], name: str, step: str) -> int:
        """Count the tasks up to a step, after fusion."""
        return len({key for part in dask.optimize(*self.stored) for key in part.__dask_graph__()})

    def track_graph(self, folders: dict[str, str], name: str, step: str) -> int:
        """Return the bytes of the pickled graph up to a step."""
        return sum(len(cloudpickle.dumps(dict(part.__dask_graph__()))) for part in dask.optimize(*self.stored))


for _name in ("track_tasks_built", "track_tasks_run", "track_tasks_of_one_amplifier"):
    getattr(Stage1, _name).unit = "tasks"
