"""Ours beside the peers, in one run: time as ratios of medians."""
