#!/usr/bin/env python3
"""Write the table of docs/deployment.md: the agreement of exported files with their models, by family and format.

    python tools/export_matrix.py

The models are those of configs/toy_scenes with random weights, in which no parameter keeps its initial value; they
output scores. A cell shows the worst result over all test images, which have several sizes and batch sizes if the file
is dynamic: the largest difference of a score, and the share of equal labels. If a format cannot be exported, the cell
shows the number of the reason below the table. The script takes minutes on two cores.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from semask_d2 import build_model, get_cfg
from semask_d2.d2 import CfgNode
from semask_d2.export.exporting import write_verified
from semask_d2.export.proof import Agreement
from semask_d2.export.writing import GraphSettings
from semask_d2.modeling.meta_arch.base import SemanticSegmenter
from semask_d2.utils.choices import EXPORT_SUFFIXES
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write

PAGE = Path(__file__).resolve().parents[1] / "docs/deployment.md"
START, END = "<!-- start of the table that tools/export_matrix.py writes -->", "<!-- end of that table -->"
FAMILIES = {
    "Swin FPN": "semask_swin_mini_fpn",
    "Swin MaskFormer": "semask_swin_mini_mf",
    "Swin Mask2Former": "semask_swin_mini_m2f",
    "Swin FaPN": "semask_swin_mini_fapn_m2f",
    "Swin MSFaPN": "semask_swin_mini_msfapn_m2f",
    "MiT FPN": "semask_mit_b0_fpn",
    "MiT Mask2Former": "semask_mit_b0_m2f",
    "timm Mask2Former": "semask_timm_resnet18_m2f",
    "ViT Mask2Former": "semask_vit_tiny_m2f",
    "DINOv3 ViT FPN": "semask_dinov3_vit_tiny_fpn",
    "ViT, encoder-only head": "eomt_vit_tiny",
}
FIXED, DYNAMIC = GraphSettings(size=(70, 106)), GraphSettings(size=None, batch=None)


class Column(NamedTuple):
    """A format, and the settings of its files."""

    kind: str
    settings: GraphSettings


COLUMNS = {
    "ONNX, fixed": Column("onnx", FIXED),
    "ONNX, dynamic": Column("onnx", DYNAMIC),
    "ONNX, dynamic, `--no-grid-sample`": Column("onnx", DYNAMIC._replace(grid_sample=False)),
    "ONNX, dynamic, `--resize`": Column("onnx", DYNAMIC._replace(resize=True)),
    "OpenVINO, fixed": Column("openvino", FIXED),
    "OpenVINO, dynamic": Column("openvino", DYNAMIC),
    "OpenVINO, dynamic, `--resize`": Column("openvino", DYNAMIC._replace(resize=True)),
    "torch.export, fixed": Column("torch_export", FIXED),
    "torch.export, dynamic": Column("torch_export", DYNAMIC),
}


def random_model(config: str) -> tuple[SemanticSegmenter, CfgNode]:
    """Return a family's model with random weights, so that no path outputs zero."""
    torch.manual_seed(0)
    cfg = get_cfg(f"toy_scenes/{config}.yaml", ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    assert isinstance(model, SemanticSegmenter)
    return model, cfg


def exported(model: SemanticSegmenter, cfg: CfgNode, column: Column) -> list[Agreement]:
    """Export a model in a column's format, and return the agreement of the file with the model."""
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    classes = Classes.of(map(str, range(count)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"model{EXPORT_SUFFIXES[column.kind]}")
        return write_verified(model, cfg, classes, column.kind, path, column.settings, outputs="scores")


def worst(agreements: list[Agreement]) -> str:
    """Return the table cell for several agreements."""
    equal = min(agreement.equal for agreement in agreements)
    return f"{max(agreement.error for agreement in agreements):.0e}, {100 * equal:.2f} %"


def table() -> str:
    """Return the rows, which are also printed one by one, and the reasons for refused exports."""
    lines = [f"| family | {' | '.join(COLUMNS)} |", f"|{'---|' * (len(COLUMNS) + 1)}"]
    reasons: list[str] = []
    for name, config in FAMILIES.items():
        model, cfg = random_model(config)
        cells = []
        for column in COLUMNS.values():
            try:
                cells.append(worst(exported(model, cfg, column)))
            except UserError as error:
                if str(error) not in reasons:
                    reasons.append(str(error))
                cells.append(f"({reasons.index(str(error)) + 1})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return "\n".join([*lines, "", *(f"{number}. `{reason}`" for number, reason in enumerate(reasons, 1))])


def with_table(page: str, text: str) -> str:
    """Return the page with a new table between the markers."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not end:
        raise UserError(f"{PAGE}: expected the lines {START!r} and {END!r}, between which the table goes")
    return f"{before}{start}\n\n{text}\n\n{end}{after}"


def main() -> None:
    with_table(PAGE.read_text(encoding="utf-8"), "")  # fails early; the page is read again after the table is made
    text = table()
    page = with_table(PAGE.read_text(encoding="utf-8"), text)
    with atomic_write(PAGE) as file:
        file.write(page)
    print(PAGE)


if __name__ == "__main__":
    main()
