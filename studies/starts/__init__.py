"""Starts of attention compared: which initial weights let BoT blocks learn from little data."""
