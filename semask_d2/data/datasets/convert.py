"""Rewriting label files with other ids, for the preparation scripts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from semask_d2.data.datasets.walking import files_below
from semask_d2.data.image_io import read_labels
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write


def convert_labels(source: str | os.PathLike, target: str | os.PathLike, new_ids: dict[int, int]) -> int:
    """Write every PNG label file of `source` to `target` with its ids replaced; return the number of files written.

    Files that already exist in `target` are kept, so an interrupted run can be continued. Raises `UserError` if
    `source` is missing or empty, or if a file holds an id that is not in `new_ids`.
    """
    files = [path for path in files_below(source, 1) if path.suffix.lower() == ".png"] if os.path.isdir(source) else []
    if not files:
        raise UserError(f"no .png label files in {os.path.abspath(source)}: is this the right folder?")
    table = np.zeros(256, np.uint8)
    table[list(new_ids)] = list(new_ids.values())
    written = 0
    for path in files:
        destination = Path(target) / path.name
        if destination.exists():
            continue
        labels = read_labels(path)
        if unknown := sorted(set(np.unique(labels).tolist()) - new_ids.keys()):
            raise UserError(f"{path} holds ids {unknown[:8]}; expected {min(new_ids)}..{max(new_ids)}")
        with atomic_write(destination, "wb") as file:
            Image.fromarray(table[labels]).save(file, format="PNG")
        written += 1
    return written
