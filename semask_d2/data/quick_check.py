"""The quick dataset check that runs before every training: image sizes from headers, and ids of some label files."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np

from semask_d2.d2 import CfgNode
from semask_d2.data.datasets import dataset_classes, get_dataset_dicts
from semask_d2.data.image_io import picture_size
from semask_d2.data.label_checks import size_mismatch
from semask_d2.data.parallel import on_main_process
from semask_d2.data.statistics import class_pixels_of, only_class
from semask_d2.utils.errors import UnreadableFile, UserError
from semask_d2.utils.excerpts import evenly

logger = logging.getLogger(__name__)

SIZES, LABELS = 500, 24  # per dataset: pairs whose headers are read, and label files whose ids are read
SHOWN = 5


def quick_check(cfg: CfgNode) -> None:
    """Check some pairs of the config's datasets, evenly spread, and log what was checked.

    Every process must call this; the main process does the work, and all raise the same UserError with the first
    faults: sizes that differ, and ids that belong to no class. Unreadable files are skipped, since the loader reports
    them. Images in both a training and a test set are logged as a warning.
    """
    on_main_process(lambda: check_some_pairs(cfg))


def check_some_pairs(cfg: CfgNode) -> None:
    """Do the work of `quick_check` in this process."""
    head = cfg.MODEL.SEM_SEG_HEAD
    faults, files = [], {}
    for name in dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        dicts = get_dataset_dicts(name)
        files[name] = {os.path.realpath(x["file_name"]) for x in dicts}
        labeled = [x for x in dicts if x.get("sem_seg_file_name") is not None]
        sized, read = evenly(labeled, SIZES), evenly(labeled, LABELS)
        faults += filter(None, (size_fault(sample, cfg.INPUT.CHANNELS) for sample in sized))
        pixels, unread = np.zeros(head.NUM_CLASSES, np.int64), 0
        for sample in read:
            try:
                pixels += class_pixels_of(sample, head.NUM_CLASSES, head.IGNORE_VALUE)
            except UnreadableFile:
                unread += 1
            except UserError as error:
                unread += 1
                faults.append(str(error))
        if len(read) > unread and not pixels.any():
            logger.warning(
                "%s: NO PIXEL HAS A CLASS: every pixel of %d label files is %d, which is ignored, so the model cannot "
                "learn; does the dataset's file ignore real classes? Run semask check for details",
                name,
                len(read) - unread,
                head.IGNORE_VALUE,
            )
        warn_of_one_class(name, pixels, f"{len(read)} label files")
        logger.info(
            "%s: %d pairs; checked the sizes of %d and the ids of %d (semask check reads every file)",
            name,
            len(labeled),
            len(sized),
            len(read),
        )
    faults = list(dict.fromkeys(faults))
    if faults:
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        several = "".join(f"\n  {fault}" for fault in faults[1:SHOWN])
        raise UserError(f"{faults[0]}{several}{more}")
    shared = sorted(
        set().union(*(files[name] for name in cfg.DATASETS.TRAIN))
        & set().union(*(files[name] for name in cfg.DATASETS.TEST))
    )
    if shared:
        logger.warning(
            "%d image(s) are in both a training set and a test set, which makes test results too good: %s",
            len(shared),
            ", ".join(shared[:SHOWN]),
        )


def warn_of_one_class(name: str, pixels: np.ndarray, what: str) -> None:
    """Warn if one class has all pixels (K,); `what` says which files of the dataset `name` were counted."""
    everywhere = only_class(pixels)
    if everywhere is not None:
        classes = dataset_classes(name)
        called = f' "{classes.names[everywhere]}"' if classes and everywhere < len(classes) else ""
        logger.warning(
            "%s: ONE CLASS IS EVERYWHERE: every labeled pixel of %s has class %d%s, so the model learns nothing and "
            "its scores mean nothing; are the ids of the other classes ignored? Run semask check for details",
            name,
            what,
            everywhere,
            called,
        )


def size_fault(sample: dict[str, Any], channels: int) -> str | None:
    """Return the error message if the sizes of a pair differ by their files' headers, else None."""
    try:
        size = picture_size(sample["file_name"], channels=channels)
        if (labels := sample.get("coco_labels")) is not None:
            label_size = labels.stated_size(size)
        else:
            label_size = picture_size(sample["sem_seg_file_name"], upright=False)
    except UnreadableFile:
        return None
    if size == label_size:
        return None
    return size_mismatch(sample["file_name"], size, "label file", sample["sem_seg_file_name"], label_size)
