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
from nsxr.diagnostics.linearity_residual import linearity_table, measure_linearity_residual
from nsxr.diagnostics.noise import noise_spectrum, noise_table
from nsxr.diagnostics.picture_frame import build_picture_frame, write_picture_frame
from nsxr.model.arguments import checks_all as _checks_all
from nsxr.model.dq import GroupFlag, PixelFlag
from nsxr.pipelines.detector1 import correct_ramps, detector1, fit_rates
from nsxr.pipelines.extract import extract_source
from nsxr.products.exposure import open_exposure
from nsxr.products.light_curves import write_white_light_curve
from nsxr.products.slits_read import open_slits
from nsxr.products.slits_write import write_slits
from nsxr.products.spectra_read import open_spectra
from nsxr.products.spectra_write import write_spectra
from nsxr.products.write import write_products
from nsxr.ramps.correlated_noise.flicker_noise import clean_flicker_noise, estimate_flicker_noise
from nsxr.ramps.correlated_noise.frames import find_dark_pixels
from nsxr.ramps.dark_current import average_dark_current, subtract_dark
from nsxr.ramps.dq_init import initialize_dq
from nsxr.ramps.gain_scale import scale_gain
from nsxr.ramps.group_scale import scale_groups
from nsxr.ramps.jump import flag_jumps
from nsxr.ramps.linearity import correct_linearity
from nsxr.ramps.persistence import flag_persistence, last_saturation
from nsxr.ramps.picture_frame import estimate_picture_frame, subtract_picture_frame
from nsxr.ramps.ramp_fit import fit_ramps
from nsxr.ramps.read_noise import rescale_read_noise
from nsxr.ramps.reference_pixels.refpix import subtract_reference_pixels
from nsxr.ramps.saturation import flag_saturation
from nsxr.ramps.snowballs import flag_snowballs
from nsxr.ramps.superbias import subtract_superbias
from nsxr.references import open_references
from nsxr.references.apertures import Aperture, read_aperture
from nsxr.slits.background import (
    average_exposures,
    combine_backgrounds,
    nod_backgrounds,
    subtract_background,
)
from nsxr.slits.collection import as_slit, iterate_slits, map_slits, pad_slits, unpad
from nsxr.slits.nod_variance import restore_background_variance
from nsxr.slits.pixel_replacement import replace_pixels
from nsxr.spectra.box_extraction import extract_box
from nsxr.spectra.combination import combine_spectra
from nsxr.spectra.extraction import extract_spectrum, model_image
from nsxr.spectra.outlier_detection import flag_outliers
from nsxr.spectra.trace_model import fit_trace_model
from nsxr.spectra.white_light import white_light_curve

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
