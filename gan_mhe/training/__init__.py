"""The training step of a GAN: networks, losses, penalties, optimizers, engines and their state."""
