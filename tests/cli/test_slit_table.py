"""``nsxr slits``: the table and the picture."""

import numpy as np
from astropy.io import fits

from nsxr.simulate import simulate_exposure
from tests.optics.exposures import HEADER, make_rates, references
from tests.products.metafiles import write_metafile

IN_SCI = ("RA_REF", "DEC_REF", "V2_REF", "V3_REF", "ROLL_REF", "VELOSYS", "VA_SCALE")


def write_rate(path, rates):
    cards = {key: value for key, value in rates.attrs.items() if key != "filename" and key not in IN_SCI}
    cards |= {"TELESCOP": "JWST", "READPATT": "NRSRAPID", "NGROUPS": 20, "NINTS": 1, "NFRAMES": 1, "GROUPGAP": 0}
    cards |= {"SUBSIZE1": rates.sizes["column"], "SUBSIZE2": rates.sizes["row"], "FASTAXIS": 2, "SLOWAXIS": 1}
    cards |= {"DATAMODL": "ImageModel", "DATE-OBS": "2024-01-01", "TIME-OBS": "00:00:00"}
    hdus = [fits.PrimaryHDU(header=fits.Header(cards))]
    hdus += [
        fits.ImageHDU(rates["sci"].to_numpy(), fits.Header({"BUNIT": "DN/s"}), name=name) for name in ("SCI", "ERR")
    ]
    hdus += [fits.ImageHDU(rates["dq"].to_numpy(), name="DQ")]
    ones = np.ones(rates["sci"].shape, np.float32)
    hdus += [fits.ImageHDU(ones, name=name) for name in ("VAR_POISSON", "VAR_RNOISE")]
    hdus[1].header.update({key: HEADER[key] for key in IN_SCI})
    fits.HDUList(hdus).writeto(path)


def test_the_slit_of_a_subarray(run, tmp_path):
    path = tmp_path / "jw1_nrs1_rate.fits"
    rates = make_rates("FIXEDSLIT", "PRISM", rows=(1053, 1117), SUBARRAY="SUBS200A1", FXD_SLIT="S200A1")
    write_rate(path, rates)
    where = ["--references", references("PRISM"), "-o", tmp_path]
    lines = run("slits", path, *where).output.splitlines()
    assert lines[0].split()[:4] == ["quadrant", "xcen", "ycen", "state"]
    assert [line.split()[0] for line in lines[2:-1]] == ["S200A1"]
    assert (tmp_path / "jw1_nrs1_slits.png").stat().st_size > 10_000
    refused = run("slits", path, "--shutters", tmp_path / "jw1_msa.fits", *where, status=1)
    assert "fixed slits need no MSA metafile; leave out shutters" in refused.output
    assert (
        "products are written to local directories only"
        in run("slits", path, *where, "-o", "s3://b/x", status=1).output
    )
    taken = run("slits", path, *where, "-o", path, status=1).output
    assert "products cannot be written to" in taken
    assert "S200A1" not in taken


def test_ramps_are_no_count_rates(run, tmp_path):
    made = simulate_exposure(tmp_path, subarray="SUB32", readout="NRSRAPID", groups=2, columns=8, references=False)
    output = run("slits", made.uncal[0], "--references", tmp_path, status=1).output
    assert "has no count rates; give count rates" in output


def test_the_metafile_of_the_header_is_found_beside_the_exposure(run, tmp_path):
    path = tmp_path / "jw1_nrs1_rate.fits"
    write_rate(path, make_rates("MSASPEC", "PRISM", MSAMETFL="jw_msa.fits"))
    where = ["--references", references("PRISM"), "-o", tmp_path]
    assert "give shutters, jw_msa.fits" in run("slits", path, *where, status=1).output
    write_metafile(tmp_path / "jw_msa.fits")
    lines = run("slits", path, *where).output.splitlines()
    assert [line.split()[0] for line in lines[2:-1]] == ["1", "2"]
