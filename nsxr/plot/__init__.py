"""Pictures of exposures, noise and spectra. No science imports this package."""
