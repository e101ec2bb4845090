"""MSA metafiles for tests."""

from pathlib import Path

import numpy as np
from astropy.io import fits

_SHUTTERS = [
    ("slitlet_id", "i2"),
    ("msa_metadata_id", "i2"),
    ("shutter_quadrant", "i2"),
    ("shutter_row", "i2"),
    ("shutter_column", "i2"),
    ("source_id", "i4"),
    ("background", "S1"),
    ("shutter_state", "S6"),
    ("estimated_source_in_shutter_x", "f4"),
    ("estimated_source_in_shutter_y", "f4"),
    ("dither_point_index", "i2"),
    ("primary_source", "S1"),
]
_SOURCES = [("program", "i4"), ("source_id", "i4"), ("source_name", "S20"), ("alias", "S31")]
_SOURCES += [("ra", "f8"), ("dec", "f8"), ("preimage_id", "S30"), ("stellarity", "f8")]


def write_metafile(path: Path) -> Path:
    """Write a metafile with two slitlets of three shutters in quadrant 3: one with source 5, one without a source."""
    nan = np.nan
    rows = [
        (1, 1, 3, 180, 60, 0, "Y", "OPEN", nan, nan, 1, "N"),
        (1, 1, 3, 180, 61, 5, "N", "OPEN", 0.3, 0.6, 1, "Y"),
        (1, 1, 3, 180, 62, 0, "Y", "OPEN", nan, nan, 1, "N"),
        (2, 1, 3, 150, 80, 0, "Y", "OPEN", nan, nan, 1, "N"),
        (2, 1, 3, 150, 81, 0, "Y", "CLOSED", nan, nan, 1, "N"),
        (2, 1, 3, 150, 82, 0, "Y", "OPEN", nan, nan, 1, "N"),
    ]
    sources = [(2736, 5, "2736_5", "five", 53.1, -27.8, "None", 0.9)]
    tables = [
        fits.BinTableHDU(np.array(rows, _SHUTTERS), name="SHUTTER_INFO"),
        fits.BinTableHDU(np.array(sources, _SOURCES), name="SOURCE_INFO"),
    ]
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(path)
    return path
