"""`Instances` and `Boxes`: the objects predicted in an image, on both backends."""

from __future__ import annotations

import pytest
import torch

from semask_d2.d2 import Boxes, Instances


def make() -> Instances:
    return Instances(
        (4, 6), scores=torch.tensor([0.9, 0.5]), pred_boxes=Boxes(torch.tensor([[0, 0, 2, 3], [1, 1, 4, 4]]))
    )


def test_fields_are_attributes_of_one_length() -> None:
    found = make()
    assert found.image_size == (4, 6)
    assert len(found) == 2
    assert found.has("scores")
    assert not found.has("pred_masks")
    found.pred_classes = torch.tensor([3, 1])
    assert found.get_fields().keys() == {"scores", "pred_boxes", "pred_classes"}
    with pytest.raises(AssertionError):
        found.pred_masks = torch.zeros(3, 4, 6)
    with pytest.raises(AttributeError, match="pred_keypoints"):
        _ = found.pred_keypoints
    with pytest.raises(NotImplementedError):
        len(Instances((4, 6)))


def test_indexing_and_moving_keep_the_fields_together() -> None:
    found = make()
    for index, scores in ((torch.tensor([1]), [0.5]), (slice(1), [0.9]), (-1, [0.5]), (found.scores > 0.6, [0.9])):
        part = found[index].to("cpu")
        assert part.scores.tolist() == pytest.approx(scores)
        assert len(part.pred_boxes) == 1
    assert found[1].pred_boxes.tensor.tolist() == [[1, 1, 4, 4]]
    assert found.pred_boxes.tensor.dtype == torch.float32
