"""Benchmarks for asv: time, peak memory and task counts, tracked from one change to the next."""
