"""The order of steps; no maths."""
