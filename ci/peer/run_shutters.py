"""List the slitlets that jwst finds in MSA metafiles; executed by the Python of jwst's environment.

    python run_shutters.py RESULT.json METAFILE...

The result has a list of slitlets for each metafile, configuration and dither, or the message of an error.
"""

import json
import logging
import sys
import warnings

from astropy.io import fits
from offline import offline

FIELDS = ("name", "source_id", "source_name", "shutter_state", "xcen", "ycen", "quadrant", "shutter_id")
NUMBERS = ("source_xpos", "source_ypos", "ymin", "ymax")


def main() -> None:
    """Write the slitlets of all exposures of the metafiles."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    target, *paths = sys.argv[1:]
    found: dict[str, object] = {}
    with offline():
        from jwst.assign_wcs.nirspec import get_open_msa_slits

        for path in paths:
            with fits.open(path) as file:
                rows, program = file["SHUTTER_INFO"].data, file[0].header["PROGRAM"].lstrip("0")
                pairs = {(int(row["msa_metadata_id"]), int(row["dither_point_index"])) for row in rows}
            for metadata_id, dither in sorted(pairs):
                try:
                    slits = get_open_msa_slits(program, path, metadata_id, dither)
                except Exception as error:
                    result: object = f"{type(error).__name__}: {error}"
                else:
                    result = [
                        [str(getattr(slit, name)) for name in FIELDS] + [float(getattr(slit, name)) for name in NUMBERS]
                        for slit in slits
                    ]
                found[f"{path}|{program}|{metadata_id}|{dither}"] = result
    with open(target, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
