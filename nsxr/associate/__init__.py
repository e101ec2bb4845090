"""Find which exposures belong together, from their headers alone."""
