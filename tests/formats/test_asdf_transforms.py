"""Transforms in ASDF trees become plain objects with the numbers of the file, for tags and layouts of all ages."""

import asdf
import numpy as np
import pytest
from astropy.modeling import models

from nsxr.errors import ReferenceFileError
from nsxr.formats.asdf_blocks import read_asdf, tag_of
from nsxr.formats.asdf_transforms import (
    Affine,
    Combination,
    Compose,
    Concatenate,
    Constant,
    Identity,
    OtherTransform,
    Polynomial,
    RemapAxes,
    Rotation,
    Scale,
    Shift,
    Tabular,
    read_transform,
)

BLOCK = "!core/ndarray-1.0.0"
HEAD = "#ASDF 1.0.0\n#ASDF_STANDARD 1.1.0\n%YAML 1.1\n%TAG ! tag:stsci.edu:asdf/\n--- !core/asdf-1.0.0\n"


def written(tmp_path, model, **options):
    path = tmp_path / "model.asdf"
    asdf.AsdfFile({"model": model}).write_to(path, **options)
    file = read_asdf(path)
    return read_transform(file.tree["model"], file.arrays)


def from_text(tmp_path, text):
    path = tmp_path / "text.asdf"
    path.write_text(f"{HEAD}{text}...\n")
    file = read_asdf(path)
    return read_transform(file.tree["model"], file.arrays)


@pytest.mark.parametrize("storage", ["inline", "internal"])
@pytest.mark.parametrize("compression", [None, "zlib", "bzp2"])
def test_every_kind_of_transform_keeps_its_numbers(tmp_path, storage, compression):
    polynomial = models.Polynomial2D(2, c0_0=1.5, c1_0=2.0, c2_0=3.0, c0_1=4.0, c0_2=5.0, c1_1=1 / 3)
    polynomial.inverse = models.Polynomial2D(1, c0_0=-1.0, c1_0=0.25)
    affine = models.AffineTransformation2D([[1.0, 2.0], [3.0, 4.0]], translation=[5.0, 6.0])
    model = models.Mapping((0, 1, 0, 1)) | polynomial & (
        affine | models.Const1D(2.0) * models.Identity(1) & models.Scale(3)
    )
    model = (
        models.Mapping((0, 1, 0, 1)) | (polynomial & polynomial) | affine | models.Rotation2D(30) | models.Identity(2)
    )
    found = written(tmp_path, model, all_array_storage=storage, all_array_compression=compression)
    assert isinstance(found, Compose)
    assert found.second.n == 2
    assert found.first.second.angle == pytest.approx(30, rel=1e-15)
    turned = found.first.first.second
    assert isinstance(turned, Affine)
    np.testing.assert_array_equal(turned.matrix, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(turned.translation, [5, 6])
    remap, both = found.first.first.first.first, found.first.first.first.second
    assert isinstance(remap, RemapAxes)
    assert remap.mapping == (0, 1, 0, 1)
    assert isinstance(both, Concatenate)
    np.testing.assert_array_equal(both.first.coefficients, [[1.5, 4, 5], [2, 1 / 3, 0], [3, 0, 0]])
    np.testing.assert_array_equal(both.first.inverse.coefficients, [[-1, 0], [0.25, 0]])
    assert not both.first.coefficients.flags.writeable


def test_sums_products_tables_and_constants(tmp_path):
    model = models.Shift(2.0) + models.Scale(3.0) * models.Const1D(4.0) - models.Identity(1)
    found = written(tmp_path, model)
    assert isinstance(found, Combination)
    assert found.operation == "subtract"
    assert isinstance(found.second, Identity)
    assert found.first.operation == "add"
    assert found.first.first.offset == 2
    product = found.first.second
    assert (product.operation, product.first.factor, product.second.value) == ("multiply", 3, 4)
    assert isinstance(product.second, Constant)
    table = models.Tabular1D([0.0, 1.0, 3.0], [5.0, 6.0, 9.0], bounds_error=False, fill_value=-1.0)
    found = written(tmp_path, table)
    assert isinstance(found, Tabular)
    np.testing.assert_array_equal(found.points[0], [0, 1, 3])
    np.testing.assert_array_equal(found.values, [5, 6, 9])
    assert found.fill == -1


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("model: !transform/shift-1.0.0 {offset: 3}\n", Shift),
        ("model: !transform/scale-1.4.0 {factor: 3.5, name: pitch}\n", Scale),
        ("model: !transform/rotate2d-1.0.0 {angle: 0.0}\n", Rotation),
        ("model: !transform/polynomial-1.0.0 {coefficients: [1, 2, 3]}\n", Polynomial),
        ("model: !transform/polynomial-1.2.0 {coefficients: [1, 2], domain: [-1, 1]}\n", Polynomial),
        ("model: !<tag:stsci.edu:jwst_pipeline/snell-1.0.0> {prism_angle: -16.5}\n", OtherTransform),
        ("model: !<tag:stsci.edu:gwcs/frame-1.0.0> {name: x}\n", OtherTransform),
    ],
)
def test_old_and_other_tags(tmp_path, text, kind):
    assert type(from_text(tmp_path, text)) is kind


def test_a_model_that_is_the_inverse_of_its_inverse(tmp_path):
    text = "model: &one !transform/shift-1.0.0\n  offset: 1\n  inverse: !transform/shift-1.0.0 {offset: -1}\n"
    text += "again: *one\n"
    assert from_text(tmp_path, text).inverse.offset == -1


@pytest.mark.parametrize(
    "text",
    [
        "model: 5\n",
        "model: !transform/shift-1.0.0 {factor: 3}\n",
        "model: !transform/shift-1.0.0 {offset: .nan}\n",
        "model: !transform/shift-1.0.0 {offset: [1, 2]}\n",
        "model: !transform/remap_axes-1.0.0 {mapping: []}\n",
        "model: !transform/remap_axes-1.0.0 {mapping: [0, 1000000]}\n",
        "model: !transform/affine-1.0.0 {matrix: [[1, 2]], translation: [0, 0]}\n",
        "model: !transform/polynomial-1.0.0 {coefficients: []}\n",
        "model: !transform/polynomial-1.0.0 {coefficients: [a]}\n",
        "model: !transform/polynomial-1.2.0 {coefficients: [1, 2], domain: [0, 5]}\n",
        f"model: !transform/polynomial-1.0.0 {{coefficients: {BLOCK} {{source: 3, datatype: float64, shape: [2]}}}}\n",
        f"model: !transform/polynomial-1.0.0 {{coefficients: {BLOCK} {{source: 0, datatype: object, shape: [2]}}}}\n",
        "model: !transform/compose-1.0.0 {forward: [!transform/shift-1.0.0 {offset: 1}]}\n",
        "model: !transform/compose-1.0.0 {forward: 7}\n",
        "model: !transform/identity-1.0.0 {n_dims: 100000000000}\n",
        "model: !core/ndarray-1.0.0 {source: '/etc/passwd', datatype: float64, shape: [2]}\n",
    ],
)
def test_bad_transforms_are_refused_in_one_line(tmp_path, text):
    with pytest.raises(ReferenceFileError) as error:
        from_text(tmp_path, text)
    assert "\n" not in str(error.value)


def test_tables_and_damaged_blocks(tmp_path):
    path = tmp_path / "table.asdf"
    table = np.zeros(3, [("NO", ">i4"), ("XC", ">f4")])
    table["XC"] = [1.5, 2.5, 3.5]
    for storage in ("internal", "inline"):
        asdf.AsdfFile({"data": table}).write_to(path, all_array_storage=storage)
        file = read_asdf(path)
        np.testing.assert_array_equal(file.arrays.read(file.tree["data"])["XC"], [1.5, 2.5, 3.5])
    asdf.AsdfFile({"data": np.arange(9.0)}).write_to(path)
    content = path.read_bytes()
    file = read_asdf(path)
    assert tag_of(file.tree["data"]) == "core/ndarray"
    np.testing.assert_array_equal(file.arrays.read(file.tree["data"]), np.arange(9))
    place = content.index(b"\xd3BLK") + 54 + 20
    path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    file = read_asdf(path)
    with pytest.raises(ReferenceFileError, match="checksum"):
        file.arrays.read(file.tree["data"])
    path.write_bytes(content[: content.index(b"\xd3BLK") + 70])
    with pytest.raises(ReferenceFileError, match="cut off"):
        read_asdf(path)
