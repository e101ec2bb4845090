"""Header keywords and time tables of simulated raw exposures."""

from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.time import Time

from nsxr.simulate.configuration import SUBARRAYS, Configuration

__all__ = [
    "START",
    "Segment",
    "group_table",
    "integration_times",
    "primary_header",
    "science_header",
    "start_time",
]

START = 61055.25
"""Start of the first exposure of the first observation, MJD (UTC)."""

_OVERHEAD = 60.0  # time between exposures [s]

_BARYCENTRIC = 180.0 / 86400  # by how much the simulated barycentric times are later [d]
_OPERATION = {
    "MOS": "MSASPEC",
    "FS": "FIXEDSLIT",
    "IFU": "IFU",
    "BOTS": "BRIGHTOBJ",
    "dark": "NONE",
    "flat": "NONE",
}
_WHEEL = {
    "PRISM": (0.3399, 0.0312),
    "MIRROR": (0.3406, 0.1951),
    "G140M": (0.3286, 0.1239),
    "G140H": (0.3608, 0.1326),
    "G235M": (0.3205, 0.1380),
    "G235H": (0.3552, 0.1374),
    "G395M": (0.2837, 0.1768),
    "G395H": (0.3196, 0.1441),
}
"""Readings of the sensors of the grating wheel. They differ a little from those of ESA's flight model, as in flight."""


@dataclass(frozen=True)
class Segment:
    """One file of an exposure: its number, the number of files, its first and last integration (counted from 1)."""

    number: int
    total: int
    first: int
    last: int

    def file_name(self, configuration: Configuration) -> str:
        """Return the name of the raw file."""
        segment = f"-seg{self.number:03d}" if self.total > 1 else ""
        return f"{configuration.root}{segment}_{configuration.detector.lower()}_uncal.fits"


def start_time(configuration: Configuration) -> float:
    """Return the start of an exposure, MJD (UTC).

    The exposures before it in the observation have the same length. Observations are a day apart.
    """
    groups, integrations = configuration.groups, configuration.integrations
    length = integrations * (groups * configuration.group_time + configuration.frame_time) + _OVERHEAD
    return START + (configuration.observation - 1) + (configuration.exposure - 1) * length / 86400


def integration_times(configuration: Configuration) -> dict[str, np.ndarray]:
    """Return the columns of INT_TIMES for all integrations of an exposure."""
    duration = configuration.groups * configuration.group_time
    spacing = duration + configuration.frame_time  # the reset takes one frame time
    start = start_time(configuration) + np.arange(configuration.integrations) * spacing / 86400
    columns: dict[str, np.ndarray] = {"integration_number": np.arange(1, configuration.integrations + 1)}
    for scale, shift in (("MJD_UTC", 0.0), ("BJD_TDB", _BARYCENTRIC)):
        for name, part in (("start", 0.0), ("mid", 0.5), ("end", 1.0)):
            columns[f"int_{name}_{scale}"] = start + shift + part * duration / 86400
    return columns


def primary_header(configuration: Configuration, segment: Segment, *, contiguous: bool = True) -> fits.Header:
    """Return the primary header of a raw file, with the keywords that calibration and validation need.

    Parameters
    ----------
    configuration : Configuration
        The settings of the exposure.
    segment : Segment
        The part of the exposure that is in the file.
    contiguous : bool
        Whether the columns are contiguous, so that SUBSTRT1 and SUBSIZE1 can describe them. If not, these keywords
        describe the whole subarray.
    """
    times = integration_times(configuration)
    second = configuration.detector == "NRS2"
    size = SUBARRAYS[configuration.subarray]
    column_start = int(configuration.columns[0]) + 1 if contiguous else size.column_start[second]
    n_columns = configuration.columns.size if contiguous else size.columns
    exposure_end = float(times["int_end_MJD_UTC"][-1])
    exposure_start = start_time(configuration)
    begin, end = (Time(t, format="mjd", precision=3).isot for t in (exposure_start, exposure_end))
    visit = configuration.root[2:].partition("_")[0]
    integration_time = configuration.groups * configuration.group_time
    is_series = configuration.scene == "BOTS"
    is_closed = configuration.filter == "OPAQUE"
    pointing = configuration.pointing
    cards: list[tuple[str, object, str]] = [
        ("DATE", end, "UTC date file created"),
        ("ORIGIN", "nsxr", "Simulated, not observed"),
        ("TIMESYS", "UTC", "principal time system for time-related keywords"),
        ("FILENAME", segment.file_name(configuration), "Name of the file"),
        ("SDP_VER", "simulated", "Data processing software version"),
        ("DATAMODL", "Level1bModel", "Type of data model"),
        ("TELESCOP", "JWST", "Telescope used to acquire the data"),
        ("HGA_MOVE", False, "High Gain Antenna moved during data collection"),
        ("TITLE", f"Simulated NIRSpec exposure: {configuration.scene}", "Proposal title"),
        ("CATEGORY", "CAL", "Program category"),
        ("DATE-OBS", begin[:10], "[yyyy-mm-dd] UTC date at start of exposure"),
        ("TIME-OBS", begin[11:], "[hh:mm:ss.sss] UTC time at start of exposure"),
        ("DATE-BEG", begin, "Date-time start of exposure"),
        ("DATE-END", end, "Date-time end of exposure"),
        ("OBS_ID", f"V{visit}P0000000003101", "Programmatic observation identifier"),
        ("VISIT_ID", visit, "Visit identifier"),
        ("PROGRAM", visit[:5], "Program number"),
        ("OBSERVTN", visit[5:8], "Observation number"),
        ("VISIT", "001", "Visit number"),
        ("VISITGRP", "03", "Visit group identifier"),
        ("SEQ_ID", "1", "Parallel sequence identifier"),
        ("ACT_ID", "01", "Activity identifier"),
        ("EXPOSURE", str(configuration.exposure), "Exposure request number"),
        ("VISITYPE", "PRIME_TARGETED_FIXED", "Visit type"),
        ("VSTSTART", begin, "UTC visit start time"),
        ("TSOVISIT", is_series, "Time Series Observation visit indicator"),
        ("EXPCOUNT", configuration.exposure, "Running count of exposures in visit"),
        ("TARGPROP", "SIMULATED", "Proposer's name for the target"),
        ("TARGNAME", "SIMULATED", "Standard astronomical catalog name for target"),
        ("TARGTYPE", "FIXED", "Type of target"),
        ("TARG_RA", pointing.target[0], "[deg] target RA at mid time of exposure"),
        ("TARG_DEC", pointing.target[1], "[deg] target Dec at mid time of exposure"),
        ("SRCTYAPT", "POINT" if is_series else "UNKNOWN", "Source type from APT"),
        ("INSTRUME", "NIRSPEC", "Instrument used to acquire the data"),
        ("DETECTOR", configuration.detector, "Name of detector used to acquire the data"),
        ("FILTER", configuration.filter, "Name of the filter element used"),
        ("GRATING", configuration.grating, "Name of the grating element used"),
        ("OPMODE", _OPERATION[configuration.scene], "Lamp operating mode"),
        ("LAMP", "FLAT5" if configuration.scene == "flat" else "NO_LAMP", "Internal lamp state"),
        ("GWA_XTIL", _WHEEL[configuration.grating][0], "Grating wheel tilt along instrmnt model Y axis"),
        ("GWA_YTIL", _WHEEL[configuration.grating][1], "Grating wheel tilt along instrmnt model X axis"),
        ("GWA_TILT", 36.05, "[K] GWA TILT (avg/calib) temperature"),
        ("FXD_SLIT", configuration.fixed_slit, "Name of fixed slit aperture"),
        ("EXP_TYPE", configuration.exposure_type, "Type of data in the exposure"),
        ("EXPSTART", exposure_start, "[d] exposure start time in MJD"),
        ("EXPMID", 0.5 * (exposure_start + exposure_end), "[d] exposure mid time in MJD"),
        ("EXPEND", exposure_end, "[d] exposure end time in MJD"),
        ("READPATT", configuration.readout, "Readout pattern"),
        ("NINTS", configuration.integrations, "Number of integrations in exposure"),
        ("NGROUPS", configuration.groups, "Number of groups in integration"),
        ("NFRAMES", configuration.n_frames, "Number of frames per group"),
        ("FRMDIVSR", configuration.frame_divisor, "Divisor applied to frame-averaged groups"),
        ("GROUPGAP", 0, "Number of frames dropped between groups"),
        ("DRPFRMS1", 0, "Frames dropped prior to first integration"),
        ("NSAMPLES", 1, "Number of A/D samples per pixel"),
        ("NRESETS", 1, "Resets between integrations"),
        ("TSAMPLE", 10.0, "[us] Time between samples"),
        ("TFRAME", configuration.frame_time, "[s] Time between frames"),
        ("TGROUP", configuration.group_time, "[s] Time between groups"),
        ("EFFINTTM", integration_time, "[s] Effective integration time"),
        ("EFFEXPTM", integration_time * configuration.integrations, "[s] Effective exposure time"),
        ("DURATION", (exposure_end - exposure_start) * 86400, "[s] Total duration of exposure"),
        ("ZEROFRAM", False, "Zero frame was downlinked separately"),
        ("NOUTPUTS", 5 if configuration.is_irs2 else configuration.n_outputs, "Number of detector outputs used"),
        ("EXSEGNUM", segment.number, "Sequential segment number"),
        ("EXSEGTOT", segment.total, "Total number of segments"),
        ("INTSTART", segment.first, "Starting integration number in this segment"),
        ("INTEND", segment.last, "Ending integration number in this segment"),
        ("SUBARRAY", configuration.subarray, "Subarray used"),
        ("SUBSTRT1", column_start, "Starting pixel in axis 1 direction"),
        ("SUBSTRT2", configuration.row_start + 1, "Starting pixel in axis 2 direction"),
        ("SUBSIZE1", n_columns, "Number of pixels in axis 1 direction"),
        ("SUBSIZE2", size.rows, "Number of pixels in axis 2 direction"),
        ("FASTAXIS", -2 if second else 2, "Fast readout axis direction"),
        ("SLOWAXIS", -1 if second else 1, "Slow readout axis direction"),
        *_dither_cards(configuration),
    ]
    if configuration.is_irs2:
        position = next(i for i, card in enumerate(cards) if card[0] == "NOUTPUTS") + 1
        cards[position:position] = [
            ("NRS_NORM", 16, "Number of normal pixels in IRS2 readout"),
            ("NRS_REF", 4, "Number of reference pixels in IRS2 readout"),
        ]
    header = fits.Header([("SIMPLE", True), ("BITPIX", 8), ("NAXIS", 0), ("EXTEND", True), *cards])
    if is_closed:
        del header["TARG_RA"], header["TARG_DEC"]
    header.add_history("Simulated by nsxr.simulate")
    return header


def _dither_cards(configuration: Configuration) -> list[tuple[str, object, str]]:
    """Return the keywords of dithers, apertures and shutters of the primary header."""
    pointing, scene = configuration.pointing, configuration.scene
    is_dithered = pointing.dithers > 1
    pattern = {"FS": f"{pointing.dithers}-POINT-NOD", "IFU": f"{pointing.dithers}-POINT-DITHER"}.get(scene, "NONE")
    cards: list[tuple[str, object, str]] = [
        ("PATTTYPE", pattern if is_dithered else "NONE", "Primary dither pattern type"),
        ("NUMDTHPT", pointing.dithers, "Total number of points in dither pattern"),
        ("PATT_NUM", pointing.dither, "Position number within dither pattern"),
        ("XOFFSET", pointing.offset[0], "x offset from pattern starting position"),
        ("YOFFSET", pointing.offset[1], "y offset from pattern starting position"),
        ("APERNAME", pointing.aperture.name, "PRD science aperture used"),
        ("PPS_APER", pointing.aperture.name, "original AperName supplied by PPS"),
    ]
    if scene == "MOS":
        cards += [
            ("NOD_TYPE", "3-SHUTTER-SLITLET" if is_dithered else "NONE", "Nod pattern type"),
            ("MSASTATE", "PRIMARYPARK_CONFIG", "State of the MSA"),
            ("MSAMETFL", configuration.metafile, "MSA metadata file name"),
            ("MSAMETID", 1, "MSA metadata ID"),
            ("MSACONID", 1, "MSA configuration ID"),
        ]
    else:
        cards.append(("MSASTATE", "PRIMARYPARK_ALLCLOSED", "State of the MSA"))
    return cards


def science_header(configuration: Configuration) -> fits.Header:
    """Return the keywords of the SCI extension, without those of the FITS layout."""
    row, column = configuration.rows.size / 2 + 0.5, configuration.columns.size / 2 + 0.5
    pointing = configuration.pointing
    (ra, dec), aperture = pointing.reference, pointing.aperture
    return fits.Header(
        [
            ("BUNIT", "DN", "physical units of the array values"),
            ("RADESYS", "ICRS", "Name of the coordinate reference frame"),
            ("RA_V1", ra, "[deg] RA of telescope V1 axis"),
            ("DEC_V1", dec, "[deg] Dec of telescope V1 axis"),
            ("PA_V3", pointing.roll, "[deg] Position angle of telescope V3 axis"),
            ("WCSAXES", 2, "number of World Coordinate System axes"),
            ("CRPIX1", column, "axis 1 coordinate of the reference pixel"),
            ("CRPIX2", row, "axis 2 coordinate of the reference pixel"),
            ("CRVAL1", ra, "[deg] first axis value at the reference pixel"),
            ("CRVAL2", dec, "[deg] second axis value at the reference pixel"),
            ("CTYPE1", "RA---TAN", "first axis coordinate type"),
            ("CTYPE2", "DEC--TAN", "second axis coordinate type"),
            ("CUNIT1", "deg", "first axis units"),
            ("CUNIT2", "deg", "second axis units"),
            ("CDELT1", 2.9e-5, "[deg] first axis increment per pixel"),
            ("CDELT2", 2.9e-5, "[deg] second axis increment per pixel"),
            ("V2_REF", aperture.v2, "[arcsec] V2 of the reference point"),
            ("V3_REF", aperture.v3, "[arcsec] V3 of the reference point"),
            ("VPARITY", -1, "Sense of rotation between Ideal xy and V2V3"),
            ("V3I_YANG", aperture.ideal_angle, "[deg] Angle from V3 axis to Ideal y axis"),
            ("RA_REF", ra, "[deg] Right ascension of the reference point"),
            ("DEC_REF", dec, "[deg] Declination of the reference point"),
            ("ROLL_REF", pointing.roll, "[deg] V3 roll angle at the ref point (N over E)"),
            ("VA_SCALE", pointing.aberration, "Velocity aberration scale factor"),
            ("VELOSYS", pointing.velocity, "[m/s] Barycentric velocity correction"),
        ]
    )


def group_table(configuration: Configuration, segment: Segment) -> np.ndarray:
    """Return the GROUP table of a file, with one row for each group of each integration."""
    n = (segment.last - segment.first + 1) * configuration.groups
    table = np.zeros(
        n,
        dtype=[
            ("integration_number", ">i4"),
            ("group_number", ">i2"),
            ("end_day", ">i2"),
            ("end_milliseconds", ">i4"),
            ("end_submilliseconds", ">i2"),
            ("group_end_time", "S26"),
            ("number_of_columns", ">i2"),
            ("number_of_rows", ">i2"),
            ("number_of_gaps", ">i2"),
            ("completion_code_number", ">i2"),
            ("completion_code_text", "S36"),
            ("bary_end_time", ">f8"),
            ("helio_end_time", ">f8"),
        ],
    )
    start = integration_times(configuration)["int_start_MJD_UTC"][segment.first - 1 : segment.last]
    after = np.arange(1, configuration.groups + 1) * configuration.group_time / 86400
    end = (start[:, None] + after).reshape(-1)
    of_day = (end % 1) * 86400e3
    table["integration_number"] = np.repeat(np.arange(segment.first, segment.last + 1), configuration.groups)
    table["group_number"] = np.tile(np.arange(1, configuration.groups + 1), segment.last - segment.first + 1)
    table["end_day"] = np.floor(end) - 51544  # days since 2000
    table["end_milliseconds"] = np.floor(of_day)
    table["end_submilliseconds"] = np.floor((of_day % 1) * 1000)
    table["group_end_time"] = Time(end, format="mjd", precision=6).isot.astype("S26")
    table["number_of_columns"] = configuration.columns.size
    table["number_of_rows"] = configuration.raw_rows
    table["completion_code_text"] = b"COMPLETE"
    table["bary_end_time"] = end + _BARYCENTRIC
    table["helio_end_time"] = end + _BARYCENTRIC
    return table
