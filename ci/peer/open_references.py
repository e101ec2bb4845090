"""Open simulated references of stage 2 with jwst's models; executed by the Python of jwst's environment.

    python open_references.py FOLDER

FOLDER has a folder for each mode (FS, MOS, IFU, BOTS). The program opens each file with the model that its step uses,
and checks that tables and images are there with the values that the file has. It ends with an error otherwise.
"""

import json
import sys
from pathlib import Path

import numpy as np
from offline import offline

_FLUX = {
    "fflat": ("NirspecFlatModel", "NirspecQuadFlatModel", "NirspecFlatModel"),
    "photom": ("NrsFsPhotomModel", "NrsMosPhotomModel", "NrsMosPhotomModel"),
    "area": ("NirspecSlitAreaModel", "NirspecMosAreaModel", "NirspecIfuAreaModel"),
    "apcorr": ("NrsFsApcorrModel", "NrsMosApcorrModel", "NrsIfuApcorrModel"),
}
_ALL = {
    "sflat": "NirspecFlatModel",
    "dflat": "NirspecFlatModel",
    "pathloss": "PathlossModel",
    "barshadow": "BarshadowModel",
    "cubepar": "NirspecIFUCubeParsModel",
    "wavecorr": "WaveCorrModel",
}
_EXPOSURE = {"FS": "NRS_FIXEDSLIT", "MOS": "NRS_MSASPEC", "IFU": "NRS_IFU", "BOTS": "NRS_BRIGHTOBJ"}


def _model_name(kind: str, mode: str) -> str:
    if kind == "extract1d":
        return "Extract1dIFUModel"
    return _ALL.get(kind) or _FLUX[kind][{"MOS": 1, "IFU": 2}.get(mode, 0)]


def check_one(kind: str, mode: str, path: Path) -> str:
    """Open a file and return what was found in it."""
    from stdatamodels.jwst import datamodels

    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        return f"{len(content.get('apertures') or content['msaoper'])} entries"
    with getattr(datamodels, _model_name(kind, mode))(path) as model:
        model.validate()
        is_split = kind == "fflat" and mode == "MOS"  # the model of quadrants does not read the type of exposures
        if not is_split and model.meta.exposure.type != _EXPOSURE[mode]:
            raise RuntimeError(f"{path.name}: exposure type {model.meta.exposure.type}")
        if is_split:
            shapes = [quadrant.data.shape for quadrant in model.quadrants]
            if shapes != [(2, 171, 365)] * 4 or len(model.quadrants[3].flat_table) != 1:
                raise RuntimeError(f"{path.name}: {shapes}")
            return f"quadrants {shapes[0]}"
        if kind in ("fflat", "sflat", "dflat"):
            table = model.flat_table
            if not np.isfinite(table["data"]).all() or not (table["data"] > 0.5).all():
                raise RuntimeError(f"{path.name}: fast variation {table['data']}")
            return f"{len(table)} rows, image {None if kind == 'fflat' else model.data.shape}"
        if kind == "pathloss":
            found = [(a.name, a.shutters, a.pointsource_data.shape) for a in model.apertures]
            if not all(np.isclose(a.pointsource_wcs.crval1, -0.5) for a in model.apertures):
                raise RuntimeError(f"{path.name}: {found}")
            return str(found)
        if kind == "barshadow":
            if model.data1x1.shape != (1001, 101) or not np.isclose(model.crval2, -1.0):
                raise RuntimeError(f"{path.name}: {model.data1x1.shape}")
            return str(model.data1x3.shape)
        if kind == "apcorr" and mode != "IFU":
            row = model.apcorr_table[0]
            if row["apcorr"].shape != (row["nelem_size"], row["nelem_wl"], row["pixphase"].size):
                raise RuntimeError(f"{path.name}: {row['apcorr'].shape}")
            return str(row["apcorr"].shape)
        if kind == "wavecorr":
            return str([aperture.aperture_name for aperture in model.apertures])
        return type(model).__name__


def main() -> None:
    """Open all references."""
    folder, n = Path(sys.argv[1]), 0
    for mode in _EXPOSURE:
        for path in sorted((folder / mode).glob("jwst_nirspec_*_sim_*")):
            kind = path.name.split("_")[2]
            sys.stdout.write(f"{mode:5}{kind:10} {check_one(kind, mode, path)}\n")
            n += 1
    if n == 0:
        raise RuntimeError(f"{folder} has no references")


if __name__ == "__main__":
    with offline():
        main()
