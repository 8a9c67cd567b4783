"""Constraints on the discriminator: normalizations, penalties and projections, which can be combined."""
