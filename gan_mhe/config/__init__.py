"""What a run is: one frozen, closed description, TOML on disk and JSON on the wire. Loads no torch."""

from gan_mhe.config.run_config import RunConfig

__all__ = ["RunConfig"]
