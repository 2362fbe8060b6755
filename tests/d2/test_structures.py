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
    instances = make()
    assert instances.image_size == (4, 6)
    assert len(instances) == 2
    assert instances.has("scores")
    assert not instances.has("pred_masks")
    instances.pred_classes = torch.tensor([3, 1])
    assert instances.get_fields().keys() == {"scores", "pred_boxes", "pred_classes"}
    with pytest.raises(AssertionError):
        instances.pred_masks = torch.zeros(3, 4, 6)
    with pytest.raises(AttributeError, match="pred_keypoints"):
        _ = instances.pred_keypoints
    with pytest.raises(NotImplementedError):
        len(Instances((4, 6)))


def test_indexing_and_moving_keep_the_fields_together() -> None:
    instances = make()
    for index, scores in ((torch.tensor([1]), [0.5]), (slice(1), [0.9]), (-1, [0.5]), (instances.scores > 0.6, [0.9])):
        part = instances[index].to("cpu")
        assert part.scores.tolist() == pytest.approx(scores)
        assert len(part.pred_boxes) == 1
    assert instances[1].pred_boxes.tensor.tolist() == [[1, 1, 4, 4]]
    assert instances.pred_boxes.tensor.dtype == torch.float32
