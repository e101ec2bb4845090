"""Scale rates to the gain setting of full-frame readout."""

import xarray as xr

from nsxr.errors import ReferenceFileError
from nsxr.model.declarations import Needs, step
from nsxr.model.history import record
from nsxr.model.keywords import KEYWORDS, read
from nsxr.model.variables import check
from nsxr.references.match import require_kind

__all__ = ["scale_gain"]

_UNITS = {"sci": "DN/s", "var_poisson": "(DN/s)2", "var_rnoise": "(DN/s)2"}


@step("gain_scale", references=[Needs("gain")])
def scale_gain(rates: xr.Dataset, gain: xr.Dataset) -> xr.Dataset:
    """Multiply rates by the ratio of the gain of the readout to the gain of full frames.

    Subarrays are read with twice the electrons per DN of full frames. After this step one DN/s means the same in all
    readouts, so that the same references can be used for all of them in later steps.

    Parameters
    ----------
    rates : Dataset
        ``sci`` [DN/s], ``dq``, ``var_poisson`` and ``var_rnoise`` [(DN/s)2], (row, column) with or without
        integration.
    gain : Dataset
        Gain reference. Its attribute ``gain_factor`` is the ratio f.

    Returns
    -------
    Dataset
        ``sci`` times f and both variances times f squared; ``dq`` is unchanged. Attribute GAINFACT is f.

    Raises
    ------
    ModelError
        If variables are missing or not as declared.
    ReferenceFileError
        If the gain reference has no positive factor. The step can then be skipped.

    Examples
    --------
    >>> scaled = scale_gain(tree["rate"].to_dataset(), references["gain"])  # doctest: +SKIP
    """
    check(rates, "sci", "dq", "var_poisson", "var_rnoise", units=_UNITS)
    require_kind(gain, "gain", pixels=False)
    given = gain.attrs.get("gain_factor")
    factor = read({"GAINFACT": given}, "GAINFACT", matters=False)
    if factor is None:
        raise ReferenceFileError(
            f"gain {gain.attrs.get('filename', 'in memory')} has gain_factor {given!r}, expected "
            f"{KEYWORDS['GAINFACT'].expected}; skip the step"
        )
    return record(
        rates,
        "gain_scale",
        [gain],
        attrs={"GAINFACT": factor},
        sci=rates["sci"] * factor,
        var_poisson=rates["var_poisson"] * factor**2,
        var_rnoise=rates["var_rnoise"] * factor**2,
    )
