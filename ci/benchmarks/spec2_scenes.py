"""Count rates of simulated skies as files, for the benchmark of ``nsxr spec2``; no ramps are simulated.

python ci/benchmarks/spec2_scenes.py SCENE FOLDER
"""

import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "peer"))

from run_peer import add_asdf
from spec_skies import count_rates

import nsxr
from nsxr.optics.instrument import Optics
from nsxr.simulate import write_flux_references
from nsxr.simulate.compact_optics import write_compact_optics
from nsxr.simulate.configuration import configure
from nsxr.simulate.instrument import SimulatedInstrument
from nsxr.simulate.observation import Observation, observe
from nsxr.simulate.shutters import FAILED_OPEN, shutter_slit
from nsxr.simulate.sky import Sky, SkySource, zodiacal_light
from nsxr.simulate.spectra import PowerLaw, Spectrum

__all__ = ["SCENES", "Scene", "write_scene"]

PEAK = 2000.0  # electron/s in the brightest pixel


@dataclass(frozen=True)
class Scene:
    """Exposures of one sky, the first one with the others as backgrounds.

    Attributes
    ----------
    name, label : str
        Name on the command line, and words for the table.
    mode, grating, subarray, detector : str
        As for :func:`nsxr.simulate.simulate_exposure`.
    slitlets : int
        Number of slitlets of shutters.
    exposures : int
        Number of nods.
    integrations : int
        Integrations of a time series.
    has_peer : bool
        Whether jwst runs too. It takes many minutes for long time series.
    """

    name: str
    label: str
    mode: str
    grating: str
    subarray: str = "FULL"
    detector: str = "NRS1"
    slitlets: int = 0
    exposures: int = 1
    integrations: int = 1
    has_peer: bool = True


SCENES = {
    scene.name: scene
    for scene in (
        Scene("mos8", "shutters PRISM, 8 slitlets, 2 backgrounds", "MOS", "PRISM", slitlets=8, exposures=3),
        Scene("mos81", "shutters PRISM, 81 slitlets", "MOS", "PRISM", slitlets=81),
        Scene("ifu-prism", "slices PRISM", "IFU", "PRISM"),
        Scene("ifu-g395h", "slices G395H", "IFU", "G395H"),
        Scene("fs-prism", "fixed slits PRISM", "FS", "PRISM"),
        Scene("fs-g395h", "fixed slits G395H", "FS", "G395H"),
        Scene("bots30", "time series SUB512 PRISM, 30 integrations", "BOTS", "PRISM", "SUB512", integrations=30),
        Scene(
            "bots1000",
            "time series SUB512 PRISM, 1000 integrations",
            "BOTS",
            "PRISM",
            "SUB512",
            integrations=1000,
            has_peer=False,
        ),
    )
}


def shutter_sky(scene: Scene, optics: Optics, flux: float) -> Sky:
    """Return points in shutters whose spectra lie on the detector as a whole, one for each slitlet."""
    random = np.random.default_rng(81)
    wavelength = np.linspace(*optics.wavelength_range, 30)
    sources: list[SkySource] = []
    for j in range(4, 168, 5):
        for pair in ((1, 3), (2, 4)):
            taken: list[float] = []  # middle columns of the spectra that are in these rows already
            for quadrant, i in ((q, i) for q in pair for i in range(12, 360, 20)):
                slit = shutter_slit(optics, quadrant, i, j)
                column, _ = optics.inverse(0.0, wavelength, slit)
                middle, length = float(np.mean(column)), float(np.ptp(column))
                if not (np.nanmin(column) > 8 and np.nanmax(column) < 2039):
                    continue
                if any(abs(middle - other) < 1.3 * length for other in taken):
                    continue
                taken.append(middle)
                ra, dec = optics.slit_to_sky(*random.uniform(-0.3, 0.3, 2), float(np.mean(wavelength)), slit)
                own = flux * 10 ** float(random.uniform(-2, 0))
                spectrum = Spectrum(PowerLaw(own, 2.0, float(random.uniform(-0.8, 0.8))), ())
                sources.append(SkySource(f"source {len(sources) + 1}", spectrum, float(ra), float(dec)))
    if len(sources) < scene.slitlets:
        raise ValueError(f"{len(sources)} slitlets have room on the detector, {scene.slitlets} were asked for")
    chosen = sorted(random.permutation(len(sources))[: scene.slitlets])
    return Sky(tuple(sources[n] for n in chosen), zodiacal_light())


def _observations(scene: Scene, folder: Path) -> tuple[list[Observation], dict[str, Path]]:
    """Return what the exposures of a scene see, and the paths of the references of optics."""
    configurations = [
        configure(
            readout="NRSRAPID",
            subarray=scene.subarray,
            groups=20,
            integrations=scene.integrations,
            detector=scene.detector,
            scene=scene.mode,
            grating=scene.grating,
            dither=n,
            dithers=scene.exposures,
        )
        for n in range(1, scene.exposures + 1)
    ]
    configurations = [replace(one, exposure=n) for n, one in enumerate(configurations, start=1)]
    first = configurations[0]
    paths = dict(write_compact_optics(folder, grating=scene.grating, filter=first.filter, ifu=scene.mode == "IFU"))
    sky: Sky | str = "default"
    if scene.mode == "MOS":
        dark = Sky(tuple(SkySource(f"{x}", Spectrum(), offset=(x, 0.0)) for x in (-60.0, 0.0, 60.0)))
        optics = observe(first, dark, paths, folder, seed=1, peak_rate=1).optics
        sky = shutter_sky(scene, optics, PEAK / SimulatedInstrument.of(optics).peak_rate())
    return [observe(one, sky, paths, folder, seed=1, peak_rate=PEAK) for one in configurations], paths


def write_scene(scene: Scene, folder: Path) -> dict[str, object]:
    """Write count rates, an association and references; return their paths for both programs."""
    folder.mkdir(parents=True, exist_ok=True)
    references = folder / "references"
    seen, paths = _observations(scene, references)
    # jwst fails without a shutter that is always open
    paths |= write_flux_references(references, seen[0].optics, mode=scene.mode, failed_open=FAILED_OPEN[:1])
    rates = []
    for number, one in enumerate(seen):
        rate = count_rates(one, 1.0, np.random.default_rng(number))
        kind = "rateints" if "integration" in rate.dims else "rate"
        root = str(rate.attrs["filename"]).rpartition("_")[0]
        tree = xr.DataTree.from_dict({kind: rate})
        rates += nsxr.write_products(tree, folder, root, progress=False, overwrite=True)
        if one.metafile is not None:
            shutil.copyfile(one.metafile, folder / one.metafile.name)
    root = rates[0].name.rpartition("_")[0]
    members = [{"expname": path.name, "exptype": "background" if k else "science"} for k, path in enumerate(rates)]
    association = {
        "asn_type": "spec2",
        "asn_rule": "benchmark",
        "asn_pool": "none",
        "asn_id": "o001",
        "program": "01234",
        "products": [{"name": root, "members": members}],
    }
    listed = folder / "spec2_asn.json"
    listed.write_text(json.dumps(association, indent=1), encoding="utf-8")
    for_peer = folder / "peer"
    for_peer.mkdir(exist_ok=True)
    for path in (*rates, *folder.glob("*_msa.fits"), listed):
        shutil.copyfile(path, for_peer / path.name)
    for path in rates:
        add_asdf(for_peer / path.name)
    given = listed.name if len(rates) > 1 else rates[0].name
    found = {
        "input": str(folder / given),
        "peer_input": str(for_peer / given),
        "references": {kind: str(path) for kind, path in paths.items()},
        "folder": str(references),
    }
    (folder / "scene.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


if __name__ == "__main__":
    print(json.dumps(write_scene(SCENES[sys.argv[1]], Path(sys.argv[2])), indent=1))
