"""Export of a model from Python or the command line: to a verified file, or to a folder of transformers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from semask_d2.checkpoint.shared_folder import write_transformers_model
from semask_d2.data.augmentation import image_tensor
from semask_d2.export.exporting import check_settings, write_verified
from semask_d2.export.graph import Outputs
from semask_d2.export.proof import Agreement
from semask_d2.export.writing import GraphSettings
from semask_d2.inference.predictor import ImageInput, Predictor
from semask_d2.inference.sources import choose_config
from semask_d2.modeling.meta_arch import SemanticSegmenter, build_model
from semask_d2.utils.choices import EXPORT_FORMATS, EXPORT_SUFFIXES, TRANSFORMERS
from semask_d2.utils.errors import UserError, user_errors_alone

# exporting needs a single graph in full precision
EXPORT_SETTINGS = (
    "MODEL.DEVICE",
    "cpu",
    "MODEL.PRECISION",
    "fp32",
    "MODEL.COMPILE",
    "",
    "TEST.SLIDING.ENABLED",
    "False",
)


@user_errors_alone()
def export_model(
    source: nn.Module | str | os.PathLike | None,
    output: str | os.PathLike,
    *,
    format: str | None = None,
    size: tuple[int, int] | None = None,
    batch: int | None = 1,
    outputs: Outputs = "labels",
    input_type: str = "uint8",
    resize: bool = False,
    normalize: bool = True,
    grid_sample: bool = True,
    half: bool = False,
    int8: bool = False,
    images: Sequence[ImageInput] = (),
) -> list[Agreement]:
    """Write a trained model for other runtimes, verify the file, and return its agreement with the model.

    `source` is a model of `create_model` or `from_pretrained`, a source of `from_pretrained`, or None for the newest
    run, as in `Predictor`. `format` is "onnx", "openvino", "torch_export" or "transformers" (a folder, which is not
    verified); by default the suffix of `output` decides: .onnx, .xml or .pt2. `size` (H, W) fixes the input's size,
    `batch` None leaves its batch free, `outputs` are "labels", "scores" or "logits". With `int8`, products compute in 8
    bits, calibrated on `images` except every fifth, on which the file is compared. The other arguments are the options
    of `semask export`. Raises `UserError` if the file cannot be written or disagrees with the model.
    """
    suffix = Path(output).suffix
    kind = format or next((name for name, ending in EXPORT_SUFFIXES.items() if ending == suffix), "")
    if kind not in EXPORT_FORMATS:
        raise UserError(
            f"{os.fspath(output)}: expected a name ending in {', '.join(EXPORT_SUFFIXES.values())}, or a format of "
            f"{', '.join(EXPORT_FORMATS)}{f', got {format!r}' if format else ''}"
        )
    settings = GraphSettings(
        size=size,
        batch=batch,
        input_type=input_type,
        grid_sample=grid_sample,
        half_weights=half,
        resize=resize,
        int8=int8,
    )
    if kind != TRANSFORMERS:
        check_settings(kind, settings, outputs, normalize=normalize, images=len(images))
    predictor = exportable(source)
    return write_export(predictor, output, kind, settings, outputs=outputs, normalize=normalize, images=images)


def write_export(
    predictor: Predictor,
    output: str | os.PathLike,
    kind: str,
    settings: GraphSettings,
    *,
    outputs: Outputs,
    normalize: bool,
    images: Sequence[ImageInput],
) -> list[Agreement]:
    """Write the model of a predictor, built with EXPORT_SETTINGS; the other arguments are those of `export_model`."""
    model, cfg = predictor.model, predictor.cfg
    if not isinstance(model, SemanticSegmenter):
        raise UserError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}: only this project's models are exported"
        )
    if kind == TRANSFORMERS:
        write_transformers_model(output, model, cfg, predictor.classes)
        return []
    batches = image_batches(predictor, images, settings)
    return write_verified(
        model,
        cfg,
        predictor.classes,
        kind,
        os.fspath(output),
        settings,
        outputs=outputs,
        normalize=normalize,
        images=batches,
    )


def exportable(source: nn.Module | str | os.PathLike | None) -> Predictor:
    """Return a predictor with a model that can be exported; a model in memory is copied, not changed."""
    if not isinstance(source, nn.Module):
        name = None if source is None else os.fspath(source)
        return Predictor(choose_config(None, name, EXPORT_SETTINGS, option=None))
    if not isinstance(source, SemanticSegmenter) or source.description is None:
        return Predictor(source)  # which says what is wrong
    cfg = source.description.cfg.clone()
    cfg.merge_from_list(list(EXPORT_SETTINGS))
    model = build_model(cfg)
    model.load_state_dict(source.state_dict())
    predictor = Predictor.of_model(cfg, model.eval())
    predictor.classes = source.description.classes
    return predictor


def image_batches(predictor: Predictor, images: Sequence[ImageInput], settings: GraphSettings) -> list[np.ndarray]:
    """Return images as batches (B, C, H, W), ready for the graph."""
    batches = []
    for number, given in enumerate(images):
        name = os.fspath(given) if isinstance(given, (str, os.PathLike)) else f"image {number}"
        pixels = predictor.as_array(given)
        if settings.resize:
            image, when = image_tensor(pixels, predictor.cfg.INPUT.FORMAT).numpy(), ""
        else:
            image, when = predictor.prepare(pixels)["image"].numpy(), " after resizing by INPUT.MIN_SIZE_TEST"
        if settings.size is not None and image.shape[1:] != settings.size:
            raise UserError(
                f"--images {name}: it is {image.shape[1]} x {image.shape[2]}{when}, but --size is {settings.size[0]} x "
                f"{settings.size[1]}; give images of that size, or leave --images out"
            )
        batches.append(np.repeat(image[None], settings.batch or 1, axis=0))
    return batches
