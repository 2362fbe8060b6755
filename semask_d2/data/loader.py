"""The loaders of training and evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
from torch.utils.data import DataLoader

from semask_d2.d2 import CfgNode, MetadataCatalog, comm
from semask_d2.data.datasets import get_dataset_dicts
from semask_d2.data.mapper import build_mapper
from semask_d2.data.sampler import PositionedDataset, PositionSampler, ShardedDataset
from semask_d2.errors import UnreadableFile, UserError

logger = logging.getLogger(__name__)

Mapper = Callable[..., dict[str, Any]]
Batch = list[dict[str, Any]]


class Batches:
    """Iterates a DataLoader, and raises the UserError that a worker met as the same one-line UserError.

    With `skip_unreadable`, samples whose files cannot be read are left out, and named with their count at the end.
    """

    def __init__(self, loader: DataLoader, *, skip_unreadable: bool = False) -> None:
        self.loader = loader
        self.skip_unreadable = skip_unreadable

    def __iter__(self) -> Iterator[Batch]:
        skipped: list[str] = []
        for batch in self.loader:
            kept = []
            for sample in batch:
                if self.skip_unreadable and isinstance(sample, UnreadableFile):
                    skipped.append(str(sample))
                elif isinstance(sample, UserError):
                    raise sample
                else:
                    kept.append(sample)
            if kept:
                yield kept
        if skipped:
            logger.warning("%d image(s) skipped, unreadable:\n%s", len(skipped), "\n".join(skipped))

    def __len__(self) -> int:
        return len(self.loader)


def build_train_loader(
    cfg: CfgNode,
    *,
    seed: int,
    start_iter: int,
    mapper: Mapper | None = None,
    dicts: Sequence[dict[str, Any]] | None = None,
) -> Batches:
    """Build the endless loader of this rank's batches, from optimizer step `start_iter` on.

    SOLVER.IMS_PER_BATCH is the batch of one optimizer step over all ranks; each item holds this rank's images
    of one of its SOLVER.GRADIENT_ACCUMULATION_STEPS parts. The order and the augmentation depend on (`seed`,
    position) alone. Raises UserError if the batch does not divide, or NUM_CLASSES is not the data set's.
    """
    world_size, steps = comm.get_world_size(), cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS
    per_rank = per_rank_batch(cfg.SOLVER.IMS_PER_BATCH, world_size, steps)
    if dicts is None:
        if not cfg.DATASETS.TRAIN:
            raise UserError("DATASETS.TRAIN is empty: name at least one data set to train on")
        dicts = []
        for name in cfg.DATASETS.TRAIN:
            dicts += get_dataset_dicts(name)
            check_num_classes(cfg, name)
    sampler = PositionSampler(
        start=start_iter * steps, rank=comm.get_rank(), world_size=world_size, per_rank_batch=per_rank
    )
    dataset = PositionedDataset(
        dicts, mapper or build_mapper(cfg, is_train=True), seed, skip_unreadable=cfg.INPUT.SKIP_UNREADABLE
    )
    workers = cfg.DATALOADER.NUM_WORKERS
    return Batches(
        DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=_as_list,
            worker_init_fn=_quiet_worker,
            persistent_workers=workers > 0,
        )
    )


def build_test_loader(cfg: CfgNode, dataset_name: str, mapper: Mapper | None = None) -> Batches:
    """Build the loader of this rank's share of a data set, one image at a time, in order and without repeats.

    Images that cannot be read are skipped with a warning.

    Raises UserError if the data set is not there or NUM_CLASSES is not its own.
    """
    dicts = get_dataset_dicts(dataset_name)
    check_num_classes(cfg, dataset_name)
    dataset = ShardedDataset(
        dicts,
        mapper or build_mapper(cfg, is_train=False),
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )
    return Batches(
        DataLoader(
            dataset,
            batch_size=1,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            collate_fn=_as_list,
            worker_init_fn=_quiet_worker,
        ),
        skip_unreadable=True,
    )


def per_rank_batch(batch: int, world_size: int, accumulation_steps: int) -> int:
    """Images per rank and accumulation part of a step of `batch` images; UserError if it does not divide."""
    if accumulation_steps < 1:
        raise UserError(f"SOLVER.GRADIENT_ACCUMULATION_STEPS is {accumulation_steps}; expected 1 or more")
    parts = world_size * accumulation_steps
    if batch < 1 or batch % parts:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {batch}, which does not divide into {world_size} process(es) x "
            f"SOLVER.GRADIENT_ACCUMULATION_STEPS {accumulation_steps}: set it to a multiple of {parts}"
        )
    return batch // parts


def require_data(cfg: CfgNode, names: Sequence[str]) -> None:
    """Raise UserError, before anything costly is built, if a data set is not there or NUM_CLASSES is not its own."""
    for name in names:
        get_dataset_dicts(name)
        check_num_classes(cfg, name)


def check_num_classes(cfg: CfgNode, dataset_name: str) -> None:
    """Raise UserError if MODEL.SEM_SEG_HEAD.NUM_CLASSES is not the number of the data set's classes."""
    classes = MetadataCatalog.get(dataset_name).get("stuff_classes")
    expected = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if classes is not None and len(classes) != expected:
        raise UserError(
            f'MODEL.SEM_SEG_HEAD.NUM_CLASSES is {expected}, but data set "{dataset_name}" has '
            f"{len(classes)} classes: set it to {len(classes)}"
        )


def _as_list(samples: Batch) -> Batch:
    return samples


def _quiet_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism; OpenCV's threads on top of them would fight for the cores
