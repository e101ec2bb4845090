"""Corrections: one public function of Dataset to Dataset per file."""
