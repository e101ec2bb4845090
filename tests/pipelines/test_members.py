"""Bad pixels and 1/f noise of science exposures, backgrounds and imprints, before slits are cut out."""

import json

import numpy as np
import pytest
import xarray as xr

import nsxr
from nsxr.model.history import steps
from nsxr.pipelines.spec2 import spec2
from nsxr.simulate import Artifacts
from nsxr.simulate.configuration import configure
from nsxr.simulate.noise import FrameNoise
from nsxr.testing import forbid_computes
from tests.optics.exposures import make_rates, optics_of

FLUX = ("msa_flagging", "flat_field", "pathloss", "photom")
LIGHT, NOISE = 0.02, 0.02
MEDIAN = {"fit_method": "median"}  # the fast one


def statuses(dataset):
    return {entry["step"]: (entry["status"], entry.get("reason")) for entry in steps(dataset)}


def frame(number, columns=(600, 616), **header):
    """Return count rates of the IFU with faint light in all slices, white and correlated noise, and a hot pixel."""
    one = make_rates(
        "IFU", "PRISM", columns=columns, READPATT="NRSRAPID", SUBSIZE1=16, SUBSIZE2=2048, BKGDTARG=False,
        EXPOSURE=number, OBSERVTN="1", VISIT="1", filename=f"jw{number}_rate.fits", **header,
    )  # fmt: skip
    optics = optics_of(one)
    light = nsxr.locate_slices(one, optics, coordinates=[])["slice"].values > 0
    random = np.random.default_rng(number)
    width = columns[1] - columns[0]
    configuration = configure(
        readout="NRSRAPID", subarray="FULL", groups=2, integrations=1, detector="NRS1", scene="dark", columns=width
    )
    source = FrameNoise(
        configuration, Artifacts(picture_frame=0.0), np.zeros(light.shape, np.float32), np.random.SeedSequence(number)
    )
    values = LIGHT * light + NOISE * random.standard_normal(light.shape) + NOISE / 5.2 * source.draw()
    values[1300, 10] += 5.0
    images = {"sci": values, "var_poisson": np.zeros(values.shape), "var_rnoise": np.full(values.shape, 2 * NOISE**2)}
    new = {name: (("row", "column"), image.astype("f4"), one[name].attrs) for name, image in images.items()}
    return one.assign(**new, dq=(("row", "column"), np.zeros(values.shape, np.uint32))), optics, light


def test_science_and_backgrounds_are_cleaned_with_the_light_of_the_optics():
    rate, optics, light = frame(1)
    background, imprint = frame(2)[0], frame(3)[0]
    lazy = [one.chunk(row=512) for one in (rate, background, imprint)]
    with forbid_computes():
        tree = spec2(
            lazy[0], {}, optics, backgrounds=[lazy[1]], imprints=[lazy[2]], skip=FLUX, clean_flicker_noise=MEDIAN
        )
    found = tree["cal"].to_dataset().compute()
    lit = nsxr.locate_light(rate, optics)
    science, back, dark = (nsxr.clean_flicker_noise(one, light=lit, **MEDIAN) for one in (rate, background, imprint))
    expected = nsxr.subtract_imprint(science, imprints=[dark])
    expected = nsxr.subtract_background(expected, [nsxr.subtract_imprint(back, imprints=[dark])])
    np.testing.assert_allclose(found["sci"], expected["sci"], atol=1e-6)
    np.testing.assert_allclose(found["var_rnoise"], expected["var_rnoise"], rtol=1e-5)
    assert statuses(found)["clean_flicker_noise"] == ("COMPLETE", None)
    science = nsxr.clean_flicker_noise(rate, light=lit)
    stripes = (rate["sci"].values - LIGHT * light).mean(axis=0).std()
    assert (science["sci"].values - LIGHT * light).mean(axis=0).std() < 0.5 * stripes
    assert abs(float(science["sci"].values[light].mean() - science["sci"].values[~lit.values].mean()) / LIGHT - 1) < 0.1


def test_what_stage_1_has_cleaned_is_not_cleaned_again(tmp_path):
    rate, optics, _ = frame(1)
    cleaned = nsxr.clean_flicker_noise(rate)
    for given in (cleaned, rate.assign_attrs(S_CLNFNS="COMPLETE")):
        found = spec2(given, {}, optics, skip=FLUX, run=["clean_flicker_noise"])["cal"].to_dataset()
        assert statuses(found)["clean_flicker_noise"] == ("SKIPPED", "done in stage 1")
        np.testing.assert_array_equal(found["sci"], given["sci"])
    path = nsxr.write_slits(spec2(cleaned, {}, optics, skip=FLUX)["cal"].to_dataset(), tmp_path / "jw_cal.fits")
    assert nsxr.open_exposure(path).attrs["S_CLNFNS"] == "COMPLETE"


def test_bad_pixels_are_flagged_in_science_and_backgrounds():
    rate, optics, _ = frame(1)
    background, other = frame(2)[0], frame(3)[0]
    on = {"skip": FLUX, "run": ["badpix_selfcal"]}
    alone = spec2(rate, {}, optics, **on)["cal"].to_dataset()
    assert statuses(alone)["badpix_selfcal"] == ("SKIPPED", "no background and no exposure for this step was given")
    forced = spec2(rate, {}, optics, skip=FLUX, badpix_selfcal={"force_single": True})["cal"].to_dataset()
    subtracted = spec2(rate, {}, optics, backgrounds=[background], **on)["cal"].to_dataset()
    searched = spec2(rate, {}, optics, selfcal=[other], **on)["cal"].to_dataset()
    for found in (forced, subtracted, searched):
        assert found["dq"].values[1300, 10] & nsxr.PixelFlag.OTHER_BAD_PIXEL
        assert np.isnan(found["sci"].values[1300, 10])
        assert np.isnan(found["sci"].values).sum() <= 2
    # the background was flagged too: a hot pixel that is good in the science would have been subtracted
    assert steps(subtracted)[0]["step"] == "badpix_selfcal"


def test_skipped_imprints_leave_the_backgrounds_alone():
    rate, optics, _ = frame(1)
    background, imprint = frame(2)[0], frame(3)[0]
    found = spec2(rate, {}, optics, backgrounds=[background], imprints=[imprint], skip=[*FLUX, "imprint_subtract"])
    expected = nsxr.subtract_background(rate, [background])["sci"]
    np.testing.assert_array_equal(found["cal"]["sci"], expected)


def test_the_command_reads_the_role_selfcal(tmp_path, run):
    pytest.importorskip("yaml")
    rate = frame(1)[0]
    for number in (1, 2):
        one = frame(number)[0]
        tree = xr.DataTree.from_dict({"rate": one})
        nsxr.write_products(tree, tmp_path, f"jw{number}", progress=False)
    members = [{"expname": "jw1_rate.fits", "exptype": "science"}, {"expname": "jw2_rate.fits", "exptype": "selfcal"}]
    (tmp_path / "asn.json").write_text(json.dumps({"products": [{"name": "jw1", "members": members}]}))
    from tests.optics.exposures import references

    skipped = [word for name in FLUX for word in ("--skip", name)]
    run(
        "spec2", tmp_path / "asn.json", "--references", references("PRISM"), "--run", "badpix_selfcal", *skipped,
        "-o", tmp_path / "products",
    )  # fmt: skip
    found = nsxr.open_exposure(tmp_path / "products" / "jw1_cal.fits")
    assert found["dq"].values[1300, 10] & nsxr.PixelFlag.OTHER_BAD_PIXEL
    assert statuses(found)["badpix_selfcal"][0] == "COMPLETE"
    assert rate["dq"].values[1300, 10] == 0
