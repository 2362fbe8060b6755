"""Batches of label maps, and the error for an unknown class id."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from semask_d2.modeling.losses.targets import SemanticTargets, build_targets
from semask_d2.utils.errors import UserError


def build(maps: list[Tensor], size: tuple[int, int] = (4, 6), **kwargs) -> SemanticTargets:
    arguments = {
        "num_classes": 5,
        "ignore_label": 255,
        "device": torch.device("cpu"),
        "names": [f"{i}.png" for i in range(len(maps))],
        **kwargs,
    }
    return build_targets(maps, size, **arguments)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.int32])
def test_images_of_different_sizes_are_padded_with_the_ignore_label(dtype: torch.dtype) -> None:
    maps = [torch.tensor([[4, 0], [0, 255]], dtype=dtype), torch.full((4, 6), 3, dtype=dtype)]
    targets = build(maps)
    assert targets.labels.dtype == torch.int64
    assert targets.labels[0].tolist() == [[4, 0, *[255] * 4], [0, *[255] * 5], [255] * 6, [255] * 6]
    assert (targets.labels[1] == 3).all()
    assert targets.classes == [[0, 4], [3]]
    assert targets.num_masks == 3
    assert targets.ignore_label == 255


def test_an_image_without_any_label() -> None:
    targets = build([torch.full((2, 2), 255, dtype=torch.uint8)])
    assert targets.classes == [[]]
    assert targets.num_masks == 0


def test_another_ignore_label() -> None:
    targets = build([torch.tensor([[0, 1, -1]])], ignore_label=-1)
    assert targets.classes == [[0, 1]]
    assert targets.labels[0, 1].tolist() == [-1] * 6


def test_ignore_label_inside_the_range_of_classes() -> None:
    targets = build([torch.tensor([[0, 1, 2]])], ignore_label=0)
    assert targets.classes == [[1, 2]]


@pytest.mark.parametrize("wrong", [5, 200, -3, 300])
def test_an_id_out_of_range_names_the_image_the_id_and_the_range(wrong: int) -> None:
    maps = [torch.zeros(2, 2, dtype=torch.int64), torch.tensor([[0, wrong]])]
    with pytest.raises(UserError) as caught:
        build(maps, names=["good.png", "street/bad.png"])
    message = str(caught.value)
    assert "street/bad.png" in message
    assert "good.png" not in message
    assert str(wrong) in message
    assert "0..4" in message
    assert "NUM_CLASSES" in message
    assert "\n" not in message


def test_uint8_ids_out_of_range() -> None:
    with pytest.raises(UserError, match=r"a\.png.*\[254\]"):
        build([torch.tensor([[254, 255, 1]], dtype=torch.uint8)], names=["a.png"])
