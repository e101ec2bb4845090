"""nsxr calibrates JWST NIRSpec exposures as labelled, lazy arrays."""

from nsxr import accessor as _accessor  # noqa: F401  (registers Dataset.nsxr)
from nsxr.archive import (
    add_exposure,
    check_archive,
    list_exposures,
    open_archive,
    open_raw,
    resume_archive,
    select_exposures,
)
from nsxr.corrections.dark_current import average_dark_current, subtract_dark
from nsxr.corrections.dq_init import initialize_dq
from nsxr.corrections.flicker_frames import find_dark_pixels
from nsxr.corrections.flicker_noise import clean_flicker_noise, estimate_flicker_noise
from nsxr.corrections.gain_scale import scale_gain
from nsxr.corrections.group_scale import scale_groups
from nsxr.corrections.jump import flag_jumps
from nsxr.corrections.linearity import correct_linearity
from nsxr.corrections.persistence import flag_persistence, last_saturation
from nsxr.corrections.picture_frame import estimate_picture_frame, subtract_picture_frame
from nsxr.corrections.ramp_fit import fit_ramps
from nsxr.corrections.read_noise import rescale_read_noise
from nsxr.corrections.refpix import subtract_reference_pixels
from nsxr.corrections.saturation import flag_saturation
from nsxr.corrections.snowballs import flag_snowballs
from nsxr.corrections.superbias import subtract_superbias
from nsxr.detector1 import correct_ramps, detector1, fit_rates
from nsxr.io import open_exposure
from nsxr.io.products import write_products
from nsxr.linearity_residual import linearity_table, measure_linearity_residual
from nsxr.noise import noise_spectrum, noise_table
from nsxr.picture_frame import build_picture_frame, write_picture_frame
from nsxr.references import open_references

__all__ = [
    "add_exposure",
    "average_dark_current",
    "build_picture_frame",
    "check_archive",
    "clean_flicker_noise",
    "correct_linearity",
    "correct_ramps",
    "detector1",
    "estimate_flicker_noise",
    "estimate_picture_frame",
    "find_dark_pixels",
    "fit_ramps",
    "fit_rates",
    "flag_jumps",
    "flag_persistence",
    "flag_saturation",
    "flag_snowballs",
    "initialize_dq",
    "last_saturation",
    "linearity_table",
    "list_exposures",
    "measure_linearity_residual",
    "noise_spectrum",
    "noise_table",
    "open_archive",
    "open_exposure",
    "open_raw",
    "open_references",
    "rescale_read_noise",
    "resume_archive",
    "scale_gain",
    "scale_groups",
    "select_exposures",
    "subtract_dark",
    "subtract_picture_frame",
    "subtract_reference_pixels",
    "subtract_superbias",
    "write_picture_frame",
    "write_products",
]
