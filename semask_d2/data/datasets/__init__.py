"""The datasets: their registration, and the function through which the project lists their images."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence

from semask_d2.d2 import CfgNode, DatasetCatalog, MetadataCatalog
from semask_d2.data.datasets.ade20k import ADE20K
from semask_d2.data.datasets.camvid import CAMVID
from semask_d2.data.datasets.cityscapes import CITYSCAPES
from semask_d2.data.datasets.coco import COCO_INSTANCE, COCO_PANOPTIC
from semask_d2.data.datasets.coco_segments import SegmentDataset
from semask_d2.data.datasets.coco_stuff10k import COCO_STUFF_10K
from semask_d2.data.datasets.folder import FolderDataset, require_folder
from semask_d2.data.datasets.toy_scenes import TOY_SCENES
from semask_d2.data.datasets.toy_segments import TOY_SCENES_INSTANCE, TOY_SCENES_PANOPTIC
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import shown

DATASETS = (
    *(TOY_SCENES, CAMVID, ADE20K, CITYSCAPES, COCO_STUFF_10K),
    *(TOY_SCENES_PANOPTIC, TOY_SCENES_INSTANCE, COCO_PANOPTIC, COCO_INSTANCE),
)


def register_all() -> None:
    """Register the datasets in the catalogs, without touching a file; safe to repeat.

    A name that is already registered (Detectron2 registers ADE20K and Cityscapes) keeps its function and its metadata;
    only missing metadata is added.
    """
    for dataset in DATASETS:
        for name, split in dataset.names().items():
            if name not in DatasetCatalog.list():
                DatasetCatalog.register(name, lambda dataset=dataset, split=split: dataset.load(split))
            metadata = MetadataCatalog.get(name)
            for key, value in dataset.metadata(split).items():
                if metadata.get(key) is None:
                    metadata.set(**{key: value})


def get_dataset_dicts(name: str) -> list[dict]:
    """List the images of a registered dataset as dicts of `file_name` and `sem_seg_file_name`.

    Raises `UserError` if the dataset is not registered (the closest name is suggested), if its folder is missing or
    empty, or if an image has no label file or a label file no image.
    """
    known = list(DatasetCatalog.list())
    if name not in known:
        if os.path.isdir(name):
            raise UserError(
                f'dataset "{name}" (DATASETS.TRAIN or DATASETS.TEST) is a folder: these keys take the names of '
                f"registered datasets; semask init-data {name} drafts a file for --data (README, Data)"
            )
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        hint = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(_ours())}."
        raise UserError(
            f'dataset "{name}" (DATASETS.TRAIN or DATASETS.TEST) is not registered: {hint} One of your own is '
            "described in a file for --data (semask init-data), or registered by your program in every process"
        )
    dataset = _ours().get(name)
    how = dataset.how_to_get if dataset else "put it there, or look at the function it is registered with"
    if dataset and _registered_by(name) in ("semask_d2", "detectron2"):
        # Detectron2's functions list files in disk order, which differs between machines, and drop files silently
        dicts = dataset.load(dataset.names()[name])
    else:
        metadata = MetadataCatalog.get(name)  # in most projects it names the folders of the files
        for key in ("image_root", "sem_seg_root", "image_dir", "gt_dir"):
            if folder := metadata.get(key):
                require_folder(name, folder, how)
        try:
            dicts = DatasetCatalog.get(name)
        except (OSError, AssertionError) as error:  # raised by the dataset's function
            raise UserError(f'dataset "{name}" cannot be listed: {type(error).__name__}: {error}; {how}') from error
    if not dicts:
        raise UserError(f'dataset "{name}" is empty: {how}')
    for number, sample in enumerate(dicts):
        if not isinstance(sample, Mapping) or not isinstance(sample.get("file_name"), str | os.PathLike):
            raise UserError(
                f"dataset {name}: entry {number} is {shown(sample)}; expected a dict with an image's `file_name`"
            )
    return dicts


def builtin_dataset(name: str) -> FolderDataset | None:
    """Return the project's label-map dataset that has a split with this registered name; None for other datasets."""
    dataset = _ours().get(name)
    return dataset if isinstance(dataset, FolderDataset) else None


def dataset_classes(name: str) -> Classes | None:
    """Return the classes in a registered dataset's metadata, stuff first, else things; None if unknown."""
    return Classes.from_metadata(MetadataCatalog.get(name))


def with_classes(names: Sequence[str]) -> str | None:
    """Return the validation split of the project's dataset with exactly these class names; None if there is none.

    Datasets that distinguish things from stuff come first.
    """
    for dataset in sorted(DATASETS, key=lambda x: not isinstance(x, SegmentDataset)):
        (*_, name) = dataset.names()
        classes = dataset_classes(name)
        if classes is not None and classes.names == tuple(names):
            return name
    return None


def config_classes(cfg: CfgNode) -> Classes | None:
    """Return the classes of a config's first test set, or training set.

    Returns None if it is not registered, or if its number of classes differs from the config's.
    """
    names = cfg.DATASETS.TEST or cfg.DATASETS.TRAIN
    classes = dataset_classes(names[0]) if names else None
    return classes if classes is not None and len(classes) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES else None


def _registered_by(name: str) -> str:
    """Return the package of the function with which a dataset is registered."""
    return getattr(DatasetCatalog[name], "__module__", "").partition(".")[0]


def _ours() -> dict[str, FolderDataset | SegmentDataset]:
    return {name: dataset for dataset in DATASETS for name in dataset.names()}
