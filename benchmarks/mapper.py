#!/usr/bin/env python3
"""Benchmark of the data path from files to a training sample: this project's mapper against whole-image transforms.

    python benchmarks/mapper.py [--size 1024 2048] [--crop 512] [--images 8] [--repeats N] [--json FILE]

The script creates photographs (JPEG, quality 90) and label maps (PNG) in a temporary folder. "Whole image" resizes the
full image and labels, crops them, and returns int64 labels and a binary mask for each class. Each variant maps every
image four times; the loader variants start their processes before timing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from timing import parser, report

from semask_d2.data.augmentation import CROP_TRIES, resized_shape
from semask_d2.data.loader import TrainBatches
from semask_d2.data.mapper import SemanticMapper

Mapper = Callable[..., dict[str, Any]]

CLASSES, IGNORED = 19, 255
MAX_AREA = 0.75
BATCH = 2
EPOCHS = 4  # averages over crops, and over the start of processes


def photograph(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (H, W, 3) and its label map (H, W), both uint8: smooth gradients, objects with edges, noise."""
    colors = rng.uniform(0, 255, (9, 17, 3)).astype(np.float32)
    image = cv2.resize(colors, (width, height), interpolation=cv2.INTER_CUBIC)
    labels = np.zeros((height, width), np.uint8)
    for _ in range(60):
        inside = np.zeros((height, width), np.uint8)
        center = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(1, 2 + width // 8)), int(rng.integers(1, 2 + height // 6)))
        cv2.ellipse(inside, center, axes, float(rng.uniform(0, 180)), 0, 360, 1, cv2.FILLED)
        where = inside.astype(bool)
        labels[where] = rng.integers(CLASSES)
        image[where] = 0.6 * image[where] + 0.4 * rng.uniform(0, 255, 3).astype(np.float32)
    labels[-height // 16 :] = IGNORED
    image += rng.normal(0, 6, image.shape).astype(np.float32)
    return image.clip(0, 255).astype(np.uint8), labels


def make_files(folder: Path, count: int, size: tuple[int, int]) -> list[dict[str, str]]:
    """Write `count` photographs and their labels; return the dataset's dicts."""
    dicts = []
    for number in range(count):
        image, labels = photograph(np.random.default_rng(number), *size)
        files = {"file_name": f"{folder}/{number}.jpg", "sem_seg_file_name": f"{folder}/{number}.png"}
        Image.fromarray(image).save(files["file_name"], quality=90)
        Image.fromarray(labels).save(files["sem_seg_file_name"])
        dicts.append(files)
    return dicts


def distorted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an RGB image (H, W, 3) uint8 with SSD's color jitter; each change is computed in floats and clipped."""

    def changed(pixels: np.ndarray, factor: float = 1.0, offset: float = 0.0) -> np.ndarray:
        return np.clip(pixels.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)

    contrast_first = rng.random() < 0.5
    if rng.random() < 0.5:
        image = changed(image, offset=rng.uniform(-32, 32))
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    if contrast_first:
        image = changed(image, contrast)
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[:, :, 1] = changed(hsv[:, :, 1], rng.uniform(0.5, 1.5))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + rng.integers(-18, 19)) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image if contrast_first else changed(image, contrast)


class WholeImageMapper:
    """A mapper that decodes and resizes the whole image and its labels before cropping, one transform at a time."""

    def __init__(self, short_edge: int, crop: int):
        self.short_edge = short_edge
        self.crop = crop

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        image = np.asarray(ImageOps.exif_transpose(Image.open(sample["file_name"])).convert("RGB"))
        labels = np.asarray(Image.open(sample["sem_seg_file_name"]))
        height, width = resized_shape(*labels.shape, self.short_edge, 10**6)
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        labels = np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
        for _ in range(CROP_TRIES):
            top = int(rng.integers(max(height - self.crop, 0) + 1))
            left = int(rng.integers(max(width - self.crop, 0) + 1))
            part = np.s_[top : top + self.crop, left : left + self.crop]
            ids, counts = np.unique(labels[part], return_counts=True)
            counts = counts[ids != IGNORED]
            if len(counts) > 1 and counts.max() < MAX_AREA * counts.sum():
                break
        image, labels = distorted(image[part], rng), labels[part]
        if rng.random() < 0.5:
            image, labels = image[:, ::-1], labels[:, ::-1]
        classes = [i for i in np.unique(labels) if i != IGNORED]
        masks = [torch.from_numpy(np.ascontiguousarray(labels == i)) for i in classes]
        return {
            **sample,
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "sem_seg": torch.from_numpy(labels.astype(np.int64)),
            "classes": torch.tensor(classes),
            "masks": torch.stack(masks) if masks else torch.zeros(0, *labels.shape, dtype=torch.bool),
        }


def this_project(short_edge: int, crop: int) -> SemanticMapper:
    """Return this project's mapper with all augmentations of a recipe."""
    return SemanticMapper(
        True,
        image_format="RGB",
        num_classes=CLASSES,
        ignore_label=IGNORED,
        short_edges=(short_edge,),
        max_size=10**6,
        crop_size=(crop, crop),
        single_category_max_area=MAX_AREA,
        color_jitter=True,
        horizontal_flip=True,
    )


class InTurn:
    """Mappers used in turn, one for each scale, because a few random scales could favor one variant by chance."""

    def __init__(self, mappers: list[Mapper]):
        self.mappers = mappers
        self.calls = 0

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        self.calls += 1
        return self.mappers[self.calls % len(self.mappers)](sample, rng=rng)


def main() -> None:
    command_line = parser(__doc__)
    command_line.add_argument("--size", type=int, nargs=2, default=[1024, 2048], help="height and width of the files")
    command_line.add_argument("--crop", type=int, default=512, help="side of the crop")
    command_line.add_argument("--images", type=int, default=8, help="number of files")
    arguments = command_line.parse_args()
    edges = [arguments.size[0] * tenths // 10 for tenths in range(5, 21)]  # half to twice the size
    mappers = {
        "whole image": InTurn([WholeImageMapper(edge, arguments.crop) for edge in edges]),
        "this project": InTurn([this_project(edge, arguments.crop) for edge in edges]),
    }
    with tempfile.TemporaryDirectory() as folder:
        dicts = make_files(Path(folder), arguments.images, tuple(arguments.size))
        count = EPOCHS * len(dicts)

        def mapping(mapper: Mapper) -> Callable[[], None]:
            def run() -> None:
                for position in range(count):
                    mapper(dicts[position % len(dicts)], rng=np.random.default_rng(position))

            return run

        def loading(mapper: Mapper, workers: int) -> Callable[[], None]:
            batches = TrainBatches(dicts, mapper, images=BATCH, parts=1, workers=workers, skip_unreadable=False, seed=0)

            def run() -> None:
                for _ in islice(batches, count // BATCH):
                    pass

            return run

        what = f"{count} images of {arguments.size[0]} x {arguments.size[1]}, crop {arguments.crop}"
        ways = {name: mapping(mapper) for name, mapper in mappers.items()}
        report(f"mapper, {what}", ways, arguments)
        ways = {
            f"{name}, {workers} workers": loading(mapper, workers)
            for workers in (0, 1, 2)
            for name, mapper in mappers.items()
        }
        report(f"loader, {what}", ways, arguments)


if __name__ == "__main__":
    main()
