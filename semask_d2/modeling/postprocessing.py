"""Postprocessing of class and mask logits to labels, scores, panoptic maps and instances, for any mask model.

The functions take plain tensors of one image, from a model of this project, of transformers or any other, and work in
bands of rows, so memory hardly grows with the size of the result.

Letters: Q queries, K classes (class logits have one more, "no object", at the end); (h, w) the size of the mask logits,
(H, W) the size of the result. All functions share these arguments:

- `class_logits` (Q, K + 1) and `mask_logits` (Q, h, w), floating point, on one device.
- `size`: (H, W) of the result, usually the size of the original image.
- `input_size`: height and width of the padded network input that the masks cover; masks are first resized to it.
  Default: (4 h, 4 w), because masks have stride 4.
- `image_size`: height and width of the image in the upper left of the input; the rest is padding. Default: no padding.

All functions raise `UserError` for invalid shapes, types or sizes.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from semask_d2.modeling.meta_arch.score_maps import QueryMasks, ScoreMap, score_map_of_queries
from semask_d2.modeling.meta_arch.segments import instance_segmentation, panoptic_segmentation
from semask_d2.utils.errors import UserError

logger = logging.getLogger(__name__)

STRIDE = 4
DISTINCT = 1.2  # ratio of sides that makes an image clearly upright or wide
Size = tuple[int, int]


class InstanceMasks(NamedTuple):
    """Instances of one image, sorted by descending score.

    `masks` (N, H, W) bool, `boxes` (N, 4) as x0, y0, x1, y1 in pixels, `classes` (N,) int64, `scores` (N,).
    """

    masks: Tensor
    boxes: Tensor
    classes: Tensor
    scores: Tensor


def semantic_labels(
    class_logits: Tensor,
    mask_logits: Tensor,
    size: Size,
    *,
    input_size: Size | None = None,
    image_size: Size | None = None,
    resize_masks_first: bool = False,
) -> Tensor:
    """Return the class of each pixel, (H, W) int64: the argmax of `semantic_scores`, in bands."""
    return _score_map(class_logits, mask_logits, size, input_size, image_size, resize_masks_first).labels()


def semantic_scores(
    class_logits: Tensor,
    mask_logits: Tensor,
    size: Size,
    *,
    input_size: Size | None = None,
    image_size: Size | None = None,
    resize_masks_first: bool = False,
) -> Tensor:
    """Return class scores (K, H, W): sums over queries of class times mask probability. They are not probabilities.

    By default the scores at the input size are resized to `size`, as in published models for semantic segmentation;
    with `resize_masks_first` the mask logits are resized, as in models for panoptic and instance segmentation
    (MaskFormer, arXiv 2107.06278, section 3.4).
    """
    return _score_map(class_logits, mask_logits, size, input_size, image_size, resize_masks_first).scores()


@torch.no_grad()
def panoptic_map(
    class_logits: Tensor,
    mask_logits: Tensor,
    size: Size,
    *,
    things: Collection[int],
    object_mask_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
    input_size: Size | None = None,
    image_size: Size | None = None,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Return a map (H, W) int32 of segment ids, 0 for none, and `id`, `category_id`, `isthing`, `score` per segment.

    Queries with a class probability above `object_mask_threshold` compete for the pixels; a segment is kept if it wins
    at least `overlap_threshold` of its mask. Segments of a class in `things` stay separate, those of another class are
    merged (MaskFormer, arXiv 2107.06278, section 3.4).
    """
    return panoptic_segmentation(
        _queries(class_logits, mask_logits, size, input_size, image_size),
        things=things,
        object_mask_threshold=object_mask_threshold,
        overlap_threshold=overlap_threshold,
    )


@torch.no_grad()
def instance_masks(
    class_logits: Tensor,
    mask_logits: Tensor,
    size: Size,
    *,
    classes: Collection[int] | None = None,
    max_instances: int = 100,
    input_size: Size | None = None,
    image_size: Size | None = None,
) -> InstanceMasks:
    """Return the instances of the `max_instances` most probable (query, class) pairs, limited to `classes` if given.

    The score is the class probability times the mean mask probability within the mask (Mask2Former, arXiv 2112.01527).
    """
    if max_instances < 1:
        raise UserError(f"max_instances: expected at least 1, got {max_instances}")
    queries = _queries(class_logits, mask_logits, size, input_size, image_size)
    instances = instance_segmentation(queries, classes=classes, limit=max_instances)
    instances = instances[instances.scores.argsort(descending=True, stable=True)]
    return InstanceMasks(instances.pred_masks, instances.pred_boxes.tensor, instances.pred_classes, instances.scores)


def _score_map(
    class_logits: Tensor,
    mask_logits: Tensor,
    size: Size,
    input_size: Size | None,
    image_size: Size | None,
    resize_masks_first: bool,
) -> ScoreMap:
    """Return the scores of an image, to be computed lazily."""
    queries = _queries(class_logits, mask_logits, size, input_size, image_size)
    return score_map_of_queries(queries, resize_masks_first=resize_masks_first)


def warn_of_swapped_sides(size: Size, image: Size) -> None:
    """Warn if the result would be upright and the network's image was not, or the reverse."""
    shapes = [height / width for height, width in (size, image)]
    if min(shapes) < 1 / DISTINCT and max(shapes) > DISTINCT:
        logger.warning(
            "size is (height, width) = %s, but the network's image was %s: PIL's image.size is (width, height); write "
            "(image.height, image.width)",
            *(size, tuple(image)),
        )


def _queries(
    class_logits: Tensor, mask_logits: Tensor, size: Size, input_size: Size | None, image_size: Size | None
) -> QueryMasks:
    """Check the arguments and return them as one value."""
    for name, value, letters in (
        ("class_logits", class_logits, "(Q, K + 1)"),
        ("mask_logits", mask_logits, "(Q, h, w)"),
    ):
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim != letters.count(",") + 1:
            got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            batched = isinstance(value, Tensor) and value.ndim == letters.count(",") + 2
            advice = f"; take one image of the batch: {name}[0]" if batched else ""
            raise UserError(f"{name}: expected floating-point {letters} of one image, got {got}{advice}")
    if len(class_logits) != len(mask_logits) or class_logits.shape[1] < 2 or not mask_logits.numel():
        raise UserError(
            "expected class_logits (Q, K + 1) and mask_logits (Q, h, w) of the same queries, got "
            f"{tuple(class_logits.shape)} and {tuple(mask_logits.shape)}"
        )
    if class_logits.device != mask_logits.device:
        raise UserError(f"expected logits on one device, got {class_logits.device} and {mask_logits.device}")
    if input_size is None:
        input_size = (STRIDE * mask_logits.shape[1], STRIDE * mask_logits.shape[2])
    sizes = {"size": size, "input_size": input_size, "image_size": image_size or input_size}
    for name, pair in sizes.items():
        if not isinstance(pair, Sequence) or len(pair) != 2 or min(pair) < 1:
            raise UserError(f"{name}: expected height and width of at least 1, got {pair}")
    image = sizes["image_size"]
    if image[0] > input_size[0] or image[1] > input_size[1]:
        raise UserError(f"image_size: expected at most input_size, {input_size}, got {image_size}")
    height, width = (int(side) for side in size)
    warn_of_swapped_sides((height, width), image)
    return QueryMasks(class_logits.float(), mask_logits.float(), input_size, image, (height, width))
