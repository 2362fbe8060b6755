"""Datasets in two folders: images, and label maps with the same names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semask_d2.data.datasets.pairing import by_name, paired
from semask_d2.data.datasets.walking import composed, files_below
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.excerpts import few

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LABEL_SUFFIXES = (".png",)


def datasets_root() -> Path:
    """Return the folder that holds all datasets: DETECTRON2_DATASETS, or ./datasets if that is unset or empty."""
    return Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS") or "datasets"))


@dataclass(frozen=True)
class FolderDataset:
    """A dataset in the folders <root>/`folder`/{`images`,`labels`}/<split folder>, named `prefix`_<split>.

    `splits` maps a split's name to its folder, and `how_to_get` is the advice for the user if a folder is missing.
    `prepare` may create the dataset's folder on first use.
    """

    prefix: str
    folder: str
    labels: str
    splits: Mapping[str, str]
    classes: Classes
    how_to_get: str
    images: str = "images"
    image_ending: str = ""
    label_ending: str = ""
    submission_ids: tuple[int, ...] = ()
    submission_ending: str = ""
    prepare: Callable[[Path], None] | None = None

    def names(self) -> dict[str, str]:
        """Return the registered names of the splits, each mapped to its split."""
        return {f"{self.prefix}_{split}": split for split in self.splits}

    def metadata(self, split: str) -> dict[str, Any]:
        """Return a split's metadata for Detectron2's catalog."""
        return self.classes.as_metadata("stuff") | {"evaluator_type": "sem_seg"}

    def load(self, split: str) -> list[dict[str, str]]:
        """List the split's image and label files; raises the errors of `load_folder_pairs`."""
        home = datasets_root() / self.folder
        if self.prepare:
            self.prepare(home)
        roots = [home / kind / self.splits[split] for kind in (self.images, self.labels)]
        for root in roots:
            require_folder(f"{self.prefix}_{split}", root, self.how_to_get)
        return self.pairs(*roots)

    def pairs(self, image_root: str | os.PathLike, label_root: str | os.PathLike) -> list[dict[str, str]]:
        """Return the pairs of `load_folder_pairs` with this dataset's file name endings."""
        return load_folder_pairs(image_root, label_root, self.image_ending, self.label_ending)


def require_folder(name: str, folder: str | os.PathLike, how_to_get: str) -> None:
    """Raise `UserError` if the folder of the dataset `name` is missing."""
    if not os.path.isdir(folder):
        root = os.getenv("DETECTRON2_DATASETS")
        setting = f"DETECTRON2_DATASETS is {root}" if root else "DETECTRON2_DATASETS, unset, means ./datasets"
        raise UserError(
            f'dataset "{name}" is not there: no folder {os.path.abspath(folder)} ({setting}); {how_to_get}, or name a '
            "dataset of your own with --data FILE"
        )


def load_folder_pairs(
    image_root: str | os.PathLike, label_root: str | os.PathLike, image_ending: str = "", label_ending: str = ""
) -> list[dict[str, str]]:
    """Pair every image with the label map of the same stem, ordered by name.

    If endings are given, stems are compared without them, files with other endings are skipped, and subfolders are
    searched too.

    Returns dicts of `file_name` and `sem_seg_file_name`. Raises `UserError`, naming the first few files, if a folder is
    missing or holds no images, if two images share a stem, or if an image has no label map or a label map no image.
    """
    images = _by_stem(image_root, IMAGE_SUFFIXES, image_ending)
    labels = _by_stem(label_root, LABEL_SUFFIXES, label_ending)
    if not images:
        kinds = ", ".join(f"*{image_ending}{suffix}" for suffix in IMAGE_SUFFIXES)
        raise UserError(f"{image_root} holds no images ({kinds}): is this the right folder?")
    if not labels:
        raise UserError(f"{label_root} holds no label files (*{label_ending}.png): is this the right folder?")
    pairing = paired(images, labels)
    if pairing.unlabeled:
        names = few(path.name for path in pairing.unlabeled)
        raise UserError(f"no label file in {label_root} for image {names}: every image needs one of the same name")
    if pairing.imageless:
        names = few(path.name for path in pairing.imageless)
        raise UserError(f"no image in {image_root} for label file {names}: every label file needs its image")
    return [{"file_name": str(image), "sem_seg_file_name": str(label)} for image, label in pairing.pairs]


def _by_stem(folder: str | os.PathLike, suffixes: tuple[str, ...], ending: str) -> dict[str, Path]:
    files = [path for path in files_below(folder, None if ending else 1) if path.suffix.lower() in suffixes]
    stems = [(composed(path.stem), path) for path in files]
    named = [(stem.removesuffix(ending), path) for stem, path in stems if stem.endswith(ending)]
    return by_name(named, str(folder), "names must differ in their stems")
