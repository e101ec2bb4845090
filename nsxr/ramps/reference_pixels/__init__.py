"""Corrections by reference pixels."""
