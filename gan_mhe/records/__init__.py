"""What a run leaves behind: events, checkpoints, results and the directory that holds them."""
