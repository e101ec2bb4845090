"""Loops over ramps and frames."""
