"""Name the image extensions of calibrated products, and the variables that they hold."""

from collections.abc import Mapping

__all__ = ["FRAME_IMAGES", "SLIT_IMAGES"]

_FACTORS: Mapping[str, str] = {
    "PATHLOSS_PS": "pathloss_point",
    "PATHLOSS_UN": "pathloss_uniform",
    "FLATFIELD_PS": "flatfield_point",
    "FLATFIELD_UN": "flatfield_uniform",
    "PHOTOM_PS": "photom_point",
    "PHOTOM_UN": "photom_uniform",
}
_OWN: Mapping[str, str] = {
    "VAR_PATHLOSS": "var_pathloss",
    "VAR_BARSHADOW": "var_barshadow",
    "VAR_PHOTOM": "var_photom",
    "FLATFIELD_COMMON": "flatfield_common",
    "VAR_BACKGROUND": "var_background",
    "WAVELENGTH_UNCORRECTED": "wavelength_uncorrected",
    "SKY_PART": "sky_part",
    "SLIT_Y": "slit_y",
    "SUBTRACTED": "subtracted",
    "NOISE_USED": "noise_used",
}

SLIT_IMAGES: Mapping[str, str] = {
    "SCI": "sci",
    "DQ": "dq",
    "WAVELENGTH": "wavelength",
    "BARSHADOW": "barshadow",
    "VAR_POISSON": "var_poisson",
    "VAR_RNOISE": "var_rnoise",
    "VAR_FLAT": "var_flat",
    **_FACTORS,
    "WHT": "weight",
    "TRACEMODEL": "trace_model",
    "VAR_TRACEMODEL": "var_trace_model",
    **_OWN,
}
"""Extensions of a slit in the order of the observatory's files, then those of nsxr. ``slit_y`` is a coordinate."""

FRAME_IMAGES: Mapping[str, str] = {
    "VAR_FLAT": "var_flat",
    "WAVELENGTH": "wavelength",
    "REGIONS": "slice",
    **_FACTORS,
    **_OWN,
}
"""Extensions that a calibrated frame of the IFU has and count rates do not have. ``slice`` and ``slit_y`` are
coordinates."""
