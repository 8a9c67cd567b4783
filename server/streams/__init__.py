"""Live event streams, each a position in the durable journal."""
