"""The flat field against a NumPy twin of its definition, for fixed slits, shutters, slices and time series."""

import numpy as np
import pytest
import xarray as xr

import nsxr
from nsxr.errors import ModelError, ReferenceFileError
from nsxr.flux.flat_field import flat_factor
from nsxr.model.dq import PixelFlag
from nsxr.model.history import steps
from nsxr.testing import assert_lazy_and_chunk_invariant, forbid_computes, make_slit
from tests.flux.flat_files import COLUMN_START, NODES, PLANES, ROW_START, curve, images, random_images, table, write

ROW, COLUMN, SHAPE = ROW_START + 4, COLUMN_START + 7, (20, 40)
BAD = PixelFlag.DO_NOT_USE | PixelFlag.NO_FLAT_FIELD | PixelFlag.UNRELIABLE_FLAT
HEADER = {"DETECTOR": "NRS1", "FILTER": "CLEAR", "GRATING": "PRISM", "MSAQUAD": 3, "XCEN": 300, "YCEN": 86}
SLITS = ("S200A1", "S1600A1")


@pytest.fixture(scope="module")
def flats(tmp_path_factory):
    """Return what opens F, S and D of a mode, and the arrays that they were made of."""
    folder, rng, made = tmp_path_factory.mktemp("flats"), np.random.default_rng(5), {}
    cube, plane, planes = random_images(rng, 4), random_images(rng), random_images(rng, 4)
    dq = np.zeros(cube.shape[1:], np.uint32)
    dq[10, 20] = 2  # DO_NOT_USE
    dq[11, 21] = 4  # UNRELIABLE_FLAT
    plane[12, 22] = planes[1:3, 12, 22] = np.nan
    cube[:, 13, 23] = 0
    shutters = rng.uniform(0.8, 1.2, (4, 171, 365))
    quadrants = [hdu for n in (1, 2, 3, 4) for hdu in (*images(n * shutters, version=n), table(version=n))]

    def opened(mode):
        if mode not in made:
            name = {"MOS": "NRS_MSASPEC", "IFU": "NRS_IFU"}.get(mode, "NRS_FIXEDSLIT")
            fast = quadrants if mode == "MOS" else [table(SLITS if mode == "FS" else ("ANY",))]
            image = images(planes if mode == "MOS" else plane)
            paths = (
                write(folder / f"f{mode}.fits", "fflat", *fast, EXP_TYPE=name),
                write(folder / f"s{mode}.fits", "sflat", *image, table(version=7), EXP_TYPE=name),
                write(folder / f"d{mode}.fits", "dflat", *images(cube, dq=dq), table(version=9)),
            )
            made[mode] = [nsxr.open_flat(path) for path in paths]
        return made[mode]

    opened.arrays = {"cube": cube, "plane": plane, "planes": planes, "shutters": shutters}
    return opened


def wavelengths(shift=0.0, low=0.8, high=5.1):
    """Return wavelengths of a tilted slit, NaN outside."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    found = low + (high - low) * (columns + 0.1 * rows + shift) / (SHAPE[1] + 2)
    return np.where(np.abs(rows - 0.05 * columns - 9) < 8, found, np.nan).astype(np.float32)


def a_slit(n_integrations=0, shift=0.0, wavelength=None, **attrs):
    rng = np.random.default_rng(2)
    shape = (n_integrations, *SHAPE) if n_integrations else SHAPE
    slit = make_slit(
        rng.normal(5, 1, shape),
        (1.0, 0.5, 0.1),
        wavelength=wavelengths(shift) if wavelength is None else wavelength,
        row_start=ROW,
        column_start=COLUMN,
        **HEADER | attrs,
    )
    return slit.drop_vars("var_flat")


def cut(image):
    return image[..., 4 : 4 + SHAPE[0], 7 : 7 + SHAPE[1]]


def twin(flats, mode, wavelength, number=1):
    """Return the flat field, its relative variance and the part of it from tables, pixel by pixel, by definition."""
    arrays = flats.arrays
    f = curve(number)
    f_error = np.full(f.size, 0.01)
    if mode == "MOS":
        shutter = 3 * arrays["shutters"][:, 85, 299]
        values = np.interp(NODES, PLANES, shutter, 1, 1)
        f_error = np.hypot(f_error / f, np.interp(NODES, PLANES, np.full(4, 0.02), 0, 0) / values)
        f, f_error = f * values, f_error * f * values
    s_image = cut(arrays["planes"] if mode == "MOS" else arrays["plane"])
    d_image = cut(arrays["cube"])
    value, variance, common = np.full((3, *SHAPE), np.nan)
    for r, c in np.ndindex(SHAPE):
        x = float(wavelength[r, c])
        if not np.isfinite(x):
            continue
        after, before = (float(wavelength[r, k]) if 0 <= k < SHAPE[1] else np.nan for k in (c + 1, c - 1))
        width = after - x if np.isfinite(after) else x - before
        points = x + width * np.array([-1, 0, 1]) * np.sqrt(0.6) / 2
        means = [np.dot([5 / 18, 8 / 18, 5 / 18], np.interp(points, NODES, one)) for one in (f, curve(7), curve(9))]
        errors = [np.interp(x, NODES, one) for one in (f_error, np.full(NODES.size, 0.01), np.full(NODES.size, 0.01))]
        pictures = [np.interp(x, PLANES, one[:, r, c]) if one.ndim == 3 else one[r, c] for one in (s_image, d_image)]
        value[r, c] = np.prod(means) * np.prod(pictures)
        common[r, c] = np.sum((np.array(errors) / means) ** 2)
        variance[r, c] = common[r, c] + np.sum((0.02 / np.array(pictures)) ** 2)
    return value, variance, common / variance


@pytest.mark.parametrize(("mode", "number"), [("FS", 2), ("MOS", 3), ("IFU", 1)])
def test_flat_field_is_the_product_of_its_parts(flats, mode, number):
    kind = {"FS": "NRS_FIXEDSLIT", "MOS": "NRS_MSASPEC", "IFU": "NRS_IFU"}[mode]
    slit = a_slit(EXP_TYPE=kind, SLTNAME="S1600A1", SRCTYPE="EXTENDED")
    with np.errstate(divide="ignore", invalid="ignore"):
        value, variance, common = twin(flats, mode, slit["wavelength"].to_numpy(), number)
    found = nsxr.correct_flat_field(slit, *flats(mode))
    has_flat = np.isfinite(value) & (value > 0)
    has_flat[6, 13] = False  # DO_NOT_USE in D
    is_bad = np.isfinite(slit["wavelength"].to_numpy()) & ~has_flat
    assert is_bad.sum() == 3
    has_lost = (found["dq"].to_numpy() & BAD) == BAD
    np.testing.assert_array_equal(has_lost, is_bad)
    assert int(found["dq"][7, 14]) == PixelFlag.UNRELIABLE_FLAT
    for name in ("sci", "var_poisson", "var_rnoise", "var_flat", "flatfield_uniform"):
        np.testing.assert_array_equal(np.isfinite(found[name]), has_flat)
    found, slit = found.where(has_flat), slit.where(has_flat)
    np.testing.assert_allclose(found["flatfield_uniform"], np.where(has_flat, value, np.nan), rtol=2e-5)
    np.testing.assert_allclose(found["sci"], slit["sci"] / value, rtol=2e-5)
    np.testing.assert_allclose(found["var_rnoise"], slit["var_rnoise"] / value**2, rtol=4e-5)
    np.testing.assert_allclose(found["var_flat"], found["sci"].to_numpy() ** 2 * variance, rtol=1e-3)
    assert found["var_flat"].attrs["units"] == "(DN/s)2"
    assert ("flatfield_common" in found) == (mode != "IFU")
    if mode != "IFU":
        np.testing.assert_allclose(found["flatfield_common"], np.where(has_flat, common, np.nan), rtol=2e-3)


def test_points_keep_the_flat_field_of_both_kinds_of_light(flats):
    slit = a_slit(shift=0.4)
    slit["wavelength_uncorrected"] = slit["wavelength"].copy(data=wavelengths())
    found = nsxr.correct_flat_field(slit, *flats("MOS"))
    for light in ("point", "uniform"):
        factor = flat_factor(slit, *flats("MOS"), light=light)
        np.testing.assert_array_equal(found[f"flatfield_{light}"], factor.value)
    assert float(np.abs(found["flatfield_point"] - found["flatfield_uniform"]).max()) > 0.01
    np.testing.assert_allclose(found["sci"], slit["sci"] / found["flatfield_point"], rtol=1e-6)
    alone = nsxr.correct_flat_field(slit.drop_vars("wavelength_uncorrected"), *flats("MOS"))
    np.testing.assert_array_equal(alone["flatfield_uniform"], alone["flatfield_point"])
    assert steps(found)[-1]["references"] == {"fflat": "fMOS.fits", "sflat": "sMOS.fits", "dflat": "dMOS.fits"}


@pytest.mark.parametrize("mode", ["MOS", "BOTS", "IFU"])
def test_lazy_and_the_same_for_all_chunks(flats, mode):
    kind = {"BOTS": "NRS_BRIGHTOBJ", "MOS": "NRS_MSASPEC", "IFU": "NRS_IFU"}[mode]
    slit = a_slit(3 if mode == "BOTS" else 0, EXP_TYPE=kind)
    if mode == "MOS":
        slit["wavelength_uncorrected"] = slit["wavelength"].copy(data=wavelengths(0.1))
    chunkings = {"row": 7}, {"row": 3, "column": 11}, {"integration": 1} if mode == "BOTS" else {}
    found = assert_lazy_and_chunk_invariant(nsxr.correct_flat_field, slit, *flats(mode), chunkings=chunkings)
    with forbid_computes():
        lazy = nsxr.correct_flat_field(slit.chunk(row=6), *flats(mode))
        in_part = slit.chunk(row=6).assign(wavelength=slit["wavelength"])
        in_part = nsxr.correct_flat_field(in_part, *flats(mode))
    xr.testing.assert_identical(in_part.compute(), found)
    xr.testing.assert_identical(lazy.compute(), found)
    assert ("flatfield_uniform" in found) == (mode == "MOS")
    assert found["flatfield_point"].dims == ("row", "column")


def test_many_slits_are_the_same_as_each_alone(flats):
    tree = xr.DataTree.from_dict({"a": a_slit(), "b": a_slit(MSAQUAD=1, XCEN=7)})
    found = nsxr.correct_flat_field(tree, *flats("MOS"))
    xr.testing.assert_identical(found["b"].to_dataset(), nsxr.correct_flat_field(tree["b"].to_dataset(), *flats("MOS")))
    assert float(np.abs(found["a"]["flatfield_point"] - found["b"]["flatfield_point"]).min()) > 0.01


def test_light_that_no_table_and_no_plane_covers_has_no_flat(flats):
    wavelength = np.broadcast_to(np.linspace(0.4, 5.6, SHAPE[1]), SHAPE)
    found = nsxr.correct_flat_field(a_slit(wavelength=wavelength), *flats("MOS"))
    outside = (wavelength < PLANES[0]) | (wavelength > PLANES[-1])
    assert (found["dq"].to_numpy()[outside] & BAD == BAD).all()
    assert np.isnan(found["flatfield_point"].to_numpy()[outside]).all()
    assert np.isfinite(found["flatfield_point"].to_numpy()[~outside]).mean() > 0.99


def test_a_shutter_without_f_loses_its_pixels(flats):
    fflat, *others = flats("MOS")
    broken = fflat.copy(deep=True).load()
    broken["sci_3"].loc[{"ycen": 86, "xcen": 300}] = np.nan
    flagged = fflat.copy(deep=True).load()
    flagged["dq_3"].loc[{"ycen": 86, "xcen": 300}] = PixelFlag.DO_NOT_USE
    for one in (broken, flagged):
        found = nsxr.correct_flat_field(a_slit(), one, *others)
        assert not np.isfinite(found["sci"]).any()
        assert not np.isfinite(found["flatfield_point"]).any()
        is_seen = np.isfinite(wavelengths())
        assert (found["dq"].to_numpy()[is_seen] & BAD == BAD).all()


def test_flags_and_nan_agree_and_earlier_flags_stay(flats):
    slit = a_slit()
    slit["dq"][8, 8] = PixelFlag.SATURATED
    slit["sci"][8, 9] = np.nan
    found = nsxr.correct_flat_field(slit, *flats("MOS"))
    assert int(found["dq"][8, 8]) == PixelFlag.SATURATED
    is_nan = np.isnan(found["sci"].to_numpy())
    np.testing.assert_array_equal((found["dq"].to_numpy() & PixelFlag.DO_NOT_USE) > 0, is_nan)
    for name in ("var_poisson", "var_rnoise", "var_flat"):
        np.testing.assert_array_equal(np.isnan(found[name]), is_nan)


@pytest.mark.parametrize(
    ("mode", "attrs", "message"),
    [
        ("MOS", {"DETECTOR": "NRS2"}, "DETECTOR is NRS1, that of the slit is NRS2"),
        ("MOS", {"FILTER": "F290LP"}, "fflat fMOS.fits does not fit: FILTER is CLEAR"),
        ("MOS", {"GRATING": "G395H"}, "sflat sMOS.fits does not fit: GRATING is PRISM"),
        ("IFU", {}, "it is for NRS_IFU, the slit is of NRS_MSASPEC"),
        ("MOS", {"MSAQUAD": 5}, "the slit is of NRS_FIXEDSLIT"),
        ("FS", {"EXP_TYPE": "NRS_FIXEDSLIT", "SLTNAME": "S400A1"}, "no table for slit S400A1; it has S200A1, S1600A1"),
    ],
)
def test_flats_of_another_slit_are_refused(flats, mode, attrs, message):
    with pytest.raises(ReferenceFileError, match=message):
        nsxr.correct_flat_field(a_slit(**attrs), *flats(mode))


def test_slits_that_cannot_be_corrected_are_refused(flats):
    slit = a_slit()
    with pytest.raises(ModelError, match="the place of its shutter"):
        nsxr.correct_flat_field(a_slit(XCEN=0), *flats("MOS"))
    with pytest.raises(ModelError, match="divided by a flat field before"):
        nsxr.correct_flat_field(nsxr.correct_flat_field(slit, *flats("MOS")), *flats("MOS"))
    with pytest.raises(ReferenceFileError, match="it covers rows 1200 to 1239, the slit needs 1230 to 1249"):
        nsxr.correct_flat_field(slit.assign_coords(row=1230 + np.arange(SHAPE[0])), *flats("MOS"))
    with pytest.raises(ReferenceFileError, match="is of type 'sflat', expected 'fflat'"):
        nsxr.correct_flat_field(slit, *flats("MOS")[1:], flats("MOS")[0])
