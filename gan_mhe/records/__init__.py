"""The files of a run: events, checkpoints, result, and the directory that holds them."""
