#!/usr/bin/env python3
"""Benchmark of inference, from an image to its labels: standard operators, fast paths, and peers.

    python benchmarks/inference.py [--config-file FILE] [--size 512] [--precision fp32 bf16] [--peer NAME ...]
                                   [--repeats N] [--json FILE]

Weights are random; seconds and peak memory are measured for each variant in a separate process. Peers are
"transformers", its model of the same config without semantic layers (Mask2Former, MaskFormer or EoMT), and "openvino",
which runs the config's backbone and head as exported by torch.export. Their labels are computed on whole maps. Install
them with pip. The masks of an encoder-only head are off, as after training.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from processes import Maker, report_processes
from timing import Way, parser

from semask_d2 import build_model, get_cfg
from semask_d2.modeling.heads import EncoderOnlyMaskHead
from semask_d2.modeling.meta_arch import Execution


def standard_operators() -> ExitStack:
    """Return a context in which no fast paths are used."""
    stack = ExitStack()
    for module in ("deformable_attention", "deformable_conv"):
        name = f"semask_d2.modeling.layers.{module}.is_supported"
        stack.enter_context(mock.patch(name, return_value=False))
    for module in ("layers.linear", "layers.attention", "kernels.cpu_deformable_conv", "meta_arch.score_maps"):
        stack.enter_context(mock.patch(f"semask_d2.modeling.{module}.linear", F.linear))
    return stack


def fast_paths(config_file: str, options: list[str], size: int, images: int = 1) -> Way:
    """Return the prediction of a batch's labels by the project's model."""
    cfg = get_cfg(config_file, options)
    model, execution = build_model(cfg).eval(), Execution.from_config(cfg)
    if isinstance(model.sem_seg_head, EncoderOnlyMaskHead):
        model.sem_seg_head.anneal(1.0)
    inputs = [{"image": torch.randint(0, 256, (3, size, size), dtype=torch.uint8)} for _ in range(images)]

    @torch.inference_mode()
    def segment() -> None:
        with execution.autocast(model):
            model.predict_labels(inputs)

    return segment


def standard(config_file: str, options: list[str], size: int) -> Way:
    """Return the same prediction without fast paths."""
    segment = fast_paths(config_file, options, size)

    def plain() -> None:
        with standard_operators():
            segment()

    return plain


def main() -> None:
    command_line = parser(__doc__)
    command_line.add_argument("--config-file", default="ade20k/semask_swin_t_msfapn_m2f.yaml")
    command_line.add_argument("--size", type=int, default=512)
    command_line.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32"])
    command_line.add_argument("--peer", nargs="+", choices=["transformers", "openvino"], default=[])
    arguments = command_line.parse_args()
    config, size = arguments.config_file, arguments.size
    makers: dict[str, Maker] = {"standard operators": partial(standard, config, [], size)}
    with tempfile.TemporaryDirectory() as folder:
        for precision in arguments.precision:
            makers[f"fast paths, {precision}"] = partial(fast_paths, config, ["MODEL.PRECISION", precision], size)
        if "transformers" in arguments.peer:
            import peer_transformers

            makers[peer_transformers.peer_name(config, size)] = partial(peer_transformers.inference, config, size)
        if "openvino" in arguments.peer:
            import peer_openvino

            graph = Path(folder, "model.xml")
            peer_openvino.export(config, size, graph)
            for precision in peer_openvino.supported(arguments.precision):
                makers[f"OpenVINO, {precision}"] = partial(peer_openvino.inference, graph, size, precision)
        report_processes(f"inference, {config}, {size} x {size}", makers, arguments)


if __name__ == "__main__":
    main()
