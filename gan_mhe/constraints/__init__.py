"""What holds a discriminator back: normalisations, penalties and projections, in any combination that makes sense."""
