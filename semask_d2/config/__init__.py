"""Configs: keys and defaults, reading YAML, and checks of the values in files and on the command line."""

from semask_d2.config.components import lazy, with_defaults
from semask_d2.config.defaults import DEFAULTS, add_semask_config
from semask_d2.config.merging import all_keys, get_cfg

__all__ = ["DEFAULTS", "add_semask_config", "all_keys", "get_cfg", "lazy", "with_defaults"]
