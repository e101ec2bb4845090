"""Two points that were planned close to each other are fitted together, each with its own light."""

import json

import numpy as np
import pytest
import xarray as xr
from scipy.special import ndtr

import nsxr

ROWS, COLUMNS, SCALE = 24, 120, 4.4  # rows of an open height
PITCH = 1.15


def slit_of(own: float, other: float, ratio: float) -> tuple[xr.Dataset, np.ndarray]:
    """Return a slitlet with two points at places along it [open heights], and the spectrum of the first one."""
    row, column = np.arange(ROWS)[:, None], np.arange(COLUMNS)
    slit_y = (row - 11.3 - 0.01 * column) / SCALE
    spectrum = 1 + 0.3 * np.sin(column / 15)
    image = np.zeros((ROWS, COLUMNS))
    for place, light in ((own, spectrum), (other, ratio * (1.2 - 0.4 * column / COLUMNS))):
        edges = (slit_y[..., None] - place) * SCALE + np.array([-0.5, 0.5])
        image += light * np.diff(ndtr(edges / 0.8), axis=-1)[..., 0]
    random, noise = np.random.default_rng(3), 0.004
    images = {
        "sci": image + noise * random.normal(size=image.shape),
        "var_poisson": np.zeros_like(image),
        "var_rnoise": np.full_like(image, noise**2),
        "wavelength": 1.0 + 0.01 * column + 0 * row,
        "slit_y": slit_y,
    }
    variables = {name: (("row", "column"), values.astype(np.float32)) for name, values in images.items()}
    variables["dq"] = (("row", "column"), np.zeros(image.shape, np.uint32))
    attrs = {"EXP_TYPE": "NRS_MSASPEC", "SRCTYPE": "POINT", "SHUTSTA": "1x1", "SLTYSCL": PITCH, "S_BKDSUB": "COMPLETE"}
    attrs |= {"SRCYPOS": own / PITCH, "source_places": json.dumps([own, other])}
    slit = xr.Dataset(variables, {"row": np.arange(ROWS), "column": column}, attrs).set_coords("slit_y")
    slit["sci"].attrs["units"] = "MJy"
    return slit, 1e6 * spectrum


@pytest.mark.parametrize(("rows", "ratio"), [(2.0, 1.0), (-2.2, 0.5), (3.0, 1.0)])
def test_two_planned_points_have_their_own_light(rows: float, ratio: float) -> None:
    slit, truth = slit_of(0.05, 0.05 + rows / SCALE, ratio)
    spectrum = nsxr.extract_spectrum(slit)
    assert abs(float(spectrum["position_fitted"] - spectrum["position_planned"])) < 0.05
    kept = spectrum["dq"].to_numpy() == 0
    assert kept.mean() > 0.95
    assert abs(np.median((spectrum["flux"].to_numpy() / truth)[kept]) - 1) < 0.03
