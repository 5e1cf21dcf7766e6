"""One hour on a GPU, prepared: `hour.sh` runs the stages, each a module here."""
