"""Correct slits (stage 2), one correction in each file."""
