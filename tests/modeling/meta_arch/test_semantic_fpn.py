"""SeMask FPN: head against its formula, losses and logits at any size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2 import get_cfg
from semask_d2.config.merging import merge_file
from semask_d2.d2 import build_model
from semask_d2.data import build_mapper
from semask_d2.modeling.meta_arch import score_maps, semantic_fpn
from semask_d2.modeling.meta_arch.score_maps import resized
from tests.helpers.commands import ROOT
from tests.helpers.tiny_model import CLASSES, make_inputs, randomize, tiny_cfg


def build(**options: object) -> nn.Module:
    torch.manual_seed(0)
    cfg = tiny_cfg()
    merge_file(cfg, ROOT / "configs/recipes/fpn.yaml")
    cfg.MODEL.SEM_SEG_HEAD.NORM = "BN"
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 24
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = CLASSES
    for key, value in options.items():
        setattr(cfg.MODEL.SEM_SEG_HEAD, key, value)
    return build_model(cfg)


def plain_head(head: nn.Module, features: dict[str, Tensor]) -> Tensor:
    """Compute the head in evaluation mode: running statistics in norms, no dropout."""
    total = torch.zeros(())
    for doublings, branch in enumerate(head.scale_heads):
        x = features[f"res{doublings + 2}"]
        convs = [module for module in branch if hasattr(module, "conv")]
        assert len(convs) == max(1, doublings)
        for layer in convs:
            x = F.conv2d(x, layer.conv.weight, padding=1)
            bn = layer.bn
            x = (x - bn.running_mean.view(-1, 1, 1)) / (bn.running_var.view(-1, 1, 1) + 1e-5).sqrt()
            x = (x * bn.weight.view(-1, 1, 1) + bn.bias.view(-1, 1, 1)).clamp(min=0)
            if doublings:
                x = F.interpolate(x, size=[2 * side for side in x.shape[-2:]], mode="bilinear", align_corners=False)
        total = total + F.interpolate(x, size=features["res2"].shape[-2:], mode="bilinear", align_corners=False)
    return F.conv2d(total, head.conv_seg.weight, head.conv_seg.bias)


@pytest.mark.parametrize("size", [(64, 96), (50, 37)])
def test_head_equals_the_formula(size: tuple[int, int]) -> None:
    model = randomize(build())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    model.eval()
    with torch.no_grad():
        features = model.backbone(torch.randn(2, 3, *size))
        expected = plain_head(model.sem_seg_head, features)
        torch.testing.assert_close(model.sem_seg_head(features), expected, atol=1e-4, rtol=1e-3)


OUTPUT_SIZES = ((80, 100), (61, 33), (31, 20), (64, 301))  # larger than the image, equal, smaller, and mixed


def test_logits_are_resized_twice_and_images_are_not_padded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There are two bilinear steps, as published. Labels are computed in bands, never from a full map."""
    monkeypatch.setattr(score_maps, "BAND_ELEMENTS", 2000)
    model = randomize(build()).eval()
    inputs = make_inputs((40, 64), (61, 33), (61, 33), (61, 33), labels=False)
    for x, (height, width) in zip(inputs, OUTPUT_SIZES, strict=True):
        x |= {"height": height, "width": width}
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    with torch.no_grad():
        outputs, labels = model(inputs), model.predict_labels(inputs)
        assert seen[:2] == [(1, 3, 40, 64), (3, 3, 61, 33)]
        for x, output, ids, size in zip(inputs, outputs, labels, OUTPUT_SIZES, strict=True):
            pixels = model.normalizer([x["image"]], 0).tensor
            logits = model.sem_seg_head(model.backbone(pixels))
            for target in (pixels.shape[-2:], size):
                logits = F.interpolate(logits, size=target, mode="bilinear", align_corners=False)
            torch.testing.assert_close(output["sem_seg"], logits[0], atol=1e-4, rtol=1e-4)
            assert (ids == logits[0].argmax(0)).double().mean() > 0.999


@pytest.mark.parametrize("size", OUTPUT_SIZES)
def test_a_band_of_labels_needs_few_rows_of_both_maps(size: tuple[int, int], monkeypatch) -> None:
    monkeypatch.setattr(score_maps, "BAND_ELEMENTS", 4000)
    model = randomize(build()).eval()
    (x,) = make_inputs((240, 200), labels=False)
    asked = []

    def watched(rows, source, target):
        def some(start: int, stop: int) -> Tensor:
            part = resized(rows, source, target)(start, stop)
            asked.append(part.numel())
            return part

        return some

    monkeypatch.setattr(semantic_fpn, "resized", watched)
    with torch.no_grad():
        model.predict_labels([{**x, "height": size[0], "width": size[1]}])
    smallest = CLASSES * 200 * max(1, -(-240 // size[0]) + 2)  # input rows that one row of the result needs
    assert max(asked) <= max(smallest, 3 * 4000)


def test_losses_of_images_of_different_sizes() -> None:
    model = build().train()
    losses = model(make_inputs((40, 64), (61, 33)))
    assert losses.keys() == {"loss_ce", "loss_cate"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("backbone.layers") or "semantic_layer" not in name:
            assert parameter.grad is not None, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_all_ignored_is_zero() -> None:
    inputs = make_inputs((40, 64))
    inputs[0]["sem_seg"].fill_(255)
    losses = build().train()(inputs)
    assert losses["loss_ce"] == losses["loss_cate"] == 0
    sum(losses.values()).backward()


def test_the_hardest_pixels_make_a_larger_loss() -> None:
    inputs = make_inputs((64, 64), (64, 64))
    losses = []
    for pixels in (0, 100, 10**9):
        model = build(OHEM_PIXELS=pixels).train()
        torch.manual_seed(1)  # for dropout
        losses.append(model(inputs))
    assert losses[1]["loss_ce"] > 1.05 * losses[0]["loss_ce"]
    torch.testing.assert_close(losses[2]["loss_ce"], losses[0]["loss_ce"])
    torch.testing.assert_close(losses[1]["loss_cate"], losses[0]["loss_cate"])  # the prior loss uses all pixels


def test_classifier_starts_small() -> None:
    head = build().sem_seg_head
    assert 0.005 < head.conv_seg.weight.std() < 0.02
    assert not head.conv_seg.bias.any()


def test_training_images_are_padded_to_the_crop_with_zeros_after_normalization() -> None:
    """Padding follows the published recipe for any sample size; evaluation pads nothing."""
    cfg = get_cfg("toy_scenes/semask_swin_mini_fpn.yaml")
    assert cfg.INPUT.SIZE_DIVISIBILITY == 128
    model = build_model(cfg).train()
    assert build_mapper(cfg, is_train=True).pad_to == 0  # the mapper would pad with gray before normalization
    (inputs,) = make_inputs((112, 96))
    batches: list[torch.Tensor] = []
    model.backbone.register_forward_pre_hook(lambda _, arguments: batches.append(arguments[0]))
    with torch.no_grad():
        losses = model([inputs])
        model.eval()([inputs])
    assert batches[0].shape[-2:] == (128, 128)
    assert (batches[0][0, :, 112:] == 0).all()
    assert (batches[0][0, :, :, 96:] == 0).all()
    assert all(loss.isfinite() for loss in losses.values())
    assert batches[1].shape[-2:] == (112, 96)


def test_a_head_without_norms_has_biases_instead() -> None:
    head = build(NORM="").sem_seg_head
    assert head.scale_heads[0][0].conv.bias is not None
    assert isinstance(head.scale_heads[0][0].bn, nn.Identity)
