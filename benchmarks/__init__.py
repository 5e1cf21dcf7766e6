"""Benchmarks that are more than one command of `botvision bench`."""
