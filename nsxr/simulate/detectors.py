"""The two detectors: the properties of every pixel. They are the same in all exposures."""

from dataclasses import dataclass

import numpy as np

from nsxr.model.dq import PixelFlag
from nsxr.model.readout import DETECTOR_SIZE, irs2_layout
from nsxr.simulate.artifacts import Artifacts
from nsxr.simulate.configuration import Configuration

__all__ = [
    "CUBIC_SHARE",
    "DetectorPixels",
    "bad_interleaved",
    "detector_pixels",
    "expand_rows",
    "measure",
    "nominal_gain",
]

CUBIC_SHARE = 0.3
"""Cubic term of the response relative to the quadratic one, at full well."""

GAIN_FACTOR_SUBARRAY = 2.0
"""Gain of subarrays (gain setting 2) relative to full frames: keyword GAINFACT."""

_GAIN = {"NRS1": 0.996, "NRS2": 1.137}  # electron/DN, Birkmann et al. 2022, A&A 661, A83
_DARK_CURRENT = {"NRS1": 0.0082, "NRS2": 0.0060}  # electron/s
_SERIAL_NUMBER = {"NRS1": 491, "NRS2": 492}  # seeds of the properties, so that a detector is the same in every exposure

# share of all pixels, flags, kind
_KINDS: tuple[tuple[float, PixelFlag, str], ...] = (
    (0.0004, PixelFlag.DO_NOT_USE | PixelFlag.DEAD, "dead"),
    (0.0004, PixelFlag.DO_NOT_USE | PixelFlag.OPEN, "open"),
    (0.0008, PixelFlag.ADJ_OPEN, ""),
    (0.0010, PixelFlag.DO_NOT_USE | PixelFlag.HOT, "hot"),
    (0.0020, PixelFlag.HOT, "warm"),
    (0.0012, PixelFlag.LOW_QE, "insensitive"),
    (0.0004, PixelFlag.DO_NOT_USE | PixelFlag.UNRELIABLE_SLOPE, "noisy"),
    (0.0002, PixelFlag.OTHER_BAD_PIXEL, ""),
    (0.0002, PixelFlag.NO_LIN_CORR, ""),
    (0.0002, PixelFlag.NO_SAT_CHECK, ""),
    (0.0001, PixelFlag.DO_NOT_USE | PixelFlag.UNRELIABLE_BIAS, ""),
    (0.0001, PixelFlag.DO_NOT_USE | PixelFlag.NO_GAIN_VALUE, ""),
)


@dataclass(frozen=True)
class DetectorPixels:
    """Properties of the pixels of an exposure. Images are (row, column) float32, except where noted.

    Attributes
    ----------
    nominal_gain : float
        Gain of the electronics behind the pixels [electron/DN].
    gain_factor : float
        Gain relative to that of full frames.
    gain : ndarray
        electron/DN.
    full_well : ndarray
        Charge at which a pixel saturates [electron].
    curvature : ndarray
        Quadratic loss of signal at full well, relative.
    response : ndarray
        Relative sensitivity to light; 0 in reference pixels.
    dark_current : ndarray
        electron/s.
    white_noise : ndarray
        (raw row, column) rms of one read [electron].
    bias : ndarray
        (raw row, column) DN.
    flags : ndarray
        (row, column) uint32, what is wrong with a pixel. Each reference file has some of these flags.
    """

    nominal_gain: float
    gain_factor: float
    gain: np.ndarray
    full_well: np.ndarray
    curvature: np.ndarray
    response: np.ndarray
    dark_current: np.ndarray
    white_noise: np.ndarray
    bias: np.ndarray
    flags: np.ndarray


def detector_pixels(configuration: Configuration, artifacts: Artifacts) -> DetectorPixels:
    """Draw the properties of the pixels of an exposure.

    The properties depend only on the detector and the position, not on the seed of an exposure. So references
    that were made once fit every exposure, and a subarray has the same pixels as the full frame.
    """
    rows, columns = configuration.rows, configuration.columns
    serial = _SERIAL_NUMBER[configuration.detector]
    normal = np.empty((7, rows.size, columns.size), dtype=np.float32)
    uniform = np.empty((2, rows.size, columns.size), dtype=np.float32)
    for i, row in enumerate(rows):
        draw = np.random.default_rng([serial, int(row)])
        normal[:, i] = draw.standard_normal((7, DETECTOR_SIZE), dtype=np.float32)[:, columns]
        uniform[:, i] = draw.random((2, DETECTOR_SIZE), dtype=np.float32)[:, columns]
    np.clip(normal, -3, 3, out=normal)
    scatter = np.float32(artifacts.pixel_scatter)
    factor, gain = _gain_factor(configuration), nominal_gain(configuration)
    dark = np.float32(_DARK_CURRENT[configuration.detector]) * np.exp(np.float32(0.2) * scatter * normal[4])
    response = 1 + np.float32(0.01) * scatter * normal[6]
    noise = np.exp(np.float32(0.08) * scatter * normal[5])

    flags = np.zeros(dark.shape, dtype=np.uint32)
    low = 0.0
    for share, flag, kind in _KINDS:
        high = low + share * artifacts.bad_pixels
        pixels = (uniform[0] >= low) & (uniform[0] < high) & ~configuration.is_border
        low = high
        flags[pixels] |= np.uint32(flag.value)
        depth = uniform[1][pixels]
        if kind == "dead":
            response[pixels] = 0
        elif kind == "open":
            response[pixels] = 0.1 * depth
        elif kind == "insensitive":
            response[pixels] = 0.5 + 0.3 * depth
        elif kind == "hot":
            dark[pixels] = 5 * np.float32(100) ** depth
        elif kind == "warm":
            dark[pixels] = 0.05 * np.float32(40) ** depth
        elif kind == "noisy":
            noise[pixels] = 3 + 5 * depth
    dark = dark * np.float32(artifacts.dark_current)
    for image in (dark, response):
        image[configuration.is_border] = 0
    noise[configuration.is_border] = artifacts.reference_noise_ratio
    return DetectorPixels(
        nominal_gain=gain,
        gain_factor=factor,
        gain=(np.float32(gain) * (1 + np.float32(0.01) * scatter * normal[0])).astype(np.float32),
        full_well=(np.float32(artifacts.full_well) * (1 + np.float32(0.02) * scatter * normal[1])).astype(np.float32),
        curvature=(np.float32(artifacts.nonlinearity) * (1 + np.float32(0.1) * scatter * normal[2])).astype(np.float32),
        response=response.astype(np.float32),
        dark_current=dark.astype(np.float32),
        white_noise=_white_noise(configuration, artifacts, noise),
        bias=_bias(configuration, artifacts, normal[3], factor),
        flags=flags,
    )


def nominal_gain(configuration: Configuration) -> float:
    """Return the gain of a pixel without scatter, electron/DN."""
    return _GAIN[configuration.detector] * _gain_factor(configuration)


def _gain_factor(configuration: Configuration) -> float:
    return 1.0 if configuration.subarray == "FULL" else GAIN_FACTOR_SUBARRAY


def expand_rows(configuration: Configuration, image: np.ndarray, fill: float = 0) -> np.ndarray:
    """Put an image of detector rows into an image of raw rows. All other rows get ``fill``."""
    if not configuration.is_irs2:
        return image
    raw = np.full((configuration.raw_rows, image.shape[1]), fill, dtype=image.dtype)
    raw[configuration.raw_row_of_row] = image
    return raw


def _white_noise(configuration: Configuration, artifacts: Artifacts, relative: np.ndarray) -> np.ndarray:
    raw = expand_rows(configuration, relative.astype(np.float32), fill=artifacts.reference_noise_ratio)
    return raw * np.float32(artifacts.white_noise)


def _bias(configuration: Configuration, artifacts: Artifacts, normal: np.ndarray, factor: float) -> np.ndarray:
    """Return the bias in DN: level of the amplifier, pattern along the fast direction, pixel scatter."""
    serial = _SERIAL_NUMBER[configuration.detector]
    draw = np.random.default_rng([serial, DETECTOR_SIZE])
    level = 400 * draw.standard_normal(5)  # reference output, outputs 1 to 4
    along_fast = 25 * draw.standard_normal(DETECTOR_SIZE) + np.where(np.arange(DETECTOR_SIZE) % 2, 30, -30)
    interleaved = 60 * draw.standard_normal(configuration.raw_rows) if configuration.is_irs2 else None
    pattern = level[configuration.output_of_row] + along_fast[configuration.rows]
    structure = pattern[:, None].astype(np.float32) + np.float32(120) * normal
    raw = expand_rows(configuration, structure)
    if interleaved is not None:
        layout = irs2_layout(configuration.detector)
        other = ~layout.is_science
        raw[other] = (level[layout.output] + interleaved)[other, None]
    bias: np.ndarray = (np.float32(5000) + np.float32(artifacts.bias_structure) * raw) / np.float32(factor)
    return bias


def bad_interleaved(configuration: Configuration) -> list[tuple[int, int, str, bool]]:
    """Return the bad pairs of interleaved reference pixels of an IRS2 detector.

    Returns
    -------
    list of (output, block, kind, is_listed)
        ``output`` is 0 to 4, where 0 is the reference output. ``block`` is 0 to 31, counted along detector columns.
        In even blocks the bad pair is the first one (detector columns 8 + 20 block, + 1 of the output), in odd
        blocks the second one (+ 2, + 3). ``kind`` is ``noisy``, ``low`` or ``telegraph``. ``is_listed`` says whether
        the REFPIX reference lists the pair. If not, a correction has to find it. The reference can list
        pairs of outputs 1 to 4 only.
    """
    if configuration.detector == "NRS1":
        return [
            (0, 9, "noisy", False),
            (1, 3, "noisy", True),
            (1, 20, "telegraph", False),
            (2, 7, "low", True),
            (2, 28, "noisy", False),
            (3, 14, "telegraph", True),
            (4, 0, "low", True),
            (4, 31, "noisy", False),
        ]
    return [
        (0, 18, "telegraph", False),
        (1, 12, "low", True),
        (2, 5, "noisy", False),
        (2, 22, "telegraph", True),
        (3, 16, "noisy", False),
        (4, 9, "noisy", True),
        (4, 26, "low", True),
    ]


def measure(signal: np.ndarray, quadratic: np.ndarray | float, cubic: np.ndarray | float) -> np.ndarray:
    """Return the signal that a pixel with non-linear response reports.

    This is the inverse of the LINEARITY polynomial, to float32 precision. It solves
    :math:`m + q m^2 + c m^3 = s` for *m* with two Newton steps, which start from the inverted power series.

    Parameters
    ----------
    signal : ndarray
        Linear signal *s* [DN], 0 or more.
    quadratic, cubic : ndarray or float
        *q* [1/DN] and *c* [1/DN2].
    """
    measured = signal * (1 - signal * (quadratic - signal * (2 * quadratic * quadratic - cubic)))
    for _ in range(2):
        slope = 1 + measured * (2 * quadratic + 3 * cubic * measured)
        measured = measured - (measured * (1 + measured * (quadratic + cubic * measured)) - signal) / slope
    return measured
