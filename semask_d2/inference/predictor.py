"""A trained model as a function of images, for notebooks, services and the demo."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import nn

from semask_d2.checkpoint import load_checkpoint, read_checkpoint
from semask_d2.checkpoint.class_metadata import classes_of_file
from semask_d2.config import get_cfg
from semask_d2.d2 import CfgNode, Instances
from semask_d2.data.augmentation import View, image_tensor, resize_image, resized_shape
from semask_d2.data.datasets import config_classes
from semask_d2.data.datasets.custom import register_custom
from semask_d2.data.image_io import read_image
from semask_d2.data.labels import LabelFormat
from semask_d2.export.running import open_exported
from semask_d2.export.segmenter import ExportedSegmenter
from semask_d2.modeling.meta_arch import Execution, build_model, with_sliding
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.runs import CONFIG_NAME, require_run

BATCH_SIZE = 4
FAR_SMALLER = 4  # times that a picture's sides shrink before that is worth a word

logger = logging.getLogger(__name__)


class PanopticSegments(NamedTuple):
    """`ids` (H, W) int32 of an image's segments, 0 for void, and of each segment its `id`, `category_id` (its class),
    `isthing` and `score`.
    """

    ids: np.ndarray
    info: list[dict[str, Any]]


class FoundInstances(NamedTuple):
    """N objects, the most certain first: `masks` (N, H, W) bool, `boxes` (N, 4) of x0, y0, x1, y1, `classes` (N,) and
    `scores` (N,).
    """

    masks: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, instances: Instances) -> FoundInstances:
        """The instances of a model's output, in the order of their scores."""
        order = instances.scores.argsort(descending=True, stable=True)
        found = instances[order].to("cpu")
        fields = (found.pred_masks, found.pred_boxes.tensor, found.pred_classes, found.scores)
        return cls(*(field.numpy() for field in fields))


class Prediction(NamedTuple):
    """What a model sees in one image, on the CPU.

    `labels` (H, W) are class ids. Where asked for, `scores` is (K, H, W), whose highest is the label: no calibrated
    probabilities, but sums over queries of class times mask probability, or Semantic FPN's logits (`Segmentation`);
    and `priors` maps "sem2".."sem5" to the class ids (ceil(h / stride), ceil(w / stride)) of the backbone's semantic
    maps at strides 4, 8, 16 and 32 of the resized image (h, w). `segments` is there where
    MODEL.MASK_FORMER.TEST.PANOPTIC_ON is True and `instances` where INSTANCE_ON is.
    """

    labels: np.ndarray
    scores: np.ndarray | None = None
    priors: dict[str, np.ndarray] | None = None
    segments: PanopticSegments | None = None
    instances: FoundInstances | None = None


class Predictor:
    """A config's model with its MODEL.WEIGHTS, on its MODEL.DEVICE; call it with an RGB image or a list of them.

    With TEST.SLIDING an image larger than a window is segmented in windows, whatever its size. Threads may share one: a
    call changes nothing in it but whether a warning was given. `classes` are those of the config's first test set, else
    those that the checkpoint records; `label_format` reads the label files of the config's own data set.
    """

    def __init__(self, cfg: CfgNode):
        if not cfg.MODEL.WEIGHTS:
            raise UserError("MODEL.WEIGHTS is empty: predictions need trained weights; add MODEL.WEIGHTS FILE")
        model = build_model(cfg)
        data = read_checkpoint(cfg.MODEL.WEIGHTS)
        load_checkpoint(model, data, cfg.MODEL.WEIGHTS)
        self._take(cfg, model.eval(), classes_of_file(data))

    @classmethod
    def from_run(
        cls, run: str | os.PathLike, weights: str | os.PathLike | None = None, opts: Sequence[str] = ()
    ) -> Predictor:
        """The predictor of a run folder: its config.yaml with `weights`, or with the best checkpoint that it holds.

        `opts` are settings as KEY VALUE pairs.

        Raises `UserError` for a folder without a config or a checkpoint.
        """
        weights = require_run(run) if weights is None else weights
        return cls(get_cfg(os.path.join(run, CONFIG_NAME), [*opts, "MODEL.WEIGHTS", str(weights)]))

    @classmethod
    def of_model(cls, cfg: CfgNode, model: nn.Module) -> Predictor:
        """A predictor around a model that is there already; the caller puts it into evaluation mode."""
        predictor = cls.__new__(cls)
        predictor._take(cfg, model)
        return predictor

    @classmethod
    def from_export(cls, file: str | os.PathLike) -> Predictor:
        """The predictor of a file that `semask export` wrote, ONNX or OpenVINO, with nothing else; on the CPU.

        Scores where the file gives scores or logits, no priors. A file of one size takes pictures that the size rule
        brings to it. Raises `UserError` for a file that is none, and where its runtime is not installed.
        """
        exported = open_exported(Path(file))
        metadata = exported.metadata
        cfg = get_cfg(opts=["DATASETS.TEST", "()", "DATASETS.TRAIN", "()", "MODEL.DEVICE", "cpu"])
        cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = metadata.min_size, metadata.max_size
        cfg.INPUT.FORMAT, cfg.INPUT.VALUE_RANGE = metadata.channel_order, metadata.value_range
        cfg.MODEL.META_ARCHITECTURE = metadata.architecture
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(metadata.classes)
        predictor = cls.__new__(cls)
        predictor._take(cfg, ExportedSegmenter(exported), metadata.classes)
        return predictor

    def _take(self, cfg: CfgNode, model: nn.Module, recorded: Classes | None = None) -> None:
        """Take a config and its model; `recorded` is what the checkpoint says of its classes."""
        self.cfg = cfg.clone()
        self.model = with_sliding(cfg, model)
        self._execution = Execution.from_config(cfg)
        self._warned = False
        custom = register_custom(cfg)
        self.label_format = custom.label_format if custom else LabelFormat()
        count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        known = config_classes(cfg)
        if known is None and recorded is not None and len(recorded) == count:
            known = recorded
        # else a data set that only the training program registers, and a checkpoint without names
        self.classes = known or Classes.of(f"class {i}" for i in range(count))

    @overload
    def __call__(
        self, images: np.ndarray, *, scores: bool = False, priors: bool = False, batch_size: int = BATCH_SIZE
    ) -> Prediction: ...

    @overload
    def __call__(
        self, images: Sequence[np.ndarray], *, scores: bool = False, priors: bool = False, batch_size: int = BATCH_SIZE
    ) -> list[Prediction]: ...

    def __call__(
        self,
        images: np.ndarray | Sequence[np.ndarray],
        *,
        scores: bool = False,
        priors: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> Prediction | list[Prediction]:
        """Segment one uint8 RGB image (H, W, 3), or each of a list, at its own size.

        Images that have one size after resizing go through the model together, at most `batch_size` at a time, on which
        memory depends; the others by themselves, as none is padded to the size of another. Beside others a prediction
        is the same but for rounding, as products of other shapes sum in another order: scores differ by up to 2e-6
        (float32), and labels where two classes are as close as that. With a `batch_size` of 1 they are equal.
        """
        if isinstance(images, np.ndarray):
            return self([images], scores=scores, priors=priors)[0]
        if batch_size < 1:
            raise UserError(f"batch_size: expected at least 1, got {batch_size}")
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, image in enumerate(images):
            groups[self._resized_shape(image)].append(i)
        predictions: dict[int, Prediction] = {}
        for group in groups.values():
            for start in range(0, len(group), batch_size):
                members = group[start : start + batch_size]
                batch = self._segment([self.prepare(images[i]) for i in members], scores=scores, priors=priors)
                predictions.update(zip(members, batch, strict=True))
        return [predictions[i] for i in range(len(images))]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, for programs that use a predictor; this project uses `classes`."""
        return list(self.classes.names)

    @property
    def class_colors(self) -> np.ndarray:
        """Colors (K, 3) uint8 of the classes; see `class_names`."""
        return self.classes.color_table.copy()

    @property
    def ignore_label(self) -> int:
        """The id of pixels that do not count; see `class_names`."""
        return self.classes.ignore_label

    @property
    def has_priors(self) -> bool:
        """Whether the model has semantic maps to show."""
        return self.model.has_priors

    @torch.inference_mode()
    def _segment(self, inputs: list[dict], *, scores: bool, priors: bool) -> list[Prediction]:
        """Predictions of inputs that have one size."""
        if priors and isinstance(self.model, ExportedSegmenter):
            raise UserError("an exported file has no semantic maps to show; they come with the checkpoint")
        if priors and not self.has_priors:
            raise UserError(
                f"MODEL.META_ARCHITECTURE {self.cfg.MODEL.META_ARCHITECTURE} with MODEL.BACKBONE.NAME "
                f"{self.cfg.MODEL.BACKBONE.NAME}: this model has no semantic maps to show; they come with this "
                "project's models and a NUM_SEM_BLOCKS of at least 1"
            )
        predictions = []
        with self._execution.autocast(self.model):
            results = self.model.predict(inputs, scores=scores, priors=priors, segments=True)
        for result in results:
            maps = result.priors
            found = result.segments or {}
            panoptic, instances = found.get("panoptic_seg"), found.get("instances")
            predictions.append(
                Prediction(
                    result.labels.cpu().numpy(),
                    None if result.scores is None else result.scores.cpu().numpy(),
                    None if maps is None else {name: x.argmax(0).cpu().numpy() for name, x in maps.items()},
                    None if panoptic is None else PanopticSegments(panoptic[0].cpu().numpy(), panoptic[1]),
                    None if instances is None else FoundInstances.of(instances),
                )
            )
        return predictions

    def read_image(self, path: str | os.PathLike) -> np.ndarray:
        """Read a file as the model's training did, with INPUT.VALUE_RANGE; errors as in `semask_d2.read_image`."""
        return read_image(path, value_range=self.cfg.INPUT.VALUE_RANGE)

    def prepare(self, image: np.ndarray) -> dict:
        """The model's input for one image: resized as in evaluation, in the config's channel order."""
        shape = self._resized_shape(image)
        height, width = image.shape[:2]
        if min(shape) * FAR_SMALLER < min(height, width) and not self._warned:
            self._warned = True
            logger.warning(
                "A picture of %d x %d pixels is segmented at a short side of %d (INPUT.MIN_SIZE_TEST); for its details "
                "set TEST.SLIDING.ENABLED True and INPUT.MIN_SIZE_TEST to a larger side, or 0 for its own",
                *(width, height, min(shape)),
            )
        pixels = resize_image(Image.fromarray(image), View.whole(*shape))
        return {"image": image_tensor(pixels, self.cfg.INPUT.FORMAT), "height": height, "width": width}

    def _resized_shape(self, image: np.ndarray) -> tuple[int, int]:
        """The height and width that an image goes through the model at; `UserError` for what is no image."""
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            got = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise UserError(f"expected a uint8 RGB image (H, W, 3) as a NumPy array, got {got}")
        if image.size == 0:
            raise UserError(f"expected a uint8 RGB image (H, W, 3), got an empty one of shape {image.shape}")
        settings = self.cfg.INPUT
        return resized_shape(image.shape[0], image.shape[1], settings.MIN_SIZE_TEST, settings.MAX_SIZE_TEST)
