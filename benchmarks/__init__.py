"""Benchmarks and campaigns: each states its goal, and what it measured goes dated into `benchmarks/results/`."""
