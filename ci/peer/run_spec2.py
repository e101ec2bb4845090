"""Run jwst's stage 2 on the count rates of one NIRSpec exposure, offline; executed by the Python of jwst's environment.

    python run_spec2.py INPUT OUTPUT REFERENCES.json

INPUT is a file of count rates or an association. ``REFERENCES.json`` has the paths of references by type; all other
types are switched off. Slits are not resampled and no cube is built, because nsxr does neither: spectra come from the
calibrated slits. Neither program makes a master background here.
"""

import json
import logging
import os
import sys
from pathlib import Path

from offline import offline

SKIPPED = ("master_background_mos", "resample_spec", "cube_build")


def main() -> None:
    """Run the pipeline."""
    from jwst.pipeline import Spec2Pipeline

    logging.disable(logging.WARNING)
    given, output, listed = (Path(argument).resolve() for argument in sys.argv[1:4])
    output.mkdir(parents=True, exist_ok=True)
    os.chdir(given.parent)  # where jwst looks for members and for the metafile
    references = json.loads(listed.read_text(encoding="utf-8"))["references"]
    is_ifu = "ifu" in listed.parent.name
    steps: dict[str, dict[str, object]] = {
        name: {f"override_{kind}": references.get(kind, "N/A") for kind in step.reference_file_types}
        for name, step in Spec2Pipeline.step_defs.items()
        if not isinstance(step.reference_file_types, property)  # a pipeline within the pipeline
    }
    for name in (*SKIPPED, *(("extract_1d",) if is_ifu else ())):
        steps.setdefault(name, {})["skip"] = True
    Spec2Pipeline.call(str(given), steps=steps, output_dir=str(output), save_results=True)


if __name__ == "__main__":
    with offline():
        main()
