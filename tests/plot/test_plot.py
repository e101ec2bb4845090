import io

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nsxr.diagnostics.noise import noise_spectrum
from nsxr.errors import ModelError, ParameterError
from nsxr.model.dq import PixelFlag
from nsxr.model.history import record
from nsxr.model.readout import irs2_layout
from nsxr.plot.images import plot_dq, plot_dq_map, plot_rate
from nsxr.plot.noise import plot_noise_spectrum
from nsxr.plot.quicklook import plot_quicklook
from nsxr.plot.ramps import choose_pixel, plot_ramp
from nsxr.plot.style import set_title
from nsxr.testing import count_computes, make_exposure

SUBARRAY = {
    "DETECTOR": "NRS1",
    "READPATT": "NRSRAPID",
    "SUBARRAY": "SUB2048",
    "SUBSTRT1": 1,
    "SUBSTRT2": 963,
    "SUBSIZE1": 2048,
    "SUBSIZE2": 32,
    "NINTS": 1,
    "NGROUPS": 6,
    "NFRAMES": 1,
    "FRMDIVSR": 1,
    "TFRAME": 0.9016,
    "TGROUP": 0.9016,
}
IRS2 = SUBARRAY | {
    "READPATT": "NRSIRS2RAPID",
    "SUBARRAY": "FULL",
    "SUBSTRT2": 1,
    "SUBSIZE2": 2048,
    "TFRAME": 14.5889,
    "TGROUP": 14.5889,
}
DIMS = ("integration", "group", "row", "column")
UNITS = {"sci": "DN/s", "var_poisson": "(DN/s)2", "var_rnoise": "(DN/s)2"}


def exposure(values, header):
    """Return ramps of the given values (group, row, column)."""
    return make_exposure(values[None], columns=np.arange(values.shape[-1]), **header)[["sci", "groupdq"]]


def scene(seed=0):
    """Rates of a few pixels, ramps made from them with one jump, and raw ramps with line noise."""
    random = np.random.default_rng(seed)
    rows, columns, groups = 32, 2048, 6
    flux = 1 + 50 * np.exp(-0.5 * ((np.arange(rows)[:, None] - 16) / 2) ** 2) * np.ones(columns)
    times = np.arange(groups)[:, None, None] * SUBARRAY["TGROUP"]
    ramp = exposure(100 + flux * times + random.normal(0, 4, (groups, rows, columns)), SUBARRAY)
    ramp["sci"][0, 3:, 16, 700] += 400
    ramp["groupdq"][0, 3, 16, 700] = 4
    dq = np.zeros((rows, columns), "u4")
    dq[16, 700] = PixelFlag.JUMP_DET
    dq[:, :4] = PixelFlag.REFERENCE_PIXEL
    dq[3, 10:30] = PixelFlag.DO_NOT_USE | PixelFlag.DEAD
    dq[5, 10] = PixelFlag.SATURATED
    image = DIMS[2:]
    arrays = {"sci": flux, "var_poisson": flux / 50, "var_rnoise": np.full_like(flux, 0.01)}
    variables = {name: (image, values.astype("f4"), {"units": UNITS[name]}) for name, values in arrays.items()}
    rate = xr.Dataset({**variables, "dq": (image, dq)}, ramp.drop_dims(["integration", "group"]).coords, ramp.attrs)
    rate["sci"][3, 10:30] = np.nan
    lines = 20 * np.sin(np.arange(columns) / 50 + random.uniform(0, 6, (groups, 1)))
    return rate, ramp, ramp.assign(sci=(DIMS, ramp["sci"].values + lines[None, :, None].astype("f4"), {"units": "DN"}))


def drawn(figure):
    file = io.BytesIO()
    figure.savefig(file, dpi=50)
    return file.getvalue()


def axes():
    return Figure(figsize=(5, 4), layout="constrained").subplots()


def texts(panel):
    return [text.get_text() for text in panel.get_legend().get_texts()]


def test_rate_image_shows_the_data_where_it_is():
    rate, *_ = scene()
    panel = axes()
    plot_rate(panel, rate)
    (image,) = panel.images
    np.testing.assert_array_equal(image.get_array().filled(np.nan), rate["sci"].values)
    assert image.origin == "lower"
    assert image.get_extent() == [-0.5, 2047.5, 961.5, 993.5]
    usable = rate["sci"].values[rate["dq"].values & 0x80000003 == 0]
    assert image.norm.vmin == pytest.approx(np.percentile(usable, 1))
    assert image.norm.vmax == pytest.approx(np.percentile(usable, 99.7))
    assert "DN/s" in image.colorbar.ax.get_ylabel()
    assert "wavelength" in panel.get_xlabel()
    assert drawn(panel.figure)


@pytest.mark.parametrize("value", [np.nan, 0.0, -3.0])
def test_rate_image_of_nothing(value):
    rate, *_ = scene()
    panel = axes()
    plot_rate(panel, rate.assign(sci=xr.full_like(rate["sci"], value)))
    assert drawn(panel.figure)


def test_dq_fractions_are_counted():
    rate, *_ = scene()
    panel = axes()
    plot_dq(panel, rate)
    names = [label.get_text() for label in panel.get_yticklabels()]
    found = dict(zip(names, (bar.get_width() for bar in panel.patches), strict=True))
    size = 32 * 2048
    expected = {"jump det": 1, "saturated": 1, "do not use": 20, "dead": 20, "reference pixel": 128}
    assert found == pytest.approx({name: 100 * count / size for name, count in expected.items()})
    assert list(found.values()) == sorted(found.values())
    clean = axes()
    plot_dq(clean, rate.assign(dq=xr.zeros_like(rate["dq"])))
    assert "100 %" in clean.get_title()
    assert drawn(clean.figure)


def test_dq_map_classes():
    rate, *_ = scene()
    panel = axes()
    plot_dq_map(panel, rate)
    classes = panel.images[0].get_array()
    assert {(16, 700): 3, (3, 10): 2, (5, 10): 1, (0, 0): 0, (20, 20): 5}.items() <= {
        (i, j): int(classes[i, j]) for i, j in [(16, 700), (3, 10), (5, 10), (0, 0), (20, 20)]
    }.items()
    assert [text.split()[0] for text in texts(panel)] == ["reference", "saturated", "do", "jump", "no"]


def test_chosen_pixel():
    rate, *_ = scene()
    assert choose_pixel(rate) == (963 - 1 + 16, 700)
    row, column = choose_pixel(rate, jump=False)
    assert rate["dq"].sel(row=row, column=column) == 0
    usable = rate["sci"].values[rate["dq"].values == 0]
    assert rate["sci"].sel(row=row, column=column) == pytest.approx(np.percentile(usable, 99), rel=1e-3)
    with pytest.raises(ModelError, match="no pixel"):
        choose_pixel(rate.assign(dq=xr.ones_like(rate["dq"])))


@pytest.mark.parametrize("gain_factor", [None, 2.0])
def test_ramp_with_its_slopes(gain_factor):
    rate, ramp, _ = scene()
    pixel = (978, 700)
    slope = float(rate["sci"].sel(row=978, column=700))
    if gain_factor:
        new = {"sci": rate["sci"] * np.float32(gain_factor), "var_poisson": rate["var_poisson"] * np.float32(4)}
        new["var_rnoise"] = rate["var_rnoise"] * np.float32(4)
        rate = record(rate, "gain_scale", attrs={"GAINFACT": gain_factor}, **new)
    panel = axes()
    plot_ramp(panel, ramp, rate, pixel)
    lines = [line for line in panel.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2]
    assert len(lines) == 2
    for line in lines:
        x, y = line.get_data()
        assert (y[1] - y[0]) / (x[1] - x[0]) == pytest.approx(slope, rel=1e-5)
    points = {line.get_label(): line.get_data() for line in panel.lines if line.get_marker() != "None"}
    values = ramp["sci"].sel(row=978, column=700).values[0]
    np.testing.assert_allclose(points["jump"], ([3 * 0.9016], [values[3]]))
    np.testing.assert_allclose(points["good group"][1], values[[0, 1, 2, 4, 5]])
    assert f"{slope:.4g} ± " in texts(panel)[0]
    assert panel.get_ylabel() == "signal [DN]"
    assert drawn(panel.figure)


def test_ramp_with_saturated_and_single_groups():
    rate, ramp, _ = scene()
    flags = ramp["groupdq"].copy()
    flags[0, 4:, 15, 9] = 2
    flags[0, 0, 15, 9] = 1
    panel = axes()
    plot_ramp(panel, ramp.assign(groupdq=flags), rate, (977, 9))
    assert {"do not use", "saturated"} <= set(texts(panel))
    one = axes()
    plot_ramp(one, ramp.isel(group=slice(0, 1)), rate, (977, 9))
    assert drawn(one.figure)


def test_white_noise_spectrum_is_flat_and_has_the_right_power():
    sigma = 6.0
    values = np.random.default_rng(1).normal(0, sigma, (6, 32, 2048)) + 1e4 * np.random.default_rng(2).random(
        (32, 2048)
    )
    frequency, power = noise_spectrum(exposure(values, SUBARRAY), 1)
    line_time = 0.9016 / 2048
    fast = frequency > 1 / line_time
    assert np.all(np.diff(frequency) > 0)
    assert frequency[-1] == pytest.approx(5e4)
    assert np.mean(power[fast]) == pytest.approx(2 * sigma**2 * 1e-5, rel=0.05)
    assert np.mean(power[frequency < 0.5 / line_time]) == pytest.approx(2 * sigma**2 * line_time / 32, rel=0.1)
    assert np.sqrt(np.trapezoid(power, frequency)) == pytest.approx(sigma, rel=0.1)


def test_a_tone_appears_at_its_frequency():
    line_time = 0.9016 / 2048
    time = np.arange(2048) * line_time + np.arange(32)[:, None] * 1e-5
    phase = np.array([0.0, 1.0, 4.0, 2.0, 5.0, 3.0])[:, None, None]
    for tone in (100.0, 12500.0):
        values = np.random.default_rng(1).normal(0, 1, (6, 32, 2048)) + 3 * np.sin(2 * np.pi * tone * time + phase)
        frequency, power = noise_spectrum(exposure(values, SUBARRAY), 1)
        assert frequency[np.argmax(power)] == pytest.approx(tone, rel=0.02)


def test_irs2_frames_are_taken_apart():
    random = np.random.default_rng(0)
    layout = irs2_layout("NRS1")
    science = random.normal(0, 5, (3, 2048, 2048)).astype("f4")
    raw = np.full((3, 3200, 2048), 1e6, "f4") * random.random((3, 1, 1), dtype="f4")  # reference pixels are elsewhere
    raw[:, layout.science_rows_raw] = science
    after = exposure(science, IRS2)
    frequency, power = noise_spectrum(after, 3)
    raw_frequency, raw_power = noise_spectrum(exposure(raw, IRS2), 3)
    np.testing.assert_array_equal(frequency, raw_frequency)
    np.testing.assert_array_equal(power, raw_power)
    fast = frequency > 1000
    assert np.mean(power[fast]) == pytest.approx(2 * 25 * 1e-5, rel=0.02)


def test_cosmic_rays_do_not_count():
    random = np.random.default_rng(0)
    values = random.normal(0, 5, (6, 32, 2048))
    clean = noise_spectrum(exposure(values, SUBARRAY), 1)[1]
    values[3:] += 1e4 * (random.random((32, 2048)) < 0.003)
    assert np.mean(noise_spectrum(exposure(values, SUBARRAY), 1)[1]) == pytest.approx(np.mean(clean), rel=0.02)


def test_noise_needs_groups_and_an_output():
    _, ramp, _ = scene()
    with pytest.raises(ModelError, match="two groups"):
        noise_spectrum(ramp.isel(group=slice(0, 1)), 1)
    with pytest.raises(ParameterError, match=r"amplifier 3 .* \[1\]"):
        noise_spectrum(ramp, 3)
    frequency, _ = noise_spectrum(ramp.isel(group=slice(0, 2)), 1)
    assert np.isfinite(frequency).all()


def test_noise_is_compared_on_one_scale():
    _, ramp, _ = scene()
    raw = ramp.assign_attrs(NFRAMES=5, FRMDIVSR=8, TGROUP=5 * ramp.attrs["TFRAME"])
    after = record(raw, "group_scale", units={"sci": "DN"}, sci=raw["sci"] * np.float32(1.6))
    panel = axes()
    plot_noise_spectrum(panel, raw, after)
    before_line, after_line = panel.lines
    np.testing.assert_allclose(before_line.get_ydata(), after_line.get_ydata(), rtol=1e-4)


@pytest.mark.parametrize("given", ["rate", "ramp", "all"])
@pytest.mark.parametrize("integrations", [None, 2])
def test_quicklook(given, integrations):
    rate, ramp, raw = scene()
    if integrations:
        rate = xr.concat(
            [rate, rate], "integration", data_vars="all", coords="minimal", compat="override", join="override"
        )
    figure = plot_quicklook(rate, ramp if given != "rate" else None, raw if given == "all" else None)
    assert isinstance(figure, Figure)
    assert "SUB2048" in figure.get_suptitle()
    assert drawn(figure).startswith(b"\x89PNG")
    assert figure.canvas.manager is None  # pyplot does not know it


def test_quicklook_of_one_group():
    rate, ramp, raw = scene()
    one = slice(0, 1)
    assert drawn(plot_quicklook(rate, ramp.isel(group=one), raw.isel(group=one), title="one group"))


def test_quicklook_computes_only_what_it_draws():
    rate, ramp, raw = scene()
    seen = {"ramp": 0, "raw": 0}

    def count(block, name):
        seen[name] += block.size
        return block

    def lazy(dataset, name):
        array = da.from_array(dataset["sci"].values, chunks=(1, 1, 32, 512))
        return dataset.assign(sci=(DIMS, array.map_blocks(count, name, dtype="f4", meta=np.empty((0,) * 4, "f4"))))

    groups = 12
    ramp, raw = (xr.concat([d, d], "group") for d in (ramp, raw))
    lazy_ramp, lazy_raw = lazy(ramp, "ramp"), lazy(raw, "raw")
    with count_computes() as counter:
        plot_quicklook(rate.chunk(), lazy_ramp, lazy_raw)
    frame = 32 * 2048
    assert seen["raw"] == 6 * frame
    assert seen["ramp"] == 6 * frame + groups * 32 * 512
    assert counter.computes == 4  # image, one ramp, two spectra


@pytest.mark.parametrize(("width", "size"), [(4, "medium"), (5.6, "medium"), (15, "large")])
def test_titles_fit_the_figure(width, size):
    figure = Figure(figsize=(width, 4))
    words = ("jw01234001001_03101_00001_nrs1_uncal.fits", "NRS1", "NRS_BRIGHTOBJ", "G395H", "NRSRAPID", "SUB2048") * 2
    set_title(figure, "   ".join(words), size)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.texts[0].get_window_extent(canvas.get_renderer())
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert set(figure.get_suptitle().split()) == set(words)
