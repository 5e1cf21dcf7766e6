"""Studies: questions to BoTVision, answered by its Python API; beside the package, in no wheel."""
