"""Export of a trained model to a verified file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from semask_d2.d2 import CfgNode
from semask_d2.export.graph import Outputs, SegmentationGraph, output_names, resizes_masks_first
from semask_d2.export.metadata import ExportMetadata
from semask_d2.export.proof import LIMITS, Agreement, graph_input, prove
from semask_d2.export.running import (
    ExportedModel,
    OnnxModel,
    OpenVinoModel,
    TorchModel,
    UnusableExport,
    last_line,
    require_library,
)
from semask_d2.export.writing import WRITERS, GraphSettings, exported_beside, put_all_in_place
from semask_d2.modeling.backbones.lora import merged_adapters
from semask_d2.modeling.meta_arch.base import SemanticSegmenter
from semask_d2.utils.choices import EXPORT_SUFFIXES
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import remove_stale, require_writable
from semask_d2.utils.memory import out_of_memory
from semask_d2.version import __version__

KEPT_APART = 5  # every fifth image of an int8 export does not calibrate it, but is compared
INT8_CURE = "calibrate with more images, or remove --int8"
RUNNERS: dict[str, Callable[[Path], ExportedModel]] = {
    "torch_export": TorchModel,
    "onnx": OnnxModel,
    "openvino": OpenVinoModel,
}


def describe(
    cfg: CfgNode, classes: Classes, graph: SegmentationGraph, settings: GraphSettings, calibration_images: int
) -> ExportMetadata:
    """Return the metadata of the exported `graph`."""
    model = graph.model
    return ExportMetadata(
        version=__version__,
        architecture=cfg.MODEL.META_ARCHITECTURE,
        classes=classes,
        min_size=int(cfg.INPUT.MIN_SIZE_TEST) if graph.size_rule is None else 0,  # 0 if the graph itself resizes
        max_size=int(cfg.INPUT.MAX_SIZE_TEST),
        channel_order=cfg.INPUT.FORMAT,
        size_divisibility=model.size_divisibility,
        normalized=graph.normalize,
        pixel_mean=[float(x) for x in cfg.MODEL.PIXEL_MEAN],
        pixel_std=[float(x) for x in cfg.MODEL.PIXEL_STD],
        outputs=list(output_names(model, graph.outputs)),
        scores_are_probabilities=model.scores_are_probabilities,
        resize_masks_first=resizes_masks_first(model),
        input_type=settings.input_type,
        value_range=[float(x) for x in cfg.INPUT.VALUE_RANGE],
        channels=model.channels,
        display_channels=list(cfg.INPUT.DISPLAY_CHANNELS),
        precision=settings.precision,
        calibration_images=calibration_images,
    )


def check_settings(kind: str, settings: GraphSettings, outputs: Outputs, *, normalize: bool, images: int) -> None:
    """Raise `UserError` for settings that a format does not support, given the number of images."""
    if kind == "torch_export" and settings.size is None:
        raise UserError(
            "--dynamic: torch_export supports a fixed size only; use --size H W, or --format onnx or openvino"
        )
    for option, chosen in (("--fp16", settings.half_weights), ("--int8", settings.int8)):
        if chosen and kind == "torch_export":
            raise UserError(f"{option}: expected --format onnx or openvino; torch_export keeps fp32 weights")
    if settings.int8:
        if settings.half_weights:
            raise UserError("--int8: remove --fp16; a file has one precision")
        if images < 2:
            raise UserError(
                f"--int8: expected at least 2 images in --images, got {images}; most calibrate the file, every "
                f"{KEPT_APART}th is compared (30 to 200 images of the kind that the model will see)"
            )
        require_library("onnx", "onnxruntime")
    if settings.size is not None and min(settings.size) < 1:
        raise UserError(f"--size {' '.join(map(str, settings.size))}: expected height and width of at least 1")
    if settings.batch is not None and settings.batch < 1:
        raise UserError(f"--batch {settings.batch}: expected at least 1, or any")
    if not normalize and settings.input_type == "uint8":
        raise UserError("--no-normalize: add --input float, because normalized images are not integers")
    if settings.resize and not normalize:
        raise UserError("--resize: remove --no-normalize, because images are resized before normalization")
    if settings.resize and outputs == "logits":
        raise UserError(
            "--resize: expected --outputs labels or scores, because logits have the size of the resized image"
        )


def write_verified(
    model: SemanticSegmenter,
    cfg: CfgNode,
    classes: Classes,
    kind: str,
    path: str | Path,
    settings: GraphSettings,
    *,
    outputs: Outputs = "labels",
    normalize: bool = True,
    images: Sequence[np.ndarray] = (),
) -> list[Agreement]:
    """Write `path` in the format `kind`, compare it with `model` (fp32, on a CPU, in evaluation mode), and keep it if
    they agree.

    Adapters (LoRA) are merged in the file. Both are compared on `images`, batches (B, C, H, W) uint8, or on random
    images. An int8 file is calibrated on most of the images, and compared on every KEPT_APART-th. Raises `UserError`
    for invalid settings or an invalid path, and if file and model disagree. In that case `path` is unchanged.
    """
    path = Path(path)
    check_settings(kind, settings, outputs, normalize=normalize, images=len(images))
    require_file_name(path, EXPORT_SUFFIXES[kind])
    if path.suffix != EXPORT_SUFFIXES[kind]:
        raise UserError(f"--output {path}: expected a name ending in {EXPORT_SUFFIXES[kind]} for --format {kind}")
    require_writable(path.parent, "--output")
    remove_stale(path.parent)
    size_rule = (int(cfg.INPUT.MIN_SIZE_TEST), int(cfg.INPUT.MAX_SIZE_TEST)) if settings.resize else None
    graph = SegmentationGraph(model, outputs, normalize=normalize, size_rule=size_rule).eval()
    calibration: list[np.ndarray] = []
    if settings.int8:
        calibrating, images = split(images)
        calibration = [graph_input(graph, batch, settings.input_type) for batch in calibrating]
    metadata = describe(cfg, classes, graph, settings, len(calibration))
    with exported_beside(path) as temporary, merged_adapters(model):
        try:
            WRITERS[kind](graph, temporary, metadata, settings, calibration)
            agreements = prove(RUNNERS[kind](temporary), graph, settings, images)
        except Exception as error:
            if out_of_memory(error):
                raise UserError(f"{path}: not written, out of memory; choose a smaller --size, or --batch 1") from error
            if not isinstance(error, (RuntimeError, UnusableExport)):
                raise
            # the runtime has read the file but cannot run it
            reason = error.reason if isinstance(error, UnusableExport) else last_line(error)
            raise UserError(
                f"{path}: not written, because {kind} cannot run it ({reason}); try another --format"
            ) from error
        if refusal := LIMITS[settings.precision].refusal(agreements):
            cure = INT8_CURE if settings.int8 else "try another --format, or --no-grid-sample"
            raise UserError(f"{path}: not written, because the results of file and model differ ({refusal}); {cure}")
        put_all_in_place(temporary, path)
    return agreements


def split(images: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the images that calibrate an int8 file, and every KEPT_APART-th, or the last, for the comparison."""
    apart = range(KEPT_APART - 1, len(images), KEPT_APART) or range(len(images) - 1, len(images))
    return [image for i, image in enumerate(images) if i not in apart], [images[i] for i in apart]


def require_file_name(path: Path, suffix: str) -> None:
    """Raise `UserError` early if `path` is a folder or an invalid file name, because exporting takes minutes."""
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return
    except ValueError as error:
        raise UserError(f"--output {path}: invalid file name: {error}") from error
    except OSError as error:
        raise UserError(f"--output {path}: cannot be written: {error.strerror}; choose another name") from error
    if is_folder:
        raise UserError(f"--output {path}: this is a folder; name a file in it, such as {path / f'model{suffix}'}")
