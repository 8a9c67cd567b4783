"""Finished runs compared over training seeds. Loads no torch."""
