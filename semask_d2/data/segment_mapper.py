"""Mappers from a dataset's dict to an image and its ground-truth segments: COCO's panoptic maps or instances."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch

from semask_d2.d2 import CfgNode, configurable
from semask_d2.data.augmentation import View, image_tensor
from semask_d2.data.image_io import open_picture
from semask_d2.data.label_checks import check_labels, require_one_size
from semask_d2.data.mapper import SemanticMapper
from semask_d2.data.picture import Picture
from semask_d2.data.segments import check_image_size, panoptic_segments, true_instances
from semask_d2.data.segments import read_segment_ids as read_segment_ids  # re-exported for other programs
from semask_d2.modeling.losses.targets import Segments
from semask_d2.utils.arguments import require


class SegmentMapper(SemanticMapper):
    """Adds `segments` (`Segments`) to the output of `SemanticMapper` in training; `sem_seg` is derived from them.

    Crowds are in the label map, but not in the segments. Segments without a pixel in the crop are left out.
    """

    def __call__(self, dataset_dict: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Map one dict; raises UserError naming the file if it is unreadable or its annotations do not match it."""
        if not self.is_train:
            mapped = super().__call__(dataset_dict, rng)
            check_image_size(dataset_dict, (mapped["width"], mapped["height"]))
            return mapped
        sample = dict(dataset_dict)
        image = open_picture(sample["file_name"], self.value_range, self.channels)
        check_image_size(sample, image.size)
        sample["height"], sample["width"] = image.height, image.width
        rng = rng if rng is not None else np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002
        masks, classes, labels = self.read_segments(sample)
        for ids in (labels, np.array(classes, np.int64)):  # segments under others are in `classes` only
            check_labels(ids, num_classes=self.num_classes, ignore_label=self.ignore_label, path=sample["file_name"])
        maps = [masks] if masks.ndim == 2 else list(masks)
        pixels, labels, maps = self._augment(image, labels, rng, sample.pop("target_class", None), maps)
        sample["image"] = image_tensor(pixels, self.image_format)
        sample["sem_seg"] = torch.from_numpy(np.array(labels, dtype=self.label_dtype, order="C"))
        sample["segments"] = visible_segments(maps[0] if masks.ndim == 2 else np.stack(maps), classes)
        for key in ("annotations", "segments_info"):  # no model needs them, and they would travel between processes
            sample.pop(key, None)
        return sample

    @abstractmethod
    def read_segments(self, sample: dict[str, Any]) -> tuple[np.ndarray, list[int], np.ndarray]:
        """Return masks as in `Segments`, uint8 or int32, their classes, and the semantic labels (H, W) of a dict."""


def visible_segments(masks: np.ndarray, classes: list[int]) -> Segments:
    """Return the segments of masks (H, W) or (M, H, W) that have a pixel left."""
    if masks.ndim == 3:
        kept = np.asarray(masks.any((1, 2)))
        if kept.any():
            kept_classes = torch.tensor([x for x, keep in zip(classes, kept.tolist(), strict=True) if keep])
            return Segments(torch.from_numpy(masks[kept].astype(np.uint8)), kept_classes)
        masks = np.zeros(masks.shape[1:], np.uint8)
    present = np.flatnonzero(np.bincount(masks.ravel(), minlength=len(classes) + 1))
    present = present[present > 0]
    table = np.zeros(len(classes) + 1, np.uint8 if len(present) < 256 else np.int32)
    table[present] = np.arange(1, len(present) + 1)
    return Segments(torch.from_numpy(table[masks]), torch.tensor([classes[i - 1] for i in present], dtype=torch.int64))


class PanopticMapper(SegmentMapper):
    """COCO's panoptic PNGs (`pan_seg_file_name`) with their `segments_info`."""

    def read_segments(self, sample: dict[str, Any]) -> tuple[np.ndarray, list[int], np.ndarray]:
        """Return one map of segments, and labels that ignore pixels outside every segment."""
        ids, segments = panoptic_segments(sample)
        shape = sample["height"], sample["width"]
        require_one_size(sample["file_name"], shape, "panoptic file", sample["pan_seg_file_name"], ids.shape)
        values, places = np.unique(ids, return_inverse=True)
        numbers, value_classes = np.zeros(len(values), np.int32), np.full(len(values), self.ignore_label)
        place = {value: i for i, value in enumerate(values.tolist())}
        classes: list[int] = []
        for segment in segments:
            value_classes[place[segment["id"]]] = segment["category_id"]
            if not segment["iscrowd"]:
                classes.append(segment["category_id"])
                numbers[place[segment["id"]]] = len(classes)
        places = places.reshape(ids.shape)
        return numbers[places], classes, value_classes[places]


class InstanceMapper(SegmentMapper):
    """COCO's `annotations` of instances, which may overlap: polygons, or RLE."""

    def read_segments(self, sample: dict[str, Any]) -> tuple[np.ndarray, list[int], np.ndarray]:
        """Return one map if nothing overlaps, else a mask each; in the labels smaller objects lie on larger ones."""
        width, height = size = sample["width"], sample["height"]
        instances = true_instances(sample, size)
        labels = np.full((height, width), self.ignore_label)
        for x in sorted(instances, key=lambda x: -int(x.mask.sum())):
            labels[x.mask] = x.category_id
        kept = [x for x in instances if not x.is_crowd]
        masks, classes = [x.mask for x in kept], [x.category_id for x in kept]
        if sum(int(mask.sum()) for mask in masks) > np.any(masks, axis=0).sum():
            return np.stack(masks), classes, labels
        ids = np.zeros((height, width), np.int32)
        for number, mask in enumerate(masks, start=1):
            ids[mask] = number
        return ids, classes, labels


class LargeScaleJitter(SegmentMapper):
    """Large-scale jitter (arXiv 2012.07177): a random scale, then a crop or padding to a fixed square.

    The image is resized to fit `image_size` times a number drawn from `min_scale` to `max_scale`.
    """

    config_keys: ClassVar = {
        **SemanticMapper.config_keys,
        "image_size": "INPUT.IMAGE_SIZE",
        "min_scale": "INPUT.MIN_SCALE",
        "max_scale": "INPUT.MAX_SCALE",
    }

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        image_size: int = 0,
        min_scale: float = 1.0,
        max_scale: float = 1.0,
        **others: Any,
    ) -> None:
        """Set up the jitter; `image_size` 0 turns it off, and `others` are arguments of `SemanticMapper`."""
        require(image_size >= 0, self, "image_size", "at least 1", image_size)
        require(0 < min_scale <= max_scale, self, "min_scale", "above 0 and at most INPUT.MAX_SCALE", min_scale)
        super().__init__(is_train, **others)
        self.image_size, self.min_scale, self.max_scale = image_size, min_scale, max_scale

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Return the arguments of `__init__`; evaluation has no jitter."""
        arguments = super().from_config(cfg, is_train)
        if not is_train:
            return arguments
        settings = cfg.INPUT
        return arguments | {
            "image_size": settings.IMAGE_SIZE,
            "min_scale": settings.MIN_SCALE,
            "max_scale": settings.MAX_SCALE,
            "crop_size": None,
            "pad_to": settings.IMAGE_SIZE,
        }

    def _sample_view(
        self, rng: np.random.Generator, image: Picture, labels: np.ndarray, target_class: int | None
    ) -> View:
        if not self.image_size:
            return super()._sample_view(rng, image, labels, target_class)
        side = self.image_size * rng.uniform(self.min_scale, self.max_scale)
        scale = min(side / image.height, side / image.width)
        full = max(1, round(image.height * scale)), max(1, round(image.width * scale))
        height, width = (min(length, self.image_size) for length in full)
        top, left = int(rng.integers(full[0] - height + 1)), int(rng.integers(full[1] - width + 1))
        return View(*full, top, left, height, width)
