"""The class pixels of a training set, counted once for all processes of a run and kept in its folder."""

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
    """`class_pixels` of a training set by the config's classes; all processes call it.

    The main process counts, with data-loading processes of its own, or takes the counts of the run's folder where
    these are of the same files.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    path = Path(cfg.OUTPUT_DIR, NAME)

    def counted() -> np.ndarray:
        fingerprint = fingerprint_of(dicts, head.NUM_CLASSES, head.IGNORE_VALUE)
        kept = read_counts(path, fingerprint, (len(dicts), head.NUM_CLASSES))
        if kept is not None:
            logger.info("Class pixels of %d label files: those of %s", len(dicts), path)
            return kept
        pixels = class_pixels(dicts, head.NUM_CLASSES, head.IGNORE_VALUE)
        write_counts(path, fingerprint, pixels)
        return pixels

    return on_main_process(counted)


def fingerprint_of(dicts: Sequence[dict[str, Any]], num_classes: int, ignore_label: int) -> str:
    """Return what counts depend on, as one number: label files by name, size and time, how they are read, classes."""
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
    """The size of a file and when it was changed; None where it cannot be told."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def write_counts(path: Path, fingerprint: str, pixels: np.ndarray) -> None:
    """Keep counts (images, K) as pairs of class and pixels of each image; a folder that takes no file is a warning."""
    rows = [[int(x) for k in np.flatnonzero(row) for x in (k, row[k])] for row in pixels]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            json.dump({"files": fingerprint, "pixels": rows}, file)
    except OSError as error:
        logger.warning("%s: the class pixels are not kept, and counted again next time: %s", path, error)


def read_counts(path: Path, fingerprint: str, shape: tuple[int, int]) -> np.ndarray | None:
    """Counts (images, K) that `write_counts` kept; None where there are none, or of other files."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["files"] != fingerprint or len(content["pixels"]) != shape[0]:
            return None
        pixels = np.zeros(shape, np.int64)
        for row, pairs in zip(pixels, content["pixels"], strict=True):
            row[pairs[::2]] = pairs[1::2]
    except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError):
        return None  # damaged, or no file of ours: counting again is right
    return pixels
