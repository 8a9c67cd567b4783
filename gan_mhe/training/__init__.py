"""One training step as pure computation, and what it is made of."""
