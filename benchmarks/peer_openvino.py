"""The peer OpenVINO (pip install openvino), which runs a config's backbone and head as exported by torch.export."""

from __future__ import annotations

from pathlib import Path

import openvino
import torch
from postprocessing import in_bands
from timing import Way
from torch import Tensor, nn

from semask_d2 import build_model, get_cfg
from semask_d2.modeling.meta_arch.mask_former import SeMaskMaskFormer

DEVICE = "CPU"
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}  # the project's names and OpenVINO's


class FinalMasks(nn.Module):
    """Backbone and head of a model, from a normalized image to class and mask logits of the last decoder layer."""

    def __init__(self, model: SeMaskMaskFormer):
        super().__init__()
        self.backbone, self.head = model.backbone, model.sem_seg_head

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits (1, Q, K + 1) and mask logits (1, Q, h, w) of an image (1, 3, H, W)."""
        predictions = self.head(self.backbone(image))
        return predictions.class_logits[-1], predictions.mask_logits()


def export(config_file: str, size: int, graph: Path) -> None:
    """Write the graph for images of `size` x `size` to the XML file `graph`, with its fp32 weights next to it."""
    torch.manual_seed(0)
    model = build_model(get_cfg(config_file, ["MODEL.DEVICE", "cpu"])).eval()
    with torch.no_grad():
        program = torch.export.export(FinalMasks(model), (torch.zeros(1, 3, size, size),))
    openvino.save_model(openvino.convert_model(program), graph, compress_to_fp16=False)


def supported(precisions: list[str]) -> list[str]:
    """Return the precisions that this processor supports."""
    able = openvino.Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    return [name for name in precisions if name.upper() in able]


def inference(graph: Path, size: int, precision: str) -> Way:
    """Return the prediction of one image's labels by an exported graph."""
    settings = {"INFERENCE_PRECISION_HINT": PRECISIONS[precision], "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(graph, DEVICE, settings)
    image = torch.randn(1, 3, size, size).numpy()

    @torch.inference_mode()
    def segment() -> Tensor:
        class_logits, mask_logits = (torch.from_numpy(value)[0] for value in compiled([image]).values())
        return in_bands(class_logits, mask_logits, (size, size), (size, size))

    return segment
