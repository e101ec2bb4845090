"""Describe what an nsxr Dataset holds: variables, flags, units, provenance, readout, steps."""
