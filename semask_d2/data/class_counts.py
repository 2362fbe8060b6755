"""The class pixels of a training set, counted once for all processes of a run and cached in the run folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semask_d2.d2 import CfgNode
from semask_d2.data.parallel import on_main_process
from semask_d2.data.statistics import class_pixels
from semask_d2.utils.files import atomic_write

logger = logging.getLogger(__name__)

NAME = "class_pixels.json"


def class_pixels_of_run(cfg: CfgNode, dicts: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return `class_pixels` of a training set for the config's classes; every process must call this.

    The main process counts, with data-loading processes, or reuses the counts in the run folder if they are for the
    same files.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    path = Path(cfg.OUTPUT_DIR, NAME)

    def counted() -> np.ndarray:
        fingerprint = fingerprint_of(dicts, head.NUM_CLASSES, head.IGNORE_VALUE)
        kept = read_counts(path, fingerprint, (len(dicts), head.NUM_CLASSES))
        if kept is not None:
            logger.info("Class pixels of %d label files: read from %s", len(dicts), path)
            return kept
        pixels = class_pixels(dicts, head.NUM_CLASSES, head.IGNORE_VALUE)
        write_counts(path, fingerprint, pixels)
        return pixels

    return on_main_process(counted)


def fingerprint_of(dicts: Sequence[dict[str, Any]], num_classes: int, ignore_label: int) -> str:
    """Return a hash of everything that counts depend on: label files (name, size, time), label format, classes."""
    digest = hashlib.sha256(repr((num_classes, ignore_label)).encode())
    state_of: dict[str, tuple[int, int] | None] = {}
    for sample in dicts:
        path = str(sample.get("sem_seg_file_name"))
        if path not in state_of:
            state_of[path] = file_state(path)
        labels = sample.get("coco_labels")
        segments = None if labels is None else (labels.source, labels.unlabeled, [x.category for x in labels.segments])
        digest.update(repr((path, state_of[path], sample.get("label_format"), segments)).encode())
    return digest.hexdigest()


def file_state(path: str) -> tuple[int, int] | None:
    """Return the size and the modification time of a file; None if the file cannot be accessed."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def write_counts(path: Path, fingerprint: str, pixels: np.ndarray) -> None:
    """Save counts (images, K) as pairs (class, pixels) per image; logs a warning if the folder is not writable."""
    rows = [[int(x) for k in np.flatnonzero(row) for x in (k, row[k])] for row in pixels]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            json.dump({"files": fingerprint, "pixels": rows}, file)
    except OSError as error:
        logger.warning("%s: cannot save the class pixels, which will be counted again next time: %s", path, error)


def read_counts(path: Path, fingerprint: str, shape: tuple[int, int]) -> np.ndarray | None:
    """Return the counts (images, K) that `write_counts` saved; None if there are none, or they are for other files."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["files"] != fingerprint or len(content["pixels"]) != shape[0]:
            return None
        pixels = np.zeros(shape, np.int64)
        for row, pairs in zip(pixels, content["pixels"], strict=True):
            row[pairs[::2]] = pairs[1::2]
    except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError):
        return None  # damaged, or not our file: count again
    return pixels
