"""Count rates of all modes with noise and flags, and rough flats, for the comparison of fluxes with jwst."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr
from astropy.io import fits
from optics_scenes import Scene, write_metafile, write_rate
from scipy.ndimage import gaussian_filter1d

import nsxr
from nsxr.model.dq import PixelFlag
from nsxr.simulate import write_flux_references
from nsxr.simulate.compact_optics import write_compact_optics

__all__ = ["SCENES", "SHORT", "References", "Tree", "cut_out", "prepare"]

Tree = xr.Dataset | xr.DataTree
References = Mapping[str, str]

SHORT = (Scene("MOS", "PRISM", "NRS1", "compact", "8"),)
SCENES = (
    *SHORT,
    Scene("MOS", "G395H", "NRS2", "compact", "12"),
    Scene("FS", "PRISM", "NRS1", "compact"),
    Scene("FS", "G395H", "NRS2", "compact"),
    Scene("BOTS", "PRISM", "NRS1", "compact", subarray="SUB512"),
    Scene("BOTS", "G395H", "NRS2", "compact", subarray="SUB2048"),
    Scene("IFU", "PRISM", "NRS1", "compact"),
    Scene("IFU", "G395H", "NRS2", "compact"),
)
INTEGRATIONS = 3
PLANES = np.array([0.5, 1.1, 2.7, 5.6], np.float32)
"""Wavelengths of the planes that rough cubes have [um]."""
TIMES: Mapping[str, Mapping[str, float]] = {
    "LINEAR": {"t0": 59900.0, "lossperyear": 0.01},
    "EXPONENTIAL": {"t0": 59900.0, "amplitude": 0.05, "tau": 300.0, "const": 0.95},
    "POWERLAW": {"t0": 59900.0, "year1value": 0.98, "tsoft": 5.0, "alpha": -0.01},
}
"""Coefficients of the time dependence of sensitivities."""


def roughen(kind: str, path: Path) -> None:
    """Give a simulated flat structure over a few nodes and from pixel to pixel, missing values and flags.

    Cubes get four planes. What two references of the same type have in common does not matter here.
    """
    rng = np.random.default_rng(len(kind) + ord(kind[0]))
    with fits.open(path) as hdus:
        made = [hdus[0].copy()]
        for hdu in hdus[1:]:
            data = hdu.data.copy()
            if hdu.name == "FAST_VARIATION":
                data["data"] *= 1 + 0.1 * gaussian_filter1d(rng.standard_normal(data["data"].shape), 3.0)
                data["error"] *= rng.uniform(1, 3, data["error"].shape)
                data["data"][:, 500] = np.nan
            elif hdu.name == "WAVELENGTH":
                data = fits.FITS_rec.from_columns(fits.ColDefs([fits.Column("wavelength", "E", array=PLANES)]))
            elif hdu.name in ("SCI", "ERR", "DQ"):
                data = data[[0, 0, 1, 1]] if data.ndim == 3 else data
                if hdu.name == "SCI":
                    data *= rng.normal(1, 0.03, data.shape).astype(np.float32)
                    data[rng.uniform(size=data.shape) < 1e-3] = np.nan
                    data[rng.uniform(size=data.shape) < 1e-3] = 0
                elif hdu.name == "ERR":
                    data *= rng.uniform(1, 20, data.shape).astype(np.float32)
                elif kind != "fflat":  # jwst does not read the flags of F
                    data |= np.where(
                        rng.uniform(size=data.shape) < 2e-3, rng.choice([1, 2, 4, 6], data.shape), 0
                    ).astype(np.uint32)
            made.append(type(hdu)(data, hdu.header, name=hdu.name))
        fits.HDUList(made).writeto(path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def age(path: Path) -> None:
    """Give a simulated sensitivity fewer wavelengths and, but for slices, all forms of time dependence.

    jwst does not apply the time dependence to slices.
    """
    with fits.open(path, mode="update") as hdus:
        table = hdus["PHOTOM"]
        table.data["nelem"] -= 10
        if hdus[0].header["EXP_TYPE"] == "NRS_IFU":
            return
        named = [column for column in table.columns if column.name in ("filter", "grating", "slit")]
        for form, coefficients in TIMES.items():
            columns = [fits.Column(column.name, column.format, array=column.array) for column in named]
            columns += [
                fits.Column(key, "E", array=np.full(len(table.data), value)) for key, value in coefficients.items()
            ]
            hdus.append(fits.BinTableHDU.from_columns(columns, name=f"TIMECOEFF_{form}"))


def fill_pixels(scene: Scene, path: Path) -> None:
    """Give count rates noise, flags and missing values; time series get several integrations."""
    rng = np.random.default_rng(len(scene.name))
    with fits.open(path) as hdus:
        primary = hdus[0].header
        primary["EXPMID"] = 60400.0
        shape = hdus["SCI"].shape
        if scene.mode == "BOTS":
            primary["NINTS"] = INTEGRATIONS
            shape = (INTEGRATIONS, *shape[1:])
        sci = rng.normal(5, 1, shape).astype(np.float32)
        dq = np.where(rng.uniform(size=shape) < 0.01, np.uint32(PixelFlag.DO_NOT_USE | PixelFlag.JUMP_DET), 0)
        dq |= np.where(rng.uniform(size=shape) < 0.01, np.uint32(PixelFlag.SATURATED), 0)
        sci[(dq & PixelFlag.DO_NOT_USE) > 0] = np.nan
        variance = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        values = {"SCI": sci, "DQ": dq.astype(np.uint32), "VAR_POISSON": variance, "VAR_RNOISE": 0.3 * variance}
        values["ERR"] = np.sqrt(1.3 * variance)
        made = [fits.ImageHDU(values[hdu.name], hdu.header, name=hdu.name) for hdu in hdus[1:]]
        made += [integration_times()] if scene.mode == "BOTS" else []
        fits.HDUList([fits.PrimaryHDU(header=primary), *made]).writeto(path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def integration_times() -> fits.BinTableHDU:
    """Return INT_TIMES of a time series."""
    number = np.arange(1, INTEGRATIONS + 1)
    columns = [fits.Column("integration_number", "J", array=number)]
    for clock in ("MJD_UTC", "BJD_TDB"):
        for part, name in enumerate(("start", "mid", "end")):
            columns.append(fits.Column(f"int_{name}_{clock}", "D", unit="d", array=59950 + (number + part / 2) / 1e3))
    return fits.BinTableHDU.from_columns(columns, name="INT_TIMES")


def prepare(scene: Scene, folder: Path) -> tuple[Path, dict[str, str], Path | None]:
    """Write the count rates, the references and the metafile of a scene; return their paths."""
    rate, metafile = folder / f"{scene.name}_rate.fits", None
    write_rate(scene, rate)
    fill_pixels(scene, rate)
    kinds = {"shutters": scene.mode == "MOS", "ifu": scene.mode == "IFU"}
    paths = dict(write_compact_optics(folder / "optics", grating=scene.grating, filter=scene.filter, **kinds))
    if scene.mode == "MOS":
        metafile = folder / f"{scene.name}_msa.fits"
        write_metafile(metafile, int(scene.metafile))
    optics = nsxr.open_optics(paths, nsxr.open_exposure(rate))
    paths |= write_flux_references(folder / "flux", optics, mode=scene.mode)
    for kind in ("fflat", "sflat", "dflat"):
        roughen(kind, Path(paths[kind]))
    age(Path(paths["photom"]))
    return rate, {kind: str(path) for kind, path in paths.items()}, metafile


def cut_out(scene: Scene, rate: Path, references: References, metafile: Path | None) -> Tree:
    """Return what the steps start from: slits with corrected wavelengths, or an exposure of the IFU."""
    exposure = nsxr.open_exposure(rate)
    optics = nsxr.open_optics(dict(references), exposure)
    coordinates = ("wavelength", "slit_y")
    if scene.mode == "IFU":
        slices = nsxr.locate_slices(exposure, optics, coordinates=coordinates)
        return nsxr.set_source_type(exposure.merge(slices))
    slits = nsxr.set_source_type(nsxr.cut_slits(exposure, optics, shutters=metafile, coordinates=coordinates))
    return nsxr.correct_wavelength_zero_point(slits, nsxr.open_zero_point(references["wavecorr"]))
