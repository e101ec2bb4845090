"""Find jumps in ramps and fit them with jwst: arrays in, arrays out.

Executed by the Python of jwst's environment; imports nothing of nsxr. The input is an ``.npz`` with ``sci``
(integration, group, row, column) [DN], the numbers ``gain``, ``readnoise`` [DN], ``group_time``, ``frame_time`` [s] and
``n_frames``, and ``groupdq`` if there are flags already. The output has for each algorithm ``rate``, ``variance``
(integration, row, column), ``flags`` (like ``sci``, with the jumps found before the fit) and ``seconds`` of processor
time.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from offline import offline


def main() -> None:
    """Run both algorithms."""
    parser = argparse.ArgumentParser(description="Find jumps and fit ramps with jwst.")
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--algorithms", nargs="+", default=["OLS_C", "LIKELY"])
    parser.add_argument("--snowballs", action="store_true", help="enlarge large events")
    arguments = parser.parse_args()
    with offline(), TemporaryDirectory() as scratch, np.load(arguments.input) as given:
        from jwst.jump import JumpStep
        from jwst.ramp_fitting import RampFitStep
        from stdatamodels.jwst import datamodels

        sci = given["sci"]
        paths = {}
        for kind, model_class in (("gain", datamodels.GainModel), ("readnoise", datamodels.ReadnoiseModel)):
            with model_class(np.full(sci.shape[2:], given[kind], np.float32)) as reference:
                describe(reference, sci.shape)
                reference.meta.author = reference.meta.description = reference.meta.pedigree = "GROUND"
                reference.meta.reftype, reference.meta.useafter = kind.upper(), "2020-01-01T00:00:00"
                paths[kind] = str(Path(scratch) / f"{kind}.fits")
                reference.save(paths[kind])
        overrides = {f"override_{kind}": path for kind, path in paths.items()}
        results = {}
        for algorithm in arguments.algorithms:
            model = datamodels.RampModel(
                data=sci.astype(np.float32),
                groupdq=given["groupdq"].copy() if "groupdq" in given else np.zeros(sci.shape, np.uint8),
                pixeldq=np.zeros(sci.shape[2:], np.uint32),
            )
            describe(model, sci.shape)
            model.meta.observation.date, model.meta.observation.time = "2024-01-01", "00:00:00"
            model.meta.exposure.group_time = float(given["group_time"])
            model.meta.exposure.frame_time = float(given["frame_time"])
            model.meta.exposure.nframes = int(given["n_frames"])
            start = time.process_time()
            found = JumpStep.call(model, flag_4_neighbors=False, expand_large_events=arguments.snowballs, **overrides)
            flags = np.array(found.groupdq)
            _, rates = RampFitStep.call(found, algorithm=algorithm, **overrides)
            results[f"{algorithm}_seconds"] = time.process_time() - start
            results[f"{algorithm}_rate"] = rates.data
            results[f"{algorithm}_variance"] = rates.var_poisson + rates.var_rnoise
            results[f"{algorithm}_flags"] = flags
        np.savez(arguments.output, **results)


def describe(model: object, shape: tuple[int, ...]) -> None:
    """Set the keywords that the steps need."""
    integrations, groups, rows, columns = shape
    model.meta.instrument.name, model.meta.instrument.detector = "NIRSPEC", "NRS1"
    model.meta.instrument.filter, model.meta.instrument.grating = "F290LP", "G395H"
    model.meta.subarray.name = "FULL"
    model.meta.subarray.xstart = model.meta.subarray.ystart = 1
    model.meta.subarray.xsize, model.meta.subarray.ysize = columns, rows
    model.meta.subarray.fastaxis, model.meta.subarray.slowaxis = 2, 1
    model.meta.exposure.nints, model.meta.exposure.ngroups = integrations, groups
    model.meta.exposure.groupgap, model.meta.exposure.drop_frames1 = 0, 0
    model.meta.exposure.type, model.meta.exposure.readpatt = "NRS_IFU", "NRSRAPID"
    model.meta.telescope = "JWST"


if __name__ == "__main__":
    main()
