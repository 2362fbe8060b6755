"""Evaluation at several scales, with and without a horizontal flip: the "ms+flip" of the paper's tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from semask_d2.d2 import CfgNode
from semask_d2.d2 import get_cfg as get_detectron2_cfg
from semask_d2.data.augmentation import resized_tensor
from semask_d2.data.image_io import open_picture
from semask_d2.modeling.meta_arch import Segmenter, as_segmenter, in_batches, refuse_segments, with_sliding
from semask_d2.modeling.meta_arch.score_maps import ScoreMap
from semask_d2.modeling.meta_arch.segmenter import Priors

OWN_SIZE = 4  # below it a size is a factor on the image's own
FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of the test size, as the published recipes have them


class MultiScaleFlip(Segmenter):
    """Averages a model's class probabilities over sizes of the image's short side, each also flipped where `flip`.

    A size below `OWN_SIZE` is a factor on the image's own. Takes the evaluation's dicts and reads each image again from
    its `file_name`. Where the model's scores are logits they go through a softmax first. An image and its flip are one
    batch; the mean is taken band by band, so that no view's scores are ever whole.
    """

    scores_are_probabilities = True
    has_priors = False  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def __init__(
        self,
        model: nn.Module,
        *,
        short_sides: Sequence[float],
        max_size: int,
        flip: bool,
        image_format: str,
        value_range: Sequence[float] = (),
    ):
        super().__init__()
        self.model = as_segmenter(model)
        self.training = model.training
        self.short_sides = tuple(short_sides)
        self.max_size = max_size
        self.flip = flip
        self.image_format = image_format
        self.value_range = tuple(value_range)

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> MultiScaleFlip:
        """`model`, where TEST.SLIDING is on in its windows, at the sizes of TEST.AUG.

        MIN_SIZES that are Detectron2's default count as not set: they are `FACTORS` of INPUT.MIN_SIZE_TEST then, or
        where that is 0 of each image's own size.
        """
        refuse_segments(cfg, "TEST.AUG.ENABLED")
        sides = cfg.TEST.AUG.MIN_SIZES
        if tuple(sides) == tuple(get_detectron2_cfg().TEST.AUG.MIN_SIZES):
            test_size = cfg.INPUT.MIN_SIZE_TEST
            sides = [round(factor * test_size) if test_size else factor for factor in FACTORS]
        return cls(
            with_sliding(cfg, model),
            short_sides=sides,
            max_size=cfg.TEST.AUG.MAX_SIZE,
            flip=cfg.TEST.AUG.FLIP,
            image_format=cfg.INPUT.FORMAT,
            value_range=cfg.INPUT.VALUE_RANGE,
        )

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Per image `sem_seg`: mean scores (K, height, width)."""
        return self.scored(batched_inputs)

    def lazy_predictions(
        self, batched_inputs: list[dict], *, priors: bool = False
    ) -> Iterator[tuple[ScoreMap, Priors | None]]:
        """Each image's mean over all views."""
        for inputs in batched_inputs:
            yield self.mean_scores(inputs), None

    def mean_scores(self, inputs: dict) -> ScoreMap:
        """The mean over all views of one image."""
        picture = open_picture(inputs["file_name"], self.value_range)
        size = {"height": inputs["height"], "width": inputs["width"]}
        maps: list[ScoreMap] = []
        for side in self.short_sides:
            short = round(side * min(picture.size)) if side < 4 else int(side)
            image = resized_tensor(picture, max(1, short), self.max_size, self.image_format)
            views = [{"image": image, **size}, {"image": image.flip(-1), **size}][: 1 + self.flip]
            for batch in in_batches(views, image.device):
                maps += [score_map for score_map, _ in self.model.lazy_predictions(batch)]

        def rows(start: int, stop: int) -> Tensor:
            total = None
            for index, score_map in enumerate(maps):
                part = score_map.rows(start, stop)
                if not self.model.scores_are_probabilities:
                    part = part.softmax(-1)
                if self.flip and index % 2:
                    part = part.flip(1)
                total = part if total is None else total + part
            assert total is not None  # there is a size at least
            return total / len(maps)

        return ScoreMap(rows, maps[0].size, max(score_map.row_elements for score_map in maps), maps[0].device)


def sizes_in_words(cfg: CfgNode, model: nn.Module | None = None) -> str:
    """At which sizes `model`, one of `cfg` or its `MultiScaleFlip`, is tested, in words."""
    test_size = cfg.INPUT.MIN_SIZE_TEST
    if isinstance(model, MultiScaleFlip):
        sides = ", ".join(f"{side:g}" for side in model.short_sides)
        text = f"shorter sides {sides}" if max(model.short_sides) >= OWN_SIZE else f"{sides} times an image's own size"
        text += ", also flipped" if model.flip else ""
    else:
        text = f"shorter side {test_size}, longer at most {cfg.INPUT.MAX_SIZE_TEST} pixels" if test_size else "own size"
    if cfg.TEST.SLIDING.ENABLED:
        height, width = cfg.TEST.SLIDING.SIZE if any(cfg.TEST.SLIDING.SIZE) else cfg.INPUT.CROP.SIZE
        text += f", in windows of {height:g} x {width:g}"
    return text
