"""The training engine of every task, on lightning: run, trainer, checkpoints, resuming."""
