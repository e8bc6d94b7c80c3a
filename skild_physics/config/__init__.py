"""The configuration of a run: TOML in; what it describes, each kind built by its own class."""

from skild_physics.config.run import Config, load_config, parse_config, shipped_names

__all__ = ["Config", "load_config", "parse_config", "shipped_names"]
