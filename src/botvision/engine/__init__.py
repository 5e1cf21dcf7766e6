"""What a run needs whatever its task: trainer, history, folder, checkpoint; on lightning."""
