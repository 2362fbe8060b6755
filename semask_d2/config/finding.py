"""Finding config files, by path or by the name of a config of the package."""

from __future__ import annotations

import os
import re
from pathlib import Path

from semask_d2.utils.errors import UserError
from semask_d2.utils.registry import suggestion

REPOSITORY = re.compile(r"(hf://)?[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PACKAGE = Path(__file__).resolve().parents[1]


def configs_folder() -> Path:
    """Return the folder of the package's configs: inside an installed package, beside it in a clone."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def find_config(name: str | os.PathLike) -> Path:
    """Return the file at the path `name`, else the package's config of that name ("ade20k/semask_swin_l_m2f.yaml").

    The name may start with "configs/". If neither exists, raises `UserError` and suggests the closest name.
    """
    path = Path(name)
    if os.path.lexists(path) or path.is_absolute():
        return path
    folder = configs_folder()
    packaged = folder.joinpath(*(path.parts[1:] if path.parts[:1] == ("configs",) else path.parts))
    if os.path.isfile(packaged) and packaged.resolve().is_relative_to(folder.resolve()):
        return packaged
    known = [file.relative_to(folder).as_posix() for file in folder.rglob("*.yaml")]
    near = suggestion(path.as_posix().removeprefix("configs/"), known)
    hint = near or repository_hint(os.fspath(name))
    raise UserError(f"{path}: No such file, and no config of that name comes with the package.{hint}")


def repository_hint(name: str) -> str:
    """Return how to start from a repository of the hub, if `name` may be one ("owner/name"); else ""."""
    if not REPOSITORY.fullmatch(name) or name.lower().endswith((".yaml", ".yml", ".py")):
        return ""
    return (
        f" If {name} is a repository of the Hugging Face hub, it is a source of weights, and a config says what to "
        f"train: semask train --config-file ade20k/swin_t_m2f.yaml --weights {name} --data my.yaml "
        f'MODEL.WEIGHTS_DROP_CLASS_LAYERS True, or create_model("ade20k/swin_t_m2f", num_classes=17, '
        f'weights="{name}") in Python; from_pretrained and Predictor load it as it is'
    )
