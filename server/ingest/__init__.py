"""Reads the files of runs into the store, imports runs, and deletes files that are no longer kept."""
