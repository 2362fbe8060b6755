"""Predictor: a trained model as a function of images, for notebooks, services and the demo."""

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

from semask_d2.checkpoint.hub import local_source
from semask_d2.config import get_cfg
from semask_d2.d2 import CfgNode
from semask_d2.data.augmentation import View, image_tensor, resize_image, resized_shape
from semask_d2.data.datasets.custom import register_custom
from semask_d2.data.image_io import read_image
from semask_d2.data.labels import LabelFormat
from semask_d2.data.picture import RGB, Picture
from semask_d2.export.running import EXPORTED, ExportedModel, open_exported
from semask_d2.export.segmenter import ExportedSegmenter
from semask_d2.inference.prediction import PanopticSegments, PredictedInstances, Prediction
from semask_d2.inference.sources import predictor_config
from semask_d2.inference.trained_model import model_classes, trained_model
from semask_d2.modeling.meta_arch import Execution, SemanticSegmenter, with_sliding
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError, user_errors_alone
from semask_d2.utils.runs import CONFIG_NAME, require_run
from semask_d2.utils.visualization import displayed

BATCH_SIZE = 4
MAX_SHRINKAGE = 4  # an image whose sides shrink by more than this factor causes a warning

ImageInput = str | os.PathLike | Image.Image | np.ndarray | Tensor

logger = logging.getLogger(__name__)


class Predictor:
    """Trained model as a function of one image or of a list of images.

    `source` is a run folder, a checkpoint in one, a file from `semask export`, a transformers folder, a repository
    "owner/name" on the Hugging Face hub (see `semask_d2.from_pretrained`), a model of `create_model` or
    `from_pretrained`, which is put into evaluation mode, or a config: with MODEL.WEIGHTS, or a file or name with
    `weights`. Without a source it is the newest run under `output`, else the packaged model, as in `semask predict`.
    The model runs on `device`, by default on MODEL.DEVICE. Raises `UserError` if the source is missing or damaged.

    With TEST.SLIDING, images larger than a window are segmented in windows. A predictor is thread-safe: a call only
    records that a warning was given. `classes` are those of the config's first test set, else those recorded in the
    checkpoint; `label_format` is the format of the label files of the config's custom dataset.
    """

    def __init__(
        self,
        source: CfgNode | nn.Module | str | os.PathLike | None = None,
        weights: str | os.PathLike | None = None,
        *,
        device: str | None = None,
    ):
        with user_errors_alone():
            if isinstance(source, nn.Module):
                if weights is not None:
                    raise UserError("Predictor: a model has its weights; leave the second argument out")
                self._set_model_in_memory(source if device is None else source.to(device))
                return
            if isinstance(source, (str, os.PathLike)):
                source = local_source(source) if weights is None else os.fspath(source)
            if isinstance(source, str) and weights is None and source.endswith(EXPORTED):
                self._set_exported_model(source)
                return
            cfg = predictor_config(source, weights, device)
            if not cfg.MODEL.WEIGHTS:
                raise UserError(
                    "MODEL.WEIGHTS is empty: predictions need trained weights; name them as Predictor(config, weights)"
                )
            if cfg.TEST.AUG.ENABLED:
                logger.warning("TEST.AUG.ENABLED has no effect here; semask eval and compare average several sizes")
            trained = trained_model(cfg)
            self._set_model(cfg, trained.model, trained.classes)

    def _set_model_in_memory(self, model: nn.Module) -> None:
        """Set up the predictor from a model of `create_model` or `from_pretrained`."""
        if isinstance(model, ExportedSegmenter):
            self._set_exported_model(model.exported)
        elif not isinstance(model, SemanticSegmenter) or model.description is None:
            raise UserError(
                f"{type(model).__name__}: the config and classes of this model are unknown; create it with "
                "semask_d2.create_model or from_pretrained, or use Predictor.of_model(cfg, model)"
            )
        else:
            cfg = model.description.cfg.clone()
            cfg.MODEL.DEVICE = str(model.device)
            self._set_model(cfg, model.eval(), model.description.classes)

    @classmethod
    def from_run(
        cls, run: str | os.PathLike, weights: str | os.PathLike | None = None, opts: Sequence[str] = ()
    ) -> Predictor:
        """Return the predictor of a run folder: its config.yaml with `weights`, by default its best checkpoint.

        `opts` are settings as KEY VALUE pairs.

        Raises `UserError` if the folder has no config or no checkpoint.
        """
        weights = require_run(run) if weights is None else weights
        return cls(get_cfg(os.path.join(run, CONFIG_NAME), [*opts, "MODEL.WEIGHTS", str(weights)]))

    @classmethod
    def of_model(cls, cfg: CfgNode, model: nn.Module) -> Predictor:
        """Return a predictor that uses an existing model, which the caller has put into evaluation mode."""
        predictor = cls.__new__(cls)
        predictor._set_model(cfg, model)
        return predictor

    @classmethod
    def from_export(cls, file: str | os.PathLike) -> Predictor:
        """Return the predictor of an ONNX or OpenVINO file from `semask export`, which runs on the CPU.

        No other file is needed. Scores are available if the file outputs scores or logits; priors are not. A file of
        fixed size takes only images that the resizing rule brings to that size. Raises `UserError` if the file is
        invalid or its runtime is not installed.
        """
        predictor = cls.__new__(cls)
        predictor._set_exported_model(file)
        return predictor

    def _set_exported_model(self, file: str | os.PathLike | ExportedModel) -> None:
        """Set up the predictor from an exported file and the settings in it."""
        exported = open_exported(Path(file)) if isinstance(file, (str, os.PathLike)) else file
        metadata = exported.metadata
        cfg = get_cfg(opts=["DATASETS.TEST", "()", "DATASETS.TRAIN", "()", "MODEL.DEVICE", "cpu"])
        cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = metadata.min_size, metadata.max_size
        cfg.INPUT.FORMAT, cfg.INPUT.VALUE_RANGE = metadata.channel_order, metadata.value_range
        cfg.INPUT.CHANNELS, cfg.INPUT.DISPLAY_CHANNELS = metadata.channels, metadata.display_channels
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = metadata.pixel_mean, metadata.pixel_std
        cfg.MODEL.META_ARCHITECTURE = metadata.architecture
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(metadata.classes)
        self._set_model(cfg, ExportedSegmenter(exported), metadata.classes)

    def _set_model(self, cfg: CfgNode, model: nn.Module, recorded: Classes | None = None) -> None:
        """Set the config and its model; `recorded` are the classes recorded in the checkpoint."""
        self.cfg = cfg.clone()
        self.model = with_sliding(cfg, model)
        self._execution = Execution.from_config(cfg)
        self._warned = False
        custom = register_custom(cfg)
        self.label_format = custom.label_format if custom else LabelFormat()
        self.classes = model_classes(cfg, recorded)

    @overload
    def __call__(
        self, images: ImageInput, *, scores: bool = False, priors: bool = False, batch_size: int = BATCH_SIZE
    ) -> Prediction: ...

    @overload
    def __call__(
        self, images: Sequence[ImageInput], *, scores: bool = False, priors: bool = False, batch_size: int = BATCH_SIZE
    ) -> list[Prediction]: ...

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput],
        *,
        scores: bool = False,
        priors: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> Prediction | list[Prediction]:
        """Segment one image, or each image of a list, at its original size.

        An image is a path, a PIL image, a uint8 RGB array (H, W, 3) or a uint8 RGB tensor (3, H, W); arrays and tensors
        have INPUT.CHANNELS channels if that is not 3, with values scaled to 0..255. Images that have
        the same size after resizing form batches of at most `batch_size`, which bounds memory; no image is padded to
        the size of another. Batching changes a prediction only by rounding: scores differ by up to 2e-6 (float32), and
        labels only where two classes are that close. With a `batch_size` of 1 there is no difference. Raises
        `UserError` for a value that is not an image.
        """
        if isinstance(images, (str, os.PathLike, Image.Image, np.ndarray, Tensor)):
            return self([images], scores=scores, priors=priors)[0]
        if batch_size < 1:
            raise UserError(f"batch_size: expected at least 1, got {batch_size}")
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        arrays = [self.as_array(image) for image in images]
        for i, image in enumerate(arrays):
            groups[self._resized_shape(image)].append(i)
        predictions: dict[int, Prediction] = {}
        for group in groups.values():
            for start in range(0, len(group), batch_size):
                members = group[start : start + batch_size]
                batch = self._segment([self.prepare(arrays[i]) for i in members], scores=scores, priors=priors)
                predictions.update(zip(members, batch, strict=True))
        return [predictions[i]._replace(image=self.shown(x), classes=self.classes) for i, x in enumerate(arrays)]

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return self.cfg.INPUT.CHANNELS

    def shown(self, image: np.ndarray) -> np.ndarray:
        """Return the RGB (H, W, 3) by which an image (H, W, C) is drawn, from INPUT.DISPLAY_CHANNELS."""
        return displayed(image, self.cfg.INPUT.DISPLAY_CHANNELS)

    def as_array(self, image: ImageInput) -> np.ndarray:
        """Return an image of any kind as an array; other values unchanged, for `_resized_shape` to refuse."""
        if isinstance(image, (str, os.PathLike)):
            return self.read_image(image)
        if isinstance(image, Image.Image):
            picture = Picture.of_pillow(ImageOps.exif_transpose(image), self.channels)
            if picture is None:
                raise UserError(
                    f"expected an image of {self.channels} channel(s) (INPUT.CHANNELS), got a PIL image of mode "
                    f"{image.mode}"
                )
            return picture.pixels()
        if isinstance(image, Tensor):
            if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != self.channels:
                raise UserError(
                    f"expected {self._expected_image('({}, H, W)')} as a tensor, got {image.dtype} "
                    f"{tuple(image.shape)}; for batches of tensors, call the model itself"
                )
            return image.permute(1, 2, 0).contiguous().cpu().numpy()
        return image

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, for user programs; this project uses `classes`."""
        return list(self.classes.names)

    @property
    def class_colors(self) -> np.ndarray:
        """Colors (K, 3) uint8 of the classes; see `class_names`."""
        return self.classes.color_table.copy()

    @property
    def ignore_label(self) -> int:
        """Id of ignored pixels; see `class_names`."""
        return self.classes.ignore_label

    @property
    def has_priors(self) -> bool:
        """Return whether the model has semantic maps."""
        return self.model.has_priors

    @torch.inference_mode()
    def _segment(self, inputs: list[dict], *, scores: bool, priors: bool) -> list[Prediction]:
        """Return the predictions of inputs of the same size."""
        if priors and isinstance(self.model, ExportedSegmenter):
            raise UserError("an exported file has no semantic maps; use the checkpoint instead")
        if priors and not self.has_priors:
            raise UserError(
                f"MODEL.META_ARCHITECTURE {self.cfg.MODEL.META_ARCHITECTURE} with MODEL.BACKBONE.NAME "
                f"{self.cfg.MODEL.BACKBONE.NAME}: this model has no semantic maps; use a model of this project with a "
                "NUM_SEM_BLOCKS of at least 1"
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
        """Read an image file as in training, with the config's INPUT; errors as in `semask_d2.read_image`."""
        return read_image(path, value_range=self.cfg.INPUT.VALUE_RANGE, channels=self.channels)

    def prepare(self, image: np.ndarray) -> dict:
        """Return the model's input for one image: resized as in evaluation, in the config's channel order."""
        shape = self._resized_shape(image)
        height, width = image.shape[:2]
        if min(shape) * MAX_SHRINKAGE < min(height, width) and not self._warned:
            self._warned = True
            logger.warning(
                "An image of %d x %d pixels is segmented at a short side of %d (INPUT.MIN_SIZE_TEST); to keep its "
                "details, set TEST.SLIDING.ENABLED True and INPUT.MIN_SIZE_TEST to a larger side (0: full size)",
                *(width, height, min(shape)),
            )
        pixels = resize_image(Picture.of_pixels(image), View.whole(*shape))
        return {"image": image_tensor(pixels, self.cfg.INPUT.FORMAT), "height": height, "width": width}

    def _expected_image(self, shape: str) -> str:
        """Return the kind of images that the model takes, for messages; `shape` has a place for their channels."""
        return f"a uint8 {'RGB ' if self.channels == RGB else ''}image {shape.format(self.channels)}"

    def _resized_shape(self, image: np.ndarray) -> tuple[int, int]:
        """Return the height and width of an image after resizing; raise `UserError` if it is not an image."""
        expected = self._expected_image("(H, W, {})")
        is_array = isinstance(image, np.ndarray)
        if not is_array or image.ndim != 3 or image.shape[2] != self.channels or image.dtype != np.uint8:
            got = f"{image.dtype} of shape {image.shape}" if is_array else type(image).__name__
            raise UserError(f"expected {expected} as a NumPy array, got {got}")
        if image.size == 0:
            raise UserError(f"expected {expected}, got an empty one of shape {image.shape}")
        settings = self.cfg.INPUT
        return resized_shape(image.shape[0], image.shape[1], settings.MIN_SIZE_TEST, settings.MAX_SIZE_TEST)
