"""Make spectra from slits: trace models, extraction, combination, light curves."""
