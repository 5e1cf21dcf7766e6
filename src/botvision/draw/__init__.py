"""Plots and drawings: predictions, confusion matrices, training curves."""
