"""Measure what errors of references, which exposures share, do to means of exposures, to sums and to time series.

    python ci/shared_errors.py [CASE...] [--draws 1000] [--seed 1]

Each draw makes references that depart from the truth by their stated errors, and 16 exposures of a point source in a
fixed slit that see the light through them, each with a signal to noise of 100 a column. The exposures are calibrated
with the stated references (``correct_flat_field``, ``correct_path_loss``, ``calibrate_flux``), extracted and combined.
The source is at the same place in all 16, or at two places, 8 each (``nods``). Errors of images are independent between
pixels. Those of tables are the same for all wavelengths, as nsxr takes them, or independent between nodes.

Columns: pull, the rms of (value - truth) / claimed deviation, over all draws and columns, with its uncertainty.

- ``an exposure``: a single spectrum, with the relative errors.
- ``mean``: mean of the exposures, with all that nsxr knows of it (``spectral_covariance``).
- ``mean, independent``: the same mean with the errors that it would have if var_flat of all exposures and pixels were
  independent, and the others left out, as in the observatory's products.
- ``sum``, ``sum, independent``: the same for the sum of the mean over all wavelengths.
- ``in series``: an exposure minus the mean of all 16 at one place, with the errors of a time series; ``with flat``:
  with ``flux_var_flat``, as in the observatory's products.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr
from common import add_choices, make_parser, write_head, write_row

import nsxr
from nsxr.flux.flat_field import flat_factor
from nsxr.flux.path_loss import path_loss_factor
from nsxr.flux.photometry import photom_factor
from nsxr.simulate import simulate_trace

EXPOSURES, COLUMNS, RATIO = 16, 48, 100.0
SLIT = "S200A1"
NODES, PLANES = np.linspace(0.5, 5.5, 41), np.array([0.5, 5.5])
ERRORS = {"images": 0.01, "tables": 0.004, "path loss": 0.005, "sensitivity": 0.01}
"""Relative errors: of a pixel of S and of D, of a table of F, S and D, of the path loss, of photmj and relresponse."""


class Case(NamedTuple):
    """Which references have errors, at how many places the source is, and whether nodes of tables are independent."""

    errors: tuple[str, ...]
    places: int = 1
    independent_nodes: bool = False


CASES: Mapping[str, Case] = {
    "none": Case(()),
    "images": Case(("images",)),
    "images-nods": Case(("images",), 2),
    "tables": Case(("tables",)),
    "pathloss": Case(("path loss",)),
    "sensitivity": Case(("sensitivity",)),
    "all": Case(tuple(ERRORS)),
    "all-nods": Case(tuple(ERRORS), 2),
    "all-nodes": Case(tuple(ERRORS), 1, True),
}
References = dict[str, xr.Dataset]


def stated(slit: xr.Dataset, case: Case) -> References:
    """Return references with their stated errors, on the pixels of a slit."""
    size = {name: error if name in case.errors else 0.0 for name, error in ERRORS.items()}
    labels = {"row": slit["row"].to_numpy(), "column": slit["column"].to_numpy()}
    image = tuple(values.size for values in labels.values())
    found = {}
    for number, kind in enumerate(("fflat", "sflat", "dflat")):
        curve = 1 + 0.1 * np.sin(2 * NODES + number)
        name = SLIT if kind == "fflat" else "ANY"
        dim = f"fast_wavelength_{name}"
        data = {f"fast_{name}": (dim, curve), f"fast_error_{name}": (dim, size["tables"] * curve)}
        coords: dict[str, object] = {dim: NODES}
        if kind != "fflat":
            dims = ("row", "column") if kind == "sflat" else ("wavelength", "row", "column")
            shape = image if kind == "sflat" else (PLANES.size, *image)
            values = np.full(shape, 0.9, np.float32)
            data |= {"sci": (dims, values), "err": (dims, size["images"] * values)}
            data["dq"] = (dims, np.zeros(shape, np.uint32))
            coords |= labels | ({"wavelength": PLANES} if kind == "dflat" else {})
        attrs = {"reference_type": kind, "filename": f"{kind}.fits", "exposure_types": "NRS_FIXEDSLIT"}
        found[kind] = xr.Dataset(data, coords, attrs)
    axes = {f"wavelength_{SLIT}": NODES, f"y_{SLIT}": np.array([-1.0, 1.0]), f"x_{SLIT}": np.array([-1.0, 1.0])}
    loss = np.broadcast_to((0.9 - 0.02 * NODES)[:, None, None], (NODES.size, 2, 2))
    cubes = {f"point_{SLIT}": loss, f"point_variance_{SLIT}": (size["path loss"] * loss) ** 2}
    lines = {f"uniform_{SLIT}": loss[:, 0, 0], f"uniform_variance_{SLIT}": (size["path loss"] * loss[:, 0, 0]) ** 2}
    data = {name: (tuple(axes), values, {"shutters": 0}) for name, values in cubes.items()}
    data |= {name: (f"uniform_wavelength_{SLIT}", values) for name, values in lines.items()}
    coords = {**axes, f"uniform_wavelength_{SLIT}": NODES}
    found["pathloss"] = xr.Dataset(data, coords, {"reference_type": "pathloss", "filename": "pathloss.fits"})
    response = 1 + 0.3 * np.cos(NODES)
    single = {"filter": "CLEAR", "grating": "PRISM", "slit": SLIT, "photmj": 2e-15}
    single["uncertainty"] = 2e-15 * size["sensitivity"]
    curves = {"wavelength": NODES, "relresponse": response, "reluncertainty": size["sensitivity"] * response}
    data = {name: ("entry", np.array([value])) for name, value in single.items()}
    data |= {name: (("entry", "node"), values[None]) for name, values in curves.items()}
    found["photom"] = xr.Dataset(data, attrs={"reference_type": "photom", "filename": "photom.fits"})
    area = xr.DataArray([0.02], {"slit": [SLIT]}, ("slit",))
    found["area"] = xr.Dataset({"pixel_area": area}, attrs={"reference_type": "area", "filename": "area.fits"})
    return found


def drawn(references: References, rng: np.random.Generator, independent_nodes: bool) -> References:
    """Return references that depart from the stated ones by errors of the stated size."""

    def away(values: xr.DataArray, error: xr.DataArray, independent: bool) -> xr.DataArray:
        return values + error * rng.normal(size=values.shape if independent else ())

    found = dict(references)
    for kind in ("fflat", "sflat", "dflat"):
        one = references[kind]
        name = f"fast_{SLIT if kind == 'fflat' else 'ANY'}"
        changed = {name: away(one[name], one[name.replace("fast_", "fast_error_")], independent_nodes)}
        if "sci" in one:
            # both planes of D have the same error: between planes, errors are interpolated like values
            pixel = rng.normal(size=one["sci"].shape[-2:]).astype(np.float32)
            changed["sci"] = one["sci"] + one["err"] * xr.DataArray(pixel, dims=("row", "column"))
        found[kind] = one.assign(changed)
    loss = references["pathloss"]
    shift = rng.normal(size=NODES.size if independent_nodes else 1)[:, None, None]
    point = loss[f"point_{SLIT}"]
    found["pathloss"] = loss.assign({f"point_{SLIT}": point + np.sqrt(loss[f"point_variance_{SLIT}"]) * shift})
    table = references["photom"]
    changed = {"photmj": away(table["photmj"], table["uncertainty"], False)}
    changed["relresponse"] = away(table["relresponse"], table["reluncertainty"], independent_nodes)
    found["photom"] = table.assign(changed)
    return found


def factor_of(slit: xr.Dataset, references: References) -> np.ndarray:
    """Return what flux is multiplied by to give count rates (row, column)."""
    flat = flat_factor(slit, *(references[kind] for kind in ("fflat", "sflat", "dflat"))).value
    loss = path_loss_factor(slit, references["pathloss"], light="point").value
    sensitivity = photom_factor(slit, references["photom"], light="point").value
    return (flat * loss * sensitivity).to_numpy().astype(np.float64)


def calibrated(slit: xr.Dataset, references: References) -> xr.Dataset:
    """Return count rates in units of flux."""
    slit = nsxr.correct_flat_field(slit, *(references[kind] for kind in ("fflat", "sflat", "dflat")))
    slit = nsxr.correct_path_loss(slit, references["pathloss"])
    return nsxr.calibrate_flux(slit, references["photom"], references["area"])


class Place(NamedTuple):
    """A source at one place: light without noise, model of its trace, stated references, spectrum without noise."""

    slit: xr.Dataset
    light: np.ndarray
    deviation: np.ndarray
    model: xr.Dataset
    references: References
    factor: np.ndarray
    spectrum: xr.Dataset

    @classmethod
    def of(cls, nod: int, case: Case) -> "Place":
        """Return the place of a nod."""
        noisy, truth = simulate_trace(columns=COLUMNS, bad_pixels="none", signal_to_noise=RATIO, tilt=0.0, nod=nod)
        header = {"EXP_TYPE": "NRS_FIXEDSLIT", "SLTNAME": SLIT, "SRCTYPE": "POINT", "SHUTSTA": ""}
        inside = np.isfinite(noisy["wavelength"].to_numpy())
        light = np.where(inside, (truth["flux"] * truth["profile"]).transpose("row", "column") * 1e-6, np.nan)
        deviation = np.sqrt(truth["variance"].transpose("row", "column").to_numpy())
        half = np.where(inside, 0.5 * deviation**2, np.nan).astype(np.float32)
        clean = noisy.assign(
            sci=noisy["sci"].copy(data=light.astype(np.float32)),
            var_poisson=noisy["var_poisson"].copy(data=half),
            var_rnoise=noisy["var_rnoise"].copy(data=half),
        )
        model = nsxr.fit_trace_model(clean, background="none")  # the shutters tell where the source is
        clean = clean.assign_attrs(header)
        references = stated(clean, case)
        spectrum = nsxr.extract_spectrum(clean, model)
        return cls(clean, light, deviation, model, references, factor_of(clean, references), spectrum)

    def spectra(self, true: References, number: int, rng: np.random.Generator) -> list[xr.Dataset]:
        """Return spectra of exposures that see the light through true references."""
        factor = factor_of(self.slit, true)
        noise = rng.normal(size=(number, *self.light.shape)) * self.deviation
        dims = ("integration", "row", "column")
        images = {"sci": self.light * factor + noise * self.factor}
        variances = {name: self.slit[name].to_numpy() * self.factor**2 for name in ("var_poisson", "var_rnoise")}
        images |= {name: np.broadcast_to(values, noise.shape) for name, values in variances.items()}
        images["dq"] = np.broadcast_to(self.slit["dq"].to_numpy(), noise.shape)
        rates = self.slit.drop_vars([*images]).assign(
            {name: (dims, values.astype(np.uint32 if name == "dq" else np.float32)) for name, values in images.items()}
        )
        units = {name: "DN/s" if name == "sci" else "(DN/s)2" for name in images if name != "dq"}
        for name, unit in units.items():
            rates[name].attrs["units"] = unit
        slit = calibrated(rates, self.references)
        series = nsxr.extract_spectrum(slit, self.model, rejection_threshold=0.0)
        peer = nsxr.extract_spectrum(
            slit.isel(integration=[0]).drop_vars("flatfield_common"), self.model, rejection_threshold=0.0
        )
        series["flat_of_all"] = peer["flux_var_flat"].isel(integration=0)
        return [series.isel(integration=n).drop_vars("integration", errors="ignore") for n in range(number)]


def pulls(places: list[Place], truth: np.ndarray, case: Case, draw: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what is measured, by column of the table, in one draw."""
    rng = np.random.default_rng([seed, draw])
    true = drawn(places[0].references, rng, case.independent_nodes)
    each = [(place, place.spectra(true, EXPOSURES // len(places), rng)) for place in places]
    spectra = [one for _, group in each for one in group]
    spectra = [one.assign_attrs(filename=f"jw{n:02}_x1d.fits") for n, one in enumerate(spectra)]
    first = spectra[0]
    good = (first["dq"] == 0).to_numpy() & np.isfinite(truth)
    own = np.sqrt(np.diag(nsxr.spectral_covariance(first)))
    yield "an exposure", ((first["flux"] - places[0].spectrum["flux"]).to_numpy() / own)[good]
    mean = nsxr.combine_spectra([one.drop_vars("flat_of_all") for one in spectra])
    covariance = nsxr.spectral_covariance(mean).to_numpy()
    error = mean["flux"].to_numpy() - truth
    noise = (mean["flux_var_poisson"] + mean["flux_var_rnoise"]).to_numpy()
    alone = noise + np.mean([one["flat_of_all"].to_numpy() for one in spectra], axis=0) / EXPOSURES
    yield "mean", (error / np.sqrt(np.diag(covariance)))[good]
    yield "mean, independent", (error / np.sqrt(alone))[good]
    whole = error[good].sum()
    yield "sum", np.array([whole / np.sqrt(covariance[np.ix_(good, good)].sum())])
    yield "sum, independent", np.array([whole / np.sqrt(alone[good].sum())])
    if len(places) == 1:
        flux = np.array([one["flux"].to_numpy() for one in spectra])
        scatter = (flux - flux.mean(0)) * np.sqrt(EXPOSURES / (EXPOSURES - 1))
        variances = [first[f"flux_var_{kind}"].to_numpy() for kind in ("poisson", "rnoise")]
        yield "in series", (scatter / np.sqrt(sum(variances)))[:, good]
        with_flat = sum(variances) + first["flat_of_all"].to_numpy()
        yield "in series, with flat", (scatter / np.sqrt(with_flat))[:, good]


COLUMN_NAMES = ("an exposure", "mean", "mean, independent", "sum", "sum, independent", "in series")
COLUMN_NAMES += ("in series, with flat",)


def main() -> None:
    """Print the table."""
    parser = make_parser(__doc__)
    add_choices(parser, "cases", tuple(CASES))
    parser.add_argument("--draws", type=int, default=1000, help="draws of references (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the draws (default: 1)")
    options = parser.parse_args()
    write_head("errors of", *COLUMN_NAMES)
    for name in options.cases:
        case = CASES[name]
        places = [Place.of(nod, case) for nod in ((0,) if case.places == 1 else (-1, 1))]
        truth = nsxr.combine_spectra([place.spectrum for place in places])["flux"].to_numpy()
        found: dict[str, list[float]] = {}
        for draw in range(options.draws):
            for column, values in pulls(places, truth, case, draw, options.seed):
                found.setdefault(column, []).append(float(np.mean(values**2)))
        cells = []
        for column in COLUMN_NAMES:
            squares = np.array(found.get(column, [np.nan]))
            pull = np.sqrt(squares.mean())
            uncertainty = squares.std() / np.sqrt(squares.size) / (2 * pull)
            cells.append(f"{pull:.3f} ± {uncertainty:.3f}" if np.isfinite(pull) else "")
        write_row(name, *cells)


if __name__ == "__main__":
    main()
