"""Pictures of slits: outlines lie where the light is, rows without slits are left out, lines are at wavelengths."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from nsxr.plot.slits import draw_slits
from nsxr.slits.selection import slits_of
from tests.optics.exposures import make_rates, optics_of


@pytest.fixture(scope="module")
def drawn():
    rates = make_rates("FIXEDSLIT", "G395H", columns=(900, 1000))
    optics = optics_of(rates)
    figure = draw_slits(rates, optics, slits_of(rates, optics))
    FigureCanvasAgg(figure).draw()
    return optics, figure.axes[0]


def test_outlines_and_lines_are_where_the_optics_say(drawn):
    optics, axes = drawn
    for name in ("S200A1", "S400A1"):
        ends = [optics.slits[name].slit_y_low, optics.slits[name].slit_y_high]
        wavelength = np.linspace(*optics.wavelength_range, 5000)
        columns, rows = optics.inverse(np.array(ends)[:, np.newaxis], wavelength, name)
        for end in (0, 1):
            expected = np.interp(950.0, columns[end], rows[end])
            lines = [line.get_xydata() for line in axes.lines if line.get_xdata().size > 10]
            found = [np.interp(950.0, *line[np.isfinite(line[:, 0])].T, left=np.nan, right=np.nan) for line in lines]
            assert np.nanmin(np.abs(np.array(found) - expected)) < 0.01
        value = float(optics.forward(950, float(np.interp(950.0, columns[0], rows[0])), name).wavelength)
        nearest = round(value, 1)
        column, row = optics.inverse(ends, nearest, name)
        if abs(column[0] - 950) < 45:
            marks = [line.get_xydata() for line in axes.lines if line.get_xdata().size == 2]
            distance = [np.abs(mark - np.transpose([column, row])).max() for mark in marks]
            assert min(distance) < 0.05


def test_names_and_rows(drawn):
    _, axes = drawn
    texts = [text.get_text() for text in axes.texts]
    assert {"S200A1", "S200A2", "S400A1", "S1600A1"} <= set(texts)
    low, high = axes.get_ylim()
    assert 800 < low < high < 1250  # a full frame has 2048 rows
    assert "NRS1   F290LP   G395H   4 slits, orange lines every 0.1 um" in axes.get_title()


def test_slices_are_counted_from_one():
    rates = make_rates("IFU", "PRISM", rows=(1150, 1300), columns=(700, 1200))
    optics = optics_of(rates)
    axes = draw_slits(rates, optics, optics.slits.values()).axes[0]
    texts = {text.get_text() for text in axes.texts}
    numbers = {int(text) for text in texts if text.isdecimal()}
    middle = optics.inverse(0.0, 2.0, "1")[1]
    assert 1150 < middle < 1300  # slice number 2 of nsxr.locate_slices
    assert 2 in numbers
    assert 1 not in numbers
    assert "slices" in axes.get_title()


def test_no_slit_on_the_image():
    rates = make_rates("FIXEDSLIT", "PRISM", rows=(0, 40))
    optics = optics_of(rates)
    axes = draw_slits(rates, optics, slits_of(rates, optics)).axes[0]
    assert axes.get_title() == "NRS1   CLEAR   PRISM   0 slits"
    assert not axes.lines
