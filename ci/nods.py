"""Measure how well the spectra of real nods of one source agree within their errors.

    python ci/nods.py FOLDER

``FOLDER`` has the real products (``mos_jw02565``, ``mos_jw04233``), as NSXR_REAL_DATA. The table shows chi square per
pixel for each pair of nods, without emission lines: for the spectra as they are; with a constant factor between them,
since nods lose different parts of the light at the slit; and with a factor that is a cubic in wavelength. Methods: the
box of jwst with the stored variances; nsxr with box and with profile. The stored spectrum is also compared with the sum
of the stored resampled slit.
"""

from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from astropy.io import fits
from common import make_parser, write_head, write_row
from scipy.ndimage import maximum_filter1d, median_filter

import nsxr

PARTS = ("poisson", "rnoise", "flat")
HALF = 2.5  # rows, half width of the box of jwst around the fitted trace


class Sampled(NamedTuple):
    """A spectrum sorted by wavelength."""

    wavelength: np.ndarray
    flux: np.ndarray
    variance: np.ndarray
    good: np.ndarray


def sampled(spectrum: xr.Dataset) -> Sampled:
    """Return wavelength, flux, variance, and which pixels can be used."""
    wavelength = spectrum["wavelength"].values.astype(float)
    flux = spectrum["flux"].values
    variance = sum(spectrum[f"flux_var_{part}"].values for part in PARTS)
    good = np.isfinite(wavelength) & np.isfinite(flux) & (variance > 0) & ((spectrum["dq"].values & 1) == 0)
    order = np.argsort(np.where(np.isfinite(wavelength), wavelength, np.inf))
    return Sampled(*(array[order] for array in (wavelength, flux, variance, good)))


def agreement(one: Sampled, other: Sampled, terms: int) -> tuple[int, float, float]:
    """Return number of pixels, chi square per pixel, and median factor, a polynomial with ``terms`` coefficients."""
    at = np.clip(np.searchsorted(other.wavelength, one.wavelength) - 1, 0, other.wavelength.size - 2)
    part = (one.wavelength - other.wavelength[at]) / (other.wavelength[at + 1] - other.wavelength[at])
    flux = (1 - part) * other.flux[at] + part * other.flux[at + 1]
    variance = (1 - part) ** 2 * other.variance[at] + part**2 * other.variance[at + 1]
    used = one.good & other.good[at] & other.good[at + 1] & (part >= 0) & (part <= 1)
    smooth = median_filter(np.where(used, flux, 0.0), 25)
    used &= maximum_filter1d((used & (flux - smooth > 5 * np.sqrt(variance))).astype(np.uint8), 5) == 0
    along = np.linspace(-1, 1, flux.size)
    factor = np.ones(flux.size)
    for _ in range(5 if terms else 0):
        weight = 1 / np.sqrt(one.variance + factor**2 * variance)
        matrix = np.stack([along**power * flux * weight for power in range(terms)], axis=1)
        solution = np.linalg.lstsq(matrix[used], (one.flux * weight)[used], rcond=None)[0]
        factor = sum(c * along**power for power, c in enumerate(solution))
    pull = (one.flux - factor * flux) / np.sqrt(one.variance + factor**2 * variance)
    return int(used.sum()), float(np.mean(pull[used] ** 2)), float(np.median(factor[used]))


def nods(folder: Path, pattern: str) -> list[xr.Dataset]:
    """Return the slits of all nods."""
    files = sorted(path for path in folder.glob(pattern) if "-o007" not in path.name)
    return [slit.load() for path in files for _, slit in nsxr.iterate_slits(nsxr.open_slits(path))]


def ways(slits: list[xr.Dataset]) -> dict[str, list[Sampled]]:
    """Return the spectra of all nods by each method."""
    by_profile = nsxr.extract_source(slits, weighting="profile")
    by_box = nsxr.extract_source(slits, weighting="box")
    stored = []
    for slit, model in zip(slits, by_profile.models, strict=True):
        middle = float(model["position_fitted"]) - float(slit["row"][0])
        slit = slit.assign_attrs(SRCTYPE="POINT")
        stored.append(nsxr.extract_box(slit, {"ystart": middle - HALF, "ystop": middle + HALF}))
    named = {"stored variances, box": stored, "nsxr, box": by_box.spectra, "nsxr, profile": by_profile.spectra}
    return {name: [sampled(spectrum.compute()) for spectrum in spectra] for name, spectra in named.items()}


def stored_spectrum(folder: Path) -> float:
    """Return the largest relative difference of the stored spectrum and the box of its resampled slit."""
    stem = folder / "mos_jw02565" / "jw02565007001_03101_00002_nrs2"
    with fits.open(f"{stem}_x1d.fits") as file:
        header, stored = file["EXTRACT1D"].header, file["EXTRACT1D"].data.copy()
    ((_, slit),) = nsxr.iterate_slits(nsxr.open_slits(f"{stem}_s2d.fits"))
    found = nsxr.extract_box(slit, {"ystart": header["EXTRYSTR"] - 1, "ystop": header["EXTRYSTP"] - 1})
    there = np.isfinite(stored["FLUX_ERROR"])
    return float(np.max(np.abs(found["flux"].values[there] / stored["FLUX"][there] - 1)))


def main() -> None:
    """Print the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    print(f"stored spectrum and box of the stored resampled slit: {stored_spectrum(folder):.1e}")
    for pattern in ("mos_jw02565/*_cal.fits", "mos_jw04233/*_phot.*.fits"):
        print(f"\n{pattern}\n")
        write_head("method", "nods", "pixels", "chi square", "factor, with it", "cubic factor")
        for method, spectra in ways(nods(folder, pattern)).items():
            for i, j in combinations(range(len(spectra)), 2):
                n, plain, _ = agreement(spectra[i], spectra[j], 0)
                _, with_factor, factor = agreement(spectra[i], spectra[j], 1)
                _, with_cubic, _ = agreement(spectra[i], spectra[j], 4)
                cells = f"{plain:.2f}", f"{factor:.3f}, {with_factor:.2f}", f"{with_cubic:.2f}"
                write_row(method, f"{i + 1}, {j + 1}", n, *cells)


if __name__ == "__main__":
    main()
