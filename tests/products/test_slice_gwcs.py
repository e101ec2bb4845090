"""The gwcs that is written with the slices of the IFU gives the wavelengths and places of the optics."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import nsxr
from nsxr.errors import InputFileError, ModelError
from nsxr.optics.instrument import Optics
from nsxr.products.slice_gwcs import slices_wcs
from tests.optics.exposures import make_rates, optics_of

FRAMES = ["coordinates", "detector", "slicer", "msa_frame", "oteip", "oteip_chromcorr", "v2v3", "v2v3vacorr", "world"]


def frame_of(grating: str, detector: str = "NRS1", **window: object) -> tuple[xr.Dataset, Optics]:
    rates = make_rates("IFU", grating, detector=detector, **window)  # type: ignore[arg-type]
    optics = optics_of(rates)
    slices = nsxr.locate_slices(rates, optics, coordinates=["wavelength", "slit_y"]).compute()
    zeros = xr.zeros_like(slices["wavelength"])
    images = {
        name: zeros.assign_attrs(units=unit) for name, unit in {"sci": "MJy/sr", "var_poisson": "(MJy/sr)2"}.items()
    }
    images |= {"var_rnoise": images["var_poisson"], "dq": zeros.astype(np.uint32), "wavelength": slices["wavelength"]}
    found = xr.Dataset(images, attrs={**rates.attrs, "DATAMODL": "IFUImageModel"})
    return found.assign_coords(slice=slices["slice"], slit_y=slices["slit_y"]), optics


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("grating", "detector", "columns"),
    [("PRISM", "NRS1", (500, 1100)), ("G395H", "NRS2", (100, 400))],
)
def test_the_observatorys_models_open_it(tmp_path: Path, grating: str, detector: str, columns: tuple[int, int]) -> None:
    datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
    frame, optics = frame_of(grating, detector, rows=(700, 1400), columns=columns)
    path = nsxr.write_slits(frame, tmp_path / "x_cal.fits", optics=optics, progress=False)
    with pytest.raises(InputFileError, match=r"x_cal.fits: is of the IFU, expected slits"):
        nsxr.open_optics(path)
    with datamodels.open(path, strict_validation=True) as model:
        wcs = model.meta.wcs
        assert wcs.available_frames == FRAMES
        number = frame["slice"].values
        assert np.array_equal(model.regions, number)
        row, column = np.nonzero(number)
        row, column = row[::37], column[::37]
        place = (column + columns[0], row + 700)
        ra, dec, wavelength = wcs(column, row)
        across, along, metres = wcs.get_transform("coordinates", "slicer")(column, row)
        for one in np.unique(number[row, column]):
            own = number[row, column] == one
            wanted = optics.forward(*(part[own] for part in place), str(one - 1))
            for found, expected in ((wavelength, wanted.wavelength), (ra, wanted.ra), (dec, wanted.dec)):
                np.testing.assert_allclose(found[own], expected, rtol=0, atol=1e-11)
            back = wcs.get_transform("coordinates", "slicer").inverse(across[own], along[own], metres[own])
            expected = optics.inverse(wanted.slit_y, wanted.wavelength, str(one - 1))
            for found, pixel, start in zip(back, expected, (columns[0], 700), strict=True):
                np.testing.assert_allclose(found, pixel - start, rtol=0, atol=1e-6)
        with pytest.warns(UserWarning, match="not inside any region"):
            assert np.isnan(wcs(*np.argwhere(number == 0)[:5, ::-1].T)).all()


def test_optics_without_slices_are_refused() -> None:
    rates = make_rates("FIXEDSLIT", "PRISM")
    with pytest.raises(ModelError, match="these optics have no slices"):
        slices_wcs(optics_of(rates), np.zeros((3, 3), np.uint8))
