"""Images for people: latents, grids and encoders."""
