#!/usr/bin/env python3
"""A training step on a CPU or GPU: seconds and peak memory, ours with standard operators, ours, and a peer.

    python benchmarks/training_step.py [--config-file FILE] [--size 256] [--batch 2] [--repeats N] [--peer]

Forward pass, matching and losses, backward pass and AdamW, on random images with tiles of ten classes; each way runs in
a process of its own. Memory is the largest resident size beyond that after the imports, or on a GPU the largest
allocation. `--peer` is the Mask2Former of transformers with a Swin-T; compare it with a config whose head is m2f.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
from timing import machine, parser

from semask_d2 import build_model, get_cfg
from semask_d2.engine.optimizer import build_optimizer
from semask_d2.utils.memory import peak_memory

CLASSES_SHOWN = 10


def batch(size: int, images: int) -> list[dict]:
    """Random images, and labels in tiles."""
    inputs = []
    for _ in range(images):
        tiles = torch.randint(0, CLASSES_SHOWN, (8, 8), dtype=torch.uint8)
        tiles.view(-1)[:CLASSES_SHOWN] = torch.arange(CLASSES_SHOWN)
        labels = tiles.repeat_interleave(size // 8, 0).repeat_interleave(size // 8, 1)
        inputs.append({"image": torch.randint(0, 256, (3, size, size), dtype=torch.uint8), "sem_seg": labels})
    return inputs


def our_step(arguments: argparse.Namespace):
    """A function that takes one step of our model."""
    cfg = get_cfg(arguments.config_file)
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    inputs = batch(arguments.size, arguments.batch)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        sum(model(inputs).values()).backward()
        optimizer.step()

    return step


def standard_step(arguments: argparse.Namespace):
    """As `our_step`, without fast paths, with the per-pixel loss on whole maps."""
    from inference import standard_operators
    from torch.nn import functional as F

    from semask_d2.modeling.meta_arch import base

    def whole_maps(logits, labels, ignore_label, *, align_corners, ohem_pixels=0):
        logits = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=align_corners)
        return F.cross_entropy(logits, labels, ignore_index=ignore_label)

    base.pixel_loss = whole_maps
    step = our_step(arguments)

    def standard() -> None:
        with standard_operators():
            step()

    return standard


def peer_step(arguments: argparse.Namespace):
    """A function that takes one step of transformers' Mask2Former."""
    from inference import peer

    model = peer(get_cfg(arguments.config_file).MODEL.SEM_SEG_HEAD.NUM_CLASSES).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    inputs = batch(arguments.size, arguments.batch)
    pixels = torch.stack([x["image"].float() / 255 for x in inputs])
    ids = [torch.arange(CLASSES_SHOWN) for _ in inputs]
    masks = [(x["sem_seg"] == torch.arange(CLASSES_SHOWN)[:, None, None]).float() for x in inputs]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(pixel_values=pixels, mask_labels=masks, class_labels=ids).loss.backward()
        optimizer.step()

    return step


WAYS = {"standard operators": standard_step, "this project": our_step, "transformers' Mask2Former": peer_step}


def measure(way: str, arguments: argparse.Namespace) -> dict:
    """Seconds of each counted step, and the peak memory in MB, in this process."""
    torch.manual_seed(0)
    if way.startswith("transformers"):
        import transformers  # noqa: F401 - an import, not part of the step
    before = peak_memory()
    step = WAYS[way](arguments)
    seconds = []
    for _ in range(arguments.repeats + 1):  # the first warms up
        start = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds[1:], "peak": (peak_memory() - before) / 1e6}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--config-file", default="ade20k/semask_swin_t_m2f.yaml")
    made.add_argument("--size", type=int, default=256)
    made.add_argument("--batch", type=int, default=2)
    made.add_argument("--peer", action="store_true")
    made.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = made.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments)))
        return
    ways = [way for way in WAYS if arguments.peer or not way.startswith("transformers")]
    print(f"{arguments.config_file}, {arguments.batch} images of {arguments.size} x {arguments.size} ({machine()})\n")
    print("| way | median, s | lowest | highest | peak MB |\n|---|---|---|---|---|")
    results = {}
    for way in ways:
        done = subprocess.run([sys.executable, *sys.argv, "--way", way], check=True, capture_output=True, text=True)
        results[way] = json.loads(done.stdout.splitlines()[-1])
        seconds = results[way]["seconds"]
        spread = f"{min(seconds):.2f} | {max(seconds):.2f}"
        print(f"| {way} | {statistics.median(seconds):.2f} | {spread} | {results[way]['peak']:.0f} |", flush=True)
    if arguments.json:
        figures = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        figures["training step"] = {"machine": machine(), **results}
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
