"""SeMask with mask classification: backbone, mask head, set criterion and semantic-prior loss."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor

from semask_d2.d2 import (
    META_ARCH_REGISTRY,
    CfgNode,
    ImageList,
    MetadataCatalog,
    configurable,
)
from semask_d2.modeling.losses.mask_losses import DenseMaskLoss, PointMaskLoss
from semask_d2.modeling.losses.set_criterion import SetCriterion
from semask_d2.modeling.losses.targets import Targets
from semask_d2.modeling.meta_arch.base import (
    MaskLogits,
    Normalizer,
    SemanticSegmenter,
    build_backbone_and_head,
    output_size,
)
from semask_d2.modeling.meta_arch.score_maps import QueryMasks, ScoreMap, score_map_of_queries
from semask_d2.modeling.meta_arch.segments import instance_segmentation, panoptic_segmentation
from semask_d2.modeling.transformer_decoders import MaskPredictions
from semask_d2.utils.arguments import arguments_from, require
from semask_d2.utils.errors import UserError


@META_ARCH_REGISTRY.register()
class SeMaskMaskFormer(SemanticSegmenter):
    """Mask classification with any backbone, and a prior loss if the backbone has semantic maps.

    In evaluation it returns Detectron2's `sem_seg`, `panoptic_seg` and `instances` for the tasks that are on. `things`
    are the classes with separate objects, None if unknown. `shared` are the arguments of `SemanticSegmenter`.
    """

    scores_are_probabilities = True
    prior_align_corners = True
    config_keys: ClassVar = {
        **SemanticSegmenter.config_keys,
        "size_divisibility": "MODEL.MASK_FORMER.SIZE_DIVISIBILITY",
        "resize_masks_first": "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE",
        "semantic_on": "MODEL.MASK_FORMER.TEST.SEMANTIC_ON",
        "instance_on": "MODEL.MASK_FORMER.TEST.INSTANCE_ON",
        "panoptic_on": "MODEL.MASK_FORMER.TEST.PANOPTIC_ON",
        "object_mask_threshold": "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD",
        "overlap_threshold": "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD",
        "max_instances": "TEST.DETECTIONS_PER_IMAGE",
    }

    @configurable
    def __init__(
        self,
        *,
        criterion: SetCriterion,
        resize_masks_first: bool,
        semantic_on: bool,
        instance_on: bool,
        panoptic_on: bool,
        object_mask_threshold: float,
        overlap_threshold: float,
        max_instances: int,
        things: Collection[int] | None = None,
        **shared: Any,
    ):
        super().__init__(**shared)
        expected = "True if INSTANCE_ON and PANOPTIC_ON are False"
        require(semantic_on or instance_on or panoptic_on, self, "semantic_on", expected, semantic_on)
        for name, share in {
            "object_mask_threshold": object_mask_threshold,
            "overlap_threshold": overlap_threshold,
        }.items():
            require(0 <= share <= 1, self, name, "a number from 0 to 1", share)
        require(max_instances >= 1, self, "max_instances", "at least 1", max_instances)
        expected = "False, or a dataset whose metadata define thing classes (thing_dataset_id_to_contiguous_id)"
        require(not panoptic_on or things is not None, self, "panoptic_on", expected, panoptic_on)
        self.criterion = criterion
        self.resize_masks_first = resize_masks_first or instance_on or panoptic_on
        self.semantic_on, self.instance_on, self.panoptic_on = semantic_on, instance_on, panoptic_on
        self.object_mask_threshold, self.overlap_threshold = object_mask_threshold, overlap_threshold
        self.max_instances = max_instances
        self.things = things

    @classmethod
    def from_config(cls, cfg):
        """Return the components and arguments of `__init__` from a config."""
        backbone, sem_seg_head = build_backbone_and_head(cfg)
        supervision = getattr(sem_seg_head, "supervision", None)
        if supervision is None:
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.NAME: {cfg.MODEL.SEM_SEG_HEAD.NAME} outputs no masks, which SeMaskMaskFormer "
                "needs; set it to BranchMaskFormerHead, or MODEL.META_ARCHITECTURE to SeMaskFPN or Detectron2's "
                "SemanticSegmentor"
            )
        mask_loss = (
            DenseMaskLoss()
            if supervision == "dense"
            else PointMaskLoss(**arguments_from(cfg, PointMaskLoss.config_keys))
        )
        arguments = arguments_from(cfg, cls.config_keys)
        if arguments["size_divisibility"] <= 0:
            arguments["size_divisibility"] = backbone.size_divisibility
        return {
            **arguments,
            "backbone": backbone,
            "sem_seg_head": sem_seg_head,
            "criterion": SetCriterion(mask_loss, **arguments_from(cfg, SetCriterion.config_keys)),
            "normalizer": Normalizer(**arguments_from(cfg, Normalizer.config_keys)),
            "things": thing_classes(cfg),
        }

    def final_logits(self, predictions: MaskPredictions) -> MaskLogits:
        """Return the logits of the last layer."""
        return MaskLogits(predictions.class_logits[-1], predictions.mask_logits())

    def head_losses(self, predictions: MaskPredictions, targets: Targets) -> dict[str, Tensor]:
        """Return the losses of the set criterion."""
        return self.criterion(predictions, targets)

    def output(self, score_map: ScoreMap) -> dict[str, Any]:
        """Return the predictions of one image in Detectron2's format: `sem_seg` and the results of `segments`."""
        semantic = super().output(score_map) if self.semantic_on else {}
        with self.full_precision():
            return semantic | self.segments(score_map)

    def segments(self, score_map: ScoreMap) -> dict[str, Any]:
        """Return `panoptic_seg` and `instances` of one image in Detectron2's format, for the tasks that are on."""
        queries = score_map.queries
        assert queries is not None  # because `score_maps` sets them
        predictions: dict[str, Any] = {}
        if self.panoptic_on:
            assert self.things is not None
            predictions["panoptic_seg"] = panoptic_segmentation(
                queries,
                things=self.things,
                object_mask_threshold=self.object_mask_threshold,
                overlap_threshold=self.overlap_threshold,
            )
        if self.instance_on:
            classes = self.things if self.panoptic_on else None
            predictions["instances"] = instance_segmentation(queries, classes=classes, limit=self.max_instances)
        return predictions

    def score_maps(self, batched_inputs: list[dict], images: ImageList, predictions: MaskPredictions) -> list[ScoreMap]:
        """Return the scores of each image from the predictions of the last layer."""
        in_bf16 = self.device.type == "cpu" and predictions.class_logits.dtype == torch.bfloat16
        mask_logits = predictions.mask_logits().float() if in_bf16 else predictions.float().mask_logits()
        padded_size = (images.tensor.shape[-2], images.tensor.shape[-1])
        per_image = zip(
            batched_inputs,
            images.image_sizes,
            predictions.class_logits[-1].float(),
            mask_logits,
            strict=True,
        )
        return [
            score_map_of_queries(
                QueryMasks(class_logits, mask_logits, padded_size, image_size, output_size(inputs, image_size)),
                resize_masks_first=self.resize_masks_first,
                in_bf16=in_bf16,
            )
            for inputs, image_size, class_logits, mask_logits in per_image
        ]


def thing_classes(cfg: CfgNode) -> frozenset[int] | None:
    """Return the thing classes in the metadata of the first training or test set; None if there are none."""
    for name in (*cfg.DATASETS.TRAIN[:1], *cfg.DATASETS.TEST[:1]):
        things = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id")
        if things is not None:
            return frozenset(things.values())
    return None
