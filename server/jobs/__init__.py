"""What jobs are and what happens to them, without HTTP."""
