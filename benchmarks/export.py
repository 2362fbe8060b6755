#!/usr/bin/env python3
"""Benchmark of exported files (torch.export, onnxruntime, OpenVINO) against the model: labels of one image.

    python benchmarks/export.py [--config-file FILE | --run DIR] [--size 512] [--repeats N] [--json FILE]

Seconds and peak memory are measured for each variant in a separate process, as well as the size of its file. ONNX and
OpenVINO files accept images of any size, as written by `semask export`. bf16 is measured if the processor supports it;
int8 quantizes the matrix products with onnxruntime's quantize_dynamic. Weights are random by default. With a run folder
its best weights are used, and the mIoU on its test set is also measured for all files that accept any image size.
Variants whose library is not installed are skipped: pip install -e ".[export]".
"""

from __future__ import annotations

import logging
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
from semask_d2.d2 import CfgNode
from semask_d2.engine import Trainer
from semask_d2.evaluation import SemanticEvaluator
from semask_d2.export.checksum import seal
from semask_d2.export.exporting import write_verified
from semask_d2.export.running import ExportedModel, OnnxModel, OpenVinoModel, TorchModel
from semask_d2.export.segmenter import ExportedSegmenter
from semask_d2.export.writing import GraphSettings, size_of
from semask_d2.modeling.meta_arch.segmenter import Segmenter
from semask_d2.utils.runs import CONFIG_NAME, require_run

ANY = GraphSettings(size=None)


class Exported(NamedTuple):
    """An exported file, and the function that opens it."""

    path: Path
    open: Callable[[Path], ExportedModel]
    any_size: bool = True


def labels_of(file: Exported, size: int) -> Way:
    """Return the prediction of an image's labels by an exported file."""
    model = file.open(file.path)
    return partial(model, np.random.default_rng(0).integers(0, 256, (1, 3, size, size), np.uint8))


def quantize(source: Path, target: Path) -> None:
    """Write a copy of an ONNX file in which matrix products use 8-bit weights and activations."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # it recommends a preprocessing that fails on dynamic sizes
    quantize_dynamic(source, target, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
    logging.disable(logging.NOTSET)
    seal([target])  # the copied metadata still has the checksum of the source file


def write_files(predictor: Predictor, folder: Path, size: int) -> dict[str, Exported]:
    """Export a model to `folder`, and return the files by variant."""
    write = partial(write_verified, predictor.model, predictor.cfg, predictor.classes)
    files = {"torch.export": Exported(folder / "model.pt2", TorchModel, any_size=False)}
    write("torch_export", folder / "model.pt2", ANY._replace(size=(size, size)))
    if find_spec("onnx") and find_spec("onnxruntime"):
        write("onnx", folder / "model.onnx", ANY)
        quantize(folder / "model.onnx", folder / "int8.onnx")
        files["onnxruntime, fp32"] = Exported(folder / "model.onnx", OnnxModel)
        files["onnxruntime, int8"] = Exported(folder / "int8.onnx", OnnxModel)
    if find_spec("onnx") and find_spec("openvino"):
        import peer_openvino

        write("openvino", folder / "model.xml", ANY)
        for precision in peer_openvino.supported(["fp32", "bf16"]):
            opened = partial(OpenVinoModel, precision=peer_openvino.PRECISIONS[precision])
            files[f"OpenVINO, {precision}"] = Exported(folder / "model.xml", opened)
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
        files = write_files(predictor, Path(folder), arguments.size)
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
