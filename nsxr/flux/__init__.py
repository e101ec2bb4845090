"""Turn count rates of slits and slices into flux (stage 2), one correction in each file."""
