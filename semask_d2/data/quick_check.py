"""The quick part of a data check, which a training does by itself: sizes by headers, ids of some label files."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from semask_d2.d2 import CfgNode
from semask_d2.data.datasets import get_dataset_dicts
from semask_d2.data.image_io import check_labels, picture_size
from semask_d2.data.labels import read_sample_labels, size_mismatch
from semask_d2.data.parallel import on_main_process
from semask_d2.utils.errors import UnreadableFile, UserError

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
    """What `quick_check` does, in this process."""
    head = cfg.MODEL.SEM_SEG_HEAD
    faults, files = [], {}
    for name in dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        dicts = get_dataset_dicts(name)
        files[name] = {os.path.realpath(x["file_name"]) for x in dicts if "file_name" in x}
        labeled = [x for x in dicts if "file_name" in x and "sem_seg_file_name" in x]
        sized, read = evenly(labeled, SIZES), evenly(labeled, LABELS)
        found = [size_fault(x) for x in sized]
        found += [id_fault(x, head.NUM_CLASSES, head.IGNORE_VALUE) for x in read]
        faults += filter(None, found)
        logger.info(
            "%s: %d pairs; of %d the sizes were checked, of %d the ids (semask check reads all of a data set's file)",
            name,
            len(labeled),
            len(sized),
            len(read),
        )
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


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of `items`, evenly spread."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)]


def size_fault(sample: dict[str, Any]) -> str | None:
    """What is wrong with the sizes of a pair, by their files' headers."""
    try:
        size = picture_size(sample["file_name"])
        if (labels := sample.get("coco_labels")) is not None:
            label_size = (labels.width, labels.height)
        else:
            label_size = picture_size(sample["sem_seg_file_name"], upright=False)
    except UnreadableFile:
        return None
    if size == label_size:
        return None
    return size_mismatch(sample["file_name"], size, "label file", sample["sem_seg_file_name"], label_size)


def id_fault(sample: dict[str, Any], num_classes: int, ignore_label: int) -> str | None:
    """What is wrong with the ids of a label file."""
    try:
        path = sample["sem_seg_file_name"]
        check_labels(read_sample_labels(sample), num_classes=num_classes, ignore_label=ignore_label, path=path)
    except UnreadableFile:
        return None
    except UserError as error:
        return str(error)
    return None
