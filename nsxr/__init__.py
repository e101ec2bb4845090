"""nsxr calibrates JWST NIRSpec exposures as labelled, lazy arrays."""

from typing import Any as _Any

from nsxr import accessor as _accessor  # noqa: F401  (registers Dataset.nsxr)
from nsxr.archive import (
    add_exposure,
    check_archive,
    list_exposures,
    open_archive,
    open_raw,
    replay_archive,
    resume_archive,
    select_exposures,
)
from nsxr.combine import combine_spectra
from nsxr.corrections.background import (
    average_exposures,
    combine_backgrounds,
    nod_backgrounds,
    subtract_background,
)
from nsxr.corrections.box_extraction import extract_box
from nsxr.corrections.dark_current import average_dark_current, subtract_dark
from nsxr.corrections.dq_init import initialize_dq
from nsxr.corrections.flicker_frames import find_dark_pixels
from nsxr.corrections.flicker_noise import clean_flicker_noise, estimate_flicker_noise
from nsxr.corrections.gain_scale import scale_gain
from nsxr.corrections.group_scale import scale_groups
from nsxr.corrections.jump import flag_jumps
from nsxr.corrections.linearity import correct_linearity
from nsxr.corrections.nod_variance import restore_background_variance
from nsxr.corrections.outlier_detection import flag_outliers
from nsxr.corrections.persistence import flag_persistence, last_saturation
from nsxr.corrections.picture_frame import estimate_picture_frame, subtract_picture_frame
from nsxr.corrections.pixel_replace import replace_pixels
from nsxr.corrections.ramp_fit import fit_ramps
from nsxr.corrections.read_noise import rescale_read_noise
from nsxr.corrections.refpix import subtract_reference_pixels
from nsxr.corrections.saturation import flag_saturation
from nsxr.corrections.snowballs import flag_snowballs
from nsxr.corrections.spectral_extraction import extract_spectrum, model_image
from nsxr.corrections.superbias import subtract_superbias
from nsxr.corrections.trace_model import fit_trace_model
from nsxr.detector1 import correct_ramps, detector1, fit_rates
from nsxr.extract import extract_source
from nsxr.io import open_exposure
from nsxr.io.products import write_products
from nsxr.io.slits_read import open_slits
from nsxr.io.slits_write import write_slits
from nsxr.io.spectra_read import open_spectra
from nsxr.io.spectra_write import write_spectra
from nsxr.linearity_residual import linearity_table, measure_linearity_residual
from nsxr.model.arguments import checks_all as _checks_all
from nsxr.model.dq import GroupFlag, PixelFlag
from nsxr.model.spectra import as_slit, iterate_slits, map_slits, pad_slits, unpad
from nsxr.noise import noise_spectrum, noise_table
from nsxr.picture_frame import build_picture_frame, write_picture_frame
from nsxr.references import open_references
from nsxr.references.apertures import Aperture, read_aperture
from nsxr.white_light import white_light_curve, write_white_light_curve

__all__ = [
    "Aperture",
    "GroupFlag",
    "PixelFlag",
    "add_exposure",
    "as_slit",
    "average_dark_current",
    "average_exposures",
    "build_picture_frame",
    "check_archive",
    "clean_flicker_noise",
    "combine_backgrounds",
    "combine_spectra",
    "correct_linearity",
    "correct_ramps",
    "detector1",
    "estimate_flicker_noise",
    "estimate_picture_frame",
    "extract_box",
    "extract_source",
    "extract_spectrum",
    "find_dark_pixels",
    "fit_ramps",
    "fit_rates",
    "fit_trace_model",
    "flag_jumps",
    "flag_outliers",
    "flag_persistence",
    "flag_saturation",
    "flag_snowballs",
    "initialize_dq",
    "iterate_slits",
    "last_saturation",
    "linearity_table",
    "list_exposures",
    "map_slits",
    "measure_linearity_residual",
    "model_image",
    "nod_backgrounds",
    "noise_spectrum",
    "noise_table",
    "open_archive",
    "open_exposure",
    "open_raw",
    "open_references",
    "open_slits",
    "open_spectra",
    "pad_slits",
    "read_aperture",
    "replace_pixels",
    "replay_archive",
    "rescale_read_noise",
    "restore_background_variance",
    "resume_archive",
    "scale_gain",
    "scale_groups",
    "select_exposures",
    "subtract_background",
    "subtract_dark",
    "subtract_picture_frame",
    "subtract_reference_pixels",
    "subtract_superbias",
    "unpad",
    "white_light_curve",
    "write_picture_frame",
    "write_products",
    "write_slits",
    "write_spectra",
    "write_white_light_curve",
]

_checks_all(globals())


def __getattr__(name: str) -> _Any:
    """Return ``__version__`` when it is asked for: looking it up takes 4 ms, which the command line need not wait."""
    if name == "__version__":
        from nsxr.model.provenance import software

        return software()["nsxr"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
