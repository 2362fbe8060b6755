"""The quick part of a data check, which a training does by itself: sizes by headers, ids of some label files."""

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

SIZES, LABELS = 500, 24  # pairs of a data set whose headers, and label files whose ids, are read
SHOWN = 5


def quick_check(cfg: CfgNode) -> None:
    """Look at some pairs of the config's data sets, evenly spread, and log that it was done.

    The main process looks; all call it, and raise the UserError with the first faults: sizes that differ, ids that are
    no class's. Files that cannot be read are left to whoever reads them. Images of both a training and a test set are a
    warning.
    """
    on_main_process(lambda: check_some_pairs(cfg))


def check_some_pairs(cfg: CfgNode) -> None:
    """Look as `quick_check` says, in this process."""
    head = cfg.MODEL.SEM_SEG_HEAD
    faults, files = [], {}
    for name in dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        dicts = get_dataset_dicts(name)
        files[name] = {os.path.realpath(x["file_name"]) for x in dicts}
        labeled = [x for x in dicts if x.get("sem_seg_file_name") is not None]
        sized, read = evenly(labeled, SIZES), evenly(labeled, LABELS)
        faults += filter(None, map(size_fault, sized))
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
                "%s: NO PIXEL HAS A CLASS: all of %d label files looked at are %d, ignored, so that the loss teaches "
                "nothing; does the data set's file ignore what are classes? semask check says more",
                name,
                len(read) - unread,
                head.IGNORE_VALUE,
            )
        warn_of_one_class(name, pixels, f"{len(read)} label files looked at")
        logger.info(
            "%s: %d pairs; of %d the sizes were checked, of %d the ids (semask check reads all of a data set's file)",
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
            "%d image(s) are in a training set and in a test set, whose figures they flatter: %s",
            len(shared),
            ", ".join(shared[:SHOWN]),
        )


def warn_of_one_class(name: str, pixels: np.ndarray, what: str) -> None:
    """Warn where one class has all of the pixels (K,) by class that were counted in `what` of the data set `name`."""
    everywhere = only_class(pixels)
    if everywhere is not None:
        classes = dataset_classes(name)
        called = f' "{classes.names[everywhere]}"' if classes and everywhere < len(classes) else ""
        logger.warning(
            "%s: ONE CLASS IS EVERYWHERE: each labeled pixel of %s is of class %d%s, so that the loss teaches nothing "
            "and figures mean nothing; are the ids of the others ignored? semask check says more",
            name,
            what,
            everywhere,
            called,
        )


def size_fault(sample: dict[str, Any]) -> str | None:
    """Return what is wrong with the sizes of a pair, by their files' headers."""
    try:
        size = picture_size(sample["file_name"])
        if (labels := sample.get("coco_labels")) is not None:
            label_size = labels.stated_size(size)
        else:
            label_size = picture_size(sample["sem_seg_file_name"], upright=False)
    except UnreadableFile:
        return None
    if size == label_size:
        return None
    return size_mismatch(sample["file_name"], size, "label file", sample["sem_seg_file_name"], label_size)
