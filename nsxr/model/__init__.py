"""What an nsxr Dataset is: variables, flags, units, provenance, geometry, chunk layouts."""
