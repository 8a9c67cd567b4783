"""Train GANs whose discriminators are regularised on the hypersphere, and compare them over training seeds."""

__version__ = "0.1.0"
