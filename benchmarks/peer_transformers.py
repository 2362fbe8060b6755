"""The peer transformers (pip install transformers): its Mask2Former with a Swin-T and random weights."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from panoptic import OBJECT_MASK_THRESHOLD, OVERLAP_THRESHOLD, make_logits, things_of
from postprocessing import make_logits as random_logits
from postprocessing import whole_maps
from timing import Way
from torch import Tensor
from training_step import CLASSES_SHOWN, batch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor, SwinConfig

MASK_SIZE = (384, 384)  # that its post-processing resizes all masks to


def mask2former(classes: int) -> torch.nn.Module:
    """Return the model; its pixel decoder is the same as in m2f configs."""
    swin = SwinConfig(
        embed_dim=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    return Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=swin, num_labels=classes))


def inference(size: int, classes: int) -> Way:
    """Return the prediction of one image's labels."""
    model = mask2former(classes).eval()
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


def training_step(size: int, images: int, classes: int) -> Way:
    """Return a training step on the same images and labels as for the project."""
    model = mask2former(classes).train()
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
