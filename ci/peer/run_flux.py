"""Turn count rates into flux by jwst, step by step; executed by the Python of jwst's environment.

    python run_flux.py RATE RESULT.npz REFERENCES.json STEP...

``REFERENCES.json`` has the paths of references by type; all other types are switched off. Slits are cut out, and
wavelengths are corrected for the positions of points, before the named steps of :data:`STEPS` run in their order.
RESULT has ``STEP/SLIT/VARIABLE`` for ``sci``, ``dq``, the variances, and the factors that the step stores; the step
``wavecorr`` has the wavelengths. ``slices`` is the name of the only slit of the IFU; ``slice`` is jwst's map of them.
``attributes`` is a JSON text with the first column and row of each slit on the detector, from 0, its source type, and
the seconds of the steps.
"""

import json
import logging
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from offline import offline
from run_peer import with_asdf

PIXELS = {"sci": "data", "dq": "dq", "var_poisson": "var_poisson", "var_rnoise": "var_rnoise", "var_flat": "var_flat"}
STEPS = {
    "flat_field": ("jwst.flatfield", "FlatFieldStep", ("flatfield_point", "flatfield_uniform")),
    "pathloss": ("jwst.pathloss", "PathLossStep", ("pathloss_point", "pathloss_uniform")),
    "barshadow": ("jwst.barshadow", "BarShadowStep", ("barshadow",)),
    "photom": ("jwst.photom", "PhotomStep", ("photom_point",)),
}
"""Module, class and stored factors of the steps that can be compared, in their order.

jwst leaves the time dependence out of ``photom_uniform``."""


def overrides(step: type, references: dict[str, str]) -> dict[str, str]:
    """Return the references of a step as its parameters."""
    return {f"override_{kind}": references.get(kind, "N/A") for kind in step.reference_file_types}


def slits_of(model: object) -> dict[str, object]:
    """Return the slits of a model by name. The slices of the IFU are one."""
    if hasattr(model, "slits"):
        return {slit.name: slit for slit in model.slits}
    return {"slices" if model.meta.exposure.type == "NRS_IFU" else model.name: model}


def store(model: object, step: str, stored: tuple[str, ...], arrays: dict[str, np.ndarray]) -> None:
    """Copy what a step made into ``arrays``."""
    for name, slit in slits_of(model).items():
        for variable, attribute in {**PIXELS, **{one: one for one in stored}}.items():
            values = getattr(slit, attribute, None)
            if values is not None and np.size(values):
                arrays[f"{step}/{name}/{variable}"] = np.array(values)
        if name == "slices":
            arrays[f"{step}/{name}/slice"] = np.array(model.regions)


def places(model: object) -> dict[str, dict[str, object]]:
    """Return the first column and row on the detector, and the source type, of each slit."""
    start, found = model.meta.subarray, {}
    for name, slit in slits_of(model).items():
        own = (slit.xstart, slit.ystart) if name != "slices" else (1, 1)
        kind = getattr(slit, "source_type", None) or model.meta.target.source_type
        column, row = own[0] + start.xstart - 2, own[1] + start.ystart - 2
        found[name] = {"column": int(column), "row": int(row), "source_type": kind}
    return found


def main() -> None:
    """Run the steps on one exposure."""
    from jwst.assign_wcs import AssignWcsStep
    from jwst.extract_2d import Extract2dStep
    from jwst.srctype import SourceTypeStep
    from jwst.wavecorr import WavecorrStep
    from stdatamodels.jwst import datamodels

    logging.disable(logging.CRITICAL)
    rate, result, listed = (Path(argument).resolve() for argument in sys.argv[1:4])
    os.chdir(rate.parent)  # where jwst looks for the metafile
    references = json.loads(listed.read_text(encoding="utf-8"))
    arrays, seconds = {}, {}
    with TemporaryDirectory() as folder, datamodels.open(with_asdf(rate, Path(folder))) as model:
        model = AssignWcsStep.call(model, **overrides(AssignWcsStep, references))
        if model.meta.exposure.type != "NRS_IFU":
            model = Extract2dStep.call(model, **overrides(Extract2dStep, references))
        model = SourceTypeStep.call(model)
        if model.meta.exposure.type != "NRS_IFU":
            model = WavecorrStep.call(model, **overrides(WavecorrStep, references))
            for name, slit in slits_of(model).items():
                arrays[f"wavecorr/{name}/wavelength"] = np.array(slit.wavelength)
        attributes = places(model)
        for name in sys.argv[4:]:
            module, kind, stored = STEPS[name]
            step = getattr(import_module(module), kind)
            begin = time.process_time()
            model = step.call(model, **overrides(step, references))
            seconds[name] = time.process_time() - begin
            store(model, name, stored, arrays)
    arrays["attributes"] = np.array(json.dumps({"slits": attributes, "seconds": seconds}))
    np.savez(result, **arrays)


if __name__ == "__main__":
    with offline():
        main()
