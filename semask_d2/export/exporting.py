"""From a trained run to an exported file that is proved."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from semask_d2.d2 import CfgNode
from semask_d2.export.graph import Outputs, SegmentationGraph, output_names, resizes_masks_first
from semask_d2.export.metadata import ExportMetadata
from semask_d2.export.proof import HALF_TOLERANCE, TOLERANCE, Agreement, prove
from semask_d2.export.running import ExportedModel, OnnxModel, OpenVinoModel, TorchModel, UnusableExport, last_line
from semask_d2.export.writing import SUFFIXES, WRITERS, GraphSettings, exported_beside, put_all_in_place
from semask_d2.modeling.meta_arch.base import SemanticSegmenter
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import remove_stale, require_writable
from semask_d2.utils.memory import out_of_memory
from semask_d2.version import __version__

RUNNERS: dict[str, Callable[[Path], ExportedModel]] = {
    "torch_export": TorchModel,
    "onnx": OnnxModel,
    "openvino": OpenVinoModel,
}


def describe(cfg: CfgNode, classes: Classes, graph: SegmentationGraph, settings: GraphSettings) -> ExportMetadata:
    """Return the metadata of a file of `graph`."""
    model = graph.model
    return ExportMetadata(
        version=__version__,
        architecture=cfg.MODEL.META_ARCHITECTURE,
        classes=classes,
        min_size=int(cfg.INPUT.MIN_SIZE_TEST) if graph.size_rule is None else 0,  # else there is no more to resize
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
    )


def check_settings(kind: str, settings: GraphSettings, outputs: Outputs, *, normalize: bool) -> None:
    """Raise `UserError` for what a format cannot do."""
    if kind == "torch_export" and settings.size is None:
        raise UserError(
            "--dynamic: torch_export takes a fixed size, for which add --size H W; onnx and openvino take any"
        )
    if kind == "torch_export" and settings.half_weights:
        raise UserError("--fp16: expected --format onnx or openvino; a program of torch.export keeps its weights")
    if settings.size is not None and min(settings.size) < 1:
        raise UserError(f"--size {' '.join(map(str, settings.size))}: expected a height and a width of at least 1")
    if settings.batch is not None and settings.batch < 1:
        raise UserError(f"--batch {settings.batch}: expected at least 1, or any")
    if not normalize and settings.input_type == "uint8":
        raise UserError("--no-normalize: add --input float, as normalized pictures are not whole numbers")
    if settings.resize and not normalize:
        raise UserError("--resize: leave out --no-normalize, as what is resized are pictures of 0 to 255")
    if settings.resize and outputs == "logits":
        raise UserError("--resize: expected --outputs labels or scores, as logits have the size of the resized picture")


def export_model(
    model: SemanticSegmenter,
    cfg: CfgNode,
    classes: Classes,
    kind: str,
    path: str | Path,
    settings: GraphSettings,
    *,
    outputs: Outputs = "labels",
    normalize: bool = True,
    pictures: Sequence[np.ndarray] = (),
) -> list[Agreement]:
    """Write `path` in the format `kind`, run it beside `model` (fp32, on a CPU, in evaluation mode), and keep it if
    they agree.

    The comparison is on `pictures`, batches (B, 3, H, W) uint8, or on random ones. Raises `UserError` for settings or a
    path that cannot be, and, leaving no file and an older one as it was, where file and model disagree.
    """
    path = Path(path)
    check_settings(kind, settings, outputs, normalize=normalize)
    require_file_name(path, SUFFIXES[kind])
    if path.suffix != SUFFIXES[kind]:
        raise UserError(f"--output {path}: expected a name that ends in {SUFFIXES[kind]} for --format {kind}")
    require_writable(path.parent, "--output")
    remove_stale(path.parent)
    size_rule = (int(cfg.INPUT.MIN_SIZE_TEST), int(cfg.INPUT.MAX_SIZE_TEST)) if settings.resize else None
    graph = SegmentationGraph(model, outputs, normalize=normalize, size_rule=size_rule).eval()
    metadata = describe(cfg, classes, graph, settings)
    with exported_beside(path) as temporary:
        try:
            WRITERS[kind](graph, temporary, metadata, settings)
            agreements = prove(RUNNERS[kind](temporary), graph, settings, pictures)
        except Exception as error:
            if out_of_memory(error):
                raise UserError(f"{path}: not written, out of memory; choose a smaller --size, or --batch 1") from error
            if not isinstance(error, (RuntimeError, UnusableExport)):
                raise
            # of a runtime that cannot compute what it has read
            reason = error.reason if isinstance(error, UnusableExport) else last_line(error)
            raise UserError(f"{path}: not written, as {kind} cannot run it ({reason}); try another --format") from error
        tolerance = HALF_TOLERANCE if settings.half_weights else TOLERANCE
        wrong = [agreement for agreement in agreements if not agreement.within(tolerance)]
        if wrong:
            raise UserError(
                f"{path}: not written, as the file does not do what the model does ({wrong[0]}; up to {tolerance:g} "
                "is allowed); try another --format, or --no-grid-sample"
            )
        put_all_in_place(temporary, path)
    return agreements


def require_file_name(path: Path, suffix: str) -> None:
    """Raise `UserError` where `path` is a folder or no name that a file can have; writing takes minutes."""
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return
    except ValueError as error:
        raise UserError(f"--output {path}: no file name: {error}") from error
    except OSError as error:
        raise UserError(f"--output {path}: cannot be written: {error.strerror}; choose another name") from error
    if is_folder:
        raise UserError(f"--output {path}: this is a folder; name a file in it, such as {path / f'model{suffix}'}")
