"""Evaluation at several scales, with and without a horizontal flip: the "ms+flip" of the paper's tables."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from semask_d2.d2 import CfgNode
from semask_d2.data.augmentation import resized_tensor
from semask_d2.data.image_io import open_picture
from semask_d2.modeling.meta_arch import as_segmenter


class MultiScaleFlip(nn.Module):
    """Averages a model's class probabilities over sizes of the image's short side, each also flipped where `flip`.

    Takes the evaluation's dicts and reads each image again from its `file_name`. Where the model's scores are logits
    they go through a softmax first.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        short_sides: Sequence[int],
        max_size: int,
        flip: bool,
        image_format: str,
    ):
        super().__init__()
        self.model = as_segmenter(model)
        self.short_sides = tuple(short_sides)
        self.max_size = max_size
        self.flip = flip
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> MultiScaleFlip:
        """`model` at the sizes of TEST.AUG."""
        return cls(
            model,
            short_sides=cfg.TEST.AUG.MIN_SIZES,
            max_size=cfg.TEST.AUG.MAX_SIZE,
            flip=cfg.TEST.AUG.FLIP,
            image_format=cfg.INPUT.FORMAT,
        )

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Per image `sem_seg`: mean scores (K, height, width)."""
        return [{"sem_seg": self.mean_scores(inputs)} for inputs in batched_inputs]

    def mean_scores(self, inputs: dict) -> Tensor:
        """The mean over all views of one image."""
        picture = open_picture(inputs["file_name"])
        total = None
        for side in self.short_sides:
            image = resized_tensor(picture, side, self.max_size, self.image_format)
            for flipped in (False, True) if self.flip else (False,):
                size = {"height": inputs["height"], "width": inputs["width"]}
                scores = self.model([{"image": image.flip(-1) if flipped else image, **size}])[0]["sem_seg"]
                if not self.model.scores_are_probabilities:
                    scores = scores.softmax(0)
                if flipped:
                    scores = scores.flip(-1)
                total = scores if total is None else total + scores
        assert total is not None  # there is a size at least
        return total / (len(self.short_sides) * (1 + self.flip))
