"""Pictures of exposures, noise and spectra. Corrections never import this package."""
