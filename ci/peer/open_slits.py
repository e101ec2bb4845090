"""Open products of slits with the data models of jwst, and compare them with the files from which they were made.

python ci/peer/open_slits.py WRITTEN [ORIGINAL]...   (pairs)
"""

import sys
import warnings

import numpy as np
from stdatamodels.jwst import datamodels

IMAGES = ("data", "dq", "wavelength", "var_poisson", "var_rnoise", "var_flat", "pathloss_point", "pathloss_uniform")


def slits(model: object) -> list:
    """Return the slits of a model; a model without slits is a slit itself."""
    for name in ("exposures", "slits"):
        if hasattr(model, name) and len(getattr(model, name)):
            return list(getattr(model, name))
    return [model]


def main() -> None:
    """Compare pairs of files; any warning of a schema is an error."""
    warnings.simplefilter("error")
    names = sys.argv[1:]
    for written, original in zip(names[::2], names[1::2], strict=True):
        with datamodels.open(written) as one, datamodels.open(original) as other:
            assert type(one) is type(other), f"{written} opens as {type(one).__name__}, not {type(other).__name__}"
            assert len(slits(one)) == len(slits(other))
            for mine, theirs in zip(slits(one), slits(other), strict=True):
                assert mine.name == theirs.name
                assert mine.source_id == theirs.source_id
                assert mine.meta.bunit_data == theirs.meta.bunit_data if hasattr(theirs.meta, "bunit_data") else True
                for name in IMAGES:
                    np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
            print(f"{written}: {type(one).__name__}, {len(slits(one))} slits, as in the original")


if __name__ == "__main__":
    main()
