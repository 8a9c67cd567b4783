"""Scores of generated images under named, hashed protocols, and the pictures people look at."""
