"""Activation checkpointing by config: equal gradients from fewer stored tensors, for each supported part."""

from __future__ import annotations

import pytest
import torch

from semask_d2 import UserError, build_model, get_cfg
from semask_d2.modeling.layers.recomputation import PARTS

CONFIGS = ("toy_scenes/semask_swin_mini_msfapn_m2f.yaml", "toy_scenes/semask_mit_b0_m2f.yaml")


def step(config_file: str, parts: list[str], *options: object) -> tuple[list[torch.Tensor | None], int]:
    """Return the gradients of a step, and the number of elements stored by the forward pass."""
    cfg = get_cfg(config_file)
    cfg.merge_from_list(["MODEL.ACTIVATION_CHECKPOINTING", parts, "MODEL.DEVICE", "cpu", *options])
    torch.manual_seed(0)
    model = build_model(cfg).train()
    inputs = [
        {"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8), "sem_seg": torch.randint(0, 3, (64, 96))}
    ]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        losses = model(inputs)
    sum(losses.values()).backward()
    return [parameter.grad for parameter in model.parameters()], sum(kept)


@pytest.mark.parametrize("config_file", CONFIGS)
@pytest.mark.parametrize("part", PARTS)
def test_equal_gradients_from_fewer_stored_tensors(config_file: str, part: str) -> None:
    gradients, kept = step(config_file, [])
    recomputed_gradients, kept_by_recomputing = step(config_file, [part])
    assert kept_by_recomputing < kept
    for a, b in zip(gradients, recomputed_gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


def test_an_unknown_part() -> None:
    with pytest.raises(UserError, match=r"MODEL\.ACTIVATION_CHECKPOINTING: expected some of .*res6"):
        step(CONFIGS[0], ["res6"])


def test_a_stage_of_timm_with_batch_norm() -> None:
    pytest.importorskip("timm")
    options = ("MODEL.BACKBONE.NAME", "SeMaskTimm", "MODEL.TIMM.NAME", "resnet18")
    with pytest.raises(UserError, match=r"MODEL\.ACTIVATION_CHECKPOINTING.*BatchNorm.*resnet18"):
        step(CONFIGS[0], ["res3"], *options)
