"""Scores of generated images under named protocols."""
