"""Measurements of speed and memory: ratios of alternatives that take turns in one run. See docs/speed.md."""
