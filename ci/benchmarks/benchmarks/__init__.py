"""Benchmarks for asv: time, peak memory and task counts, tracked from change to change."""
