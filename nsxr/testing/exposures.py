"""Build small exposures, references and rates in memory, for tests."""

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from nsxr.model.dims import IMAGE, RAMP, RATES
from nsxr.model.readout import DETECTOR_SIZE, Readout
from nsxr.model.types import Entries, Named

__all__ = [
    "FULL_FRAME",
    "make_exposure",
    "make_header",
    "make_noise_references",
    "make_rates",
    "make_reference",
    "make_times",
]

FULL_FRAME: Named = {"SUBARRAY": "FULL", "SUBSTRT1": 1, "SUBSTRT2": 1}
"""Header keywords of a full frame. If an exposure has fewer rows and columns, those with higher numbers are missing."""

FIRST_DIMS = {"coefficients": "order", "inverse_coefficients": "inverse_order"}
"""First dim of reference variables with three dims. It is ``group`` for variables that are not listed."""

SECONDS_A_DAY = 86400.0


def make_header(
    rows: int = 16, columns: int = 40, integrations: int = 3, groups: int = 6, **keywords: object
) -> Entries:
    """Make the header keywords that describe a readout.

    Parameters
    ----------
    rows, columns, integrations, groups : int
        Size of the exposure.
    **keywords
        Header keywords to add, or to use in place of the default: a NRSRAPID exposure of NRS1 in SUB512S with a
        frame time of 2 s. ``TGROUP`` [s] and ``NOUTPUTS`` follow from the other keywords unless they are given.

    Returns
    -------
    dict
        Header keywords as :meth:`nsxr.model.readout.Readout.from_header` takes them.

    Examples
    --------
    >>> make_header(groups=3, NFRAMES=4)["TGROUP"]
    8.0
    """
    header: Entries = {
        "DETECTOR": "NRS1",
        "READPATT": "NRSRAPID",
        "SUBARRAY": "SUB512S",
        "SUBSTRT1": 1025,
        "SUBSTRT2": 965,
        "SUBSIZE1": columns,
        "SUBSIZE2": rows,
        "NINTS": integrations,
        "NGROUPS": groups,
        "NFRAMES": 1,
        "GROUPGAP": 0,
        "FRMDIVSR": 1,
        "TFRAME": 2.0,
    } | keywords
    header.setdefault("NOUTPUTS", (5 if "IRS2" in header["READPATT"] else 4) if header["SUBARRAY"] == "FULL" else 1)
    if "TGROUP" not in header:
        header["TGROUP"] = (header["NFRAMES"] + (header["GROUPGAP"] or 0)) * header["TFRAME"]
    return header


def make_exposure(
    sci: ArrayLike,
    groupdq: ArrayLike | None = None,
    *,
    pixeldq: ArrayLike | None = None,
    columns: ArrayLike | None = None,
    **keywords: object,
) -> xr.Dataset:
    """Make an exposure from samples.

    Parameters
    ----------
    sci : array of (integration, group, row, column)
        Samples [DN]. An exposure of 3200 rows is a raw IRS2 frame if ``READPATT`` says so.
    groupdq : array of (integration, group, row, column), optional
        Flags of samples. By default all samples are good.
    pixeldq : array of (row, column), optional
        Flags of pixels. By default all pixels are good.
    columns : array of (column), optional
        Labels of columns. By default they follow from ``SUBSTRT1``.
    **keywords
        Header keywords, see :func:`make_header`; :data:`FULL_FRAME` has those of a full frame.

    Returns
    -------
    Dataset
        ``sci`` float32 [DN], ``pixeldq`` uint32 and ``groupdq`` uint8, with coordinates as exposures from files have
        them and header keywords in ``attrs``. Arrays are NumPy arrays; ``exposure.chunk(...)`` makes them lazy.

    Examples
    --------
    >>> exposure = make_exposure(np.zeros((1, 5, 4, 8)), **FULL_FRAME, NFRAMES=4)
    >>> dict(exposure.sizes)
    {'integration': 1, 'group': 5, 'row': 4, 'column': 8}
    """
    samples = np.asarray(sci, dtype=np.float32)
    integrations, groups, rows, n_columns = samples.shape
    header = make_header(min(rows, DETECTOR_SIZE), n_columns, integrations, groups, **keywords)
    readout = Readout.from_header(header)
    flags = np.zeros(samples.shape, np.uint8) if groupdq is None else np.array(groupdq, np.uint8)
    flags_of_pixels = np.zeros(samples.shape[2:], np.uint32) if pixeldq is None else np.array(pixeldq, np.uint32)
    coordinates = {
        **readout.row_coordinates(rows),
        "column": readout.column_start + np.arange(n_columns) if columns is None else columns,
        "integration": np.arange(1, integrations + 1),
        "group": np.arange(1, groups + 1),
    }
    variables = {
        "sci": (RAMP, samples, {"units": "DN"}),
        "pixeldq": (IMAGE, flags_of_pixels),
        "groupdq": (RAMP, flags),
    }
    return xr.Dataset(variables, coordinates, header)


def make_times(start: float, integrations: int, seconds: float, gap: float = 0.0) -> dict[str, tuple[str, np.ndarray]]:
    """Make coordinates with the times of integrations, for ``exposure.assign_coords``.

    Parameters
    ----------
    start : float
        Start of the first integration [MJD].
    integrations : int
        Number of integrations.
    seconds : float
        Length of an integration [s].
    gap : float
        Time between the end of an integration and the start of the next one [s].

    Returns
    -------
    dict
        ``int_start_MJD_UTC`` and ``int_end_MJD_UTC`` along ``integration``.
    """
    begin = start + np.arange(integrations) * (seconds + gap) / SECONDS_A_DAY
    times = {"int_start_MJD_UTC": begin, "int_end_MJD_UTC": begin + seconds / SECONDS_A_DAY}
    return {name: ("integration", values) for name, values in times.items()}


def make_reference(
    kind: str,
    exposure: xr.Dataset,
    dq: ArrayLike | None = None,
    *,
    margin: int = 0,
    attrs: Named | None = None,
    **variables: ArrayLike,
) -> xr.Dataset:
    """Make a reference for the pixels of an exposure.

    Parameters
    ----------
    kind : str
        Kind of reference, as in :func:`nsxr.open_references`: ``"gain"``, ``"superbias"``, ...
    exposure : Dataset
        The reference has the rows and columns of this exposure.
    dq : array of (row, column), optional
        Flags of pixels. By default all pixels are good.
    margin : int
        Number of pixels by which the reference is larger than the exposure on each side.
    attrs : mapping, optional
        Attributes to add. ``reference_type`` and ``filename`` are always there.
    **variables
        Values by variable, often ``sci=...``. A number is the value of all pixels. An array has dims (row, column),
        or one more before them: ``order`` of coefficients, else ``group``.

    Returns
    -------
    Dataset
        The variables as float32, and ``dq`` uint32.

    Examples
    --------
    >>> exposure = make_exposure(np.zeros((1, 5, 4, 8)))
    >>> make_reference("gain", exposure, sci=1.5)["sci"].shape
    (4, 8)
    """
    names = (*IMAGE, "science_row", "amplifier")
    coordinates: Entries = {name: exposure[name] for name in names if name in exposure.coords}
    if margin:
        ends = {name: (int(exposure[name][0]) - margin, int(exposure[name][-1]) + margin + 1) for name in IMAGE}
        coordinates = {name: (name, np.arange(*end)) for name, end in ends.items()}
    shape = tuple(exposure.sizes[dim] + 2 * margin for dim in IMAGE)
    contents: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    for name, given in variables.items():
        values = np.asarray(given, dtype=np.float32)
        values = np.full(shape, values) if values.ndim == 0 else values
        contents[name] = ((FIRST_DIMS.get(name, "group"), *IMAGE) if values.ndim == 3 else IMAGE, values)
    contents["dq"] = (IMAGE, np.zeros(shape, np.uint32) if dq is None else np.asarray(dq, np.uint32))
    return xr.Dataset(contents, coordinates, {"reference_type": kind, "filename": f"{kind}.fits", **(attrs or {})})


def make_noise_references(
    exposure: xr.Dataset, readnoise: ArrayLike, gain: ArrayLike = 1.0, *, margin: int = 0
) -> tuple[xr.Dataset, xr.Dataset]:
    """Make the two references that jump detection and the fit of ramps need.

    Parameters
    ----------
    exposure : Dataset
        The references have the rows and columns of this exposure.
    readnoise : float or array of (row, column)
        Noise of the difference of two frames [DN], as in the observatory's references: the square root of 2 times the
        noise of one frame.
    gain : float or array of (row, column)
        Gain [electron/DN].
    margin : int
        See :func:`make_reference`.

    Returns
    -------
    readnoise, gain : Dataset
        References in the order in which :func:`nsxr.flag_jumps` and :func:`nsxr.fit_ramps` take them.
    """
    return (
        make_reference("readnoise", exposure, sci=readnoise, margin=margin),
        make_reference("gain", exposure, sci=gain, margin=margin),
    )


def make_rates(
    sci: ArrayLike,
    var_poisson: ArrayLike = 0.0,
    var_rnoise: ArrayLike = 1.0,
    dq: ArrayLike | None = None,
    *,
    units: str = "DN/s",
    **keywords: object,
) -> xr.Dataset:
    """Make count rates, as the fit of ramps returns them.

    Parameters
    ----------
    sci : array of (row, column) or (integration, row, column)
        Rates.
    var_poisson, var_rnoise : float or array
        Variances, of the shape of ``sci`` or one number for all.
    dq : array, optional
        Flags, of the shape of ``sci``. By default all rates are good.
    units : str
        Units of ``sci``.
    **keywords
        Header keywords for ``attrs``.

    Returns
    -------
    Dataset
        ``sci``, ``var_poisson`` and ``var_rnoise`` float32, ``dq`` uint32, with rows and columns counted from 0 and
        integrations from 1.
    """
    rates = np.array(sci, dtype=np.float32)
    dims = IMAGE if rates.ndim == 2 else RATES
    variables: Entries = {
        "sci": (dims, rates, {"units": units}),
        "dq": (dims, np.zeros(rates.shape, np.uint32) if dq is None else np.array(dq, np.uint32)),
    }
    for name, variance in (("var_poisson", var_poisson), ("var_rnoise", var_rnoise)):
        values = np.array(np.broadcast_to(np.asarray(variance, np.float32), rates.shape))
        variables[name] = (dims, values, {"units": f"({units})2"})
    labels = {dim: np.arange(size) + (dim == "integration") for dim, size in zip(dims, rates.shape, strict=True)}
    return xr.Dataset(variables, labels, keywords)
