"""However a file spells a distortion, it becomes the same affine map and polynomials."""

import asdf
import numpy as np
import pytest
from astropy.modeling import models
from astropy.modeling.models import (
    AffineTransformation2D,
    Const1D,
    Identity,
    Mapping,
    Polynomial1D,
    Polynomial2D,
    Rotation2D,
    Scale,
    Shift,
    Tabular1D,
)

from nsxr.errors import ReferenceFileError
from nsxr.formats.asdf_blocks import read_asdf
from nsxr.formats.asdf_transforms import read_transform
from nsxr.kernels.optics.stages import distort
from nsxr.references.optics_parts import affine_of, distortion_of, relay_of

RANDOM = np.random.default_rng(11)
POINTS = RANDOM.uniform(-0.3, 0.3, (2, 20))
WAVELENGTHS = np.linspace(0.6, 5.3, 20)


def random_polynomial(degree):
    names = Polynomial2D(degree).param_names
    return Polynomial2D(degree, **dict(zip(names, RANDOM.normal(size=len(names)), strict=True)))


P, Q, R, S = (random_polynomial(degree) for degree in (5, 3, 5, 2))
LINEAR = Shift(0.1) & Shift(-0.2) | AffineTransformation2D([[1.2, 0.3], [-0.4, 0.9]], [0.01, 0.02])
XY = Mapping((0, 1), n_inputs=3)
WAVELENGTH = Mapping((2,), n_inputs=3)


def transform_of(tmp_path, model):
    asdf.AsdfFile({"model": model}).write_to(tmp_path / "model.asdf")
    file = read_asdf(tmp_path / "model.asdf")
    return read_transform(file.tree["model"], file.arrays)


def images(distortion, x, y, wavelength):
    return np.array([distort(distortion.numbers, *one) for one in zip(x, y, wavelength, strict=True)]).T


PLANE = {
    "polynomials": Mapping((0, 1, 0, 1)) | P & Q,
    "with an axis map behind": Mapping((0, 1, 0, 1)) | P & Q | Identity(2),
    "linear before": LINEAR | Mapping((0, 1, 0, 1)) | P & Q,
    "linear behind": Mapping((0, 1, 0, 1)) | P & Q | LINEAR | Scale(3600) & Scale(3600),
    "linear on both sides": LINEAR | Mapping((0, 1, 0, 1)) | P & Q | Rotation2D(30) | Shift(1) & Shift(2),
    "sum of two": Mapping((0, 1, 0, 1)) | (P + R) & (Q - S),
    "times a number": Mapping((0, 1, 0, 1)) | (P * (Mapping((0,), n_inputs=2) | Const1D(2.5))) & Q,
    "axes exchanged": Mapping((1, 0)) | Mapping((0, 1, 0, 1)) | P & Q | Mapping((1, 0)),
    "linear": LINEAR | Rotation2D(-20) | Mapping((1, 0)),
    "nothing": Identity(2),
}

COLOURED = {
    "polynomials": Mapping((0, 1, 2, 0, 1, 2))
    | ((XY | P) + (XY | R) * (WAVELENGTH | Identity(1))) & ((XY | Q) + (XY | S) * WAVELENGTH),
    "product the other way": Mapping((0, 1, 2, 0, 1, 2)) | ((XY | P) + WAVELENGTH * (XY | R)) & (XY | Q) | LINEAR,
    "linear before": LINEAR & Identity(1)
    | Mapping((0, 1, 2, 0, 1, 2))
    | ((XY | P) + (XY | R) * WAVELENGTH) & ((XY | Q) + (XY | S) * WAVELENGTH)
    | Identity(2),
    "a shift that grows": Mapping((0, 1, 2, 0, 1, 2))
    | (Mapping((0,), n_inputs=3) + WAVELENGTH) & Mapping((1,), n_inputs=3),
    "a curve of the wavelength": Mapping((0, 1, 2, 0, 1, 2))
    | (Mapping((0,), n_inputs=3) + (WAVELENGTH | Polynomial1D(3, c0=0.1, c1=0.2, c2=-0.3, c3=0.05))) & (XY | Q)
    | Identity(2),
    "powers of the wavelength": Mapping((0, 1, 2, 0, 1, 2))
    | ((XY | P) * WAVELENGTH * WAVELENGTH) & (WAVELENGTH * (XY | Q)),
    "nothing": Identity(3),
}


@pytest.mark.parametrize("name", PLANE)
def test_distortions_of_the_plane(tmp_path, name):
    found = distortion_of(transform_of(tmp_path, PLANE[name]))
    expected = PLANE[name](*POINTS)
    np.testing.assert_allclose(images(found, *POINTS, np.zeros(20)), expected, rtol=1e-12, atol=1e-13)
    degree = found.coefficients.shape[-1] - 1
    assert degree == (1 if name in ("linear", "nothing") else 5)


@pytest.mark.parametrize("name", COLOURED)
def test_distortions_that_depend_on_the_wavelength(tmp_path, name):
    found = distortion_of(transform_of(tmp_path, COLOURED[name]))
    expected = COLOURED[name](*POINTS, WAVELENGTHS)[:2]
    np.testing.assert_allclose(images(found, *POINTS, WAVELENGTHS), expected, rtol=1e-12, atol=1e-12)


def test_two_spellings_are_one_distortion(tmp_path):
    first = distortion_of(transform_of(tmp_path, PLANE["polynomials"]))
    assert first == distortion_of(transform_of(tmp_path, PLANE["with an axis map behind"]))
    assert first != distortion_of(transform_of(tmp_path, PLANE["linear before"]))


def test_inverses_are_those_of_the_file_or_of_the_parts(tmp_path):
    linear = affine_of(transform_of(tmp_path, LINEAR | Rotation2D(30)))
    relay = relay_of(transform_of(tmp_path, LINEAR | Rotation2D(30) | Scale(2) & Scale(4)))
    there = images(relay.forward, *POINTS, WAVELENGTHS)
    np.testing.assert_allclose(images(relay.backward, *there, WAVELENGTHS), POINTS, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(linear @ [0, 0, 1], (LINEAR | Rotation2D(30))(0, 0), rtol=1e-13)
    model = PLANE["polynomials"].copy()
    model.inverse = PLANE["linear before"]
    relay = relay_of(transform_of(tmp_path, model))
    expected = PLANE["linear before"](*POINTS)
    np.testing.assert_allclose(images(relay.backward, *POINTS, WAVELENGTHS), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Mapping((0, 1, 0, 1)) | P & Q | Mapping((0, 1, 0, 1)) | P & Q, "result of a polynomial"),
        (Mapping((0, 1, 0, 1)) | P & (LINEAR | Q), "different arguments"),
        (Mapping((0, 1, 0, 1)) | (P * Q) & Q, "combined by 'multiply'"),
        (Mapping((0, 1, 0, 1)) | (P / Q) & Q, "combined by 'divide'"),
        (Tabular1D([0.0, 1.0], [0.0, 1.0]) & Identity(1), "kind Tabular"),
        (models.RotationSequence3D([1, 2, 3], "xyz"), "expected polynomials"),
        (Identity(1), "takes 1 coordinates"),
        (Identity(4), "takes 4 coordinates"),
        (P, "gives 1 coordinates"),
        (Polynomial1D(2, c2=1.0) & Identity(1), "expected one of x and y"),
    ],
)
def test_other_forms_are_refused(tmp_path, model, message):
    with pytest.raises(ReferenceFileError, match=message):
        distortion_of(transform_of(tmp_path, model))


def test_what_is_not_linear_or_has_no_inverse(tmp_path):
    with pytest.raises(ReferenceFileError, match="not linear"):
        affine_of(transform_of(tmp_path, PLANE["polynomials"]))
    with pytest.raises(ReferenceFileError, match="has no inverse"):
        relay_of(transform_of(tmp_path, PLANE["polynomials"]))
