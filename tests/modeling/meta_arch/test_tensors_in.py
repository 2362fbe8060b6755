"""Models as functions of tensors: from images to logits or losses, in any training loop."""

from __future__ import annotations

import copy

import pytest
import torch

from semask_d2.config import get_cfg
from semask_d2.modeling.meta_arch import SemanticSegmenter, build_model
from semask_d2.modeling.postprocessing import semantic_scores
from semask_d2.utils.errors import UserError

CONFIGS = ("toy_scenes/semask_swin_mini_m2f.yaml", "toy_scenes/semask_swin_mini_fpn.yaml")


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> SemanticSegmenter:
    torch.manual_seed(0)
    return build_model(get_cfg(request.param)).eval()


def make_images(*size: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_logits_give_the_scores_of_the_model(model: SemanticSegmenter, size: tuple[int, int]) -> None:
    images = make_images(*size)
    logits = model(images)
    expected = [output["sem_seg"] for output in model([{"image": image} for image in images])]
    if model.scores_are_probabilities:
        assert logits._fields == ("class_logits", "mask_logits")
        assert logits.class_logits.shape == (2, 24, 13)
        padded = [-(-side // model.size_divisibility) * model.size_divisibility for side in size]
        assert logits.mask_logits.shape == (2, 24, padded[0] // 4, padded[1] // 4)
        scores = [semantic_scores(*pair, size, image_size=size) for pair in zip(*logits, strict=True)]
        for one, other in zip(scores, expected, strict=True):
            assert torch.allclose(one, other, atol=1e-5)
    else:
        assert logits._fields == ("logits",)
        assert logits.logits.shape == (2, 12, -(-size[0] // 4), -(-size[1] // 4))


@torch.no_grad()
def test_bytes_and_floats_are_the_same_images(model: SemanticSegmenter) -> None:
    images = make_images(32, 32)
    for one, other in zip(model(images), model(images.float()), strict=True):
        assert torch.equal(one, other)


def test_a_plain_training_loop_learns(model: SemanticSegmenter) -> None:
    model = copy.deepcopy(model).train()
    images = make_images(64, 64)
    labels = torch.arange(4).repeat_interleave(16)[None, :, None].expand(2, 64, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    values = []
    for _ in range(4):
        torch.manual_seed(0)  # for the sampled points
        losses = model.loss(images, labels)
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0]
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_losses_equal_those_of_detectron2s_format(model: SemanticSegmenter) -> None:
    model = copy.deepcopy(model).train()
    for module in model.modules():
        module.training = module is model or not isinstance(module, torch.nn.Dropout)
    images = make_images(64, 64)
    labels = torch.randint(0, 12, (2, 64, 64), generator=torch.Generator().manual_seed(2))
    results = []
    for arguments in ((images, labels), ([{"image": i, "sem_seg": x} for i, x in zip(images, labels, strict=True)],)):
        torch.manual_seed(0)
        results.append(model(*arguments))
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 32, 32), r"images: expected \(B, 3, H, W\), got \(3, 32, 32\)"),
        (torch.zeros(1, 1, 32, 32), r"expected \(B, 3, H, W\)"),
        (torch.zeros(0, 3, 32, 32), r"expected \(B, 3, H, W\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), "expected uint8 or floating point, got torch.int64"),
        (torch.rand(1, 3, 32, 32), "expected values from 0 to 255"),
        (torch.randn(1, 3, 32, 32), "expected values from 0 to 255"),
    ],
)
def test_invalid_images(model: SemanticSegmenter, images: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model(images)


@pytest.mark.parametrize("labels", [torch.zeros(2, 1, 32, 32, dtype=torch.int64), torch.zeros(2, 32, 32)])
def test_invalid_labels(model: SemanticSegmenter, labels: torch.Tensor) -> None:
    with pytest.raises(UserError, match=r"labels: expected integers \(B, H, W\)"):
        model.loss(make_images(32, 32), labels)


def test_an_unknown_class_id(model: SemanticSegmenter) -> None:
    with pytest.raises(UserError, match=r"labels of image 0 of the batch: ids \[77\]"):
        model.loss(make_images(32, 32), torch.full((2, 32, 32), 77))


@torch.no_grad()
def test_images_of_other_floating_types(model: SemanticSegmenter) -> None:
    images = make_images(64, 64)
    expected = model(images)
    for dtype in (torch.float32, torch.float64):
        for one, other in zip(model(images.to(dtype)), expected, strict=True):
            assert one.dtype == torch.float32
            torch.testing.assert_close(one, other)
    output = model([{"image": images[0].double()}])[0]["sem_seg"]
    torch.testing.assert_close(output, model([{"image": images[0]}])[0]["sem_seg"])


@pytest.mark.parametrize("training", [False, True])
def test_what_is_no_input(model: SemanticSegmenter, training: bool) -> None:
    images = make_images(64, 64)
    labels = torch.zeros(2, 64, 64, dtype=torch.int64)
    model.train(training)
    for inputs, message in (
        (images.permute(0, 2, 3, 1).numpy(), "got a ndarray; torch.from_numpy"),
        (list(images), "got a list of Tensor; torch.stack joins tensors of one size"),
        ("photo.jpg", "got a str; a Predictor takes paths"),
        (["photo.jpg"], "got a list of str; a Predictor takes paths"),
        ([{"pixel_values": images[0]}], "got a list of dict"),
        (None, "got a NoneType"),
    ):
        for call in (lambda inputs=inputs: model(inputs), lambda inputs=inputs: model(inputs, labels)):
            with pytest.raises(UserError, match=r"expected a tensor \(B, 3, H, W\) of images") as caught:
                call()
            assert message in str(caught.value)
    with pytest.raises(UserError, match=r"labels: expected a tensor of integers \(B, H, W\), got a ndarray"):
        model(images, labels.numpy())
    model.eval()
