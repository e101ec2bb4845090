"""The strength of each detector effect, and the papers that the numbers come from."""

from dataclasses import dataclass, fields

from nsxr.errors import ParameterError

__all__ = ["QUIET", "Artifacts"]


@dataclass(frozen=True)
class Artifacts:
    """Amplitudes of the simulated effects. Each amplitude can be 0.

    Attributes
    ----------
    white_noise : float
        White noise of one read of a pixel, rms [electron]. Default 5.2 [1]_.
    reference_noise_ratio : float
        White noise of reference pixels, relative to light-sensitive pixels. Default 0.8 [1]_.
    pedestal : float
        Level of an amplifier in a frame, rms [electron]. Frames are independent. Default 4 [1]_.
    common_pink : float
        1/f noise common to all amplifiers and the IRS2 reference output, rms [electron]. Default 3 [1]_.
    output_pink : float
        1/f noise of each amplifier, rms [electron]. Default 1 [1]_.
    alternating_columns : float
        1/f noise with opposite sign in odd and even detector columns, rms [electron]. Default 0.5 [1]_.
    picture_frame : float
        Smooth pattern that is strongest at the edges, rms over detector and frames [electron]. Default 0.2 [1]_.
    correlated_scale : float
        Factor on ``pedestal``, ``common_pink``, ``output_pink``, ``alternating_columns`` and ``picture_frame``.
    reset_noise : float
        kTC noise of a pixel in an integration, rms [electron]. Default 30, for a node of 40 fF at 42.8 K.
    bias_structure : float
        Factor on the structure of the bias: steps between amplifiers, column pattern, pixel scatter. With 0
        the bias is the same in all pixels.
    dark_current : float
        Factor on the dark current. With 1, the median is 0.0082 electron/s in NRS1 (the value of the
        operational dark step) and 0.0060 in NRS2. Warm and hot pixels come on top.
    bad_pixels : float
        Factor on the number of bad pixels. With 1, 0.7 % of all pixels are bad in some way.
    pixel_scatter : float
        Factor on the differences between good pixels: gain 1 %, full well 2 %, response 1 %, read
        noise 8 %, curvature of the response 10 %, dark current 20 % rms.
    nonlinearity : float
        Relative loss of signal near full well, quadratic part. Default 0.04.
    full_well : float
        Mean charge at which a pixel saturates [electron]. Default 56000.
    cosmic_rays : float
        Rate of cosmic rays [1/cm2/s]. Default 4.3. On average, a cosmic ray leaves 5200 electrons in
        about 7 pixels [2]_.
    snowballs : float
        Rate of snowballs in a whole detector [1/s]. Default 0.05, one in 20 s [3]_.
    bad_reference_pixels : float
        Factor on the deviations of bad interleaved reference pixels of IRS2. With 0, no pixel is bad.
    photon_noise : bool
        Whether charge arrives with Poisson noise. If not, each frame gets its mean charge.

    References
    ----------
    .. [1] Rauscher 2015, PASP 127, 1144.
    .. [2] Rauscher & Fixsen 2025, PASP 137, 095003.
    .. [3] Regan 2023, JWST-STScI-008545.
    """

    white_noise: float = 5.2
    reference_noise_ratio: float = 0.8
    pedestal: float = 4.0
    common_pink: float = 3.0
    output_pink: float = 1.0
    alternating_columns: float = 0.5
    picture_frame: float = 0.2
    correlated_scale: float = 1.0
    reset_noise: float = 30.0
    bias_structure: float = 1.0
    dark_current: float = 1.0
    bad_pixels: float = 1.0
    pixel_scatter: float = 1.0
    nonlinearity: float = 0.04
    full_well: float = 56000.0
    cosmic_rays: float = 4.3
    snowballs: float = 0.05
    bad_reference_pixels: float = 1.0
    photon_noise: bool = True

    def __post_init__(self) -> None:
        """Raise ParameterError unless all amplitudes are in range."""
        negative = [f.name for f in fields(self) if not getattr(self, f.name) >= 0]
        if negative:
            raise ParameterError(f"artifacts must not be negative or NaN: {', '.join(negative)}")
        if self.full_well == 0:
            raise ParameterError("full_well is 0, expected a charge in electrons")
        if self.nonlinearity > 0.2:
            raise ParameterError(f"nonlinearity is {self.nonlinearity}, expected at most 0.2")

    def correlated(self, name: str) -> float:
        """Return an amplitude of correlated noise with ``correlated_scale`` applied [electron]."""
        return float(getattr(self, name)) * self.correlated_scale


QUIET = Artifacts(
    white_noise=0,
    pedestal=0,
    common_pink=0,
    output_pink=0,
    alternating_columns=0,
    picture_frame=0,
    reset_noise=0,
    bad_pixels=0,
    cosmic_rays=0,
    snowballs=0,
    bad_reference_pixels=0,
    photon_noise=False,
)
"""No noise, no bad pixels, no cosmic rays, no snowballs. Bias, dark current, response and light remain."""
