"""Folders of transformers' models read as configs: `config.json` and `preprocessor_config.json`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from semask_d2.config.transformers_config import FAMILIES, backbone_kind, put, values_from_transformers
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import require_regular
from semask_d2.utils.runs import CONFIG_NAME

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
MAX_CONFIG = 2**24  # bytes


def is_transformers_folder(path: str | os.PathLike) -> bool:
    """Whether a folder holds a `config.json` and is no run of ours."""
    return os.path.isfile(os.path.join(path, CONFIG)) and not os.path.lexists(os.path.join(path, CONFIG_NAME))


def config_of_folder(folder: str | os.PathLike) -> tuple[list[str], dict[str, Any]]:
    """The config files of ours that a folder's model starts from, and the values over them, MODEL.WEIGHTS among them.

    Raises `UserError` where it is a model that there is none of here.
    """
    path = Path(folder, CONFIG)
    settings = read_json(path)
    beside = Path(folder, PROCESSOR)
    processor = read_json(beside) if beside.is_file() else {}
    nested: dict[str, Any] = {}
    values = values_from_transformers(settings, processor, str(path), str(beside))
    for key, value in (values | {"MODEL.WEIGHTS": os.fspath(folder)}).items():
        put(nested, key, value)
    return [backbone_kind(settings, str(path)).file, FAMILIES[settings["model_type"]].recipe], nested


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds. Raises `UserError` where it holds none."""
    try:
        if require_regular(path).stat().st_size > MAX_CONFIG:
            raise ValueError(f"larger than {MAX_CONFIG} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON of a model's settings: {str(error) or type(error).__name__}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected settings by name, got a {type(value).__name__}")
    return value
