"""Thumbnails and animations of sample grids."""
