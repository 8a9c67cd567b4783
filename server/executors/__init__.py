"""Executors run attempts: one protocol, one file for each implementation."""
