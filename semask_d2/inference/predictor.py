"""A trained model as a function of images, for notebooks, services and the demo."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from semask_d2.checkpoint import load_checkpoint, read_checkpoint
from semask_d2.checkpoint.class_metadata import classes_of_file
from semask_d2.checkpoint.hub import local_source
from semask_d2.config import get_cfg
from semask_d2.d2 import CfgNode
from semask_d2.data.augmentation import View, image_tensor, resize_image, resized_shape
from semask_d2.data.datasets import config_classes
from semask_d2.data.datasets.custom import register_custom
from semask_d2.data.image_io import read_image
from semask_d2.data.labels import LabelFormat
from semask_d2.export.running import EXPORTED, open_exported
from semask_d2.export.segmenter import ExportedSegmenter
from semask_d2.inference.prediction import PanopticSegments, PredictedInstances, Prediction
from semask_d2.inference.sources import choose_config
from semask_d2.modeling.meta_arch import Execution, build_model, with_sliding
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.runs import CONFIG_NAME, require_run

BATCH_SIZE = 4
FAR_SMALLER = 4  # times that a picture's sides shrink before that is worth a word

Picture = str | os.PathLike | Image.Image | np.ndarray | Tensor

logger = logging.getLogger(__name__)


def model_classes(cfg: CfgNode, recorded: Classes | None) -> Classes:
    """Return the classes of a config's dataset, else those that a checkpoint has `recorded`, else numbered ones.

    Recorded ones of another number than NUM_CLASSES count as none. Numbered ones are for a dataset that only the
    training program registers, with a checkpoint without names.
    """
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if (classes := config_classes(cfg)) is not None:
        return classes
    if recorded is not None and len(recorded) == count:
        return recorded
    return Classes.of(f"class {i}" for i in range(count))


class Predictor:
    """A trained model as a function of an image, or of a list of them.

    `source` is a run folder, a checkpoint in one, a file of `semask export`, a folder of transformers, a repository
    "owner/name" of the Hugging Face hub (see `semask_d2.from_pretrained`), or a config with its MODEL.WEIGHTS; it runs
    on `device`, or the config's MODEL.DEVICE. Raises `UserError` for a source that is missing or damaged.

    With TEST.SLIDING an image larger than a window is segmented in windows, whatever its size. Threads may share one: a
    call changes nothing in it but whether a warning was given. `classes` are those of the config's first test set, else
    those that the checkpoint records; `label_format` reads the label files of the config's own data set.
    """

    def __init__(self, source: CfgNode | str | os.PathLike, *, device: str | None = None):
        if isinstance(source, (str, os.PathLike)):
            path = local_source(source)
            if path.endswith(EXPORTED):
                self._take_export(path)
                return
            cfg = choose_config(None, path, ["MODEL.DEVICE", device] if device else [], option="")
        else:
            cfg = source.clone()
            cfg.defrost()
            cfg.MODEL.DEVICE = device or cfg.MODEL.DEVICE
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
        predictor = cls.__new__(cls)
        predictor._take_export(file)
        return predictor

    def _take_export(self, file: str | os.PathLike) -> None:
        """Take an exported file and the settings that it holds."""
        exported = open_exported(Path(file))
        metadata = exported.metadata
        cfg = get_cfg(opts=["DATASETS.TEST", "()", "DATASETS.TRAIN", "()", "MODEL.DEVICE", "cpu"])
        cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = metadata.min_size, metadata.max_size
        cfg.INPUT.FORMAT, cfg.INPUT.VALUE_RANGE = metadata.channel_order, metadata.value_range
        cfg.MODEL.META_ARCHITECTURE = metadata.architecture
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(metadata.classes)
        self._take(cfg, ExportedSegmenter(exported), metadata.classes)

    def _take(self, cfg: CfgNode, model: nn.Module, recorded: Classes | None = None) -> None:
        """Take a config and its model; `recorded` is what the checkpoint says of its classes."""
        self.cfg = cfg.clone()
        self.model = with_sliding(cfg, model)
        self._execution = Execution.from_config(cfg)
        self._warned = False
        custom = register_custom(cfg)
        self.label_format = custom.label_format if custom else LabelFormat()
        self.classes = model_classes(cfg, recorded)

    @overload
    def __call__(
        self, images: Picture, *, scores: bool = False, priors: bool = False, batch_size: int = BATCH_SIZE
    ) -> Prediction: ...

    @overload
    def __call__(
        self, images: Sequence[Picture], *, scores: bool = False, priors: bool = False, batch_size: int = BATCH_SIZE
    ) -> list[Prediction]: ...

    def __call__(
        self,
        images: Picture | Sequence[Picture],
        *,
        scores: bool = False,
        priors: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> Prediction | list[Prediction]:
        """Segment one image, or each of a list, at its own size.

        An image is a file's path, a PIL image, a uint8 RGB array (H, W, 3) or a uint8 RGB tensor (3, H, W). Images that
        have one size after resizing go through the model together, at most `batch_size` at a time, on which memory
        depends; the others by themselves, as none is padded to the size of another. Beside others a prediction is the
        same but for rounding, as products of other shapes sum in another order: scores differ by up to 2e-6 (float32),
        and labels where two classes are as close as that. With a `batch_size` of 1 they are equal. Raises `UserError`
        for anything that is no image.
        """
        if isinstance(images, (str, os.PathLike, Image.Image, np.ndarray, Tensor)):
            return self([images], scores=scores, priors=priors)[0]
        if batch_size < 1:
            raise UserError(f"batch_size: expected at least 1, got {batch_size}")
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        arrays = [self._array(image) for image in images]
        for i, image in enumerate(arrays):
            groups[self._resized_shape(image)].append(i)
        predictions: dict[int, Prediction] = {}
        for group in groups.values():
            for start in range(0, len(group), batch_size):
                members = group[start : start + batch_size]
                batch = self._segment([self.prepare(arrays[i]) for i in members], scores=scores, priors=priors)
                predictions.update(zip(members, batch, strict=True))
        return [predictions[i]._replace(image=image, classes=self.classes) for i, image in enumerate(arrays)]

    def _array(self, image: Picture) -> np.ndarray:
        """Return an image of any kind as an array; other values as they are, which `_resized_shape` refuses."""
        if isinstance(image, (str, os.PathLike)):
            return self.read_image(image)
        if isinstance(image, Image.Image):
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        if isinstance(image, Tensor):
            if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
                raise UserError(
                    f"expected a uint8 RGB image (3, H, W) as a tensor, got {image.dtype} {tuple(image.shape)}; a "
                    "model itself takes batches of tensors"
                )
            return image.permute(1, 2, 0).contiguous().cpu().numpy()
        return image

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
            segments = result.segments or {}
            panoptic, instances = segments.get("panoptic_seg"), segments.get("instances")
            predictions.append(
                Prediction(
                    result.labels.cpu().numpy(),
                    None if result.scores is None else result.scores.cpu().numpy(),
                    None if maps is None else {name: x.argmax(0).cpu().numpy() for name, x in maps.items()},
                    None if panoptic is None else PanopticSegments(panoptic[0].cpu().numpy(), panoptic[1]),
                    None if instances is None else PredictedInstances.from_detectron2(instances),
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
