#!/usr/bin/env python3
"""Benchmark of exported files (torch.export, onnxruntime, OpenVINO) against the model: labels of one image.

    python benchmarks/export.py [--config-file FILE | --run DIR] [--size 512] [--repeats N] [--json FILE]

Seconds and peak memory are measured for each variant in a separate process, as well as the size of its file. ONNX and
OpenVINO files accept images of any size, as written by `semask export`. bf16 is measured if the processor supports it.
int8 is `semask export --int8`, calibrated on images of the training set, or on random ones. Weights are random by
default. With a run folder its best weights are used, and the mIoU on its test set is also measured for all files that
accept any image size.
Variants whose library is not installed are skipped: pip install -e ".[export]".
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from inference import fast_paths
from processes import Maker, report_processes
from timing import Way, parser

from semask_d2 import Predictor, build_model, get_cfg
from semask_d2.d2 import CfgNode, DatasetCatalog
from semask_d2.data import register_custom
from semask_d2.engine import Trainer
from semask_d2.evaluation import SemanticEvaluator
from semask_d2.export.exporting import describe, write_verified
from semask_d2.export.graph import SegmentationGraph
from semask_d2.export.running import ExportedModel, OnnxModel, OpenVinoModel, TorchModel
from semask_d2.export.segmenter import ExportedSegmenter
from semask_d2.export.writing import WRITERS, GraphSettings, size_of
from semask_d2.inference.exporting import image_batches
from semask_d2.modeling.meta_arch.segmenter import Segmenter
from semask_d2.utils.runs import CONFIG_NAME, require_run

ANY = GraphSettings(size=None)
CALIBRATION = 32  # images


class Exported(NamedTuple):
    """An exported file, and the function that opens it."""

    path: Path
    open: Callable[[Path], ExportedModel]
    any_size: bool = True


def labels_of(file: Exported, size: int) -> Way:
    """Return the prediction of an image's labels by an exported file."""
    model = file.open(file.path)
    return partial(model, np.random.default_rng(0).integers(0, 256, (1, 3, size, size), np.uint8))


def calibration_images(predictor: Predictor, size: int, *, trained: bool) -> list[np.ndarray]:
    """Return images (1, 3, H, W) of the training set of a trained model, or random ones."""
    if not trained:
        generator = np.random.default_rng(1)
        return [generator.integers(0, 256, (1, 3, size, size), np.uint8) for _ in range(2)]
    register_custom(predictor.cfg)
    records = DatasetCatalog.get(predictor.cfg.DATASETS.TRAIN[0])
    chosen = records[:: max(1, len(records) // CALIBRATION)][:CALIBRATION]
    return image_batches(predictor, [record["file_name"] for record in chosen], ANY)


def write_int8(predictor: Predictor, kind: str, path: Path, images: list[np.ndarray]) -> None:
    """Write a file as `semask export --int8` does, without the comparison, which random weights would not pass."""
    settings, graph = ANY._replace(int8=True), SegmentationGraph(predictor.model).eval()
    metadata = describe(predictor.cfg, predictor.classes, graph, settings, len(images))
    WRITERS[kind](graph, path, metadata, settings, images)


def write_files(predictor: Predictor, folder: Path, size: int, *, trained: bool) -> dict[str, Exported]:
    """Export a model to `folder`, and return the files by variant."""
    images = calibration_images(predictor, size, trained=trained)
    write = partial(write_verified, predictor.model, predictor.cfg, predictor.classes)
    files = {"torch.export": Exported(folder / "model.pt2", TorchModel, any_size=False)}
    write("torch_export", folder / "model.pt2", ANY._replace(size=(size, size)))
    if find_spec("onnx") and find_spec("onnxruntime"):
        write("onnx", folder / "model.onnx", ANY)
        write_int8(predictor, "onnx", folder / "int8.onnx", images)
        files["onnxruntime, fp32"] = Exported(folder / "model.onnx", OnnxModel)
        files["onnxruntime, int8"] = Exported(folder / "int8.onnx", OnnxModel)
    if find_spec("onnx") and find_spec("openvino"):
        import peer_openvino

        write("openvino", folder / "model.xml", ANY)
        for precision in peer_openvino.supported(["fp32", "bf16"]):
            opened = partial(OpenVinoModel, precision=peer_openvino.PRECISIONS[precision])
            files[f"OpenVINO, {precision}"] = Exported(folder / "model.xml", opened)
        if find_spec("onnxruntime"):
            write_int8(predictor, "openvino", folder / "model_int8.xml", images)
            files["OpenVINO, int8"] = Exported(folder / "model_int8.xml", OpenVinoModel)
    return files


def mean_iou(cfg: CfgNode, model: Segmenter) -> float:
    """Return the mIoU, in percent, on the first test set of a config."""
    return Trainer.test(cfg, model, [SemanticEvaluator(cfg.DATASETS.TEST[0])])["sem_seg"]["mIoU"]


def main() -> None:
    command_line = parser(__doc__)
    source = command_line.add_mutually_exclusive_group()
    source.add_argument("--config-file", default="ade20k/semask_swin_t_msfapn_m2f.yaml")
    source.add_argument("--run", metavar="DIR", help="a run folder with a model_best.pth")
    command_line.add_argument("--size", type=int, default=512)
    arguments = command_line.parse_args()
    config, options = arguments.config_file, ["MODEL.DEVICE", "cpu"]
    torch.manual_seed(0)
    if arguments.run:
        config = str(Path(arguments.run, CONFIG_NAME))
        weights = ["MODEL.WEIGHTS", str(require_run(arguments.run))]
        # no worker processes: OpenVINO crashes at the end of a process that was forked after it started
        predictor = Predictor(get_cfg(config, [*options, *weights, "DATALOADER.NUM_WORKERS", "0"]))
    else:
        cfg = get_cfg(config, options)
        predictor = Predictor.of_model(cfg, build_model(cfg).eval())
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(predictor, Path(folder), arguments.size, trained=bool(arguments.run))
        columns = {"file MB": {name: size_of(file.path) / 1e6 for name, file in files.items()}}
        if arguments.run:
            models = {name: ExportedSegmenter(file.open(file.path)) for name, file in files.items() if file.any_size}
            models = {"the model": predictor.model, **models}
            columns["mIoU"] = {name: mean_iou(predictor.cfg, model) for name, model in models.items()}
        makers: dict[str, Maker] = {"the model": partial(fast_paths, config, options, arguments.size)}
        makers |= {name: partial(labels_of, file, arguments.size) for name, file in files.items()}
        title = f"exported files, {config}, {arguments.size} x {arguments.size}"
        report_processes(title, makers, arguments, columns)


if __name__ == "__main__":
    main()
