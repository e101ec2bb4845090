"""Read parameters of steps from the command line. This file imports no pipeline, which keeps commands fast."""

from collections.abc import Sequence

import xarray as xr

from nsxr.cli.options import literal, shortened, split_pair
from nsxr.errors import ParameterError
from nsxr.model.types import Entries
from nsxr.pipelines.pipeline import Pipeline

__all__ = ["step_parameters"]


def step_parameters(settings: Sequence[str], pipeline: Pipeline) -> dict[str, Entries]:
    """Turn STEP.PARAMETER=VALUE into nested dictionaries. Values are Python literals or strings."""
    parameters: dict[str, Entries] = {}
    for text in settings:
        name, value = split_pair(text, "STEP.PARAMETER=VALUE")
        step, dot, parameter = name.partition(".")
        if not (dot and parameter):
            raise ParameterError(f"{shortened(text)!r} is not of the form STEP.PARAMETER=VALUE")
        declared = pipeline.steps[step].parameters.get(parameter) if step in pipeline.steps else None
        if declared is not None and declared.kind is xr.DataArray:
            raise ParameterError(f"{name} is an array; it can be given from Python, but not on the command line")
        words = declared.choices.names if declared is not None and declared.choices is not None else ()
        word = next((one for one in words if one.lower() == value.lower()), None)  # none may be a word
        parameters.setdefault(step, {})[parameter] = literal(value) if word is None else word
    return parameters
