"""From slits to spectra: trace models, extraction, combination, light curves."""
