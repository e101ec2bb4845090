"""Corrections from reference pixels."""
