"""Synthetic count rates of all four modes, with the headers that optics need, for the comparison with jwst.

The pixels are ones: only coordinates are compared.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

__all__ = ["LONG", "SHORT", "SPEED", "Scene", "write_metafile", "write_rate"]

FILTERS = {"PRISM": "CLEAR", "G140M": "F100LP", "G235M": "F170LP", "G235H": "F170LP", "G395H": "F290LP"}
SUBARRAYS = {"FULL": (1, 1, 2048, 2048), "SUB2048": (1, 1, 2048, 32), "SUB512": (1, 1, 512, 32)}
SUBARRAY_START = {  # first column and row from 1, by subarray and detector; with G395H, SUB512 with PRISM
    ("SUB2048", "NRS1"): (1, 963),
    ("SUB2048", "NRS2"): (1, 963),
    ("SUB512", "NRS1"): (1025, 957),
}
APERTURES = {"MOS": (378.5632, -428.40283), "FS": (331.86703, -479.41754), "BOTS": (321.26297, -473.8513)}
APERTURES |= {"IFU": (299.83548, -498.2568)}
EXPOSURE_TYPES = {"MOS": "NRS_MSASPEC", "FS": "NRS_FIXEDSLIT", "BOTS": "NRS_BRIGHTOBJ", "IFU": "NRS_IFU"}
MODELS = {"MOS": "ImageModel", "FS": "ImageModel", "BOTS": "CubeModel", "IFU": "IFUImageModel"}
WHEEL = {"PRISM": (0.3376, 0.0321), "G140M": (0.3410, 0.1510), "G235M": (0.3250, 0.1620), "G235H": (0.3300, 0.1550)}
WHEEL |= {"G395H": (0.3302, 0.1300)}
"""Readings of the sensors of the grating wheel near those of the flight model, as after any turn of the wheel."""


@dataclass(frozen=True)
class Scene:
    """An exposure to compare.

    Attributes
    ----------
    mode, grating, detector : str
        Mode ``MOS``, ``FS``, ``BOTS`` or ``IFU``; grating; detector.
    optics : str
        ``flight``: references from ESA's flight model. ``compact``: those that nsxr's simulator writes.
    metafile : str
        For MOS: a number of slitlets to invent, or the name of a real file without ``.fits``.
    subarray : str
        Name of the subarray.
    wider : (float, float), optional
        Wavelengths to cut out instead of those of the filter and the grating [um]. Stuck shutters are not compared
        then: jwst would flag their pixels in this range too.
    """

    mode: str
    grating: str
    detector: str
    optics: str = "flight"
    metafile: str = ""
    subarray: str = "FULL"
    wider: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        """A name for files and tables."""
        parts = (self.mode, self.grating, self.detector, self.optics, self.metafile, self.subarray)
        parts += ("wider" if self.wider else "",)
        return "-".join(part for part in parts if part and part != "FULL")

    @property
    def exchanges(self) -> bool:
        """Whether each program opens the product of the other. jwst takes half a second a slit for that."""
        return self.mode == "FS" or (self.mode == "MOS" and self.metafile == "8")

    @property
    def filter(self) -> str:
        """Name of the filter."""
        return FILTERS[self.grating]


SHORT = (Scene("MOS", "PRISM", "NRS1", "compact", "8"),)
SPEED = (
    Scene("MOS", "PRISM", "NRS1", "flight", "jw02736007001_01_msa"),
    Scene("MOS", "PRISM", "NRS1", "flight", "144"),
)
"""42 and about 81 slitlets on this detector."""
LONG = (
    Scene("MOS", "PRISM", "NRS1", "compact", "100"),
    Scene("FS", "G395H", "NRS2", "compact"),
    Scene("FS", "G140M", "NRS2", "compact", wider=(0.97, 3.3)),
    Scene("MOS", "G140M", "NRS2", "compact", "30", wider=(0.97, 3.3)),
    Scene("IFU", "PRISM", "NRS1", "compact"),
    Scene("MOS", "PRISM", "NRS1", "flight", "100"),
    Scene("MOS", "PRISM", "NRS1", "flight", "jw02736007001_01_msa"),
    Scene("MOS", "PRISM", "NRS2", "flight", "jw02565007001_01_msa_original"),
    Scene("MOS", "G395H", "NRS1", "flight", "100"),
    Scene("MOS", "G140M", "NRS2", "flight", "jw02736007001_01_msa"),
    Scene("MOS", "G235M", "NRS1", "flight", "jw02565007001_01_msa_original"),
    Scene("FS", "PRISM", "NRS1"),
    Scene("FS", "G395H", "NRS1"),
    Scene("FS", "G395H", "NRS2"),
    Scene("BOTS", "G395H", "NRS1", subarray="SUB2048"),
    Scene("BOTS", "G395H", "NRS2", subarray="SUB2048"),
    Scene("BOTS", "PRISM", "NRS1", subarray="SUB512"),
    Scene("IFU", "PRISM", "NRS1"),
    Scene("IFU", "G395H", "NRS1"),
    Scene("IFU", "G395H", "NRS2"),
    Scene("IFU", "G140M", "NRS1"),
)


def write_rate(scene: Scene, path: Path) -> None:
    """Write the count rates of a scene as the observatory's pipeline does."""
    _, _, columns, rows = SUBARRAYS[scene.subarray]
    start = SUBARRAY_START.get((scene.subarray, scene.detector), (1, 1))
    primary = fits.Header()
    primary["TELESCOP"], primary["INSTRUME"], primary["DETECTOR"] = "JWST", "NIRSPEC", scene.detector
    primary["DATAMODL"], primary["EXP_TYPE"] = MODELS[scene.mode], EXPOSURE_TYPES[scene.mode]
    primary["FILENAME"] = path.name
    primary["GRATING"], primary["FILTER"] = scene.grating, scene.filter
    primary["GWA_XTIL"], primary["GWA_YTIL"] = WHEEL[scene.grating]
    primary["GWA_TILT"] = 36.05
    primary["SUBARRAY"], primary["SUBSTRT1"], primary["SUBSTRT2"] = scene.subarray, *start
    primary["SUBSIZE1"], primary["SUBSIZE2"] = columns, rows
    primary["FASTAXIS"], primary["SLOWAXIS"] = (2, 1) if scene.detector == "NRS1" else (-2, -1)
    primary["READPATT"], primary["NINTS"], primary["NGROUPS"] = "NRSRAPID", 1, 5
    primary["DATE-OBS"], primary["TIME-OBS"], primary["EXPSTART"] = "2023-01-06", "05:50:32.854", 59950.0
    primary["EFFEXPTM"] = 53.7  # s, a weight when slits are resampled
    primary["PROGRAM"], primary["OBSERVTN"], primary["VISIT"] = _program(scene), "007", "001"
    primary["PATT_NUM"], primary["NUMDTHPT"], primary["XOFFSET"], primary["YOFFSET"] = 1, 3, 0.01, 0.02
    if scene.mode == "MOS":
        primary["MSAMETFL"], primary["MSAMETID"] = f"{scene.name}_msa.fits", 1
    if scene.mode in ("FS", "BOTS"):
        primary["FXD_SLIT"] = "S200A1" if scene.mode == "FS" else "S1600A1"
    image = np.ones((rows, columns), np.float32)
    if scene.mode == "BOTS":
        image = image[np.newaxis]
    science = fits.ImageHDU(image, name="SCI")
    science.header["BUNIT"] = "DN/s"
    v2, v3 = APERTURES[scene.mode]
    pointing = {"V2_REF": v2, "V3_REF": v3, "RA_REF": 150.08781290935624, "DEC_REF": 2.3663577961056874}
    pointing |= {"ROLL_REF": -67.07613496304027, "V3I_YANG": 138.5745697, "VPARITY": -1}
    pointing |= {"VA_SCALE": 1.000071872834124, "VELOSYS": -21544.07}
    science.header.update(pointing)
    others = [fits.ImageHDU(image * 0.1, name=name) for name in ("ERR", "VAR_POISSON", "VAR_RNOISE")]
    flags = fits.ImageHDU(np.zeros(image.shape, np.uint32), name="DQ")
    fits.HDUList([fits.PrimaryHDU(header=primary), science, flags, *others]).writeto(path, overwrite=True)


def _program(scene: Scene) -> str:
    return scene.metafile[2:7] if scene.metafile.startswith("jw") else "01234"


def write_metafile(path: Path, n_slitlets: int) -> None:
    """Write a metafile of slitlets of three shutters in all quadrants, with a nod of three positions."""
    rng = np.random.default_rng(n_slitlets)
    rows, sources = [], []
    for slitlet in range(1, n_slitlets + 1):
        quadrant, xcen = int(rng.integers(1, 5)), int(rng.integers(15, 350))
        ycen = int(rng.integers(3, 168))
        source = 1000 + slitlet if slitlet % 10 else 0  # every tenth slitlet sees background only
        x, y = rng.uniform(0.1, 0.9, 2)
        for dither in (1, 2, 3):
            for number, shift in enumerate((0, -1, 1)):
                is_here = source and number == dither - 1
                place = (x, y) if is_here else (np.nan, np.nan)
                kind = ("N", "OPEN", *place, dither, "Y") if is_here else ("Y", "OPEN", *place, dither, "N")
                rows.append((slitlet, 1, quadrant, xcen, ycen + shift, source, *kind))
        if source:
            name = f"1234_{source}"
            star = float(rng.uniform(-0.5, 1))  # negative: not known, which counts as a point
            sources.append((1234, source, name, str(source), 150.0 + x, 2.3 + y, "None", star))
    names = ("slitlet_id", "msa_metadata_id", "shutter_quadrant", "shutter_row", "shutter_column", "source_id")
    names += ("background", "shutter_state", "estimated_source_in_shutter_x", "estimated_source_in_shutter_y")
    shutters = _table(
        "SHUTTER_INFO", (*names, "dither_point_index", "primary_source"), "I I I I I J 1A 6A E E I 1A", rows
    )
    names = ("program", "source_id", "source_name", "alias", "ra", "dec", "preimage_id", "stellarity")
    image = fits.ImageHDU(np.zeros((342, 730), np.int16), name="SHUTTER_IMAGE")
    found = _table("SOURCE_INFO", names, "J J 20A 31A D D 30A D", sources)
    primary = fits.PrimaryHDU()
    primary.header["PROGRAM"] = "01234"
    fits.HDUList([primary, image, shutters, found]).writeto(path, overwrite=True)


def _table(name: str, names: tuple[str, ...], formats: str, rows: list[tuple[object, ...]]) -> fits.BinTableHDU:
    columns = [
        fits.Column(column, form, array=[row[number] for row in rows])
        for number, (column, form) in enumerate(zip(names, formats.split(), strict=True))
    ]
    return fits.BinTableHDU.from_columns(columns, name=name)
