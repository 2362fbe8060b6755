"""Replacement for `detectron2.utils.{collect_env,env,file_io}`: versions in use, seeding, and opening paths."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import random
import sys
import time
from typing import Any

import numpy as np
import torch
from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as _PathManager
from tabulate import tabulate

BACKEND = "native"
BACKEND_VERSION = f"fvcore {importlib.metadata.version('fvcore')}"


class Detectron2Handler(PathHandler):
    """Path handler for weights published by Detectron2, named `detectron2://ImageNetPretrained/...` in its configs."""

    PREFIX = "detectron2://"
    ADDRESS = "https://dl.fbaipublicfiles.com/detectron2/"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return PathManager.get_local_path(self.ADDRESS + path.removeprefix(self.PREFIX), force=force, **kwargs)


PathManager = _PathManager()
PathManager.register_handler(HTTPURLHandler())
PathManager.register_handler(Detectron2Handler())


def collect_env_info() -> str:
    """Return a table of the versions and devices that a result may depend on."""
    rows = [
        ("sys.platform", sys.platform),
        ("Python", sys.version.replace("\n", "")),
        ("backend", f"{BACKEND} ({BACKEND_VERSION})"),
        ("PyTorch", f"{torch.__version__} @{os.path.dirname(torch.__file__)}"),
        ("CUDA of PyTorch", torch.version.cuda),
        ("GPU available", torch.cuda.is_available()),
    ]
    rows += [(f"GPU {k}", torch.cuda.get_device_name(k)) for k in range(torch.cuda.device_count())]
    rows.append(("CPU threads of PyTorch", torch.get_num_threads()))
    for package in ("torchvision", "numpy", "Pillow", "iopath", "timm", "scipy"):
        rows.append((package, _version(package)))
    rows.append(("cv2", _version("opencv-python-headless") or _version("opencv-python")))
    return tabulate([(name, "not found" if value is None else str(value)) for name, value in rows])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def seed_all_rng(seed: int | None = None) -> None:
    """Seed Python, NumPy and torch (CPU and GPUs); None draws a random seed and logs it."""
    if seed is None:
        seed = (os.getpid() + time.time_ns() + int.from_bytes(os.urandom(4), "big")) % 2**32
        logging.getLogger("detectron2.utils.env").info("Using a generated random seed %d", seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from the global state
    torch.manual_seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)
