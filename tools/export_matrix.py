#!/usr/bin/env python3
"""Export every family in every format, and print how each file agrees with its model as docs/deployment.md shows it.

    python tools/export_matrix.py [--size 128] [--family NAME ...]

The models are those of configs/toy_scenes with random weights, every parameter moved from where it starts. A cell is
by how much the model's score of a label lies below its highest at most, and the share of equal labels, the worst over
all pictures: of several sizes and batches where the size is free. Minutes on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from semask_d2 import build_model, get_cfg
from semask_d2.d2 import CfgNode
from semask_d2.export.exporting import export_model
from semask_d2.export.proof import Agreement
from semask_d2.export.writing import SUFFIXES, GraphSettings
from semask_d2.modeling.meta_arch.base import SemanticSegmenter
from semask_d2.utils.errors import UserError

FAMILIES = {
    "Swin FPN": "semask_swin_mini_fpn",
    "Swin MaskFormer": "semask_swin_mini_mf",
    "Swin Mask2Former": "semask_swin_mini_m2f",
    "Swin FaPN": "semask_swin_mini_fapn_m2f",
    "Swin MSFaPN": "semask_swin_mini_msfapn_m2f",
    "MiT FPN": "semask_mit_b0_fpn",
    "MiT Mask2Former": "semask_mit_b0_m2f",
    "timm Mask2Former": "semask_timm_resnet18_m2f",
}


def columns(size: int) -> dict[str, tuple[str, GraphSettings]]:
    """What the table's columns export."""
    fixed, free = GraphSettings(size=(size, size)), GraphSettings(size=None, batch=None)
    gathers = free._replace(grid_sample=False)
    return {
        "ONNX, fixed": ("onnx", fixed),
        "ONNX, dynamic": ("onnx", free),
        "ONNX without GridSample, dynamic": ("onnx", gathers),
        "OpenVINO, fixed": ("openvino", fixed),
        "OpenVINO, dynamic": ("openvino", free),
        "torch.export, fixed": ("torch_export", fixed),
    }


def random_model(config: str) -> tuple[SemanticSegmenter, CfgNode]:
    """A family's model with weights that leave no path at zero."""
    torch.manual_seed(0)
    cfg = get_cfg(f"toy_scenes/{config}.yaml", ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    assert isinstance(model, SemanticSegmenter)
    return model, cfg


def cell(agreements: list[Agreement]) -> str:
    """The worst of some agreements."""
    equal = min(agreement.equal for agreement in agreements if agreement.equal is not None)
    return f"{max(agreement.error for agreement in agreements):.0e}, {100 * equal:.2f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="side of the pictures where it is fixed")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    arguments = parser.parse_args()
    kinds = columns(arguments.size)
    print(f"| family | {' | '.join(kinds)} |\n|{'---|' * (len(kinds) + 1)}", flush=True)
    for name in arguments.family:
        model, cfg = random_model(FAMILIES[name])
        count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        classes = {"class_names": [str(i) for i in range(count)], "class_colors": [[0] * 3] * count}
        cells = []
        for kind, settings in kinds.values():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, f"model{SUFFIXES[kind]}")
                try:
                    cells.append(cell(export_model(model, cfg, {**classes, "ignore_label": 255}, kind, path, settings)))
                except UserError as error:
                    cells.append(str(error).partition("(")[2].partition(";")[0] or str(error))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
