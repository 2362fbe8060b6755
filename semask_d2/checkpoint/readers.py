"""One reader for every kind of weight file and address; nothing in a file is executed."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import safetensors

from semask_d2.checkpoint.class_metadata import METADATA
from semask_d2.checkpoint.hub import local_source
from semask_d2.checkpoint.integrity import Damaged, Unsound, check_safetensors, header_of
from semask_d2.checkpoint.ownership import Owner, Repeated
from semask_d2.checkpoint.transformers_folder import classes_of_folder, weights_of
from semask_d2.checkpoint.unpickling import load_pickle, load_torch
from semask_d2.config.transformers_folders import is_transformers_folder
from semask_d2.d2 import PathManager
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import require_regular
from semask_d2.utils.registry import suggestion
from semask_d2.utils.runs import require_run

logger = logging.getLogger(__name__)

TIMM = "timm://"
PYPI = "pypi://"
WEIGHT_FILES = (".pth", ".pt", ".pkl", ".safetensors")


def read_checkpoint(source: str | os.PathLike) -> dict[str, Any]:
    """The dict that a checkpoint holds, its tensors on the CPU.

    `source` is a path, a run folder (its best checkpoint), a folder that transformers wrote, "owner/name", a repository
    of the Hugging Face hub, an address that iopath knows (`https://...`), `timm://NAME`, the pretrained weights that
    timm publishes under that name, or `pypi://PACKAGE`, the weight file in an installed package. The ending decides
    how a file is read: `.pkl` is a pickle of arrays, as Detectron2 publishes them, `.safetensors` is that, anything
    else a torch file.
    Raises `UserError` for a file that is missing, truncated, or holds anything but plain data, arrays and tensors.
    """
    source = local_source(source)
    if source.startswith(TIMM):
        return read_timm(source)
    if source.startswith(PYPI):
        path = packaged_file(source)
    else:
        path = Path(local_copy(source) if "://" in source else source)
    metadata = {}
    if os.path.isdir(path):
        if is_transformers_folder(path):
            metadata = {METADATA: classes_of_folder(path).as_dict()}
            path = weights_of(path)
        else:
            path = require_run(path)
    require_file(path, source)
    try:
        data = Owner().within(read_file(path))
    except Damaged as error:
        raise UserError(f"{source}: damaged ({first_line(error)}); get or write it again") from error
    except Repeated as error:
        raise UserError(f"{source}: {error}") from error
    except Unsound as error:
        raise UserError(f"{source}: refused: {first_line(error)}") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{source}: refused, because it is no weight file of plain tensors (or it is damaged): {first_line(error)}"
        ) from error
    except Exception as error:  # bytes that are no weight file fail in as many ways as there are readers
        raise UserError(f"{source}: truncated or no weight file; get it again ({first_line(error)})") from error
    if not isinstance(data, dict):
        raise UserError(f"{source}: expected a dict of tensors, got a {type(data).__name__}")
    data.update(metadata)
    return data


def require_file(path: Path, source: str) -> None:
    """Raise `UserError` unless there is a regular file at `path` that this user may read."""
    try:
        if require_regular(path, source).is_file():
            path.open("rb").close()
            return
    except OSError as error:  # a folder that may not be entered, a name too long
        raise UserError(f"{source}: cannot be read: {error.strerror}; check MODEL.WEIGHTS") from error
    raise UserError(f"{source}: there is no such weight file; check MODEL.WEIGHTS")


def read_file(path: Path) -> Any:
    """What a file holds, by its ending."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix == ".pkl":
        with open(path, "rb") as file:
            return load_pickle(file)
    return load_torch(path)


def read_safetensors(path: Path) -> dict[str, Any]:
    """`{"model": tensors}`, and what `saving` left in the header of a file of ours."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = header_of(file.metadata())
        check_safetensors(path, header)
        header.pop("checksum", None)
        return {**header, "model": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118


def read_timm(source: str) -> dict[str, Any]:
    """The tensors that timm publishes as `timm://NAME`, from the Hugging Face hub or its local cache."""
    try:
        import timm
        from timm.models import load_state_dict_from_hf
    except ImportError as error:
        raise UserError(f"{source}: needs timm; pip install timm") from error
    name = source.removeprefix(TIMM)
    try:
        published = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a known architecture with an unknown tag
        published = None
    if published is None or not published.hf_hub_id:
        near = suggestion(name, timm.list_pretrained())
        raise UserError(f'{source}: timm publishes no weights called "{name}".{near}')
    logger.info("Fetching %s from huggingface.co/%s or its local cache", source, published.hf_hub_id)
    try:
        return load_state_dict_from_hf(published.hf_hub_id, weights_only=True)
    except Exception as error:  # whatever the network and the hub's client raise
        raise UserError(
            f"{source}: could not be fetched from huggingface.co/{published.hf_hub_id}: {first_line(error)}; "
            "fetch it where there is a connection and give MODEL.WEIGHTS the file"
        ) from error


def packaged_file(source: str) -> Path:
    """The one weight file of the installed package that `pypi://PACKAGE` names; nothing of it is imported."""
    package = source.removeprefix(PYPI)
    try:
        files = importlib.metadata.files(package) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise UserError(f"{source}: not installed here: pip install {package}") from None
    found = [file for file in files if file.suffix in WEIGHT_FILES]
    if len(found) != 1:
        names = ", ".join(map(str, found)) or "none"
        raise UserError(f"{source}: expected a package with one weight file, found {names}; name the file itself")
    return Path(str(found[0].locate()))


def local_copy(address: str) -> str:
    """The path of a local copy of what `address` names, fetched if need be."""
    logger.info("Fetching %s or its local copy", address)
    try:
        return PathManager.get_local_path(address)
    except Exception as error:  # whatever the network and the path handlers raise
        raise UserError(f"{address}: could not be fetched: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The first sentence of an error's text, or its kind where it has none."""
    return next(iter(str(error).splitlines()), "").split(". ")[0] or type(error).__name__
