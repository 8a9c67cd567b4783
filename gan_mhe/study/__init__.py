"""A study: arms x training seeds to answer one question, and its report. Loads no torch."""
