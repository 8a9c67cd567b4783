"""Several runs: planning, execution in processes, and resumption."""
