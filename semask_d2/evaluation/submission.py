"""Predictions as PNG files in the format of a dataset's benchmark."""

from __future__ import annotations

import os
from collections import Counter
from functools import cached_property
from pathlib import Path

import numpy as np

from semask_d2.data.datasets import builtin_dataset, get_dataset_dicts
from semask_d2.data.image_io import save_picture


class SubmissionWriter:
    """Writes the class ids of each image to `folder`, with the ids and file names of the dataset's release.

    ADE20K counts classes from 1, Cityscapes has label ids in `..._gtFine_labelIds.png`, COCO-Stuff its released ids;
    other datasets get the class ids. Subfolders of images are kept, unless the benchmark expects none.
    """

    def __init__(self, folder: Path, dataset_name: str):
        self.folder = folder
        self.dataset_name = dataset_name
        self.dataset = builtin_dataset(dataset_name)
        ids = self.dataset.submission_ids if self.dataset else ()
        self.ids = np.array(ids, np.int64) if ids else None

    @cached_property
    def names(self) -> dict[str, str]:
        """The PNG name of each image; it includes the image's suffix if names would collide without it."""
        files = [x["file_name"] for x in get_dataset_dicts(self.dataset_name)]
        if self.dataset and self.dataset.submission_ending:
            image, png = self.dataset.image_ending, self.dataset.submission_ending
            return {file: f"{Path(file).stem.removesuffix(image)}{png}.png" for file in files}
        home = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
        relative = [Path(os.path.relpath(file, home)) for file in files]
        stems = Counter(path.with_suffix("") for path in relative)
        return {
            file: f"{path.with_suffix('') if stems[path.with_suffix('')] == 1 else path}.png"
            for file, path in zip(files, relative, strict=True)
        }

    def write(self, image: str, prediction: np.ndarray) -> None:
        """Write one prediction, class ids (H, W)."""
        save_picture(self.folder / self.names[image], prediction if self.ids is None else self.ids[prediction])
