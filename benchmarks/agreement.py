#!/usr/bin/env python3
"""Agreement of inference in bf16 with fp32 on images: the share of equal labels, and mIoU if there is ground truth.

    python benchmarks/agreement.py --images FOLDER [--labels FOLDER] [--weights RUN] [--count N] [--json FILE]

The first row is bf16 as it is on a CPU; each other row changes one choice of what is computed in bf16. Labels are PNG
files with the names of the images. Without `--weights` the packaged model is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timing import keep, machine, parser
from torch import Tensor

from semask_d2 import Predictor
from semask_d2.evaluation import ConfusionMatrix
from semask_d2.modeling.kernels.linear import linear

MODELING = "semask_d2.modeling"


def torchs_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, **options: float | None) -> Tensor:
    """Compute window and semantic attention by torch's function."""
    dropout, scale = options.get("dropout") or 0.0, options.get("scale")
    return F.scaled_dot_product_attention(q, k, v, None if bias is None else bias[None], dropout, scale=scale)


def fp32_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Compute the products of class and mask probabilities in fp32."""
    return linear(x.float(), weight.float())


# what replaces which name of the package
CHOICES: Mapping[str, Mapping[str, object]] = {
    "bf16": {},
    "autocast alone, as in training": {
        "meta_arch.base.SemanticSegmenter.inference_parts": lambda model: (model.backbone, model.sem_seg_head)
    },
    "every backbone in bf16": {"meta_arch.weight_casts.is_mobile": lambda backbone: False},
    "every backbone in fp32": {"meta_arch.weight_casts.is_mobile": lambda backbone: True},
    "torch's attention": {f"layers.{name}_attention.attention": torchs_attention for name in ("window", "semantic")},
    "class scores in fp32": {"meta_arch.score_maps.linear": fp32_linear},
}


def labels_of(predictor: Predictor, paths: list[Path], precision: str) -> list[np.ndarray]:
    """Return the labels of images in `precision`."""
    predictor._execution = replace(predictor._execution, precision=precision)
    return [predictor(path).labels for path in paths]


def mean_iou(predictor: Predictor, predictions: list[np.ndarray], truth: list[np.ndarray]) -> float:
    """Return the mIoU in percent."""
    matrix = ConfusionMatrix(len(predictor.classes.names), predictor.ignore_label)
    for prediction, labels in zip(predictions, truth, strict=True):
        matrix.update(prediction, labels)
    return float(matrix.metrics(predictor.class_names)["mIoU"])


def main() -> None:
    command_line = parser(__doc__)
    command_line.add_argument("--weights", help="a run folder or a checkpoint")
    command_line.add_argument("--images", type=Path, required=True, help="a folder")
    command_line.add_argument("--labels", type=Path, help="a folder")
    command_line.add_argument("--count", type=int, default=50, help="images, evenly spaced in the folder")
    arguments = command_line.parse_args()
    torch.set_num_threads(1)
    paths = sorted(path for path in arguments.images.iterdir() if path.is_file())
    paths = paths[:: max(1, len(paths) // arguments.count)][: arguments.count]
    predictor = Predictor(arguments.weights)
    truth = [np.asarray(Image.open(arguments.labels / f"{x.stem}.png")) for x in paths] if arguments.labels else []
    exact = labels_of(predictor, paths, "fp32")
    base = mean_iou(predictor, exact, truth) if truth else float("nan")
    title = f"agreement with fp32 (mIoU {base:.2f}) on {len(paths)} images of {arguments.images}"
    print(f"\n{title} ({machine()})\n\n| computed as | equal labels, % | mIoU, difference |\n|---|---|---|")
    figures = {}
    for name, replacements in CHOICES.items():
        with ExitStack() as stack:
            for target, value in replacements.items():
                stack.enter_context(mock.patch(f"{MODELING}.{target}", value))
            labels = labels_of(predictor, paths, "bf16")
        equal = 100 * float(np.mean([(a == b).mean() for a, b in zip(exact, labels, strict=True)]))
        change = mean_iou(predictor, labels, truth) - base if truth else float("nan")
        figures[name] = {"equal labels, %": equal, "mIoU, difference": change}
        print(f"| {name} | {equal:.3f} | {change:+.2f} |", flush=True)
    keep(title, {"machine": machine(), "figures": figures}, arguments.json)


if __name__ == "__main__":
    main()
