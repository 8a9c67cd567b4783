"""Where attempts run: one protocol, an engine a file."""
