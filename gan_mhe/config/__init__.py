"""The configuration of runs. Loads no torch."""

from gan_mhe.config.run_config import RunConfig

__all__ = ["RunConfig"]
