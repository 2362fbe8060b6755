"""The peer transformers (pip install transformers): its model of the same config, with random weights."""

from __future__ import annotations

import re
from types import SimpleNamespace

import torch
import transformers
from panoptic import OBJECT_MASK_THRESHOLD, OVERLAP_THRESHOLD, make_logits, things_of
from postprocessing import make_logits as random_logits
from postprocessing import whole_maps
from timing import Way
from torch import Tensor
from training_step import CLASSES_SHOWN, batch
from transformers import AutoConfig, Mask2FormerImageProcessor

from semask_d2 import get_cfg
from semask_d2.config.transformers_config import config_for_transformers
from semask_d2.d2 import CfgNode

MASK_SIZE = (384, 384)  # that its post-processing resizes all masks to


def peer_config(config_file: str, size: int) -> CfgNode:
    """Return a config without semantic layers, for square images of `size`, as transformers' models are."""
    cfg = get_cfg(config_file)
    cfg.MODEL.SWIN.NUM_SEM_BLOCKS = cfg.MODEL.VIT.NUM_SEM_BLOCKS = 0
    cfg.MODEL.VIT.IMG_SIZE = size
    return cfg


def peer_name(config_file: str, size: int) -> str:
    """Return the name of transformers' model, "transformers' Mask2Former" or "transformers' Eomt"."""
    (architecture,) = config_for_transformers(peer_config(config_file, size))["architectures"]
    return f"transformers' {re.sub('For[A-Z][a-z]+Segmentation$', '', architecture)}"


def model_of(config_file: str, size: int) -> torch.nn.Module:
    """Return transformers' model of a config, without semantic layers and with random weights."""
    settings = config_for_transformers(peer_config(config_file, size))
    (architecture,) = settings["architectures"]
    kind = AutoConfig.for_model(settings.pop("model_type"), **settings)
    return getattr(transformers, architecture)(kind)


def inference(config_file: str, size: int) -> Way:
    """Return the prediction of one image's labels."""
    model = model_of(config_file, size).eval()
    if hasattr(model, "attn_mask_probs"):  # as in a trained EoMT
        model.attn_mask_probs.zero_()
    image = torch.randn(1, 3, size, size)

    @torch.inference_mode()
    def segment() -> Tensor:
        out = model(pixel_values=image)
        logits = out.class_queries_logits[0], out.masks_queries_logits[0]
        return whole_maps(*logits, (size, size), (size, size))

    return segment


def semantic(size: tuple[int, int], input_size: tuple[int, int], queries: int, classes: int) -> Way:
    """Return the computation of labels from the same random logits as for the project."""
    class_logits, mask_logits = random_logits(input_size, queries, classes)
    out = SimpleNamespace(class_queries_logits=class_logits[None], masks_queries_logits=mask_logits[None])
    processor = Mask2FormerImageProcessor()

    @torch.inference_mode()
    def segment() -> Tensor:
        return processor.post_process_semantic_segmentation(out, target_sizes=[size])[0]

    return segment


def panoptic(size: int, queries: int, classes: int, segments: int) -> Way:
    """Return the computation of a panoptic map from the same logits as for the project."""
    class_logits, mask_logits = make_logits(size, queries, classes, segments)
    out = SimpleNamespace(class_queries_logits=class_logits[None], masks_queries_logits=mask_logits[None])
    processor = Mask2FormerImageProcessor()
    stuff = {*range(classes)} - {*things_of(classes)}

    @torch.inference_mode()
    def segment() -> None:
        processor.post_process_panoptic_segmentation(
            out,
            threshold=OBJECT_MASK_THRESHOLD,
            overlap_mask_area_threshold=OVERLAP_THRESHOLD,
            label_ids_to_fuse=stuff,
            target_sizes=[(size, size)],
        )

    return segment


def training_step(config_file: str, size: int, images: int) -> Way:
    """Return a training step on the same images and labels as for the project."""
    model = model_of(config_file, size).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    inputs = batch(size, images)
    pixels = torch.stack([x["image"].float() / 255 for x in inputs])
    ids = [torch.arange(CLASSES_SHOWN) for _ in inputs]
    masks = [(x["sem_seg"] == torch.arange(CLASSES_SHOWN)[:, None, None]).float() for x in inputs]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(pixel_values=pixels, mask_labels=masks, class_labels=ids).loss.backward()
        optimizer.step()

    return step
