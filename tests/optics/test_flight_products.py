"""Flight optics against a real product: the same pixels, wavelengths and places on the sky as its embedded gwcs."""

import warnings

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import nsxr
from nsxr.slits.selection import slits_of
from tests.optics.flight_references import write_flight_references


@pytest.fixture(scope="module")
def references(real_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flight")
    return write_flight_references(real_data, folder, grating="PRISM", filter_name="CLEAR", ifu=False)


def frame_of(path) -> xr.Dataset:
    """Return an empty full frame with the header of a product."""
    header, extension = (fits.getheader(path, name) for name in (0, "SCI"))
    attrs = {key: card[key] for card in (header, extension) for key in card if key not in ("", "COMMENT", "HISTORY")}
    attrs = {key: value for key, value in attrs.items() if not isinstance(value, fits.card.Undefined)}
    attrs |= {"filename": path.name, "SUBSTRT1": 1, "SUBSTRT2": 1}
    zero = np.zeros((2048, 2048), np.float32)
    images = dict.fromkeys(("sci", "var_poisson", "var_rnoise"), (("row", "column"), zero))
    images |= {"dq": (("row", "column"), zero.astype(np.uint32))}
    return xr.Dataset(images, coords={"row": np.arange(2048), "column": np.arange(2048)}, attrs=attrs)


def test_a_real_slitlet(real_data, references):
    path = real_data / "mos_jw02565" / "jw02565007001_03101_00002_nrs2_cal.fits"
    metafile = real_data / "mos_jw02565" / "jw02565007001_01_msa.fits"
    frame = frame_of(path)
    optics = nsxr.open_optics(references, frame)
    ours = nsxr.cut_slits(frame, optics, shutters=metafile)["30"].to_dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the age of the product
        theirs = next(nsxr.iterate_slits(nsxr.open_slits(path)))[1].compute()
        datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
        with datamodels.open(path) as model:
            wcs = model.slits[0].meta.wcs
            row, column = np.mgrid[: theirs.sizes["row"], : theirs.sizes["column"]]
            _, slit_y, wavelength = wcs.get_transform("detector", "slit_frame")(column, row)
            ra, dec, _ = wcs(column, row)
    same = ("SLTNAME", "SLITID", "SOURCEID", "SRCNAME", "SRCALIAS", "SRCXPOS", "SRCYPOS", "SHUTSTA", "SHUTTRID")
    assert {key: ours.attrs[key] for key in same} == {key: theirs.attrs[key] for key in same}
    assert set(theirs["row"].to_numpy()) <= set(ours["row"].to_numpy())  # our box covers theirs
    assert set(theirs["column"].to_numpy()) <= set(ours["column"].to_numpy())
    on_theirs = ours.reindex_like(theirs[["row", "column"]])
    np.testing.assert_array_equal(np.isnan(on_theirs["wavelength"]), np.isnan(theirs["wavelength"]))
    (slit,) = slits_of(frame, optics, metafile)
    seen = optics.forward(theirs["column"], theirs["row"].to_numpy()[:, np.newaxis], slit)
    scale = 1e6 if np.nanmax(wavelength) < 1e-3 else 1.0
    np.testing.assert_allclose(seen.wavelength, wavelength * scale, rtol=0, atol=2e-6)  # centres in single precision
    np.testing.assert_allclose(seen.slit_y, slit_y, rtol=0, atol=1e-4)
    np.testing.assert_allclose(seen.ra, ra, rtol=0, atol=3e-9)
    np.testing.assert_allclose(seen.dec, dec, rtol=0, atol=3e-9)
