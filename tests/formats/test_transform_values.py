"""Transforms read from ASDF files give the values of the models that were written."""

import io
from typing import Any

import numpy as np
import pytest
from asdf.util import load_yaml
from astropy.modeling import fix_inputs
from astropy.modeling import models as m
from astropy.modeling.rotations import RotationSequence3D

from nsxr.errors import ReferenceFileError
from nsxr.formats.asdf_blocks import AsdfArrays
from nsxr.formats.asdf_transforms import OtherTransform, count_inputs, read_transform
from nsxr.formats.transform_values import evaluate

asdf = pytest.importorskip("asdf")


def written(model: Any) -> tuple[Any, AsdfArrays]:
    """Write a model and read it as a plain transform."""
    content = io.BytesIO()
    asdf.AsdfFile({"model": model}).write_to(content)
    content.seek(0)
    arrays = AsdfArrays(content.getvalue(), "made")
    return read_transform(load_yaml(content, tagged=True)["model"], arrays), arrays


POLYNOMIAL = m.Polynomial2D(2, c0_0=0.1, c1_0=1.1, c0_1=-0.2, c2_0=0.05, c0_2=0.02, c1_1=-0.03)
AFFINE = m.AffineTransformation2D([[1.1, 0.2], [-0.1, 0.9]], [0.3, -0.4])
TABLE = m.Tabular1D(points=np.linspace(-1, 1, 9), lookup_table=np.linspace(-1, 1, 9) ** 2, bounds_error=False)
BEYOND = m.Tabular1D([-0.1, 0.0, 0.1], [1.0, 2.0, 4.0], bounds_error=False, fill_value=None)


@pytest.mark.parametrize(
    ("model", "n"),
    [
        (AFFINE | m.Mapping((0, 1, 0, 1)) | POLYNOMIAL & POLYNOMIAL, 2),
        (m.Rotation2D(20) | m.Shift(1.0) & m.Scale(-2.0), 2),
        (m.Mapping((2, 0), n_inputs=3) | m.Polynomial1D(2, c0=1, c1=2, c2=3) & m.Linear1D(2.0, 0.5), 3),
        (TABLE, 1),
        (BEYOND, 1),
        (m.Identity(1) * m.Const1D(3.0) + m.Scale(0.5), 1),
        (fix_inputs(m.Mapping((2, 0, 1)) | AFFINE & m.Identity(1), {"x1": 0.7}), 2),
        (m.Identity(1) / m.Const1D(4.0) - m.Scale(0.5), 1),
    ],
    ids=["distortion", "turned", "mapped", "table", "beyond a table", "sums", "fixed", "divided"],
)
def test_values_are_those_of_the_models(model: Any, n: int) -> None:
    transform, arrays = written(model)
    inputs = [np.random.default_rng(k).uniform(-1.2, 1.2, (3, 4)) for k in range(n)]
    assert count_inputs(transform) == n
    wanted = model(*inputs)
    found = evaluate(transform, inputs, arrays)
    for one, other in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-13)


def test_the_observatorys_transforms() -> None:
    models = pytest.importorskip("stdatamodels.jwst.transforms.models")
    gwcs = pytest.importorskip("gwcs.spectroscopy")
    geometry = pytest.importorskip("gwcs.geometry")
    rng = np.random.default_rng(1)
    x, y, z, w = (rng.uniform(0.01, 0.3, 7) for _ in range(4))
    each = [
        (models.Unitless2DirCos(), (x, y)),
        (models.DirCos2Unitless(), (x, y, z)),
        (models.Rotation3DToGWA([1.0, -2.0, 0.5, 24.0], "xyzy"), (x, y, np.sqrt(1 - x**2 - y**2))),
        (models.RefractionIndexFromPrism(-16.5), (x, y, z)),
        (models.Logical("GT", 0.1, np.nan), (x,)),
        (models.WavelengthFromGratingEquation(9e4, -1), (x, y, z)),
        (models.AngleFromGratingEquation(9e4, -1), (w * 1e-5, x, y, z)),
        (gwcs.WavelengthFromGratingEquation(9e4, -1), (x, z)),
        (gwcs.AnglesFromGratingEquation3D(9e4, -1), (w * 1e-5, x, y)),
        (geometry.SphericalToCartesian(wrap_lon_at=180), (x * 100, y * 100)),
        (geometry.CartesianToSpherical(wrap_lon_at=360), (x, -y, z)),
        (RotationSequence3D([0.1, 0.12, -67.0, 2.3, -150.0], "zyxyz"), (x, y, z)),
    ]
    for model, inputs in each:
        transform, arrays = written(model)
        wanted = model(*inputs)
        for one, other in zip(
            evaluate(transform, inputs, arrays), wanted if isinstance(wanted, tuple) else (wanted,), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-14, err_msg=type(model).__name__)


def test_unknown_transforms_are_refused() -> None:
    arrays = AsdfArrays(b"", "made")
    for node in ({"inputs": ["x"]}, {}):
        with pytest.raises(ReferenceFileError, match="of the kind 'magic' is not known"):
            evaluate(OtherTransform("magic", node), [np.zeros(2)], arrays)
    transform, arrays = written(AFFINE)
    with pytest.raises(ReferenceFileError, match="takes 2 coordinates, but gets 1"):
        evaluate(transform, [np.zeros(2)], arrays)
