"""Benchmarks on your machine: ours beside its peers, time as ratios of medians."""
