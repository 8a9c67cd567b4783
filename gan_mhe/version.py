"""The version of the package, in a module of its own so that reading it does not depend on the public API."""

__version__ = "0.1.0"
