"""What the run loop drives; the GAN is the first task."""
