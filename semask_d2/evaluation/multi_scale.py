"""Multi-scale evaluation, with and without a horizontal flip: the "ms+flip" of the paper's tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from torch import Tensor, nn

from semask_d2.d2 import CfgNode
from semask_d2.d2 import get_cfg as get_detectron2_cfg
from semask_d2.data.augmentation import resized_tensor
from semask_d2.data.image_io import open_picture
from semask_d2.data.picture import RGB
from semask_d2.modeling.meta_arch import Segmenter, as_segmenter, in_batches, refuse_segments, with_sliding
from semask_d2.modeling.meta_arch.score_maps import ScoreMap
from semask_d2.modeling.meta_arch.segmenter import Priors

LARGEST_FACTOR = 4  # sizes below this are factors of the image's original size
FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of the test size, as in the published recipes


class MultiScaleFlip(Segmenter):
    """Averages a model's class probabilities over several sizes of the image's short side, also flipped if `flip`.

    A size below `LARGEST_FACTOR` is a factor of the image's original size. Takes the dicts of an evaluation, and reads
    each image again from its `file_name`. If the model's scores are logits, a softmax is applied first. An image and
    its flip form one batch. The mean is computed in bands of rows, so that no full score map is ever in memory.
    """

    scores_are_probabilities = True
    prior_strides: ClassVar[dict[str, int]] = {}  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def __init__(
        self,
        model: nn.Module,
        *,
        short_sides: Sequence[float],
        max_size: int,
        flip: bool,
        image_format: str,
        value_range: Sequence[float] = (),
        channels: int = RGB,
    ):
        super().__init__()
        self.model = as_segmenter(model)
        self.training = model.training
        self.short_sides = tuple(short_sides)
        self.max_size = max_size
        self.flip = flip
        self.image_format = image_format
        self.value_range = tuple(value_range)
        self.channels = channels

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> MultiScaleFlip:
        """Wrap `model`, in sliding windows if TEST.SLIDING is on, for the sizes of TEST.AUG.

        If MIN_SIZES is Detectron2's default, it counts as not set: the sizes are then `FACTORS` of
        INPUT.MIN_SIZE_TEST, or of each image's original size if that is 0.
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
            channels=cfg.INPUT.CHANNELS,
        )

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Return for each image `sem_seg`, the mean scores (K, height, width)."""
        return self.scored(batched_inputs)

    def passes(self) -> int:
        """Return how often the model runs for each image."""
        return len(self.short_sides) * (1 + self.flip)

    def lazy_predictions(
        self, batched_inputs: list[dict], *, priors: bool = False
    ) -> Iterator[tuple[ScoreMap, Priors | None]]:
        """Yield the mean over all views of each image."""
        for inputs in batched_inputs:
            yield self.mean_scores(inputs), None

    def mean_scores(self, inputs: dict) -> ScoreMap:
        """Return the mean over all views of one image."""
        original = open_picture(inputs["file_name"], self.value_range, self.channels)
        size = {"height": inputs["height"], "width": inputs["width"]}
        maps: list[ScoreMap] = []
        for side in self.short_sides:
            short = round(side * min(original.size)) if side < LARGEST_FACTOR else int(side)
            image = resized_tensor(original, max(1, short), self.max_size, self.image_format)
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
            assert total is not None  # there is at least one size
            return total / len(maps)

        return ScoreMap(rows, maps[0].size, max(score_map.row_elements for score_map in maps), maps[0].device)


def sizes_in_words(cfg: CfgNode, model: nn.Module | None = None) -> str:
    """Describe the sizes at which `model`, built from `cfg` or a `MultiScaleFlip` of it, is tested."""
    test_size = cfg.INPUT.MIN_SIZE_TEST
    if isinstance(model, MultiScaleFlip):
        sides = ", ".join(f"{side:g}" for side in model.short_sides)
        are_factors = max(model.short_sides) < LARGEST_FACTOR
        text = f"{sides} times the original size" if are_factors else f"shorter sides {sides}"
        text += ", also flipped" if model.flip else ""
    else:
        sides = f"shorter side {test_size}, longer at most {cfg.INPUT.MAX_SIZE_TEST} pixels"
        text = sides if test_size else "original size"
    if cfg.TEST.SLIDING.ENABLED:
        height, width = cfg.TEST.SLIDING.SIZE if any(cfg.TEST.SLIDING.SIZE) else cfg.INPUT.CROP.SIZE
        text += f", in windows of {height:g} x {width:g}"
    return text
