"""Sources of the settings in a config: files, the command line, defaults."""

from __future__ import annotations

import os
from pathlib import Path

from semask_d2.config.finding import configs_folder, find_config
from semask_d2.config.merging import all_keys, get_cfg
from semask_d2.config.timm_pixels import PIXELS
from semask_d2.config.yaml_files import Merged, read_yaml
from semask_d2.d2 import CfgNode
from semask_d2.utils.arguments import value_of
from semask_d2.utils.nested import flattened

DEFAULT, COMMAND_LINE, MACHINE, TIMM = "default", "command line", "what this machine has", "timm's weights"


def config_with_sources(
    config_file: str | os.PathLike, opts: list[str] | tuple[str, ...] = ()
) -> tuple[CfgNode, dict[str, str]]:
    """Return the config, and for each key the source that set its value last: a file, "command line" or "default"."""
    cfg = get_cfg(config_file, opts)
    sources = dict.fromkeys(all_keys(cfg), DEFAULT)
    stated: dict[str, object] = {}
    for path, values in files_of(find_config(config_file)):
        stated |= flattened(values)
        sources |= dict.fromkeys(flattened(values), name_of(path))
    sources |= dict.fromkeys(opts[::2], COMMAND_LINE)
    timm_keys = [key for key in PIXELS if key in stated and key not in opts[::2] and stated[key] != value_of(cfg, key)]
    sources |= dict.fromkeys(timm_keys, TIMM)
    requested = get_cfg(config_file, opts, fit=False)
    sources |= {key: MACHINE for key in sources if value_of(cfg, key) != value_of(requested, key)}
    return cfg, {key: source for key, source in sources.items() if key in set(all_keys(cfg))}


def files_of(path: Path) -> list[tuple[Path, dict]]:
    """Return the files that a config is merged from, each with the values it states; later files override earlier."""
    merged = Merged()
    read_yaml(path, chain=(), merged=merged)
    return list(merged.parts[path].items())


def name_of(path: Path) -> str:
    """Return a file's path, shortened for a config of the package."""
    folder, path = configs_folder().resolve(), path.resolve()
    return f"configs/{path.relative_to(folder).as_posix()}" if path.is_relative_to(folder) else str(path)


def settings_table(cfg: CfgNode, sources: dict[str, str], *, defaults: bool) -> str:
    """Return one aligned line per setting: key, value and source. Settings at their default need `defaults`."""
    shown = [key for key in sorted(sources) if defaults or sources[key] != DEFAULT]
    texts = {key: repr(value_of(cfg, key)) for key in shown}
    widths = [max(map(len, column), default=0) for column in (shown, texts.values())]
    width = min(widths[1], 60)
    return "\n".join(f"{key:{widths[0]}}  {texts[key]:{width}}  # {sources[key]}" for key in shown)
