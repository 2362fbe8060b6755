"""The reader of weight files of every kind and address; nothing in a file is executed."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import safetensors

from semask_d2.checkpoint.hub import hub_address, local_source
from semask_d2.checkpoint.integrity import Damaged, Unsound, check_safetensors, safetensors_header
from semask_d2.checkpoint.ownership import Owner, Repeated
from semask_d2.checkpoint.transformers_folder import metadata_of_folder, weights_of
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
    """Return the dict of a checkpoint, with its tensors on the CPU.

    `source` is one of: a path; a run folder (its best checkpoint is read); a folder written by transformers;
    "owner/name", a repository of the Hugging Face hub; an address that iopath supports (`https://...`); `timm://NAME`,
    the pretrained weights that timm publishes under that name; `pypi://PACKAGE`, the weight file in an installed
    package. The suffix decides how a file is read: `.pkl` as a pickle of arrays, as Detectron2 publishes them,
    `.safetensors` as safetensors, any other as a torch file.
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
            metadata = metadata_of_folder(path)
            path = weights_of(path)
        else:
            path = require_run(path)
    require_file(path, source)
    try:
        data = Owner().within(read_file(path))
    except Damaged as error:
        raise UserError(f"{source}: damaged ({first_line(error)}); download or save it again") from error
    except Repeated as error:
        raise UserError(f"{source}: {error}") from error
    except Unsound as error:
        raise UserError(f"{source}: refused: {first_line(error)}") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{source}: refused, because it is not a weight file of plain tensors (or it is damaged): "
            f"{first_line(error)}"
        ) from error
    except Exception as error:  # each reader raises its own errors for bytes that are not a weight file
        raise UserError(f"{source}: truncated or not a weight file; download it again ({first_line(error)})") from error
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
    except OSError as error:  # no permission for the folder, or a name that is too long
        raise UserError(f"{source}: cannot be read: {error.strerror}; check MODEL.WEIGHTS") from error
    raise UserError(f"{source}: no such weight file; check MODEL.WEIGHTS")


def read_file(path: Path) -> Any:
    """Return the content of a weight file, read by its suffix."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix == ".pkl":
        with open(path, "rb") as file:
            return load_pickle(file)
    return load_torch(path)


def read_safetensors(path: Path) -> dict[str, Any]:
    """Return `{"model": tensors}`, and, for our own files, the entries of the header that `saving` wrote."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = safetensors_header(file.metadata())
        check_safetensors(path, header)
        header.pop("checksum", None)
        return {**header, "model": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118


def read_timm(source: str) -> dict[str, Any]:
    """Return the tensors that timm publishes as `timm://NAME`, from the Hugging Face hub or its local cache."""
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
    address = hub_address(published.hf_hub_id)
    logger.info("Fetching %s from %s or its local cache", source, address)
    try:
        return load_state_dict_from_hf(published.hf_hub_id, weights_only=True)
    except Exception as error:  # network and hub client raise errors of many types
        raise UserError(
            f"{source}: could not be downloaded from {address}: {first_line(error)}; "
            "download it where there is a connection, and set MODEL.WEIGHTS to the file"
        ) from error


def packaged_file(source: str) -> Path:
    """Return the only weight file of the installed package that `pypi://PACKAGE` names; imports nothing from it."""
    package = source.removeprefix(PYPI)
    try:
        files = importlib.metadata.files(package) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise UserError(f"{source}: not installed here: pip install {package}") from None
    weight_files = [file for file in files if file.suffix in WEIGHT_FILES]
    if len(weight_files) != 1:
        names = ", ".join(map(str, weight_files)) or "none"
        raise UserError(f"{source}: expected a package with one weight file, found {names}; name the file itself")
    return Path(str(weight_files[0].locate()))


def local_copy(address: str) -> str:
    """Return the path of a local copy of `address`, downloaded if needed."""
    logger.info("Fetching %s or its local copy", address)
    try:
        return PathManager.get_local_path(address)
    except Exception as error:  # network and path handlers raise errors of many types
        raise UserError(f"{address}: could not be downloaded: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Return the first sentence of an error's text, or its type if it has no text."""
    return next(iter(str(error).splitlines()), "").split(". ")[0] or type(error).__name__
