"""Small flats in the observatory's format."""

import numpy as np
from astropy.io import fits

FLAGS = (("NO_FLAT_FIELD", 1), ("DO_NOT_USE", 2), ("UNRELIABLE_FLAT", 4))
"""Bits of the flags in these files; they are not the standard ones."""
NODES = np.linspace(0.5, 5.5, 101)
PLANES = np.array([0.6, 2.0, 3.5, 5.3])
ROWS, COLUMNS = 40, 60
ROW_START, COLUMN_START = 1200, 300
"""Place of the images on the detector, from 0."""


def curve(number):
    """Return the values of a fast variation at the nodes."""
    return 1 + 0.1 * np.sin(3 * NODES + number)


def table(names=("ANY",), version=1, n_more=3):
    """Return a table with the curve of its own number for each slit. Rows end with elements that do not count."""
    n = NODES.size
    wavelength, data, error = (np.zeros((len(names), n + n_more), np.float32) for _ in range(3))
    for number in range(len(names)):
        wavelength[number, :n], data[number, :n], error[number, :n] = NODES, curve(number + version), 0.01
    code = f"{n + n_more}E"
    columns = [
        fits.Column("slit_name", "15A", array=np.array(names)),
        fits.Column("nelem", "J", array=np.full(len(names), n)),
        fits.Column("wavelength", code, array=wavelength),
        fits.Column("data", code, array=data),
        fits.Column("error", code, array=error),
    ]
    return fits.BinTableHDU.from_columns(columns, name="FAST_VARIATION", ver=version)


def images(sci, err=0.02, dq=None, version=1, planes=PLANES):
    """Return SCI, ERR, DQ, and WAVELENGTH for a cube."""
    sci = np.asarray(sci, np.float32)
    dq = np.zeros(sci.shape, np.uint32) if dq is None else dq
    found = [
        fits.ImageHDU(sci, name="SCI", ver=version),
        fits.ImageHDU(np.full(dq.shape, err, np.float32), name="ERR", ver=version),
        fits.ImageHDU(dq, name="DQ", ver=version),
    ]
    if sci.ndim == 3:
        column = fits.Column("wavelength", "E", array=planes)
        found.append(fits.BinTableHDU.from_columns([column], name="WAVELENGTH", ver=version))
    return found


def write(path, kind, *hdus, **keywords):
    """Write a reference and return its path."""
    columns = [
        fits.Column("BIT", "J", array=np.arange(3)),
        fits.Column("VALUE", "J", array=[value for _, value in FLAGS]),
        fits.Column("NAME", "40A", array=[name for name, _ in FLAGS]),
        fits.Column("DESCRIPTION", "80A", array=["", "", ""]),
    ]
    primary = fits.PrimaryHDU()
    header = {"REFTYPE": kind.upper(), "INSTRUME": "NIRSPEC", "DETECTOR": "NRS1", "FILTER": "CLEAR", "GRATING": "PRISM"}
    header |= {"SUBSTRT1": COLUMN_START + 1, "SUBSTRT2": ROW_START + 1}
    for key, value in (header | keywords).items():
        primary.header[key] = value
    fits.HDUList([primary, *hdus, fits.BinTableHDU.from_columns(columns, name="DQ_DEF")]).writeto(path)
    return path


def random_images(rng, n_planes=0):
    """Return an image, or planes, of values near 1."""
    shape = (n_planes, ROWS, COLUMNS) if n_planes else (ROWS, COLUMNS)
    return rng.uniform(0.8, 1.2, shape)
