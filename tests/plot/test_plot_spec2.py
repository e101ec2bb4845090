"""Quick look at stage 2: pixels are drawn where their light comes from, spectra with their errors, slices in order."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg

from nsxr.errors import ModelError
from nsxr.plot import montage
from nsxr.plot.slices import _medians, draw_slices
from nsxr.plot.slit_images import prepare, scale_of, signal_to_noise
from nsxr.plot.spec2 import draw_spec2
from nsxr.simulate import simulate_trace
from nsxr.spectra.extraction import extract_spectrum


def one_slit(**settings):
    """Return a slit with slit_y and a flat field, and its spectrum."""
    slit, _ = simulate_trace(signal_to_noise=40.0, columns=120, bad_pixels="clusters", **settings)
    rows = slit["row"] - slit["row"].mean() + 0 * slit["column"]
    bent = (rows - 0.01 * (slit["column"] - slit["column"][60])) / 5
    place = bent.transpose("row", "column").astype(np.float32)
    attrs = {"SRCYPOS": 0.1, "SLTYSCL": 2.0, "SRCNAME": "star", "SRCTYPE": "POINT"}
    flat = xr.full_like(slit["wavelength"], 0.9)
    slit = slit.assign_coords(slit_y=place).assign(flatfield_point=flat).assign_attrs(slit.attrs | attrs)
    return slit, extract_spectrum(slit)


def tree_of(**slits):
    trees = {kind: {} for kind in ("cal", "x1d")}
    for name, (slit, spectrum) in slits.items():
        trees["cal"][name], trees["x1d"][name] = slit.assign_attrs(SLTNAME=name), spectrum.assign_attrs(SLTNAME=name)
    return xr.DataTree.from_dict({f"{kind}/{name}": one for kind, own in trees.items() for name, one in own.items()})


@pytest.fixture(scope="module")
def slit():
    return one_slit()


def test_the_place_of_a_pixel_is_that_of_the_optics(slit):
    drawn = prepare(*slit)
    from_source = (slit[0]["slit_y"] - 0.2) * 5  # SRCYPOS times SLTYSCL is 0.2 heights
    np.testing.assert_allclose(drawn.place, from_source, atol=1e-4)
    np.testing.assert_array_equal(drawn.columns, np.arange(120))
    nearest = np.abs(from_source).argmin("row")
    np.testing.assert_allclose(drawn.wavelength, slit[0]["wavelength"].isel(row=nearest), atol=0.005)
    assert (np.diff(drawn.wavelength) > 0).all()
    background = (slit[0].assign_attrs(SRCNAME="1234_BKG7"), slit[1])
    np.testing.assert_allclose(prepare(*background).place, slit[0]["slit_y"] * 5, atol=1e-4)
    dark = slit[0].assign(wavelength=slit[0]["wavelength"] * np.nan)
    assert prepare(dark, slit[1]) is None


@pytest.mark.parametrize("number", [1, 2])
def test_the_sky_that_was_subtracted_is_drawn(slit, number):
    level = xr.DataArray(np.linspace(1.0, 2.0, 50), dims="dispersion", attrs={"units": "MJy/sr"})
    sky = xr.Dataset({"surf_bright": level, "sb_var_poisson": 0 * level + 0.01, "sb_var_rnoise": 0 * level})
    sky["dq"] = ("dispersion", np.repeat(np.array([0, 1], np.uint32), [40, 10]))
    wavelength = np.linspace(0.7, 5.2, 50)
    tree = tree_of(**{f"S200A{n + 1}": slit for n in range(number)})
    tree["sky"] = xr.DataTree(sky.assign_coords(wavelength=("dispersion", wavelength)))
    plain = draw_spec2(tree_of(**{f"S200A{n + 1}": slit for n in range(number)}))
    figure = draw_spec2(tree.chunk())
    FigureCanvasAgg(figure).draw()
    assert len(figure.axes) == len(plain.axes) + 1
    line = figure.axes[-1].get_lines()[0]
    np.testing.assert_array_equal(line.get_xdata(), wavelength[:40])
    np.testing.assert_array_equal(line.get_ydata(), level.values[:40])


@pytest.mark.parametrize("number", [1, 2])
def test_the_skies_of_fixed_slits_are_drawn_together(slit, number):
    names = [f"S200A{n + 1}" for n in range(number)]
    tree = tree_of(**dict.fromkeys(names, slit))
    for level, name in enumerate(names, start=1):
        values = {key: ("dispersion", np.full(50, float(level))) for key in ("surf_bright", "sb_var_poisson")}
        sky = xr.Dataset(values | {"dq": ("dispersion", np.zeros(50, np.uint32))}, attrs={"SLTNAME": name})
        sky["sb_var_rnoise"] = sky["sb_var_poisson"]
        tree[f"sky/{name}"] = xr.DataTree(sky.assign_coords(wavelength=("dispersion", np.linspace(0.7, 5.2, 50))))
    figure = draw_spec2(tree)
    FigureCanvasAgg(figure).draw()
    axes = figure.axes[-1]
    assert [line.get_ydata()[0] for line in axes.get_lines()[:number]] == [*range(1, number + 1)]
    assert (axes.get_legend() is not None) == (number > 1)


def test_a_page_shows_the_slit_its_factors_and_its_spectrum(slit):
    figure = draw_spec2(tree_of(S200A1=slit).chunk())
    FigureCanvasAgg(figure).draw()
    image, bar, factors, spectrum = figure.axes
    values = image.collections[-1].get_array()
    used = (slit[0]["dq"].to_numpy() & 1) == 0
    np.testing.assert_array_equal(np.ma.getmaskarray(values), ~used)
    factor = {"flux in a pixel [nJy]": 1e15, "flux in a pixel [µJy]": 1e12}[bar.get_ylabel()]
    np.testing.assert_allclose(values[used], slit[0]["sci"].to_numpy()[used] * factor, rtol=1e-5)
    assert spectrum.get_ylabel() == "flux density [µJy]"
    assert {line.get_label() for line in factors.get_lines()} >= {"flat field"}
    np.testing.assert_allclose(factors.get_lines()[0].get_ydata(), 0.9)
    line = spectrum.get_lines()[0]
    good = (slit[1]["dq"] == 0).to_numpy()
    np.testing.assert_allclose(line.get_ydata()[good], slit[1]["flux"].to_numpy()[good] * 1e6)
    assert "star" in figure.get_suptitle()


def test_of_many_slits_the_brightest_are_drawn(slit, monkeypatch):
    monkeypatch.setattr(montage, "_MOST", 3)
    slits = {str(number): (slit[0], slit[1].assign(flux=slit[1]["flux"] * number)) for number in range(1, 6)}
    figure = draw_spec2(tree_of(**slits))
    FigureCanvasAgg(figure).draw()
    names = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert [name.split()[0] for name in names if "star" in name] == ["3", "4", "5"]
    assert f"S/N {3 * signal_to_noise(slit[1]):.2g}" in names[1]
    assert "3 of 5 slits" in figure.get_suptitle()
    boxes = [axes.get_position() for axes in figure.axes]
    shared = [a.intersection(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert all(box is None or box.width * box.height < 1e-6 for box in shared)


def test_a_time_series_has_its_mean_and_its_white_light():
    slit, _ = simulate_trace(signal_to_noise=60.0, integrations=12, depth=0.02, columns=100)
    figure = draw_spec2(tree_of(S1600A1=(slit, extract_spectrum(slit))).chunk())
    (white,) = (axes for axes in figure.axes if "white light" in axes.get_ylabel())
    curve = white.containers[0].lines[0].get_ydata()
    assert curve[4:8].mean() - curve[:2].mean() == pytest.approx(-2, abs=1)
    mesh = figure.axes[0].collections[-1].get_array()
    assert mesh.mean() == pytest.approx(float(slit["sci"].mean()) * 1e15, rel=0.02)  # [nJy]


def frame_of_slices():
    """Return a small frame of the IFU: three rows a slice, two between. The signal is the number of the slice."""
    number = np.zeros((160, 40), np.uint8)
    for one in range(1, 31):
        number[5 * one : 5 * one + 3] = one
    row = np.arange(160)[:, np.newaxis] + np.zeros((160, 40))
    place = np.where(number > 0, ((row - 5.0 * number) - 1) / 3, np.nan)
    wavelength = np.where(number > 0, np.linspace(1, 5, 40), np.nan)
    signal = np.where(number > 0, number + 10.0 * (row - 5 * number == 2), np.nan)
    dims = ("row", "column")
    images = {"sci": signal, "wavelength": wavelength, "var_poisson": np.where(number > 0, 1.0, np.nan)}
    frame = xr.Dataset({name: (dims, image.astype(np.float32)) for name, image in images.items()})
    frame["sci"].attrs["units"] = "MJy/sr"
    frame["dq"] = dims, np.zeros(number.shape, np.uint32)
    frame["dq"][20, 7] = 1
    frame["sci"][20, 7] = 1e6
    labels = {"row": np.arange(160), "column": np.arange(40)}
    return frame.assign_coords(slice=(dims, number), slit_y=(dims, place.astype(np.float32)), **labels)


def test_slices_lie_side_by_side_in_the_order_of_the_field():
    frame = frame_of_slices()
    figure = draw_spec2(xr.DataTree.from_dict({"cal": frame}).chunk())
    FigureCanvasAgg(figure).draw()
    (axes,) = (axes for axes in figure.axes if axes.get_xlabel() == "slice")
    field = np.ma.filled(axes.images[0].get_array(), np.nan)
    order = [*range(30, 0, -2), *range(1, 30, 2)]
    found = field[np.isfinite(field).all(axis=1)]
    np.testing.assert_allclose(found, [order, order, np.add(order, 10)])
    numbers = {text.get_text() for text in figure.axes[0].texts}
    assert numbers == {str(one) for one in range(1, 31)}
    shown = figure.axes[0].images[1].get_array()
    assert shown.mask[20, 7]
    assert shown.max() == 40


def test_nothing_to_see():
    frame = frame_of_slices()
    draw_slices(frame.assign(sci=frame["sci"] * np.nan)).savefig("/dev/null", format="png")
    slit, spectrum = one_slit()
    lost = slit.assign(sci=slit["sci"] * np.float32(np.nan)), spectrum.assign(flux=spectrum["flux"] * np.nan)
    for tree in (tree_of(A=lost), tree_of(A=lost, B=lost)):
        draw_spec2(tree).savefig("/dev/null", format="png")
    with pytest.raises(ModelError, match="without the step extract_1d"):
        draw_spec2(xr.DataTree.from_dict({"cal/A": slit}))
    with pytest.raises(ModelError, match="expected cal"):
        draw_spec2(xr.DataTree.from_dict({"x1d/A": spectrum}))


def test_medians_of_cells():
    random = np.random.default_rng(1)
    cell, values = random.integers(0, 7, 200), random.normal(size=200)
    cell[cell == 3] = 2
    expected = [np.median(values[cell == number]) if number != 3 else np.nan for number in range(7)]
    np.testing.assert_allclose(_medians(cell, values, 7), expected)


def test_pixels_with_large_errors_do_not_set_the_colours():
    values, error = np.full(1000, 5.0), np.ones(1000)
    values[:100], error[:100] = 1e4, 1e3
    norm = scale_of(values, error, np.ones(1000, bool))
    assert norm.vmax < 20
