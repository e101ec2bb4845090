"""Simulated exposures, references and truth as FITS files."""

import filecmp
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import xarray as xr
from astropy.io import fits
from astropy.time import Time

from nsxr.errors import OutputExistsError
from nsxr.formats.fits_layout import Part, Target, lay_out
from nsxr.formats.fits_tables import asdf_marker
from nsxr.model.dq import PixelFlag
from nsxr.simulate.configuration import SUBARRAYS, Configuration
from nsxr.simulate.headers import START, Segment, group_table, integration_times, primary_header, science_header
from nsxr.simulate.reference_data import reference_name
from nsxr.storage.whole import replacing

__all__ = ["open_raw", "write_reference", "write_tables"]

_MODELS = {
    "mask": "MaskModel",
    "saturation": "SaturationModel",
    "superbias": "SuperBiasModel",
    "refpix": "IRS2Model",
    "linearity": "LinearityModel",
    "dark": "DarkModel",
    "gain": "GainModel",
    "readnoise": "ReadnoiseModel",
    "pictureframe": "PictureFrameModel",
}
_UNKNOWN = "BAD_LIN_CORR"  # a flag of NIRSpec linearity references that is not a standard flag
_NAMES = {
    "saturation": ("DO_NOT_USE", "NO_SAT_CHECK"),
    "superbias": ("DO_NOT_USE", "UNRELIABLE_BIAS"),
    "linearity": ("DO_NOT_USE", _UNKNOWN, "NO_LIN_CORR"),
    "dark": ("DO_NOT_USE", "WARM", "HOT", "UNRELIABLE_SLOPE", "UNRELIABLE_DARK"),
}
_IMAGES = {"sci": "SCI", "dq": "DQ", "coefficients": "COEFFS", "inverse_coefficients": "INV_COEFFS"}


def _image_header(name: str, bitpix: int, shape: Sequence[int]) -> fits.Header:
    cards: list[tuple[str, object]] = [("XTENSION", "IMAGE"), ("BITPIX", bitpix), ("NAXIS", len(shape))]
    cards += [(f"NAXIS{i}", length) for i, length in enumerate(reversed(shape), start=1)]
    return fits.Header([*cards, ("PCOUNT", 0), ("GCOUNT", 1), ("EXTNAME", name)])


@contextmanager
def open_raw(path: Path, configuration: Configuration, segment: Segment) -> Iterator[Target]:
    """Yield a target (integration, group, row, column) uint16 for the groups of a raw file.

    After the block, the tables GROUP and INT_TIMES are added, and the file gets its name.
    """
    shape = (segment.last - segment.first + 1, configuration.groups, configuration.raw_rows, configuration.columns.size)
    header = _image_header("SCI", 16, shape)
    header["BZERO"], header["BSCALE"] = 32768, 1
    header.extend(science_header(configuration).cards)
    times = integration_times(configuration)
    part = slice(segment.first - 1, segment.last)
    columns = [
        fits.Column(name, "J" if name == "integration_number" else "D", array=values[part])
        for name, values in times.items()
    ]
    with replacing(path) as partial:
        room = xr.DataArray(np.broadcast_to(np.uint16(0), shape))
        ((_, target),) = lay_out(partial, [Part(primary_header(configuration, segment)), Part(header, room)])
        yield target
        write_tables(
            partial,
            [
                fits.BinTableHDU(group_table(configuration, segment), name="GROUP"),
                fits.BinTableHDU.from_columns(columns, name="INT_TIMES"),
                fits.BinTableHDU(asdf_marker(), name="ASDF"),
            ],
        )


def write_tables(path: Path, hdus: Iterable[fits.BinTableHDU | fits.ImageHDU]) -> None:
    """Append HDUs to a FITS file."""
    with fits.open(path, mode="append") as file:
        for hdu in hdus:
            file.append(hdu)


def write_reference(
    directory: Path, kind: str, dataset: xr.Dataset, configuration: Configuration, overwrite: bool = True
) -> Path:
    """Write a reference in the layout of CRDS references, and return its path.

    The mask has the standard DQ bits. The other references have bits of their own, which DQ_DEF explains. If the file
    exists with other content, it is replaced if ``overwrite`` is True; otherwise OutputExistsError is raised.
    """
    path = directory / reference_name(kind, configuration)
    with replacing(path) as partial:
        parts = [Part(_reference_header(path.name, kind, dataset, configuration))]
        parts += [_image(extension, kind, dataset[name]) for name, extension in _IMAGES.items() if name in dataset]
        for array, target in lay_out(partial, parts):
            for number in range(len(array) if array.ndim == 3 else 1):  # all planes of a dark at once need much memory
                part = slice(number, number + 1) if array.ndim == 3 else slice(None)
                target[part] = array.values[part]
        if kind == "refpix":
            write_tables(partial, _weight_tables(dataset))
        elif "dq" in dataset:
            write_tables(partial, [_dq_definitions(kind, dataset)])
        if not overwrite and path.exists() and not filecmp.cmp(partial, path, shallow=False):
            raise OutputExistsError(
                f"{path} already there, with other content; ask for overwriting, or another directory"
            )
    return path


def _image(extension: str, kind: str, array: xr.DataArray) -> Part:
    if extension == "DQ":
        header = _image_header(extension, 32, array.shape)
        header["BZERO"], header["BSCALE"] = 2**31, 1
        return Part(header, array.copy(data=_stored_dq(kind, array.values)))
    header = _image_header(extension, -32, array.shape)
    if "units" in array.attrs:
        header["BUNIT"] = array.attrs["units"].replace("electron", "electrons")
    return Part(header, array)


def _dq_bits(kind: str, names_used: Sequence[str]) -> list[tuple[int, str]]:
    if kind in _NAMES:
        return list(enumerate(_NAMES[kind]))
    return [(flag.value.bit_length() - 1, str(flag.name)) for flag in PixelFlag if flag.name in names_used]


def _stored_dq(kind: str, dq: np.ndarray) -> np.ndarray:
    """Turn standard DQ bits into the bits of a reference file."""
    if kind not in _NAMES:
        return dq
    stored = np.zeros_like(dq)
    for bit, name in _dq_bits(kind, ()):
        # pixels without correction also get the flag that is not a standard one
        standard = PixelFlag["NO_LIN_CORR" if name == _UNKNOWN else name]
        stored |= np.where(dq & np.uint32(standard.value), np.uint32(1 << bit), np.uint32(0))
    return stored


def _dq_definitions(kind: str, dataset: xr.Dataset) -> fits.BinTableHDU:
    used = int(np.bitwise_or.reduce(dataset["dq"].values, axis=None)) | 1
    bits = _dq_bits(kind, [str(flag.name) for flag in PixelFlag if flag.value & used])
    columns = [
        fits.Column("BIT", "J", array=np.array([bit for bit, _ in bits])),
        fits.Column("VALUE", "J", bzero=2**31, array=np.array([1 << bit for bit, _ in bits], dtype=np.uint32)),
        fits.Column("NAME", "40A", array=np.array([name for _, name in bits])),
        fits.Column("DESCRIPTION", "80A", array=np.array([name.replace("_", " ").capitalize() for _, name in bits])),
    ]
    return fits.BinTableHDU.from_columns(columns, name="DQ_DEF")


def _weight_tables(dataset: xr.Dataset) -> list[fits.BinTableHDU]:
    names = [f"{name}_{output}" for name in ("alpha", "beta") for output in range(4)]
    table = np.empty(2 * dataset.sizes["frequency"], dtype=[(name, ">f4") for name in names])
    for name in ("alpha", "beta"):
        for output in range(4):
            table[f"{name}_{output}"] = dataset[name].values[output].view(np.float32)
    columns = [
        fits.Column("OUTPUT", "I", bzero=2**15, array=dataset["bad_output"].values.astype(np.uint16)),
        fits.Column("ODD_EVEN", "I", bzero=2**15, array=dataset["bad_parity"].values.astype(np.uint16)),
        fits.Column("MASK", "J", bzero=2**31, array=dataset["bad_mask"].values.astype(np.uint32)),
    ]
    return [fits.BinTableHDU(table, name="IRS2"), fits.BinTableHDU.from_columns(columns, name="DQ")]


def _reference_header(name: str, kind: str, dataset: xr.Dataset, configuration: Configuration) -> fits.Header:
    exposure = primary_header(configuration, Segment(1, 1, 1, configuration.integrations))
    header = fits.Header([("SIMPLE", True), ("BITPIX", 8), ("NAXIS", 0), ("EXTEND", True)])
    # the date of the first exposure, because references do not depend on the exposure they are written with
    header["DATE"] = (Time(START, format="mjd", precision=3).isot, "Date this file was created (UTC)")
    header["ORIGIN"] = ("nsxr", "Simulated, not measured")
    header["FILENAME"] = name
    header["DATAMODL"] = (_MODELS[kind], "Type of data model")
    header["TELESCOP"] = ("JWST", "Telescope used to acquire the data")
    header["REFTYPE"] = (kind.upper(), "Reference file type")
    header["PEDIGREE"] = (dataset.attrs["pedigree"], "The pedigree of the reference file")
    header["DESCRIP"] = (f"Simulated {kind} of {configuration.detector}", "Description of the reference file")
    header["AUTHOR"] = ("nsxr.simulate", "Author of the reference file")
    header["USEAFTER"] = (dataset.attrs["useafter"], "Use after date of the reference file")
    keywords = ["INSTRUME", "DETECTOR"]
    if kind != "refpix":
        keywords += ["SUBARRAY", "SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2", "FASTAXIS", "SLOWAXIS"]
    if kind in ("mask", "superbias", "dark", "readnoise", "refpix", "pictureframe"):
        keywords += ["READPATT"]
    for keyword in keywords:
        header[keyword] = (exposure[keyword], exposure.comments[keyword])
    if kind == "dark":
        header["P_READPA"] = (f"{configuration.readout}|", "Readout patterns this file is good for")
        header["NFRAMES"] = dataset.attrs["n_frames"]
        header["NGROUPS"] = dataset.attrs["n_groups"]
        header["GROUPGAP"] = dataset.attrs["group_gap"]
        header["AVDRKCUR"] = (dataset.attrs["average_dark_current"], "[electron/s] average dark current")
    if kind == "gain":
        header["GAINFACT"] = (dataset.attrs["gain_factor"], "Gain scale factor")
    header.add_history(f"Describes the detector that nsxr.simulate simulates; {len(SUBARRAYS)} subarrays share it.")
    return header
