"""SeMask with mask classification: SeMask backbone, mask head, set criterion and semantic-prior supervision."""

from __future__ import annotations

from torch import Tensor, nn

from semask_d2.config_values import check_values
from semask_d2.criteria.dense_terms import DenseTerms
from semask_d2.criteria.point_terms import PointTerms
from semask_d2.criteria.set_criterion import SetCriterion
from semask_d2.criteria.targets import SemanticTargets
from semask_d2.d2 import (
    META_ARCH_REGISTRY,
    Backbone,
    ImageList,
    build_backbone,
    build_sem_seg_head,
    configurable,
)
from semask_d2.errors import UserError
from semask_d2.meta_arch.base import SemanticSegmenter
from semask_d2.meta_arch.images import Normalizer, output_size
from semask_d2.meta_arch.score_maps import ScoreMap, resized, rows_of
from semask_d2.transformer_decoders import MaskPredictions


@META_ARCH_REGISTRY.register()
class SeMaskMaskFormer(SemanticSegmenter):
    """MaskFormer-type semantic segmentation on any backbone; the prior loss where it has semantic maps."""

    prior_align_corners = True

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        criterion: SetCriterion,
        normalizer: Normalizer,
        num_classes: int,
        ignore_label: int,
        prior_weight: float,
        size_divisibility: int,
        resize_masks_first: bool,
    ):
        super().__init__(
            backbone=backbone,
            sem_seg_head=sem_seg_head,
            normalizer=normalizer,
            num_classes=num_classes,
            ignore_label=ignore_label,
            prior_weight=prior_weight,
            size_divisibility=size_divisibility,
        )
        self.criterion = criterion
        self.resize_masks_first = resize_masks_first

    @classmethod
    def from_config(cls, cfg):
        """The parts and arguments of `__init__` from a whole config."""
        check_values(cfg)
        backbone = build_backbone(cfg)
        mask_former, head = cfg.MODEL.MASK_FORMER, cfg.MODEL.SEM_SEG_HEAD
        sem_seg_head = build_sem_seg_head(cfg, backbone.output_shape())
        if not hasattr(getattr(sem_seg_head, "predictor", None), "supervision"):
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.NAME: {head.NAME} gives no masks, as SeMaskMaskFormer needs them; set it to "
                "BranchMaskFormerHead, or MODEL.META_ARCHITECTURE to SeMaskFPN or Detectron2's SemanticSegmentor"
            )
        if sem_seg_head.predictor.supervision == "dense":
            mask_terms = DenseTerms()
        else:
            mask_terms = PointTerms(
                mask_former.TRAIN_NUM_POINTS,
                mask_former.OVERSAMPLE_RATIO,
                mask_former.IMPORTANCE_SAMPLE_RATIO,
            )
        criterion = SetCriterion(
            mask_terms,
            num_classes=head.NUM_CLASSES,
            class_weight=mask_former.CLASS_WEIGHT,
            mask_weight=mask_former.MASK_WEIGHT,
            dice_weight=mask_former.DICE_WEIGHT,
            no_object_weight=mask_former.NO_OBJECT_WEIGHT,
            deep_supervision=mask_former.DEEP_SUPERVISION,
        )
        size_divisibility = mask_former.SIZE_DIVISIBILITY
        return {
            "backbone": backbone,
            "sem_seg_head": sem_seg_head,
            "criterion": criterion,
            "normalizer": Normalizer(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD),
            "num_classes": head.NUM_CLASSES,
            "ignore_label": head.IGNORE_VALUE,
            "prior_weight": mask_former.CATE_WEIGHT,
            "size_divisibility": size_divisibility if size_divisibility > 0 else backbone.size_divisibility,
            "resize_masks_first": mask_former.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE,
        }

    def head_losses(self, predictions: MaskPredictions, targets: SemanticTargets) -> dict[str, Tensor]:
        """The set criterion's losses."""
        return self.criterion(predictions, targets)

    def score_maps(self, batched_inputs: list[dict], images: ImageList, predictions: MaskPredictions) -> list[ScoreMap]:
        """The final layer's predictions to scores, image by image."""
        padded_size = images.tensor.shape[-2:]
        per_image = zip(
            batched_inputs,
            images.image_sizes,
            predictions.class_logits[-1].float(),
            predictions.mask_logits().float(),
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
        probability = class_logits.softmax(-1)[:, :-1].contiguous()
        padded = resized(rows_of(mask_logits), tuple(mask_logits.shape[-2:]), tuple(padded_size))

        def masks(start: int, stop: int) -> Tensor:
            return padded(start, stop)[:, : image_size[1]]

        if self.resize_masks_first:
            masks = resized(masks, image_size, output_size)

        def scores(start: int, stop: int) -> Tensor:
            return masks(start, stop).sigmoid() @ probability

        rows = scores if self.resize_masks_first else resized(scores, image_size, output_size)
        return ScoreMap(rows, output_size, max(probability.shape), mask_logits.device)
