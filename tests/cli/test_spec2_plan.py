"""What ``nsxr spec2`` plans to do with its files, before any of them is calibrated."""

import json
from pathlib import Path

import pytest
import xarray as xr

from nsxr.cli.settings import step_parameters
from nsxr.pipelines.spec2 import SPEC2

SAME = {"EXP_TYPE": "NRS_IFU", "DETECTOR": "NRS1", "FILTER": "CLEAR", "GRATING": "PRISM", "PROGRAM": "01234"}


@pytest.fixture
def plan(run, monkeypatch):
    """Return a function that runs nsxr spec2 without calibration, and returns backgrounds by the name of the product.

    Exposures whose names begin with ``bk`` are those of a background target.
    """

    def opened(path):
        number = str(path).partition("_")[0]
        return xr.Dataset(attrs=SAME | {"BKGDTARG": "bk" in number, "EXPOSURE": number, "filename": str(path)})

    def invoke(*words, status=0):
        planned = {}
        monkeypatch.setattr("nsxr.cli.spec2.open_exposure", opened)
        monkeypatch.setattr(
            "nsxr.cli.spec2._calibrate",
            lambda root, one, options: planned.update({root: [path.name for path in one.backgrounds]}),
        )
        result = run("spec2", *words, "--references", "refs", status=status)
        return planned if not status else result.stderr

    return invoke


def test_none_stays_a_word_where_it_is_one():
    for text in ("none", "None"):
        found = step_parameters([f"extract_1d.background={text}", "extract_1d.half_width=none"], SPEC2)
        assert found == {"extract_1d": {"background": "none", "half_width": None}}
        SPEC2.settings(found)


def test_exposures_of_a_background_have_products_if_they_are_not_subtracted(plan):
    files = ("sci_rate.fits", "bk_rate.fits")
    assert plan(*files) == {"sci": ["bk_rate.fits"]}
    for words in (["--no-background"], ["--sky", "global"]):
        assert plan(*files, *words) == {"sci": [], "bk": []}
    assert plan(*files, "--background", "x_rate.fits") == {"sci": ["x_rate.fits"], "bk": ["x_rate.fits"]}
    assert plan(*files, "--background", "bk_rate.fits") == {"sci": ["bk_rate.fits"]}


def test_two_products_of_one_exposure_are_refused(plan, tmp_path):
    Path(tmp_path / "sci_rate.fits").touch()
    members = [{"expname": "sci_rate.fits", "exptype": "science"}]
    association = {"asn_type": "spec2", "products": [{"name": name, "members": members} for name in ("one", "two")]}
    path = tmp_path / "asn.json"
    path.write_text(json.dumps(association))
    assert "would both be written as sci" in plan(path, status=1)
