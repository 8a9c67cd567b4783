"""Jobs: admitted, queued, moved from state to state, listed and compared."""
