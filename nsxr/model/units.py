"""Check and compare the ``units`` attributes of variables."""

import astropy.units as u

from nsxr.errors import ModelError

__all__ = ["parse", "require"]

_SPELLINGS = {"DN": u.DN, "DN/s": u.DN / u.s, "electron/DN": u.electron / u.DN, "1": u.dimensionless_unscaled}


def parse(units: str) -> u.UnitBase:
    """Return the astropy unit of a ``units`` string in the spelling of JWST files."""
    if units in _SPELLINGS:
        return _SPELLINGS[units]
    try:
        return u.Unit(units)
    except ValueError as error:
        raise ModelError(f"units {units!r} cannot be read: {error}") from error


def require(name: str, found: str | None, expected: str) -> None:
    """Raise ModelError unless two units are the same.

    Parameters
    ----------
    name : str
        Name of the variable, for the message.
    found, expected : str
        Units in the spelling of attributes.
    """
    if found is None:
        raise ModelError(f"variable {name!r} has no units, expected {expected!r}; set attrs['units']")
    if found != expected and parse(found) != parse(expected):
        raise ModelError(f"variable {name!r} has units {found!r}, expected {expected!r}")
