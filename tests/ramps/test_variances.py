"""Variances of rates against the scatter of many ramps of the same light and the same flags."""

import numpy as np
import pytest

from nsxr.compute import layouts as chunking
from nsxr.ramps.jump import flag_jumps
from nsxr.ramps.ramp_fit import fit_ramps
from nsxr.testing import make_exposure, make_noise_references

DNU, SAT, JUMP = 1, 2, 4
NOISE, TIME, GROUPS = 6.0, 14.6, 20
FLUXES = (0.02, 0.1, 0.5, 2.0, 10.0, 100.0)
CASES = {
    "no flags": {},
    "a jump": {10: JUMP},
    "two jumps": {6: JUMP, 14: JUMP},
    "saturated at 6": dict.fromkeys(range(6, GROUPS), SAT),
    "a lost group": {10: DNU},
    "averaged frames": {},
}


@pytest.fixture
def ratio(monkeypatch):
    """Return a function that gives the variance of rates over the mean of what the fit says, and their mean and flux.

    Ramps are in electrons, one for a DN; jumps are of 500 electrons.
    """
    monkeypatch.setattr(chunking, "CHUNK_BYTES", 2**24)

    def measure(algorithm, case, flux, integrations=1, pixels=40_000, part="both"):
        rng = np.random.default_rng([int(100 * flux), list(CASES).index(case)])
        frames = 5 if case == "averaged frames" else 1
        shape = (integrations, GROUPS, pixels // 400, 400)
        sci, total = np.zeros(shape, np.float32), np.zeros((integrations, *shape[2:]))
        for group in range(GROUPS):
            total += 500.0 * (CASES[case].get(group) == JUMP)
            for _ in range(frames):
                expected = flux * TIME / frames
                total += expected if part == "var_rnoise" else rng.poisson(expected, total.shape)
                sci[:, group] += total / frames
            if part != "var_poisson":
                sci[:, group] += rng.normal(0, NOISE / np.sqrt(frames), total.shape)
        exposure = make_exposure(sci, NFRAMES=frames, TFRAME=TIME / frames, TGROUP=TIME)
        for group, flag in CASES[case].items():
            exposure["groupdq"][:, group] = flag
        readnoise, gain = make_noise_references(exposure, NOISE * np.sqrt(2))
        if integrations > 1:  # for the photon noise of the series; the threshold is out of reach
            exposure = flag_jumps(exposure, readnoise, gain, rejection_threshold=1e4)
        rate = fit_ramps(exposure, readnoise, gain, algorithm=algorithm)["rate"].to_dataset()
        names = ["var_poisson", "var_rnoise"] if part == "both" else [part]
        said = sum(rate[name].values.mean(dtype=np.float64) for name in names)
        values = rate["sci"].values.astype(np.float64)
        assert abs(values.mean() - flux) < 5 * np.sqrt(said / values.size) + 3e-3 * flux
        return values.var() / said

    return measure


@pytest.mark.parametrize("case", CASES)
def test_likelihood(ratio, case):
    """Within 2 % and the statistics; in faint pixels rates below 0 count as 0, which is too much photon noise."""
    for flux in FLUXES:
        found = ratio("likelihood", case, flux)
        assert (0.95 if flux < 0.1 else 0.98) - 0.015 < found < 1.02 + 0.015, flux


@pytest.mark.parametrize("case", CASES)
def test_likelihood_of_series(ratio, case):
    """The photon noise of faint pixels is that of a mean median, which is noisy, and too large where it is not 0."""
    for flux in FLUXES[::2]:
        found = ratio("likelihood", case, flux, integrations=8, pixels=12_000)
        assert (0.92 if flux < 0.1 else 0.98) - 0.03 < found < 1.02 + 0.03, flux


@pytest.mark.parametrize("part", ["var_poisson", "var_rnoise"])
@pytest.mark.parametrize("case", CASES)
def test_each_variance_by_itself(ratio, case, part):
    """Photons without read noise in the data, and read noise on a ramp without photon noise; the fit assumes both."""
    for flux in (1.0, 30.0):
        assert 0.96 < ratio("likelihood", case, flux, part=part, pixels=20_000) < 1.04, flux


OLS = {
    0.02: (0.74, 0.97),
    0.1: (0.93, 1.14),
    0.5: (1.02, 1.12),
    2.0: (1.01, 1.13),
    10.0: (0.99, 1.11),
    100.0: (0.97, 1.1),
}
"""Lowest and highest of all cases, of a single integration. The weights do not follow from the noise, the median is
noisy in faint pixels, and photon noise between segments is not what weights them: the same as in the observatory's
pipeline."""


@pytest.mark.parametrize("case", CASES)
def test_least_squares(ratio, case):
    for flux, (low, high) in OLS.items():
        assert low < ratio("ols", case, flux) < high, flux
