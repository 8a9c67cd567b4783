"""Latents, image grids and PNG encoding."""
