"""Write coordinates of slits as a gwcs in an ASDF text, without the libraries that read it.

A :class:`Node` is a tagged mapping of the tree. A node that stands in the tree several times is written once, with an
anchor, and aliases refer to it. So the optics that all slits share stand in a file once. The tags are those of the
observatory's files of versions 1.14 and 1.15, which all newer versions of the libraries read.
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np

__all__ = [
    "Node",
    "affine",
    "asdf_text",
    "beside",
    "chain",
    "constant",
    "identity",
    "limits",
    "pick",
    "polynomial",
    "rotation_to_wheel",
    "scale",
    "selector",
    "shift",
    "sky_of_v2v3",
    "slopes_to_cosines",
    "step",
    "table",
    "wcs",
]

_ASDF = "tag:stsci.edu:asdf/"
_TRANSFORM = f"{_ASDF}transform/"
_PIPELINE = "tag:stsci.edu:jwst_pipeline/"
_GWCS = "tag:stsci.edu:gwcs/"
_ORDERED = "tag:yaml.org,2002:omap"  # versions of asdf to 5 take no other mapping without a tag of its own
_BLOCK_HEADER = 48  # bytes


@dataclass(frozen=True, eq=False)
class Node:
    """A tagged mapping of the tree. ``n`` is the number of coordinates that a transform takes."""

    tag: str
    content: Mapping[str, Any] = field(default_factory=dict)
    n: int = 0


def identity(n: int) -> Node:
    """Return the transform that changes nothing."""
    return Node(f"{_TRANSFORM}identity-1.2.0", {"n_dims": n} if n > 1 else {}, n)


def shift(offset: float) -> Node:
    """Return x + offset."""
    return Node(f"{_TRANSFORM}shift-1.2.0", {"offset": float(offset)}, 1)


def scale(factor: float, name: str = "") -> Node:
    """Return x times a factor."""
    return Node(f"{_TRANSFORM}scale-1.2.0", {"factor": float(factor)} | ({"name": name} if name else {}), 1)


def affine(matrix: np.ndarray, name: str = "") -> Node:
    """Return an affine map (2, 3) of x and y."""
    content: dict[str, Any] = {"matrix": _inline(matrix[:, :2]), "translation": _inline(matrix[:, 2])}
    content |= {"name": name} if name else {}
    return Node(f"{_TRANSFORM}affine-1.3.0", content, 2)


def polynomial(coefficients: np.ndarray) -> Node:
    """Return the sum of coefficients[i, j] x^i y^j."""
    return Node(f"{_TRANSFORM}polynomial-1.2.0", {"coefficients": np.asarray(coefficients, dtype=np.float64)}, 2)


def pick(*axes: int, of: int) -> Node:
    """Return a transform whose outputs are the inputs with the given numbers, out of ``of`` inputs."""
    content: dict[str, Any] = {"mapping": list(axes)}
    if of != max(axes) + 1:
        content["n_inputs"] = of
    return Node(f"{_TRANSFORM}remap_axes-1.3.0", content, of)


def table(points: np.ndarray, values: np.ndarray, *, goes_on: bool = False) -> Node:
    """Return linear interpolation in values at points, which increase. NaN outside, or the last steps go on."""
    content = {"bounds_error": False, "method": "linear"} | ({} if goes_on else {"fill_value": math.nan})
    arrays = {"lookup_table": np.asarray(values, np.float64), "points": [np.asarray(points, np.float64)]}
    return Node(f"{_TRANSFORM}tabular-1.2.0", content | arrays, 1)


def chain(*parts: Node, inverse: Node | None = None, **content: Any) -> Node:
    """Return transforms applied one after the other."""
    return _nested("compose", parts, parts[0].n, inverse, content)


def beside(*parts: Node, inverse: Node | None = None) -> Node:
    """Return transforms side by side. Each takes its own coordinates."""
    return _nested("concatenate", parts, sum(part.n for part in parts), inverse, {})


def combined(operation: str, first: Node, second: Node) -> Node:
    """Return the results of two transforms of the same coordinates: ``add`` or ``multiply``."""
    return _nested(operation, (first, second), first.n, None, {})


def _nested(kind: str, parts: Sequence[Node], n: int, inverse: Node | None, content: Mapping[str, Any]) -> Node:
    """Return a node with two parts, of which the first holds all but the last of the given ones."""
    found = parts[0]
    taken = found.n
    for number, part in enumerate(parts[1:], start=2):
        taken += part.n
        own = {**content, **({} if inverse is None else {"inverse": inverse})} if number == len(parts) else {}
        inner = n if kind != "concatenate" else taken
        found = Node(f"{_TRANSFORM}{kind}-1.2.0", {"forward": [found, part], **own}, inner)
    return found


def slopes_to_cosines() -> Node:
    """Return the transform from slopes (x, y) to direction cosines (x, y, z)."""
    content = {"inputs": ["x", "y"], "outputs": ["x", "y", "z"], "model_type": "unitless2directional"}
    return Node(f"{_PIPELINE}coords-1.0.0", content, 2)


def cosines_to_slopes() -> Node:
    """Return the transform from direction cosines (x, y, z) to slopes (x, y)."""
    content = {"inputs": ["x", "y", "z"], "outputs": ["x", "y"], "model_type": "directional2unitless"}
    return Node(f"{_PIPELINE}coords-1.0.0", content, 3)


def rotation_to_wheel(angles: Sequence[float], axes: str) -> Node:
    """Return the rotation of direction cosines by angles [degree] about axes."""
    content = {"inputs": ["x", "y", "z"], "outputs": ["x", "y", "z"]}
    own = {"angles": [float(angle) for angle in angles], "axes_order": axes}
    return Node(f"{_PIPELINE}rotation_sequence-1.0.0", content | own, 3)


def grating(groove_density: float, order: int, output: str) -> Node:
    """Return the grating equation: for the wavelength [m], or for the angle at which light leaves."""
    inputs = ["alpha_in", "beta_in", "alpha_out"] if output == "wavelength" else ["lam", "alpha_in", "beta_in", "z"]
    outputs = ["lam"] if output == "wavelength" else ["alpha_out", "beta_out", "zout"]
    own = {"groove_density": float(groove_density), "order": int(order), "output": output}
    return Node(f"{_PIPELINE}grating_equation-1.0.0", {"inputs": inputs, "outputs": outputs, **own}, len(inputs))


def index_of_prism(angle: float) -> Node:
    """Return the refractive index of the prism from the directions of light."""
    content = {"inputs": ["alpha_in", "beta_in", "alpha_out"], "outputs": ["n"], "prism_angle": float(angle)}
    return Node(f"{_PIPELINE}refraction_index_from_prism-1.0.0", content, 3)


def way_through_prism(angle: float, k: Sequence[float], poles: Sequence[float]) -> Node:
    """Return the direction of light behind the prism. The glass has the temperature at which it was measured."""
    content: dict[str, Any] = {
        "inputs": ["lam", "alpha_in", "beta_in", "zin"],
        "outputs": ["alpha_out", "beta_out", "zout"],
    }
    glass = {"kcoef": [float(one) for one in k], "lcoef": [float(one) for one in poles], "tcoef": [0.0] * 6}
    air = {"pressure": 0.0, "ref_pressure": 0.0, "temp": 35.0, "ref_temp": 35.0}
    return Node(f"{_PIPELINE}snell-1.0.0", content | glass | air | {"prism_angle": float(angle)}, 4)


def sky_of_v2v3(v2: float, v3: float, roll: float, ra: float, dec: float) -> Node:
    """Return the transform from V2, V3 [arcsec] to the sky [degree], for a reference point and a roll [degree]."""
    to_cosines = {"inputs": ["lon", "lat"], "outputs": ["x", "y", "z"], "transform_type": "spherical_to_cartesian"}
    to_angles = {"inputs": ["x", "y", "z"], "outputs": ["lon", "lat"], "transform_type": "cartesian_to_spherical"}
    names = {"inputs": ["x", "y", "z"], "outputs": ["x", "y", "z"], "rotation_type": "cartesian"}
    angles = [v2 / 3600, -v3 / 3600, roll, dec, -ra]
    return chain(
        beside(scale(1 / 3600), scale(1 / 3600)),
        Node(f"{_GWCS}spherical_cartesian-1.1.0", to_cosines | {"wrap_lon_at": 180}, 2),
        Node(f"{_TRANSFORM}rotate_sequence_3d-1.0.0", names | {"angles": angles, "axes_order": "zyxyz"}, 3),
        Node(f"{_GWCS}spherical_cartesian-1.1.0", to_angles | {"wrap_lon_at": 360}, 3),
    )


def constant(value: float) -> Node:
    """Return the transform of one coordinate to a number."""
    return Node(f"{_TRANSFORM}constant-1.4.0", {"dimensions": 1, "value": float(value)}, 1)


def selector(labels: np.ndarray, transforms: Mapping[int, Node], back: Mapping[float, int]) -> Node:
    """Return the transform of pixels (x, y) to (x_slice, y_slice, wavelength) that labels of pixels select.

    Parameters
    ----------
    labels : (row, column) ndarray of uint8
        Label of each pixel. 0 for none: the result is then NaN.
    transforms : mapping of int to Node
        Transforms of (x, y) by label.
    back : mapping of float to int
        For the inverse: the label that belongs to a value of x_slice.
    """
    first = pick(0, of=3)
    names = ["x_slice", "y_slice", "lam"]
    models = [chain(first, constant(label)) for label in back.values()]
    by_place = Node(_ORDERED, {"labels": [float(place) for place in back], "models": models})
    label_back = {"atol": 1e-4, "inputs": names, "inputs_mapping": first, "mapper": by_place, "no_label": 0}
    inverse = Node(f"{_GWCS}label_mapper-1.1.0", label_back, 3)
    mapper = {"inputs": ["x", "y"], "inverse": inverse, "mapper": labels, "no_label": 0, "outputs": ["label"]}
    chosen = Node(_ORDERED, {"labels": list(transforms), "transforms": list(transforms.values())})
    content = {"inputs": ["x", "y"], "outputs": names, "label_mapper": Node(f"{_GWCS}label_mapper-1.1.0", mapper, 2)}
    return Node(
        f"{_GWCS}regions_selector-1.1.0", {**content, "selector": chosen, "undefined_transform_value": math.nan}, 2
    )


def step(frame: Node, transform: Node | None) -> Node:
    """Return a frame of a gwcs and the transform to the next one."""
    return Node(f"{_GWCS}step-1.1.0", {"frame": frame, "transform": transform})


def wcs(steps: Sequence[Node]) -> Node:
    """Return a gwcs of steps."""
    return Node(f"{_GWCS}wcs-1.2.0", {"name": "", "pixel_shape": None, "steps": list(steps)})


def plane_frame(name: str, axes: Sequence[str], unit: str) -> Node:
    """Return a frame of two coordinates."""
    content = {"axes_names": list(axes), "axes_order": [0, 1], "name": name, "unit": [_unit(unit), _unit(unit)]}
    return Node(f"{_GWCS}frame2d-1.0.0", content | {"axis_physical_types": [f"custom:{axis}" for axis in axes]})


def sky_frame() -> Node:
    """Return the frame of right ascension and declination."""
    icrs = Node("tag:astropy.org:astropy/coordinates/frames/icrs-1.1.0", {"frame_attributes": {}})
    content = {"axes_names": ["lon", "lat"], "axes_order": [0, 1], "name": "sky", "reference_frame": icrs}
    kinds = {"axis_physical_types": ["pos.eq.ra", "pos.eq.dec"], "unit": [_unit("deg"), _unit("deg")]}
    return Node(f"{_GWCS}celestial_frame-1.0.0", content | kinds)


def wavelength_frame() -> Node:
    """Return the frame of the wavelength."""
    content = {"axes_names": ["wavelength"], "axes_order": [2], "axis_physical_types": ["em.wl"], "name": "spectral"}
    return Node(f"{_GWCS}spectral_frame-1.0.0", content | {"unit": [_unit("um")]})


def composite_frame(name: str, *frames: Node) -> Node:
    """Return a frame that consists of others."""
    return Node(f"{_GWCS}composite_frame-1.0.0", {"frames": list(frames), "name": name})


def bounding_box(columns: int, rows: int) -> Node:
    """Return the limits of the pixels of a cut-out."""
    return limits((0, columns), (0, rows))


def limits(columns: tuple[int, int], rows: tuple[int, int]) -> Node:
    """Return limits of pixels: those from the first one up to the second one, without it."""
    intervals = {"x0": [columns[0] - 0.5, columns[1] - 0.5], "x1": [rows[0] - 0.5, rows[1] - 0.5]}
    return Node(f"{_TRANSFORM}property/bounding_box-1.0.0", {"ignore": [], "intervals": intervals, "order": "F"})


@dataclass(frozen=True)
class _Scalar:
    """A tagged text."""

    tag: str
    text: str


def _unit(name: str) -> _Scalar:
    return _Scalar(f"{_ASDF}unit/unit-1.0.0", name)


def _inline(array: np.ndarray) -> Node:
    content = {"data": array.tolist(), "datatype": "float64", "shape": list(array.shape)}
    return Node(f"{_ASDF}core/ndarray-1.0.0", content)


def asdf_text(tree: Mapping[str, Any]) -> bytes:
    """Return the bytes of an ASDF file with a tree of nodes, mappings, lists, numbers, texts and arrays."""
    writer = _Writer()
    software = Node(f"{_ASDF}core/software-1.0.0", {"name": "nsxr", "version": version("nsxr")})
    tree = {"asdf_library": software, **tree}
    writer.count(tree)
    writer.text.write(f"#ASDF 1.0.0\n#ASDF_STANDARD 1.5.0\n%YAML 1.1\n%TAG ! {_ASDF}\n--- !core/asdf-1.1.0\n")
    for key, value in tree.items():
        writer.text.write(f"{key}: ")
        writer.put(value)
        writer.text.write("\n")
    writer.text.write("...\n")
    blocks = b"".join(_block(array) for array in writer.blocks)
    return writer.text.getvalue().encode("ascii") + blocks


def _block(array: np.ndarray) -> bytes:
    data = array.tobytes()
    size = len(data).to_bytes(8, "big")
    return b"\xd3BLK" + _BLOCK_HEADER.to_bytes(2, "big") + bytes(8) + size * 3 + bytes(16) + data


class _Writer:
    """Writes YAML on few lines. Nodes and arrays that come again are written once."""

    def __init__(self) -> None:
        self.text = io.StringIO()
        self.blocks: list[np.ndarray] = []
        self._times: dict[int, int] = {}
        self._anchors: dict[int, str] = {}

    def count(self, value: Any) -> None:
        """Find out which nodes and arrays come more than once."""
        if isinstance(value, Node | np.ndarray):
            self._times[id(value)] = self._times.get(id(value), 0) + 1
            if self._times[id(value)] > 1 or isinstance(value, np.ndarray):
                return
            value = value.content
        for part in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
            self.count(part)

    def put(self, value: Any) -> None:
        """Write a value."""
        if isinstance(value, Node | np.ndarray) and self._times[id(value)] > 1:
            if id(value) in self._anchors:
                self.text.write(f"*{self._anchors[id(value)]} ")
                return
            self._anchors[id(value)] = f"a{len(self._anchors)}"
            self.text.write(f"&{self._anchors[id(value)]} ")
        if isinstance(value, np.ndarray):
            shape = ", ".join(map(str, value.shape))
            kind = "uint8" if value.dtype == np.uint8 else "float64"
            source = f"source: {len(self.blocks)}, datatype: {kind}, byteorder: little, shape: [{shape}]"
            self.text.write(f"!core/ndarray-1.0.0 {{{source}}}")
            self.blocks.append(value if kind == "uint8" else value.astype("<f8"))
        elif isinstance(value, Node):
            self.text.write(f"{_tag(value.tag)} ")
            if value.tag == _ORDERED:
                self.put([{key: part} for key, part in value.content.items()])
            else:
                self._mapping(value.content)
        elif isinstance(value, Mapping):
            self._mapping(value)
        elif isinstance(value, list):
            self.text.write("[")
            for number, part in enumerate(value):
                self.text.write(", " if number else "")
                self.put(part)
            self.text.write("]")
        elif isinstance(value, _Scalar):
            self.text.write(f"{_tag(value.tag)} {json.dumps(value.text)}")
        else:
            self.text.write(_plain(value))

    def _mapping(self, content: Mapping[str, Any]) -> None:
        self.text.write("{")
        for number, (key, value) in enumerate(content.items()):
            self.text.write(",\n " if number else "")
            self.text.write(f"{key}: ")
            self.put(value)
        self.text.write("}")


def _tag(tag: str) -> str:
    return f"!{tag.removeprefix(_ASDF)}" if tag.startswith(_ASDF) else f"!<{tag}>"


def _plain(value: Any) -> str:
    """Return a number, a text, a truth value or None as YAML."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        if not math.isfinite(value):
            return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
        mantissa, sign, exponent = repr(value).partition("e")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}{sign}{exponent}"  # YAML 1.1 takes 1e-6 for a text
    return json.dumps(value)
