"""Live event streams: positions in the durable journal."""
