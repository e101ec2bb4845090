"""Which exposures belong together, from their headers alone."""
