"""Supervision of attempts: start, watch, stop, and record the end."""
