"""The mapper from a dataset's dict to the input of a semantic segmentation model: a uint8 image and a label map."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from semask_d2.d2 import META_ARCH_REGISTRY, CfgNode, MetadataCatalog, configurable
from semask_d2.data import augmentation
from semask_d2.data.augmentation import image_tensor, resized_tensor
from semask_d2.data.image_io import open_picture
from semask_d2.data.label_checks import check_labels, require_one_size
from semask_d2.data.labels import read_sample_labels
from semask_d2.data.picture import RGB, Picture
from semask_d2.utils.arguments import require
from semask_d2.utils.errors import UserError

logger = logging.getLogger(__name__)


class SemanticMapper:
    """Reads one image and its label map; augments both in training.

    Training: shortest-edge resize, category-constrained crop, SSD color jitter, horizontal flip, padding.
    Test: only shortest-edge resize, and no label map (the evaluator reads it at its original size).
    """

    config_keys: ClassVar = {
        "crop_size": "INPUT.CROP.SIZE",
        "short_edges": "INPUT.MIN_SIZE_TRAIN",
        "max_size": "INPUT.MAX_SIZE_TRAIN",
        "value_range": "INPUT.VALUE_RANGE",
        "channels": "INPUT.CHANNELS",
    }

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        image_format: str,
        num_classes: int,
        ignore_label: int,
        short_edges: Sequence[int],
        max_size: int,
        sampling: str = "choice",
        crop_size: tuple[int, int] | None = None,
        single_category_max_area: float = 1.0,
        color_jitter: bool = False,
        horizontal_flip: bool = False,
        pad_to: int = 0,
        compact_labels: bool = True,
        value_range: Sequence[float] = (),
        channels: int = RGB,
    ) -> None:
        """Set up the mapper.

        `short_edges` and `max_size` are those of Detectron2's ResizeShortestEdge (a short edge of 0 keeps the size);
        `crop_size` is (height, width), None for no crop; `pad_to` is the side of the padded square, 0 or less for no
        padding; `compact_labels` returns label maps as uint8 if all ids fit, an eighth of the bytes; `value_range` and
        `channels` are those of `read_image`.
        """
        if crop_size is not None:
            require(
                len(crop_size) == 2 and min(crop_size) >= 1, self, "crop_size", "two sides of at least 1", crop_size
            )
        require(
            min(short_edges) >= 0, self, "short_edges", "sides of at least 1, or 0 for images as they are", short_edges
        )
        ordered = sampling != "range" or short_edges[0] <= short_edges[-1]
        require(ordered, self, "short_edges", "the smaller end of the range first", short_edges)
        require(max_size >= 1, self, "max_size", "at least 1", max_size)
        require(channels == RGB or not color_jitter, self, "channels", "3 for a color jitter", channels)
        self.value_range = tuple(value_range)
        self.channels = channels
        self.is_train = is_train
        self.image_format = image_format
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.short_edges = tuple(short_edges)
        self.max_size = max_size
        self.sampling = sampling
        self.crop_size = crop_size
        self.single_category_max_area = single_category_max_area
        self.color_jitter = color_jitter
        self.horizontal_flip = horizontal_flip
        self.pad_to = pad_to
        fits_bytes = num_classes <= 256 and 0 <= ignore_label <= 255
        self.label_dtype = np.uint8 if fits_bytes and compact_labels else np.int64

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Return the arguments of `__init__` from cfg.INPUT; UserError for unsupported values."""
        settings = cfg.INPUT
        if settings.FORMAT not in ("RGB", "BGR"):
            raise UserError(f'INPUT.FORMAT is "{settings.FORMAT}"; expected "RGB" or "BGR"')
        names = cfg.DATASETS.TRAIN if is_train else cfg.DATASETS.TEST
        ignored = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        arguments = {
            "is_train": is_train,
            "image_format": settings.FORMAT,
            "value_range": settings.VALUE_RANGE,
            "channels": settings.CHANNELS,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "compact_labels": model_flag(cfg, "takes_uint8_labels"),
            "ignore_label": MetadataCatalog.get(names[0]).get("ignore_label", ignored) if len(names) else ignored,
        }
        if not is_train:
            return arguments | {"short_edges": (settings.MIN_SIZE_TEST,), "max_size": settings.MAX_SIZE_TEST}
        edges = settings.MIN_SIZE_TRAIN
        edges = (edges,) if isinstance(edges, int) else tuple(edges)
        if settings.MIN_SIZE_TRAIN_SAMPLING not in ("choice", "range") or not edges:
            raise UserError(
                f'INPUT.MIN_SIZE_TRAIN_SAMPLING is "{settings.MIN_SIZE_TRAIN_SAMPLING}" with '
                f'INPUT.MIN_SIZE_TRAIN {edges}; expected "choice" or "range" and at least one size'
            )
        if settings.CROP.ENABLED and settings.CROP.TYPE != "absolute":
            raise UserError(
                f'INPUT.CROP.TYPE is "{settings.CROP.TYPE}"; expected "absolute" (INPUT.CROP.SIZE in pixels)'
            )
        if settings.RANDOM_FLIP not in ("horizontal", "none"):
            raise UserError(f'INPUT.RANDOM_FLIP is "{settings.RANDOM_FLIP}"; expected "horizontal" or "none"')
        settings_of_rgb = [x for x in ("COLOR_AUG_SSD", "FORMAT") if settings[x] in (True, "BGR")]
        if settings.CHANNELS != RGB and settings_of_rgb:
            keys = " and ".join(f"INPUT.{key} {settings[key]}" for key in settings_of_rgb)
            logger.info("No effect on images of %d channel(s): %s", settings.CHANNELS, keys)
        return arguments | {
            "short_edges": edges,
            "max_size": settings.MAX_SIZE_TRAIN,
            "sampling": settings.MIN_SIZE_TRAIN_SAMPLING,
            "crop_size": tuple(int(s) for s in settings.CROP.SIZE) if settings.CROP.ENABLED else None,
            "single_category_max_area": settings.CROP.SINGLE_CATEGORY_MAX_AREA,
            "color_jitter": settings.COLOR_AUG_SSD and settings.CHANNELS == RGB,
            "horizontal_flip": settings.RANDOM_FLIP == "horizontal",
            "pad_to": 0 if model_flag(cfg, "pads_training_images") else settings.SIZE_DIVISIBILITY,
        }

    def __call__(self, dataset_dict: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Map one dict: add `height`, `width` of the file, `image` (C, H, W) uint8 and, in training, `sem_seg`.

        `sem_seg` (H, W) is uint8 if all ids and the ignore label fit, else int64. If `rng` is None, a generator is
        seeded from NumPy's global state. Raises UserError naming the files for an unreadable image or label file, for
        a label map of another size, and for ids out of range.
        """
        sample = dict(dataset_dict)
        image = open_picture(sample["file_name"], self.value_range, self.channels)
        sample["height"], sample["width"] = image.height, image.width
        if self.is_train:
            rng = rng if rng is not None else np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002
            labels = self._read_labels(sample)
            sample.pop("coco_labels", None)  # no model needs them, and sending them between processes takes time
            pixels, labels, _ = self._augment(image, labels, rng, sample.pop("target_class", None))
            sample["image"] = image_tensor(pixels, self.image_format)
            # a copy, because a flipped map of one column counts as contiguous and still has a negative stride
            sample["sem_seg"] = torch.from_numpy(np.array(labels, dtype=self.label_dtype, order="C"))
        else:
            sample["image"] = resized_tensor(image, self.short_edges[0], self.max_size, self.image_format)
        return sample

    def _read_labels(self, sample: dict[str, Any]) -> np.ndarray:
        path = sample.get("sem_seg_file_name")
        if path is None:
            raise UserError(f"{sample['file_name']} has no sem_seg_file_name: training needs a label file per image")
        labels = read_sample_labels(sample)
        shape = sample["height"], sample["width"]
        require_one_size(sample["file_name"], shape, "label file", path, labels.shape)
        check_labels(labels, num_classes=self.num_classes, ignore_label=self.ignore_label, path=path)
        return labels

    def _augment(
        self,
        image: Picture,
        labels: np.ndarray,
        rng: np.random.Generator,
        target_class: int | None,
        masks: Sequence[np.ndarray] = (),
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Return the augmented pixels, labels and `masks` of one random view; masks are padded with 0."""
        view = self._sample_view(rng, image, labels, target_class)
        pixels = augmentation.resize_image(image, view)
        maps = [augmentation.resize_labels(x, view) for x in (labels, *masks)]
        if self.color_jitter:
            pixels = augmentation.jitter_colors(pixels, augmentation.sample_color_jitter(rng))
        if self.horizontal_flip and rng.random() < 0.5:
            pixels, maps = pixels[:, ::-1], [x[:, ::-1] for x in maps]
        pixels = augmentation.pad(pixels, self.pad_to, augmentation.IMAGE_PADDING)
        labels = augmentation.pad(maps[0], self.pad_to, self.ignore_label)
        return pixels, labels, [augmentation.pad(x, self.pad_to, 0) for x in maps[1:]]

    def _sample_view(
        self, rng: np.random.Generator, image: Picture, labels: np.ndarray, target_class: int | None
    ) -> augmentation.View:
        edge = augmentation.sample_short_edge(rng, self.short_edges, self.sampling)
        shape = augmentation.resized_shape(image.height, image.width, edge, self.max_size)
        if self.crop_size is None:
            return augmentation.View.whole(*shape)
        return augmentation.sample_view(
            rng,
            shape,
            self.crop_size,
            labels=labels,
            max_area=self.single_category_max_area,
            ignore_label=self.ignore_label,
            target_class=target_class,
        )


def model_flag(cfg: CfgNode, attribute: str) -> bool:
    """Return a flag of the config's meta-architecture class; False for other projects' classes, which lack it."""
    models = dict(iter(META_ARCH_REGISTRY))
    return getattr(models.get(cfg.MODEL.META_ARCHITECTURE), attribute, False)
