"""The HTTP face of the service: parse, call, shape."""
