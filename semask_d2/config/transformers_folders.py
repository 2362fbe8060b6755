"""Reading model folders of transformers as configs: `config.json` and `preprocessor_config.json`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from semask_d2.config.transformers_config import (
    FAMILIES,
    backbone_kind,
    values_from_processor,
    values_from_transformers,
)
from semask_d2.config.transformers_vits import backbone_values, is_backbone
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import require_regular
from semask_d2.utils.foreign import Section
from semask_d2.utils.nested import set_nested
from semask_d2.utils.runs import CONFIG_NAME

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
TEST_SIZES = {"INPUT.MIN_SIZE_TEST": 800, "INPUT.MAX_SIZE_TEST": 1333}  # where the processor names none
MAX_CONFIG = 2**24  # bytes


def is_transformers_folder(path: str | os.PathLike) -> bool:
    """Return whether a folder holds a `config.json` and is not a run folder of this project."""
    return os.path.isfile(os.path.join(path, CONFIG)) and not os.path.lexists(os.path.join(path, CONFIG_NAME))


def config_of_folder(folder: str | os.PathLike) -> tuple[list[str], dict[str, Any]]:
    """Return the package's config files that a folder's model is based on, and the values to set on top of them.

    The values include MODEL.WEIGHTS and OUTPUT_DIR; schedule, crops and augmentation are those of an ADE20K recipe.
    For a backbone alone, the file is one of `backbones`, without a recipe; a config that bases on the folder adds data
    and a recipe. Raises `UserError` for a model that this project does not have.
    """
    path = Path(folder, CONFIG)
    settings = read_json(path)
    processor_path = Path(folder, PROCESSOR)
    processor = read_json(processor_path) if processor_path.is_file() else {}
    nested: dict[str, Any] = {}
    if is_backbone(settings):
        file, values = backbone_values(settings, str(path))
        files, values = [file], values | values_from_processor(Section(processor, str(processor_path)), sizes=False)
    else:
        values = TEST_SIZES | values_from_transformers(settings, processor, str(path), str(processor_path))
        files = [backbone_kind(settings, str(path)).file, FAMILIES[settings["model_type"]].recipe]
        values |= {"OUTPUT_DIR": f"output/{Path(folder).resolve().name}"}
    for key, value in (values | {"MODEL.WEIGHTS": os.fspath(folder)}).items():
        set_nested(nested, key, value)
    return files, nested


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises `UserError` if the file does not hold one."""
    try:
        if require_regular(path).stat().st_size > MAX_CONFIG:
            raise ValueError(f"larger than {MAX_CONFIG} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file of model settings: {str(error) or type(error).__name__}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object of settings, got a {type(value).__name__}")
    return value
