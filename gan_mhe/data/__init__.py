"""Real images: data sets as uint8 tensors, and the seeded order in which training sees them."""
