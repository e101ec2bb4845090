"""Open spectra with stdatamodels, specutils and jdaviz, and compare their values with the table in the file.

python ci/readers.py FILE...

Runs in an environment with the three readers; nsxr is not needed. Fails if a reader cannot open a file or finds other
wavelengths, fluxes or errors, and prints which.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits
from jdaviz import Specviz
from specutils import Spectrum, SpectrumList
from stdatamodels.jwst import datamodels

MODELS = {"x1d": "MultiSpecModel", "x1dints": "TSOMultiSpecModel", "c1d": "MultiCombinedSpecModel"}


class WrongValueError(Exception):
    """A reader finds other values than the table has."""


def expected(path):
    """Return wavelength, flux and error of every spectrum in a file, as astropy reads them, and its source type."""
    found = []
    with fits.open(path) as hdus:
        for hdu in hdus:
            if hdu.name not in ("EXTRACT1D", "COMBINE1D"):
                continue
            error = "FLUX_ERROR" if hdu.name == "EXTRACT1D" else "ERROR"
            names = ["WAVELENGTH", "FLUX", error, "SURF_BRIGHT", "SB_ERROR"]
            columns = [np.atleast_2d(np.array(hdu.data[name], dtype=float)) for name in names]
            for rows in zip(*columns, strict=True):
                kept = np.isfinite(rows[0])
                found.append(([row[kept] for row in rows], hdu.header.get("SRCTYPE", "POINT")))
    if not found:
        raise WrongValueError("no table of spectra in the file")
    return found


def same(what, found, wanted):
    """Raise unless two arrays hold the same numbers."""
    found = np.asarray(found, dtype=float)
    if found.shape != wanted.shape or not np.array_equal(found, wanted, equal_nan=True):
        raise WrongValueError(f"{what}: found {found[:4]}... of shape {found.shape}, expected {wanted[:4]}...")


def with_stdatamodels(path, spectra):
    """Compare the tables of the data model."""
    with datamodels.open(path) as model:
        model.validate()
        kind = path.stem.rsplit("_", 1)[-1]
        if type(model).__name__ != MODELS[kind]:
            raise WrongValueError(f"opened as {type(model).__name__}, expected {MODELS[kind]}")
        tables = [part.spec_table for part in model.spec]
        error = "error" if kind == "c1d" else "flux_error"
        rows = [row for table in tables for row in (table if kind == "x1dints" else [table])]
        if len(rows) != len(spectra):
            raise WrongValueError(f"{len(rows)} spectra, expected {len(spectra)}")
        for row, (wanted, _) in zip(rows, spectra, strict=True):
            kept = np.isfinite(row["wavelength"])
            for name, values in zip(("wavelength", "flux", error, "surf_bright", "sb_error"), wanted, strict=True):
                same(name, row[name][kept], values)


def check_spectrum(spectrum, wanted, source_type):
    """Compare a spectrum of specutils, which uses surface brightness for extended sources."""
    wavelength, flux, error, brightness, brightness_error = wanted
    values, errors = (flux, error) if source_type != "EXTENDED" else (brightness, brightness_error)
    same("wavelength", spectrum.spectral_axis.to_value("um"), wavelength)
    same("flux", spectrum.flux.value, values)
    same("error", spectrum.uncertainty.array, errors)


def with_specutils(path, spectra):
    """Compare with the loaders for JWST, chosen by the library itself."""
    found = [Spectrum.read(path)] if len(spectra) == 1 else SpectrumList.read(path)
    if len(found) != len(spectra):
        raise WrongValueError(f"{len(found)} spectra, expected {len(spectra)}")
    for spectrum, (wanted, source_type) in zip(found, spectra, strict=True):
        check_spectrum(spectrum, wanted, source_type)


def with_jdaviz(path, spectra):
    """Load into Specviz, which takes the first of several spectra without being asked."""
    viewer = Specviz()
    viewer.load(str(path))
    found = list(viewer.get_spectra().values())
    if not found:
        raise WrongValueError("no spectrum was loaded")
    for spectrum, (wanted, source_type) in zip(found, spectra, strict=False):
        check_spectrum(spectrum, wanted, source_type)


READERS = {"stdatamodels": with_stdatamodels, "specutils": with_specutils, "jdaviz": with_jdaviz}


def main(paths):
    """Try every reader on every file; return 1 if one failed."""
    failed = 0
    for path in map(Path, paths):
        spectra = expected(path)
        for name, reader in READERS.items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    reader(path, spectra)
            except Exception as error:
                failed += 1
                print(f"FAILED  {path.name}: {name}: {type(error).__name__}: {error}")
            else:
                print(f"ok      {path.name}: {name}: {len(spectra)} spectra")
    return int(failed > 0)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: readers.py FILE...")
    sys.exit(main(sys.argv[1:]))
