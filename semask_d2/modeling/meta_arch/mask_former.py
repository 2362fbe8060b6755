"""SeMask with mask classification: SeMask backbone, mask head, set criterion and semantic-prior supervision."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar, cast

from torch import Tensor

from semask_d2.d2 import (
    META_ARCH_REGISTRY,
    CfgNode,
    ImageList,
    MetadataCatalog,
    configurable,
)
from semask_d2.modeling.heads import BranchMaskFormerHead
from semask_d2.modeling.kernels.linear import linear
from semask_d2.modeling.losses.mask_losses import DenseMaskLoss, PointMaskLoss
from semask_d2.modeling.losses.set_criterion import SetCriterion
from semask_d2.modeling.losses.targets import Targets
from semask_d2.modeling.meta_arch.base import Normalizer, SemanticSegmenter, build_backbone_and_head, output_size
from semask_d2.modeling.meta_arch.score_maps import QueryMasks, ScoreMap, resized, row_elements, rows_of
from semask_d2.modeling.meta_arch.segments import instance_segmentation, panoptic_segmentation
from semask_d2.modeling.transformer_decoders import MaskPredictions
from semask_d2.modeling.transformer_decoders.base import MaskTransformerDecoder
from semask_d2.utils.arguments import arguments_from, require
from semask_d2.utils.errors import UserError


@META_ARCH_REGISTRY.register()
class SeMaskMaskFormer(SemanticSegmenter):
    """MaskFormer-type segmentation on any backbone; the prior loss where it has semantic maps.

    In evaluation it gives, for each task that is on, Detectron2's `sem_seg`, `panoptic_seg` or `instances`. `things`
    are the classes whose objects are counted, None for all of them. `shared` are the arguments of `SemanticSegmenter`.
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
        wanted = "True where INSTANCE_ON and PANOPTIC_ON are False"
        require(semantic_on or instance_on or panoptic_on, self, "semantic_on", wanted, semantic_on)
        for name, share in {
            "object_mask_threshold": object_mask_threshold,
            "overlap_threshold": overlap_threshold,
        }.items():
            require(0 <= share <= 1, self, name, "a number from 0 to 1", share)
        require(max_instances >= 1, self, "max_instances", "at least 1", max_instances)
        wanted = "False, or a data set whose metadata say which classes are things (thing_dataset_id_to_contiguous_id)"
        require(not panoptic_on or things is not None, self, "panoptic_on", wanted, panoptic_on)
        self.criterion = criterion
        self.resize_masks_first = resize_masks_first or instance_on or panoptic_on
        self.semantic_on, self.instance_on, self.panoptic_on = semantic_on, instance_on, panoptic_on
        self.object_mask_threshold, self.overlap_threshold = object_mask_threshold, overlap_threshold
        self.max_instances = max_instances
        self.things = things

    @classmethod
    def from_config(cls, cfg):
        """The parts and arguments of `__init__` from a whole config."""
        backbone, sem_seg_head = build_backbone_and_head(cfg)
        if not isinstance(sem_seg_head, BranchMaskFormerHead):
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.NAME: {cfg.MODEL.SEM_SEG_HEAD.NAME} gives no masks, as SeMaskMaskFormer needs "
                "them; set it to BranchMaskFormerHead, or MODEL.META_ARCHITECTURE to SeMaskFPN or Detectron2's "
                "SemanticSegmentor"
            )
        predictor = cast(MaskTransformerDecoder, sem_seg_head.predictor)
        mask_loss = (
            DenseMaskLoss()
            if predictor.supervision == "dense"
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

    def head_losses(self, predictions: MaskPredictions, targets: Targets) -> dict[str, Tensor]:
        """The set criterion's losses."""
        return self.criterion(predictions, targets)

    def output(self, score_map: ScoreMap) -> dict[str, Any]:
        """Return Detectron2's forms of one image's predictions: `sem_seg`, and what `segments` gives."""
        semantic = super().output(score_map) if self.semantic_on else {}
        with self.full_precision():
            return semantic | self.segments(score_map)

    def segments(self, score_map: ScoreMap) -> dict[str, Any]:
        """Detectron2's `panoptic_seg` and `instances` of one image, where they are on."""
        queries = score_map.queries
        assert queries is not None  # as `score_maps` gives them
        found: dict[str, Any] = {}
        if self.panoptic_on:
            assert self.things is not None
            found["panoptic_seg"] = panoptic_segmentation(
                queries,
                things=self.things,
                object_mask_threshold=self.object_mask_threshold,
                overlap_threshold=self.overlap_threshold,
            )
        if self.instance_on:
            classes = self.things if self.panoptic_on else None
            found["instances"] = instance_segmentation(queries, classes=classes, limit=self.max_instances)
        return found

    def score_maps(self, batched_inputs: list[dict], images: ImageList, predictions: MaskPredictions) -> list[ScoreMap]:
        """The final layer's predictions to scores, image by image."""
        padded_size = (images.tensor.shape[-2], images.tensor.shape[-1])
        per_image = zip(
            batched_inputs,
            images.image_sizes,
            predictions.class_logits[-1].float(),
            predictions.float().mask_logits(),
            strict=True,
        )
        return [
            self.score_map(
                class_logits,
                mask_logits,
                padded_size=padded_size,
                image_size=image_size,
                output_size=output_size(inputs, image_size),
            )
            for inputs, image_size, class_logits, mask_logits in per_image
        ]

    def score_map(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        *,
        padded_size: tuple[int, int],
        image_size: tuple[int, int],
        output_size: tuple[int, int],
    ) -> ScoreMap:
        """Scores of one image: `class_logits` (Q, K + 1), `mask_logits` (Q, h, w) -> (K, *output_size).

        A pixel's score for a class is the sum over queries of class probability times mask probability
        (MaskFormer, arXiv 2107.06278, section 3.4). Masks are upsampled to the padded input; the scores there are
        cropped and resized. With `resize_masks_first` it is the mask logits that are cropped and resized.
        """
        probability = class_logits.softmax(-1)[:, :-1].T.contiguous()  # (K, Q)
        _, height, width = mask_logits.shape
        padded = resized(rows_of(mask_logits), (height, width), padded_size)

        def cropped(start: int, stop: int) -> Tensor:
            return padded(start, stop)[:, : image_size[1]]

        masks = resized(cropped, image_size, output_size) if self.resize_masks_first else cropped

        def scores(start: int, stop: int) -> Tensor:
            return linear(masks(start, stop).sigmoid(), probability)

        rows = scores if self.resize_masks_first else resized(scores, image_size, output_size)
        elements = row_elements(max(probability.shape), output_size, image_size, padded_size)
        queries = QueryMasks(class_logits, mask_logits, padded_size, image_size, output_size)
        return ScoreMap(rows, output_size, elements, mask_logits.device, queries)


def thing_classes(cfg: CfgNode) -> frozenset[int] | None:
    """The classes that are things, by the metadata of the config's first training or test set; None where untold."""
    for name in (*cfg.DATASETS.TRAIN[:1], *cfg.DATASETS.TEST[:1]):
        things = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id")
        if things is not None:
            return frozenset(things.values())
    return None
