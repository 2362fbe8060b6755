"""Data loaders for training and evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import DataLoader
from tqdm import tqdm

from semask_d2.d2 import CfgNode, MetadataCatalog, comm
from semask_d2.data.class_balance import RareClasses
from semask_d2.data.class_counts import class_pixels_of_run
from semask_d2.data.datasets import dataset_classes, get_dataset_dicts
from semask_d2.data.mappers import build_mapper
from semask_d2.data.sampler import PositionedDataset, PositionSampler, ShardedDataset
from semask_d2.data.serialized import SerializedDicts
from semask_d2.data.workers import worker_settings
from semask_d2.utils.errors import UnreadableFile, UserError

logger = logging.getLogger(__name__)

Mapper = Callable[..., dict[str, Any]]
Batch = list[dict[str, Any]]


class Batches:
    """Iterates a DataLoader, and raises a UserError of a worker unchanged, so that it stays one line.

    With `skip_unreadable`, samples whose files cannot be read are skipped, and counted and named at the end. With
    `progress`, the main process shows a progress bar of that name on a terminal.
    """

    def __init__(self, loader: DataLoader, *, skip_unreadable: bool = False, progress: str = "") -> None:
        self.loader = loader
        self.skip_unreadable = skip_unreadable
        self.progress = progress

    def __iter__(self) -> Iterator[Batch]:
        skipped: list[str] = []
        hidden = None if self.progress and comm.is_main_process() else True  # None hides the bar without a terminal
        for batch in tqdm(self.loader, desc=self.progress, unit="image", leave=False, disable=hidden):
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
            logger.warning("%d unreadable image(s) skipped:\n%s", len(skipped), "\n".join(skipped))

    def __len__(self) -> int:
        return len(self.loader)

    def of(self, loader: DataLoader) -> Batches:
        """Return the batches of another loader, with these settings."""
        return Batches(loader, skip_unreadable=self.skip_unreadable, progress=self.progress)


@dataclass(frozen=True)
class TrainBatches:
    """The endless batches of this rank, of `images` images each; `parts` of them make one optimizer step.

    The order of images and their augmentation depend on (`seed`, position) alone. A trainer that accumulates
    gradients or resumes states its position with `starting_at`; any other may simply iterate.
    """

    dicts: Sequence[dict[str, Any]]
    mapper: Mapper
    images: int
    parts: int
    workers: int
    skip_unreadable: bool
    seed: int
    rare_classes: RareClasses | None = None
    device: str = "cpu"  # to which the batches go
    start_iter: int | None = None

    def starting_at(self, start_iter: int, *, seed: int) -> TrainBatches:
        """Return the batches from optimizer step `start_iter` on, in the order of `seed`."""
        return replace(self, start_iter=start_iter, seed=seed)

    def __iter__(self) -> Iterator[Batch]:
        if self.start_iter is None and self.parts != 1:
            raise UserError(
                f"SOLVER.GRADIENT_ACCUMULATION_STEPS is {self.parts}: only semask_d2.engine.Trainer accumulates "
                "gradients; set it to 1 for another trainer"
            )
        sampler = PositionSampler(
            start=(self.start_iter or 0) * self.parts,
            rank=comm.get_rank(),
            world_size=comm.get_world_size(),
            per_rank_batch=self.images,
        )
        dataset = PositionedDataset(
            self.dicts,
            self.mapper,
            self.seed,
            skip_unreadable=self.skip_unreadable,
            rare_classes=self.rare_classes,
        )
        loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            persistent_workers=self.workers > 0,
            **worker_settings(self.workers, self.device),
        )
        return iter(Batches(loader))


def build_train_loader(
    cfg: CfgNode, *, mapper: Mapper | None = None, dicts: Sequence[dict[str, Any]] | None = None
) -> TrainBatches:
    """Build the batches of DATASETS.TRAIN, or of `dicts`, with `mapper` (default: the config's).

    SOLVER.IMS_PER_BATCH is the batch size of one optimizer step over all ranks, split into
    SOLVER.GRADIENT_ACCUMULATION_STEPS parts. If DATALOADER.RARE_CLASS_TEMPERATURE is above 0, `RareClasses` draws the
    images. Raises UserError if the batch is not divisible or the config does not match a dataset.
    """
    steps = cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS
    images = per_rank_batch(cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size(), steps)
    if dicts is None:
        if not cfg.DATASETS.TRAIN:
            raise UserError(
                "no dataset to train on: add --data my.yaml, the file that describes your images and labels (semask "
                "init-data drafts it), or name a registered one with DATASETS.TRAIN"
            )
        dicts = []
        for name in cfg.DATASETS.TRAIN:
            dicts += get_dataset_dicts(name)
            check_classes(cfg, name)
        if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
            listed = len(dicts)
            dicts = [sample for sample in dicts if has_instances(sample)]
            if listed and not dicts:
                raise UserError(
                    f"DATASETS.TRAIN {', '.join(cfg.DATASETS.TRAIN)}: none of {listed} image(s) has a usable instance "
                    "(crowds and annotations without a valid shape do not count); correct the annotations, "
                    "or set DATALOADER.FILTER_EMPTY_ANNOTATIONS False to train on images without instances"
                )
    dicts = SerializedDicts(dicts)
    temperature = cfg.DATALOADER.RARE_CLASS_TEMPERATURE
    return TrainBatches(
        dicts,
        mapper or build_mapper(cfg, is_train=True),
        images=images,
        parts=steps,
        workers=cfg.DATALOADER.NUM_WORKERS,
        skip_unreadable=cfg.INPUT.SKIP_UNREADABLE,
        seed=run_seed(cfg),
        rare_classes=RareClasses(class_pixels_of_run(cfg, dicts), temperature) if temperature else None,
        device=cfg.MODEL.DEVICE,
    )


def has_instances(sample: dict[str, Any]) -> bool:
    """Return whether a dict has an instance that is not a crowd; True for a dict without the key `annotations`."""
    return "annotations" not in sample or any(not x.get("iscrowd") for x in sample["annotations"])


def run_seed(cfg: CfgNode) -> int:
    """Return the seed of a run, the same on every process: the config's, or a random one if that is negative."""
    return cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()


def build_test_loader(cfg: CfgNode, dataset_name: str, mapper: Mapper | None = None) -> Batches:
    """Build the loader of this rank's share of a dataset, one image at a time, in order and without repeats.

    Unreadable images are skipped with a warning. Raises UserError if the dataset is missing or the config does not
    match it.
    """
    dicts = get_dataset_dicts(dataset_name)
    check_classes(cfg, dataset_name)
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
            **worker_settings(cfg.DATALOADER.NUM_WORKERS, cfg.MODEL.DEVICE),
        ),
        skip_unreadable=True,
        progress=dataset_name,
    )


def per_rank_batch(batch: int, world_size: int, accumulation_steps: int) -> int:
    """Return the images per rank and accumulation part of a step of `batch` images; UserError if not divisible."""
    if accumulation_steps < 1:
        raise UserError(f"SOLVER.GRADIENT_ACCUMULATION_STEPS is {accumulation_steps}; expected 1 or more")
    parts = world_size * accumulation_steps
    if batch < 1:
        raise UserError(f"SOLVER.IMS_PER_BATCH: expected at least 1, got {batch}")
    if batch % parts:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {batch}, which does not divide into {world_size} process(es) x "
            f"SOLVER.GRADIENT_ACCUMULATION_STEPS {accumulation_steps}: set it to a multiple of {parts}"
        )
    return batch // parts


def require_data(cfg: CfgNode, names: Sequence[str]) -> dict[str, int]:
    """Return the number of images of each dataset; UserError if one is missing or the config does not match it."""
    counts = {}
    for name in names:
        counts[name] = len(get_dataset_dicts(name))
        check_classes(cfg, name)
    return counts


def check_classes(cfg: CfgNode, dataset_name: str) -> None:
    """Raise UserError if MODEL.SEM_SEG_HEAD's NUM_CLASSES, or in training IGNORE_VALUE, differs from the dataset's."""
    head, metadata = cfg.MODEL.SEM_SEG_HEAD, MetadataCatalog.get(dataset_name)
    classes = dataset_classes(dataset_name)
    if classes is not None and len(classes) != head.NUM_CLASSES:
        raise UserError(
            f'MODEL.SEM_SEG_HEAD.NUM_CLASSES is {head.NUM_CLASSES}, but dataset "{dataset_name}" has '
            f"{len(classes)} classes: set it to {len(classes)}"
        )
    ignored = metadata.get("ignore_label", head.IGNORE_VALUE)
    if dataset_name in cfg.DATASETS.TRAIN and ignored != head.IGNORE_VALUE:
        raise UserError(
            f'MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {head.IGNORE_VALUE}, but dataset "{dataset_name}" has the '
            f"ignore_label {ignored}: set it to {ignored}"
        )
